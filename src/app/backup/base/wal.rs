//! The WAL of a backup into the writer, and `pg_wal` out of it.

use std::sync::atomic::Ordering::Relaxed;

use super::entries;
use crate::error::{Context, Result};
use crate::model::{Id, Metadata, Node};
use crate::repository::{Chunking, FileContent, Writer};
use crate::source::pg_base::{WalSegment, WalSink};

/// Segments and history files that were stored.
pub(super) struct WalFiles {
    writer: Writer,
    files: Vec<(String, FileContent)>,
}

impl WalFiles {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, files: Vec::new() }
    }

    /// Adds one that was stored.
    pub(super) fn add(&mut self, name: String, content: FileContent) {
        tracing::debug!(name, stored = content.stored, "stored WAL of the backup");
        self.files.push((name, content));
    }

    /// The tree of `pg_wal`. `meta` is that of its files and directories; `others` are the directories that it has anyway.
    ///
    /// Each file gets its `.done`: the server that is restored must not archive what was archived already.
    pub(super) fn tree(self, meta: &Meta, others: Vec<Node>) -> Result<Id> {
        let mut nodes: Vec<Node> = others.into_iter().filter(|n| n.name != STATUS).collect();
        let mut done = Vec::new();
        for (name, content) in self.files {
            done.push(entries::file(format!("{name}.done").as_bytes(), meta.file.clone(), FileContent::default()));
            nodes.push(entries::file(name.as_bytes(), meta.file.clone(), content));
        }
        nodes.push(entries::directory(STATUS, meta.directory.clone(), entries::tree(&self.writer, &mut done)?));
        entries::tree(&self.writer, &mut nodes)
    }
}

const STATUS: &[u8] = b"archive_status";

/// Owner, permissions and times of what the backup itself puts into the data directory.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) file: Metadata,
    pub(super) directory: Metadata,
}

impl WalSink for WalFiles {
    fn take(&mut self, mut segment: WalSegment) -> Result<()> {
        self.writer.check()?;
        let what = || format!("store WAL {}", segment.name);
        let mut out = self.writer.file(Chunking::Content);
        out.read_all(&mut std::io::Read::take(&mut segment.file, segment.size)).context(what)?;
        let content = out.finish().context(|| format!("store WAL {}", segment.name))?;
        self.add(segment.name, content);
        Ok(())
    }
}

/// Counts what WAL adds to the bytes of a snapshot.
pub(super) fn count(files: &WalFiles, stats: &super::super::stats::ArchiveStats) {
    let bytes: u64 = files.files.iter().map(|(_, content)| content.size).sum();
    stats.files_new.fetch_add(files.files.len() as u64, Relaxed);
    stats.bytes_total.fetch_add(bytes, Relaxed);
    stats.bytes_read.fetch_add(bytes, Relaxed);
}
