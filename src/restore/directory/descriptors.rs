//! How many files and directories stay open at once.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A place that may hold an open descriptor; closed when it is taken out and its last user is done.
pub(super) type Slot = Arc<Held>;
type Held = Mutex<Option<Arc<OwnedFd>>>;

/// Closes the oldest descriptors beyond a number. Whoever finds its slot empty opens again.
#[derive(Debug)]
pub(super) struct Descriptors {
    most: usize,
    open: Mutex<VecDeque<Weak<Held>>>,
}

impl Descriptors {
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// To be called when a slot was filled, by a thread that does not hold it locked.
    pub(super) fn opened(&self, slot: &Slot) {
        let mut open = self.open.lock();
        open.push_back(Arc::downgrade(slot));
        if open.len() <= self.most {
            return;
        }
        // Most of the oldest are closed already; those count for nothing.
        let mut oldest = Vec::new();
        while open.len() > self.most
            && let Some(slot) = open.pop_front()
        {
            oldest.extend(slot.upgrade());
        }
        drop(open);
        for slot in oldest {
            slot.lock().take();
        }
    }
}
