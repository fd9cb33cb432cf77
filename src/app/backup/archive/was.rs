//! A directory as it was in the parent snapshot, beside which its listing goes.

use std::iter::Peekable;
use std::path::Path;

use crate::error::Error;
use crate::model::{Id, Node};
use crate::repository::{Nodes, Reader};

/// The parent's entries that were not asked for yet, in order of name.
pub(super) struct Was {
    nodes: Peekable<Nodes>,
    /// It could not be read to its end: nothing more is known of it.
    broken: bool,
}

impl Was {
    /// `None` if it cannot be read: that must not stop the backup, and everything in the directory is read anew.
    pub(super) fn read(reader: &Reader, tree: Id, path: &Path) -> Option<Self> {
        match reader.nodes(tree) {
            Ok(nodes) => Some(Self { nodes: nodes.peekable(), broken: false }),
            Err(e) => {
                tracing::warn!("the parent snapshot cannot be used for {}: {}", path.display(), e.chain());
                None
            }
        }
    }

    /// The entry of this name, and whether there were others before it that are gone. Names in ascending order.
    pub(super) fn find(&mut self, name: &[u8]) -> (Option<Node>, bool) {
        let mut passed = false;
        while self.step(|n| n.name.as_slice() < name).is_some() {
            passed = true;
        }
        (self.step(|n| n.name == name), passed)
    }

    /// Whether it had no more entries, as far as can be told.
    pub(super) fn is_over(&mut self) -> bool {
        !self.broken && self.nodes.peek().is_none()
    }

    fn step(&mut self, wanted: impl Fn(&Node) -> bool) -> Option<Node> {
        match self.nodes.next_if(|n| n.as_ref().map_or(true, &wanted))? {
            Ok(node) => Some(node),
            Err(e) => self.give_up(&e),
        }
    }

    fn give_up(&mut self, e: &Error) -> Option<Node> {
        self.broken = true;
        tracing::warn!("the parent snapshot can be used for a part of a directory only: {}", e.chain());
        None
    }
}
