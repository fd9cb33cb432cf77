//! The entries of one directory while they are being completed, in any order.
//!
//! They come in parts, as a directory is listed. Of a directory with very many entries a part whose entries are all
//! complete is encoded, kept compressed until those before it are, and then joined to the tree, so that nothing but the
//! compressed tree grows with the directory.

use crate::model::Node;
use crate::repository::TreePart;

/// Directories with more entries than this are encoded part by part.
const LARGE: usize = 4096;

/// Whether a directory with so many entries is.
pub(super) fn is_large(entries: usize) -> bool {
    entries > LARGE
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) part: usize,
    pub(super) at: usize,
}

/// All entries so far.
#[derive(Debug)]
pub(super) struct Entries {
    parts: Vec<Part>,
    /// Parts that were taken to be joined.
    joined: usize,
    is_large: bool,
}

#[derive(Debug)]
enum Part {
    /// `None`: an entry that turned out to be gone.
    Open { nodes: Vec<Option<Node>>, pending: usize },
    /// Being encoded, or joined.
    Taken,
    /// `None`: without any entry left.
    Encoded(Option<TreePart>),
}

impl Entries {
    /// For a directory with about this many entries.
    pub(super) fn new(expected: usize) -> Self {
        Self { parts: Vec::new(), joined: 0, is_large: is_large(expected) }
    }

    /// The number of the next part.
    pub(super) fn next_part(&self) -> usize {
        self.parts.len()
    }

    /// Adds a part of which so many entries will be told by [`Entries::done`]. If none will, and the part is to be encoded,
    /// its nodes are given back as by that.
    pub(super) fn add(&mut self, nodes: Vec<Option<Node>>, pending: usize) -> Option<Vec<Node>> {
        self.parts.push(Part::Open { nodes, pending });
        if pending == 0 { self.take(self.parts.len() - 1) } else { None }
    }

    /// An entry; `None` if there is no such one, or it is complete and encoded.
    pub(super) fn entry(&mut self, slot: Slot) -> Option<&mut Option<Node>> {
        match self.parts.get_mut(slot.part) {
            Some(Part::Open { nodes, .. }) => nodes.get_mut(slot.at),
            _ => None,
        }
    }

    /// One entry of the part is complete. After the last one of a large directory's part: its nodes, to be encoded (by the
    /// caller, so that nobody waits for that) and given to [`Entries::put`].
    pub(super) fn done(&mut self, part: usize) -> Option<Vec<Node>> {
        match self.parts.get_mut(part) {
            Some(Part::Open { pending, .. }) if *pending > 1 => {
                *pending -= 1;
                None
            }
            _ => self.take(part),
        }
    }

    fn take(&mut self, part: usize) -> Option<Vec<Node>> {
        if !self.is_large {
            return None;
        }
        let part = self.parts.get_mut(part)?;
        match std::mem::replace(part, Part::Taken) {
            Part::Open { nodes, .. } => Some(nodes.into_iter().flatten().collect()),
            other => {
                *part = other;
                None
            }
        }
    }

    /// Puts a part back, encoded.
    pub(super) fn put(&mut self, part: usize, encoded: Option<TreePart>) {
        if let Some(place) = self.parts.get_mut(part) {
            *place = Part::Encoded(encoded);
        }
    }

    /// The next part to be joined, if it is ready.
    pub(super) fn next_ready(&mut self) -> Option<Option<TreePart>> {
        let next = self.parts.get_mut(self.joined)?;
        match std::mem::replace(next, Part::Taken) {
            Part::Encoded(part) => {
                self.joined += 1;
                Some(part)
            }
            other => {
                *next = other;
                None
            }
        }
    }

    /// All entries of a directory that is not large, once they are complete. Leaves nothing.
    pub(super) fn take_all(&mut self) -> Vec<Node> {
        let mut all = Vec::new();
        for part in std::mem::take(&mut self.parts) {
            let Part::Open { nodes, .. } = part else { continue };
            if all.is_empty() {
                all.reserve_exact(nodes.len());
            }
            all.extend(nodes.into_iter().flatten());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Metadata, NodeKind};

    fn node(n: usize) -> Option<Node> {
        Some(Node { name: format!("{n:06}").into_bytes(), kind: NodeKind::Fifo, meta: Metadata::default(), error: None })
    }

    fn names(nodes: &[Node]) -> Vec<&[u8]> {
        nodes.iter().map(|n| n.name.as_slice()).collect()
    }

    #[test]
    fn parts_of_a_large_directory_are_joined_in_order_whatever_order_they_are_ready_in() {
        let mut entries = Entries::new(LARGE + 1);
        let encode = |nodes: &[Node]| TreePart::encode(nodes).expect("encodes");
        assert!(entries.add(vec![node(0), node(1)], 2).is_none());
        let gone = entries.add(vec![None], 0).expect("complete");
        entries.put(1, encode(&gone));
        let ready = entries.add(vec![node(2), None, node(3)], 0).expect("complete");
        assert_eq!(names(&ready), [b"000002", b"000003"]);
        entries.put(2, encode(&ready));
        assert!(entries.next_ready().is_none(), "the first is not ready");
        assert!(entries.entry(Slot { part: 2, at: 0 }).is_none(), "encoded");
        *entries.entry(Slot { part: 0, at: 0 }).expect("open") = None;
        assert!(entries.done(0).is_none());
        let ready = entries.done(0).expect("complete");
        assert_eq!(names(&ready), [b"000001"]);
        assert!(entries.next_ready().is_none(), "being encoded");
        entries.put(0, encode(&ready));
        let joined: Vec<bool> = std::iter::from_fn(|| entries.next_ready()).map(|part| part.is_some()).collect();
        assert_eq!(joined, [true, false, true]);
    }

    #[test]
    fn other_directories_are_kept_as_they_are() {
        let mut entries = Entries::new(3);
        assert!(entries.add(vec![node(0), None], 1).is_none() && entries.add(vec![node(1)], 0).is_none());
        assert!(entries.done(0).is_none());
        assert_eq!(names(&entries.take_all()), [b"000000", b"000001"]);
    }
}
