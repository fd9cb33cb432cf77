//! What an entry of a listing needs: nothing, if it is as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{OpenDir, Place, Slot, Task, Walk, add};
use crate::error::Result;
use crate::model::{Node, NodeKind, Time};
use crate::repository::SMALL_FILE;
use crate::source::volume::{Found, FoundKind};

impl Walk {
    /// Decides what an entry needs. Its node is complete but for content and subtree.
    pub(super) fn settle(
        &self,
        open: &Arc<OpenDir>,
        found: &mut Found,
        old: Option<Node>,
        at: Slot,
        small: &mut Vec<(Found, Slot)>,
        later: &mut Vec<Task>,
    ) -> Result<Option<Node>> {
        if found.kind == FoundKind::File {
            add(&self.stats.bytes_total, found.size);
        }
        if let (Some(old), Some(parent)) = (&old, &self.parent)
            && self.volume.unchanged(found, old, parent.scanned)
            && self.content_is_stored(old)
        {
            // Equal ctime: extended attributes and link target are the parent's.
            let node = self.volume.to_node_like(found, old);
            self.note_same(open, &node, Some(old));
            if found.kind == FoundKind::File {
                add(&self.stats.files_unmodified, 1);
            }
            return Ok(Some(node));
        }
        let mut failed = None;
        if let Err(problem) = self.volume.complete(&open.dir, found) {
            let gone = problem.is_gone();
            failed = Some(problem.to_string());
            self.problem(problem);
            if gone {
                open.same.store(false, Ordering::Relaxed);
                return Ok(None);
            }
            // No entry has this one: the next backup asks again, instead of taking over what is missing here.
            found.meta.ctime = Time::default();
        }
        let mut node = self.volume.to_node(found);
        if found.kind == FoundKind::Symlink && found.target.is_empty() {
            node.error = failed;
        }
        match found.kind {
            FoundKind::Dir => {
                let was = match &old {
                    Some(Node { kind: NodeKind::Dir { subtree }, .. }) => *subtree,
                    _ => None,
                };
                self.note_same(open, &node, old.as_ref());
                later.push(Task::Dir { found: found.clone(), place: Place { open: open.clone(), at, was } });
            }
            FoundKind::File => {
                open.same.store(false, Ordering::Relaxed);
                add(if old.is_some() { &self.stats.files_changed } else { &self.stats.files_new }, 1);
                if found.size == 0 {
                    // Nothing to read: an empty file has no blobs.
                } else if found.size <= SMALL_FILE {
                    small.push((found.clone(), at));
                } else {
                    later.push(Task::File { open: open.clone(), found: found.clone(), at });
                }
            }
            _ => self.note_same(open, &node, old.as_ref()),
        }
        Ok(Some(node))
    }

    fn note_same(&self, open: &OpenDir, node: &Node, old: Option<&Node>) {
        let same = old.is_some_and(|old| match (&node.kind, &old.kind) {
            // Subtrees are compared when they are stored.
            (NodeKind::Dir { .. }, NodeKind::Dir { .. }) => {
                node.meta == old.meta && node.name == old.name && node.error == old.error
            }
            _ => node == old,
        });
        if !same {
            open.same.store(false, Ordering::Relaxed);
        }
    }

    fn content_is_stored(&self, old: &Node) -> bool {
        match &old.kind {
            NodeKind::File { content, .. } => content.iter().all(|id| self.writer.has_data(id)),
            NodeKind::Dir { .. } => false,
            _ => true,
        }
    }
}
