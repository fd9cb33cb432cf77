//! Trees of an archive whose members come directory by directory: each is stored when the next one begins.

use std::sync::Arc;

use super::super::stats::ArchiveStats;
use super::entries;
use super::files::{Root, count};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Metadata, Node, NodeKind};
use crate::repository::{PendingFile, Writer};

/// Directories at the top that are not stored before the end: `pg_control` and WAL come last.
const KEPT: [&[u8]; 2] = [b"global", b"pg_wal"];

/// Where tablespaces are inserted.
const TABLESPACES: &[u8] = b"pg_tblspc";

/// Puts a tree together.
pub(super) struct Trees {
    writer: Writer,
    stats: Arc<ArchiveStats>,
    has_parent: bool,
    /// From the top down to the current directory.
    open: Vec<Folder>,
    kept: Vec<Folder>,
    /// Tablespaces inside the data directory, which belong into `pg_tblspc`.
    inside: Vec<Node>,
    /// Those to which `pg_tblspc` has links.
    spaces: Vec<Node>,
}

struct Folder {
    name: Vec<u8>,
    meta: Option<Metadata>,
    nodes: Vec<Node>,
    files: Vec<(Vec<u8>, Metadata, PendingFile)>,
}

impl Folder {
    fn new(name: &[u8]) -> Self {
        Self { name: name.to_vec(), meta: None, nodes: Vec::new(), files: Vec::new() }
    }
}

impl Trees {
    /// An empty one.
    pub(super) fn new(writer: &Writer, stats: Arc<ArchiveStats>, has_parent: bool) -> Self {
        let (kept, inside, spaces) = (Vec::new(), Vec::new(), Vec::new());
        Self { writer: writer.clone(), stats, has_parent, open: vec![Folder::new(b"")], kept, inside, spaces }
    }

    /// With tablespaces, whose archives came before: those inside the data directory, and all others.
    pub(super) fn with_tablespaces(self, inside: Vec<Node>, spaces: Vec<Node>) -> Self {
        Self { inside, spaces, ..self }
    }

    /// A directory.
    pub(super) fn directory(&mut self, path: &[u8], meta: Metadata) -> Result<()> {
        self.go_to(path)?;
        if let Some(folder) = self.open.last_mut() {
            folder.meta = Some(meta);
        }
        Ok(())
    }

    /// A file.
    pub(super) fn file(&mut self, path: &[u8], meta: Metadata, file: PendingFile) -> Result<()> {
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (&[][..], path),
        };
        self.go_to(above)?;
        if let Some(folder) = self.open.last_mut() {
            folder.files.push((name.to_vec(), meta, file));
        }
        Ok(())
    }

    /// Makes a directory the current one.
    fn go_to(&mut self, path: &[u8]) -> Result<()> {
        let wanted: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        let same = self.open.iter().skip(1).zip(&wanted).take_while(|(open, wanted)| open.name == **wanted).count();
        while self.open.len() > same + 1 {
            self.close()?;
        }
        for name in wanted.into_iter().skip(same) {
            let top = self.open.len() == 1;
            let kept = self.kept.iter().position(|f| top && f.name == name).map(|at| self.kept.swap_remove(at));
            let again = self.open.last().is_some_and(|above| above.nodes.iter().any(|n| n.name == name));
            if again {
                return Err(Error::new(Kind::Corrupt, "the server's archive comes back to a directory that was complete"));
            }
            self.open.push(kept.unwrap_or_else(|| Folder::new(name)));
        }
        Ok(())
    }

    /// Stores the current directory and goes up.
    fn close(&mut self) -> Result<()> {
        let Some(folder) = self.open.pop() else { return Ok(()) };
        let top = self.open.len() == 1;
        if top && KEPT.contains(&folder.name.as_slice()) {
            self.kept.push(folder);
            return Ok(());
        }
        let name = folder.name.clone();
        let (mut nodes, meta) = self.nodes(folder)?;
        if top && name == TABLESPACES {
            nodes.extend(self.inside.iter().cloned());
            nodes.extend(self.spaces.iter().map(|s| entries::tablespace_link(&s.name, &s.meta)));
        }
        let subtree = entries::tree(&self.writer, &mut nodes)?;
        if let Some(above) = self.open.last_mut() {
            above.nodes.push(entries::directory(&name, meta, subtree));
        }
        Ok(())
    }

    fn nodes(&self, folder: Folder) -> Result<(Vec<Node>, Metadata)> {
        let mut nodes = folder.nodes;
        for (name, meta, file) in folder.files {
            let content = file.wait()?;
            count(&self.stats, self.has_parent, &content);
            nodes.push(entries::file(&name, meta, content));
        }
        // What the server did not mention, such as the data directory itself, is as what is in it.
        let meta = folder.meta.or_else(|| nodes.iter().find(|n| matches!(n.kind, NodeKind::Dir { .. })).map(|n| n.meta.clone()));
        let meta = meta.unwrap_or_else(|| Metadata { mode: 0o700, ..Metadata::default() });
        Ok((nodes, meta))
    }

    fn close_all(&mut self) -> Result<Folder> {
        while self.open.len() > 1 {
            self.close()?;
        }
        self.open.pop().ok_or_else(|| Error::new(Kind::Bug, "a tree without a root"))
    }

    /// The whole as one directory.
    pub(super) fn finish(mut self) -> Result<(Id, Metadata)> {
        let root = self.close_all()?;
        let (mut nodes, meta) = self.nodes(root)?;
        Ok((entries::tree(&self.writer, &mut nodes)?, meta))
    }

    /// The whole as a data directory.
    pub(super) fn finish_data(mut self) -> Result<Root> {
        let root = self.close_all()?;
        let mut wal = None;
        let (mut nodes, meta) = self.nodes(root)?;
        for folder in std::mem::take(&mut self.kept) {
            let name = folder.name.clone();
            let (mut inside, meta) = self.nodes(folder)?;
            if name == b"pg_wal" {
                wal = Some((meta, inside));
            } else {
                nodes.push(entries::directory(&name, meta, entries::tree(&self.writer, &mut inside)?));
            }
        }
        Ok(Root { nodes, meta, wal, spaces: self.spaces, inside: self.inside })
    }
}
