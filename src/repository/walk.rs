//! Every tree that snapshots reach, each once: level by level, and each level in the order in which its trees lie in
//! packs, so that every pack is read at most once a level. Memory: one bit a tree, four bytes a tree of the level.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::index::BlobType;
use super::marks::Marks;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::model::{Id, Node, NodeKind};
use crate::runtime::Cancel;

/// What a walk tells. Called from several threads at once.
pub(super) trait Visit: Sync {
    /// An entry of the tree `tree`, in the order stored. `last` is the name before it in the same tree.
    fn node(&self, tree: &Id, node: &Node, last: Option<&[u8]>) -> Result<()>;

    /// A tree that cannot be read or is in no index. An error ends the walk, `Ok` goes on without it.
    fn unreadable(&self, tree: &Id, error: Error) -> Result<()>;
}

/// Walks from `roots` (duplicates allowed) and returns which entries of the index's trees were reached, by the position
/// of the tree's first entry.
///
/// # Errors
/// The first error of `visit`, or that it was cancelled.
pub(super) fn walk(
    reader: &Reader,
    roots: impl Iterator<Item = Id>,
    threads: usize,
    visit: &dyn Visit,
    cancel: &Cancel,
) -> Result<Marks> {
    let index = reader.index();
    let trees = index.entries(BlobType::Tree);
    let reached = Marks::new(trees.len());
    let enter = |id: &Id, level: &mut Vec<u32>| -> Result<()> {
        match index.position(BlobType::Tree, id) {
            Some(at) if reached.set(at) => level.extend(u32::try_from(at)),
            Some(_) => {}
            // Read all the same, for the error that says so.
            None => visit.unreadable(
                id,
                reader
                    .tree(*id)
                    .err()
                    .unwrap_or_else(|| Error::new(crate::error::Kind::Corrupt, format!("tree {id} is in no index"))),
            )?,
        }
        Ok(())
    };
    let mut level = Vec::new();
    for root in roots {
        enter(&root, &mut level)?;
    }
    while !level.is_empty() {
        level.sort_unstable_by_key(|at| trees.get(*at as usize).map(|e| (e.place.pack, e.place.offset)));
        let batches = batches(&level, |at| trees.get(at as usize).map_or(0, |e| e.place.pack));
        let next: Mutex<Vec<u32>> = Mutex::new(Vec::new());
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, batches.len()) {
                scope.spawn(|| {
                    let mut found = Vec::new();
                    while failure.lock().is_none() {
                        let Some(batch) = batches.get(taken.fetch_add(1, Relaxed)) else { break };
                        for at in level.get(batch.clone()).unwrap_or(&[]) {
                            let Some(entry) = trees.get(*at as usize) else { continue };
                            let done =
                                cancel.check().and_then(|()| read(reader, &entry.id, visit, &mut |id| enter(id, &mut found)));
                            if let Err(e) = done {
                                failure.lock().get_or_insert(e);
                                return;
                            }
                        }
                    }
                    next.lock().append(&mut found);
                });
            }
        });
        if let Some(e) = failure.into_inner() {
            return Err(e);
        }
        level = next.into_inner();
    }
    Ok(reached)
}

/// One tree. Failures of `visit` and `enter` end the walk; those of the tree are told to `visit`.
fn read(reader: &Reader, id: &Id, visit: &dyn Visit, enter: &mut dyn FnMut(&Id) -> Result<()>) -> Result<()> {
    let mut last: Option<Vec<u8>> = None;
    let mut stopped = Ok(());
    let outcome = reader.visit_tree(*id, &mut |node| {
        let visited = visit.node(id, &node, last.as_deref()).and_then(|()| match &node.kind {
            NodeKind::Dir { subtree: Some(subtree) } => enter(subtree),
            _ => Ok(()),
        });
        last = Some(node.name);
        if visited.is_err() {
            stopped = visited;
            return Err(Error::new(crate::error::Kind::Cancelled, "broken off"));
        }
        Ok(())
    });
    stopped?;
    outcome.or_else(|e| visit.unreadable(id, e))
}

/// Runs of one pack each, but none so long that one thread has all the work.
fn batches(level: &[u32], pack: impl Fn(u32) -> u32) -> Vec<std::ops::Range<usize>> {
    const MOST: usize = 512;
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    let mut current = None;
    for (i, at) in level.iter().enumerate() {
        let pack = pack(*at);
        match out.last_mut() {
            Some(run) if current == Some(pack) && run.len() < MOST => run.end = i + 1,
            _ => out.push(i..i + 1),
        }
        current = Some(pack);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_end_with_the_pack() {
        assert_eq!(batches(&[0, 1, 2, 10, 11, 20], |at| at / 10), [0..3, 3..5, 5..6]);
        let many: Vec<u32> = (0..1025).collect();
        assert_eq!(batches(&many, |_| 0), [0..512, 512..1024, 1024..1025]);
        assert!(batches(&[], |_| 0).is_empty());
    }
}
