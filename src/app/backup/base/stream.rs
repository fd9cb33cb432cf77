//! A base backup that the server sends: tar archives over one replication connection, WAL over another, into the tree of
//! files mode.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::super::{Run, Stored};
use super::chunks::Chunks;
use super::describe::Described;
use super::files::{Manifest, Problems, Root, manifest};
use super::incoming::Incoming;
use super::layout::{self, Former};
use super::line::Line;
use super::stream_wal::{End, StreamedWal};
use super::trees::Trees;
use super::{Read, entries, first_failure, joined};
use crate::error::{Error, Kind, Result};
use crate::model::{BadPage, Node};
use crate::postgres::Crc32c;
use crate::postgres::replication::{BackupEvent, BackupStream, BaseBackupOptions, Checkpoint, Replication};
use crate::repository::Writer;
use crate::runtime::Cancel;
use crate::source::pg_base::{
    Content, FileClass, LABEL_FILE, ManifestFile, Member, PageScan, Server, Settings, Start, Stop, TABLESPACE_MAP_FILE, TarEvent,
    TarReader, member_class,
};

/// The server's own two files about a backup are small; more is not one of them.
const OWN_FILE: usize = 16 << 20;

impl Run {
    pub(super) fn base_from_stream(&self, settings: &Settings, writer: &Writer) -> Result<Stored> {
        let cancel = self.cancel.child();
        let server = Server::open(settings, &cancel)?;
        let facts = server.facts();
        // The slot before the backup, so that no WAL of it can be removed.
        let archive = self.archive_for(settings, facts)?;
        let wal = match archive {
            None => Some(StreamedWal::open(&server, settings.wal_timeout, writer, &cancel)?),
            Some(_) => None,
        };
        let line = Line::new(&cancel)?;
        let mut session = line.wait(Replication::connect(server.connection()))?;
        let options = BaseBackupOptions {
            checkpoint: if settings.fast_checkpoint { Checkpoint::Fast } else { Checkpoint::Spread },
            max_rate: (settings.max_rate > 0).then(|| u32::try_from(settings.max_rate >> 10).unwrap_or(u32::MAX)),
            verify_checksums: facts.checksums,
            manifest: None,
            ..BaseBackupOptions::new(&format!("strongroom {}/{}", self.request.tenant, self.request.job))
        };
        let (at, tablespaces) = (server.now()?, server.tablespaces()?);
        let mut stream = line.wait(session.base_backup(&options))?;
        let start = Start { lsn: stream.start().lsn, timeline: stream.start().timeline, at };
        let bytes = stream.tablespaces().iter().filter_map(|t| t.kib).fold(0u64, |sum, kib| sum.saturating_add(kib << 10));
        self.request.progress.expected_bytes.store(bytes, Relaxed);
        let last = self.last_base();
        let chunks = Chunks::choose(last.map(|last| last.chunks), bytes);
        let former = Former::of(self, last.as_ref(), chunks, facts.page_size);
        let content = Content {
            page_size: facts.page_size,
            segment_pages: facts.segment_pages,
            since: facts.checksums.then_some(start.lsn),
        };
        let inside = tablespaces.iter().filter(|t| t.is_inside()).map(|t| t.oid).collect();
        let mut receiver = Receiver::new(self, writer, content, former, manifest(writer, facts)?, inside);
        let (end, over) = tokio::sync::watch::channel(End::Unknown);
        let (root, stop, files) = std::thread::scope(|scope| {
            let following = wal.map(|wal| {
                let (start, cancel) = (&start, &cancel);
                scope.spawn(move || {
                    let followed = wal.run(facts, start, over, cancel);
                    if followed.is_err() {
                        cancel.cancel();
                    }
                    followed.map(Some)
                })
            });
            let received = receiver.receive(&mut stream, &line, &cancel).and_then(|(root, lsn)| {
                let (label, tablespace_map) = receiver.own_files()?;
                Ok((root, Stop { lsn, label, tablespace_map, at: server.now()? }))
            });
            end.send_replace(received.as_ref().map_or(End::Failed, |(_, stop)| End::At(stop.lsn)));
            first_failure(received, joined(following), &self.cancel)
        })?;
        if let Some(folder) = &archive {
            self.wait_for_archive(folder, settings, facts, (&start, &stop), &cancel)?;
        }
        let (list, mut problems) = receiver.into_parts();
        problems.judge(stream.bad_checksums());
        let read = Read { root, start, stop, wal: files, tablespaces };
        self.describe(Described { settings, server: &server, writer, chunks }, (list, problems), read)
    }
}

impl Problems {
    /// The server read the pages that looked bad once more: if it found nothing, they were only caught while they were written.
    fn judge(&mut self, bad_checksums: bool) {
        let suspects = std::mem::take(&mut self.suspects);
        if !bad_checksums {
            return;
        }
        if suspects.is_empty() {
            self.missing.push("the server found pages with wrong checksums; its log names them".to_owned());
        }
        for page in suspects {
            self.bad_page(page);
        }
    }
}

/// Receives the archives.
struct Receiver<'a> {
    writer: &'a Writer,
    stats: Arc<super::super::stats::ArchiveStats>,
    has_parent: bool,
    content: Content,
    former: Former,
    /// How the last backup cut the files of the directory that is being received.
    directory: (Vec<u8>, layout::Directory),
    manifest: Manifest,
    problems: Problems,
    label: Option<Vec<u8>>,
    tablespace_map: Vec<u8>,
    /// Tablespaces inside the data directory.
    inside: Vec<u32>,
    current: Option<Current>,
}

/// The file that is being received.
struct Current {
    path: Vec<u8>,
    member: Member,
    to: To,
}

#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum To {
    Snapshot { into: Incoming, crc: Crc32c, scan: Option<PageScan> },
    Memory(Vec<u8>),
    Nowhere,
}

impl<'a> Receiver<'a> {
    fn new(run: &Run, writer: &'a Writer, content: Content, former: Former, manifest: Manifest, inside: Vec<u32>) -> Self {
        Self {
            writer,
            stats: run.request.progress.source.clone(),
            has_parent: run.parent.is_some(),
            content,
            former,
            directory: (Vec::new(), layout::Directory::default()),
            manifest,
            problems: Problems::default(),
            label: None,
            tablespace_map: Vec::new(),
            inside,
            current: None,
        }
    }

    fn into_parts(self) -> (Manifest, Problems) {
        (self.manifest, self.problems)
    }

    /// `backup_label` and `tablespace_map`.
    fn own_files(&mut self) -> Result<(String, String)> {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|e| Error::new(Kind::Corrupt, "the server's backup label is not text").because(e))
        };
        let label = self.label.take().ok_or_else(|| Error::new(Kind::Corrupt, "the server sent no backup label"))?;
        Ok((text(label)?, text(std::mem::take(&mut self.tablespace_map))?))
    }

    /// Everything up to the server's last word.
    fn receive(&mut self, stream: &mut BackupStream<'_>, line: &Line, cancel: &Cancel) -> Result<(Root, crate::model::Lsn)> {
        let (mut inside, mut spaces): (Vec<Node>, Vec<Node>) = (Vec::new(), Vec::new());
        let mut archive: Option<(Option<u32>, TarReader, Trees)> = None;
        let mut root = None;
        loop {
            cancel.check()?;
            let event = line.wait(stream.next())?;
            if !matches!(event, BackupEvent::Data(_) | BackupEvent::Progress(_))
                && let Some((space, reader, trees)) = archive.take()
            {
                reader.finish()?;
                match space {
                    None => root = Some(trees.finish_data()?),
                    Some(oid) => {
                        let (tree, meta) = trees.finish()?;
                        let list = if self.inside.contains(&oid) { &mut inside } else { &mut spaces };
                        list.push(entries::directory(oid.to_string().as_bytes(), meta, tree));
                    }
                }
            }
            match event {
                BackupEvent::Archive(space) => {
                    let mut trees = Trees::new(self.writer, self.stats.clone(), self.has_parent);
                    if space.is_none() {
                        // It comes last.
                        trees = trees.with_tablespaces(std::mem::take(&mut inside), std::mem::take(&mut spaces));
                    }
                    archive = Some((space, TarReader::new(), trees));
                }
                BackupEvent::Data(bytes) => {
                    let (space, reader, trees) =
                        archive.as_mut().ok_or_else(|| Error::new(Kind::Corrupt, "the server sent data of no archive"))?;
                    self.writer.check()?;
                    self.stats.bytes_read.fetch_add(bytes.len() as u64, Relaxed);
                    reader.feed(bytes, &mut |event| self.take(*space, event, trees))?;
                }
                BackupEvent::Progress(_) | BackupEvent::Manifest(_) => {}
                BackupEvent::End(end) => {
                    let root = root.ok_or_else(|| Error::new(Kind::Corrupt, "the server sent no data directory"))?;
                    return Ok((root, end.lsn));
                }
            }
        }
    }

    fn take(&mut self, space: Option<u32>, event: TarEvent, trees: &mut Trees) -> Result<()> {
        match event {
            TarEvent::Begin(member) => {
                let path = match space {
                    None => member.path.clone(),
                    Some(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), &member.path].concat(),
                };
                let class = member_class(&path, member.is_dir);
                if member.is_dir {
                    return if class.is_some() { trees.directory(&member.path, member.meta) } else { Ok(()) };
                }
                let own = space.is_none() && [LABEL_FILE, TABLESPACE_MAP_FILE].iter().any(|f| f.as_bytes() == path);
                let to = match class {
                    _ if own => To::Memory(Vec::new()),
                    Some(class) => self.begin(class, &path, member.size),
                    None => To::Nowhere,
                };
                self.current = Some(Current { path, member, to });
                Ok(())
            }
            TarEvent::Data(bytes) => self.data(bytes),
            TarEvent::End => match self.current.take() {
                Some(current) => self.end(current, trees),
                None => Ok(()),
            },
        }
    }

    fn begin(&mut self, class: FileClass, path: &[u8], size: u64) -> To {
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (&[][..], path),
        };
        if self.directory.0 != above {
            self.directory = (above.to_vec(), self.former.directory(above));
        }
        let layout = self.former.layout(&self.directory.1, name, size);
        let into = Incoming::new(self.writer, class, size, layout);
        To::Snapshot { into, crc: Crc32c::default(), scan: PageScan::new(class, &self.content) }
    }

    fn data(&mut self, bytes: Bytes) -> Result<()> {
        match self.current.as_mut().map(|c| &mut c.to) {
            Some(To::Snapshot { into, crc, scan }) => {
                crc.update(&bytes);
                if let Some(scan) = scan {
                    scan.update(&bytes);
                }
                into.push(bytes)
            }
            Some(To::Memory(held)) => {
                held.extend_from_slice(&bytes);
                if held.len() > OWN_FILE {
                    return Err(Error::new(Kind::Corrupt, "the server's backup label is too long"));
                }
                Ok(())
            }
            Some(To::Nowhere) | None => Ok(()),
        }
    }

    fn end(&mut self, current: Current, trees: &mut Trees) -> Result<()> {
        let Current { path, member, to } = current;
        match to {
            To::Nowhere => Ok(()),
            To::Memory(bytes) if path == LABEL_FILE.as_bytes() => {
                self.label = Some(bytes);
                Ok(())
            }
            To::Memory(bytes) => {
                self.tablespace_map = bytes;
                Ok(())
            }
            To::Snapshot { into, crc, scan } => {
                for &block in scan.iter().flat_map(PageScan::suspects) {
                    let file = String::from_utf8_lossy(&path).into_owned();
                    self.problems.suspects.push(BadPage { file, block });
                }
                let file = into.end()?;
                self.manifest.add(&ManifestFile { path, size: file.size(), modified: member.meta.mtime, crc: crc.value() })?;
                trees.file(&member.path, member.meta, file)
            }
        }
    }
}
