//! What is done: the last entry of a directory stores it, and so on upwards.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::entries::Slot;
use super::{OpenDir, Via, Walk, add};
use crate::error::{Context, Result};
use crate::model::{Id, NodeKind};
use crate::repository::{BlobType, Done, encode_tree};

impl Walk {
    /// One entry (or, without one, the listing) less to wait for; at the last one, stores the directory, and so on upwards.
    pub(super) fn entry_done(self: &Arc<Self>, open: &Arc<OpenDir>, mut slot: Option<Slot>, mut via: Via<'_>) -> Result<()> {
        let mut open = open.clone();
        loop {
            if let Some(slot) = slot {
                let complete = open.entries.lock().done(slot.part);
                self.keep_encoded(&open, slot.part, complete)?;
            }
            if open.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
                return Ok(());
            }
            let same = open.same.load(Ordering::Acquire);
            let tree = match (same, open.was) {
                (true, Some(was)) => {
                    add(&self.stats.dirs_unmodified, 1);
                    was
                }
                _ => {
                    add(if open.was.is_some() { &self.stats.dirs_changed } else { &self.stats.dirs_new }, 1);
                    let Via::Lane(lane) = &mut via else { return self.hand_in_tree(&open) };
                    let large = open.tree.lock().take();
                    let saved = match large {
                        Some(tree) => lane.save_large_tree(tree),
                        None => lane.save_tree(&open.entries.lock().take_all()),
                    };
                    match saved {
                        Some(saved) => saved.id,
                        None => return Ok(()),
                    }
                }
            };
            match self.set_subtree(&open, tree) {
                Some((above, at)) => (open, slot) = (above, Some(at)),
                None => return Ok(()),
            }
        }
    }

    /// A walker has no compressor: a lane stores the tree and goes on upwards.
    fn hand_in_tree(self: &Arc<Self>, open: &Arc<OpenDir>) -> Result<()> {
        let (walk, below) = (self.clone(), open.clone());
        let done: Done = Box::new(move |lane, saved| {
            let Some(saved) = saved else { return };
            if let Some((above, at)) = walk.set_subtree(&below, saved.id)
                && let Err(e) = walk.entry_done(&above, Some(at), Via::Lane(lane))
            {
                lane.fail(e);
            }
        });
        let large = open.tree.lock().take();
        match large {
            Some(tree) => self.writer.submit_large_tree(tree, done),
            None => {
                let nodes = open.entries.lock().take_all();
                let bytes = encode_tree(&nodes).context(|| format!("back up directory {}", open.dir.path().display()))?;
                self.writer.submit(BlobType::Tree, Bytes::from(bytes), done);
            }
        }
        Ok(())
    }

    /// Notes a stored tree in the directory above, which is returned with the place in it; `None` at the root.
    fn set_subtree(&self, open: &OpenDir, tree: Id) -> Option<(Arc<OpenDir>, Slot)> {
        let Some(place) = &open.place else {
            *self.root.lock() = Some(tree);
            return None;
        };
        if place.was != Some(tree) {
            place.open.same.store(false, Ordering::Release);
        }
        if let Some(Some(node)) = place.open.entries.lock().entry(place.at) {
            node.kind = NodeKind::Dir { subtree: Some(tree) };
        }
        Some((place.open.clone(), place.at))
    }
}
