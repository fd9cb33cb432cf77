//! Reading the files that changed.

use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::{OpenDir, Slot, Via, Walk, add};
use crate::error::{Context, Result};
use crate::model::{Id, NodeKind};
use crate::repository::{BlobType, Chunking, Done, SMALL_FILE};
use crate::source::volume::{Found, Problem};

impl Walk {
    /// Reads a file of one blob and hands it in.
    pub(super) fn small_file(self: &Arc<Self>, open: &Arc<OpenDir>, found: &Found, at: Slot) -> Result<()> {
        if let Some((content, size)) = self.linked(found) {
            self.set_content(open, at, content, size);
            return self.entry_done(open, Some(at), Via::Walker);
        }
        let data = match self.read_small(open, found) {
            Ok(Some(data)) => data,
            // It has grown since it was listed.
            Ok(None) => return self.large_file(open, found, at),
            Err(problem) => {
                self.give_up(open, at, problem);
                return self.entry_done(open, Some(at), Via::Walker);
            }
        };
        add(&self.stats.bytes_read, data.len() as u64);
        if data.is_empty() {
            self.set_content(open, at, Vec::new(), 0);
            return self.entry_done(open, Some(at), Via::Walker);
        }
        let (walk, open, size, link) = (self.clone(), open.clone(), data.len() as u64, link_key(found));
        let done: Done = Box::new(move |lane, saved| {
            let Some(saved) = saved else { return };
            if let Some(key) = link {
                walk.links.lock().insert(key, (vec![saved.id], size));
            }
            walk.set_content(&open, at, vec![saved.id], size);
            if let Err(e) = walk.entry_done(&open, Some(at), Via::Lane(lane)) {
                lane.fail(e);
            }
        });
        self.writer.submit(BlobType::Data, Bytes::from(data), done);
        Ok(())
    }

    /// `None`: it is small no longer.
    fn read_small(&self, open: &OpenDir, found: &Found) -> std::result::Result<Option<Vec<u8>>, Problem> {
        let mut again = false;
        loop {
            let mut file = self.volume.open_file(&open.dir, found)?;
            let data = match file.read_small(SMALL_FILE) {
                Ok(Some(data)) => data,
                Ok(None) => return Ok(None),
                // A network file system may have another file of this name by now, or none.
                Err(_) if !again => {
                    again = true;
                    continue;
                }
                Err(problem) => return Err(problem),
            };
            if !file.changed()? {
                return Ok(Some(data));
            }
            if again {
                self.problem(Problem::changed(&open.dir, found));
                return Ok(Some(data));
            }
            again = true;
        }
    }

    /// Reads a file of several blobs; other walkers go on with other tasks meanwhile.
    pub(super) fn large_file(self: &Arc<Self>, open: &Arc<OpenDir>, found: &Found, at: Slot) -> Result<()> {
        if let Some((content, size)) = self.linked(found) {
            self.set_content(open, at, content, size);
            return self.entry_done(open, Some(at), Via::Walker);
        }
        let mut again = false;
        loop {
            self.cancel.check()?;
            let mut file = match self.volume.open_file(&open.dir, found) {
                Ok(file) => file,
                Err(problem) => {
                    self.give_up(open, at, problem);
                    break;
                }
            };
            let mut into = self.writer.file(Chunking::Content);
            if let Err(e) = into.read_all(&mut file) {
                self.writer.check()?;
                if !again && e.raw_os_error() == Some(Errno::STALE.raw_os_error()) {
                    again = true;
                    continue;
                }
                self.give_up(open, at, Problem::unreadable(&open.dir, found, &e));
                break;
            }
            let content = into.finish().context(|| format!("back up {}", open.dir.path().join(found.path_name()).display()))?;
            add(&self.stats.bytes_read, content.size);
            if file.changed().unwrap_or(true) {
                if !again {
                    again = true;
                    continue;
                }
                self.problem(Problem::changed(&open.dir, found));
            }
            if let Some(key) = link_key(found) {
                self.links.lock().insert(key, (content.content.clone(), content.size));
            }
            self.set_content(open, at, content.content, content.size);
            break;
        }
        self.entry_done(open, Some(at), Via::Walker)
    }

    /// What was stored of another name of the file, and how long it was then.
    fn linked(&self, found: &Found) -> Option<(Vec<Id>, u64)> {
        self.links.lock().get(&link_key(found)?).cloned()
    }

    pub(super) fn set_content(&self, open: &OpenDir, at: Slot, content: Vec<Id>, size: u64) {
        if let Some(Some(node)) = open.entries.lock().entry(at) {
            node.kind = NodeKind::File { size, content };
        }
    }

    /// A file that cannot be had: left out if it is gone, else recorded with its error and without content.
    pub(super) fn give_up(&self, open: &OpenDir, at: Slot, problem: Problem) {
        if let Some(slot) = open.entries.lock().entry(at) {
            if problem.is_gone() {
                *slot = None;
            } else if let Some(node) = slot {
                node.error = Some(problem.to_string());
                node.kind = NodeKind::File { size: 0, content: Vec::new() };
            }
        }
        self.problem(problem);
    }
}

fn link_key(found: &Found) -> Option<(u64, u64)> {
    (found.meta.links > 1).then_some((found.meta.device_id, found.meta.inode))
}
