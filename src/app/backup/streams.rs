//! The output of programs into a tree: the other side of [`crate::source::Sink`].

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::model::{Id, Metadata, Node, NodeKind, Time};
use crate::repository::{Chunking, FileContent, FileWriter, Writer};
use crate::source::{Sink, SinkFile};

use super::stats::ArchiveStats;

/// Collects committed files; [`Collector::finish`] makes the trees.
pub(super) struct Collector {
    writer: Writer,
    stats: Arc<ArchiveStats>,
    time: Time,
    files: BTreeMap<String, FileContent>,
}

impl Collector {
    /// `time` becomes the modification time of every file.
    pub(super) fn new(writer: Writer, stats: Arc<ArchiveStats>, time: Time) -> Self {
        Self { writer, stats, time, files: BTreeMap::new() }
    }

    /// Entries of the root, subtrees stored.
    pub(super) fn finish(self) -> Result<Vec<Node>> {
        let mut root = Folder::default();
        for (path, content) in &self.files {
            root.insert(path, content.clone())?;
        }
        root.nodes(&self.writer, self.time)
    }
}

#[derive(Default)]
struct Folder {
    files: BTreeMap<String, FileContent>,
    folders: BTreeMap<String, Folder>,
}

impl Folder {
    fn insert(&mut self, path: &str, content: FileContent) -> Result<()> {
        match path.split_once('/') {
            Some((folder, rest)) => self.folders.entry(folder.to_owned()).or_default().insert(rest, content),
            None if self.folders.contains_key(path) => {
                Err(Error::new(Kind::Bug, format!("{path} is both a file and a directory")))
            }
            None => {
                self.files.insert(path.to_owned(), content);
                Ok(())
            }
        }
    }

    fn nodes(&self, writer: &Writer, time: Time) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for (name, content) in &self.files {
            nodes.push(file_node(name, content, time));
        }
        for (name, folder) in &self.folders {
            let subtree = writer.tree(&folder.nodes(writer, time)?)?;
            nodes.push(dir_node(name, subtree, time));
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }
}

/// A file that only its owner reads.
pub(super) fn file_node(name: &str, content: &FileContent, time: Time) -> Node {
    let kind = NodeKind::File { size: content.size, content: content.content.clone() };
    Node { name: name.as_bytes().to_vec(), kind, meta: meta(0o600, time, 1), error: None }
}

/// A directory that only its owner reads.
pub(super) fn dir_node(name: &str, subtree: Id, time: Time) -> Node {
    Node {
        name: name.as_bytes().to_vec(),
        kind: NodeKind::Dir { subtree: Some(subtree) },
        meta: meta(0o700, time, 0),
        error: None,
    }
}

fn meta(mode: u32, time: Time, links: u64) -> Metadata {
    Metadata { mode, mtime: time, atime: time, ctime: time, links, ..Metadata::default() }
}

impl Sink for Collector {
    fn create(&mut self, path: &str) -> Result<Box<dyn SinkFile + '_>> {
        let bad = path.split('/').any(|s| s.is_empty() || s == "." || s == ".." || s.contains('\0'));
        if bad || self.files.contains_key(path) {
            return Err(Error::new(Kind::Bug, format!("`{}` cannot be a file of the snapshot", path.escape_debug())));
        }
        self.writer.check()?;
        let file = self.writer.file(Chunking::Stream);
        Ok(Box::new(Receiving { file, path: path.to_owned(), collector: self }))
    }
}

struct Receiving<'a> {
    file: FileWriter,
    path: String,
    collector: &'a mut Collector,
}

impl Write for Receiving<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(data)?;
        self.collector.stats.bytes_read.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl SinkFile for Receiving<'_> {
    fn commit(self: Box<Self>) -> Result<u64> {
        let content = self.file.finish()?;
        let size = content.size;
        let stats = &self.collector.stats;
        stats.files_new.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        stats.bytes_total.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
        self.collector.files.insert(self.path, content);
        Ok(size)
    }
}
