//! A base backup: word to the server → files → word to the server → its label, list of files and WAL → one tree.
//!
//! The tree is that of a data directory at `/data`, whichever way the files came, with WAL from start to stop in `pg_wal`; beside it
//! `/tablespaces/<oid>`, where the links in `pg_tblspc` lead, and `/config` with the configuration files that lie elsewhere.

mod archive;
mod chunks;
mod describe;
mod entries;
mod files;
mod incoming;
mod layout;
mod line;
mod stream;
mod stream_wal;
mod trees;
mod wal;

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use super::{Run, Stored};
use crate::error::{Error, Kind, Result};
use crate::model::Tablespace;
use crate::repository::Writer;
use crate::runtime::Cancel;
use crate::source::pg_base::{Content, DataDirectory, Follower, Server, Settings, Start, Stop};

use chunks::Chunks;
use describe::Described;
use files::{Copier, Root};
use layout::Former;
use wal::WalFiles;

/// Looks whether a backup could be made, without making one. Blocks.
///
/// # Errors
/// Why it could not.
pub(crate) fn look(settings: &Settings, cancel: &Cancel) -> Result<String> {
    let server = Server::open(settings, cancel)?;
    let version = &server.facts().server_version;
    Ok(match &settings.data_directory {
        Some(path) => {
            let bytes = DataDirectory::open(path, server.facts())?.size()?;
            format!("PostgreSQL {version} answers, and {} is its data directory: {} MiB", path.display(), bytes >> 20)
        }
        None => {
            let line = line::Line::new(cancel)?;
            line.wait(crate::postgres::replication::Replication::connect(server.connection()))?;
            format!("PostgreSQL {version} answers, for replication too")
        }
    })
}

/// What was read between the two words.
struct Read {
    root: Root,
    start: Start,
    stop: Stop,
    wal: Option<WalFiles>,
    /// Those there were when it began.
    tablespaces: Vec<Tablespace>,
}

impl Run {
    /// Stores a cluster.
    pub(super) fn pg_base(&self, settings: &Settings, writer: &Writer) -> Result<Stored> {
        match &settings.data_directory {
            Some(path) => self.base_from_files(settings, path, writer),
            None => self.base_from_stream(settings, writer),
        }
    }

    fn base_from_files(&self, settings: &Settings, path: &Path, writer: &Writer) -> Result<Stored> {
        // Ended by whichever side fails first, so that the other does not go on for hours.
        let cancel = self.cancel.child();
        let server = Server::open(settings, &cancel)?;
        let directory = DataDirectory::open(path, server.facts())?;
        let bytes = directory.size()?;
        self.request.progress.expected_bytes.store(bytes, Relaxed);
        let last = self.last_base();
        let chunks = Chunks::choose(last.map(|last| last.chunks), bytes);
        let archive = self.archive_for(settings, server.facts())?;
        let follower = if archive.is_none() { Some(Follower::open(&server, &cancel)?) } else { None };
        let start =
            server.start(&format!("strongroom {}/{}", self.request.tenant, self.request.job), settings.fast_checkpoint)?;
        directory.check_start(&start)?;
        let tablespaces = server.tablespaces()?;
        let facts = server.facts();
        let content = Content {
            page_size: facts.page_size,
            segment_pages: facts.segment_pages,
            since: facts.checksums.then_some(start.lsn),
        };
        let former = Former::of(self, last.as_ref(), chunks, facts.page_size);
        let copier = Copier::begin(self, &directory, writer, &cancel, settings, facts, content, former)?;
        let (root, stop, wal) = std::thread::scope(|scope| {
            let follow = |follower: &Follower| {
                let mut wal = WalFiles::new(writer.clone());
                let followed = follower.run(&directory, facts, &start, settings.wal_timeout, &mut wal, &cancel);
                if followed.is_err() {
                    cancel.cancel();
                }
                followed.map(|()| Some(wal))
            };
            let following = follower.as_ref().map(|f| scope.spawn(move || follow(f)));
            let copied = copier.copy().and_then(|root| Ok((root, server.stop(&start)?)));
            match (&follower, &copied) {
                (Some(follower), Ok((_, stop))) => follower.stop_at(stop.lsn),
                (Some(follower), Err(_)) => follower.give_up(),
                (None, _) => {}
            }
            first_failure(copied, joined(following), &self.cancel)
        })?;
        if let Some(folder) = &archive {
            self.wait_for_archive(folder, settings, facts, (&start, &stop), &cancel)?;
        }
        let read = Read { root, start, stop, wal, tablespaces };
        self.describe(Described { settings, server: &server, writer, chunks }, copier.into_parts(), read)
    }
}

/// What a thread that followed WAL brings; nothing if there was none.
fn joined(following: Option<std::thread::ScopedJoinHandle<'_, Result<Option<WalFiles>>>>) -> Result<Option<WalFiles>> {
    let ended =
        following.map(|f| f.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, "a thread of the backup ended abnormally"))));
    ended.unwrap_or(Ok(None))
}

/// Both results, or the failure that came first: the one that was not caused by the other.
fn first_failure(
    copied: Result<(Root, Stop)>,
    followed: Result<Option<WalFiles>>,
    cancel: &Cancel,
) -> Result<(Root, Stop, Option<WalFiles>)> {
    match (copied, followed) {
        (Ok((root, stop)), Ok(wal)) => Ok((root, stop, wal)),
        (Err(e), Err(cause)) if e.kind() == Kind::Cancelled && !cancel.is_cancelled() => Err(cause),
        (Err(e), _) | (Ok(_), Err(e)) => Err(e),
    }
}
