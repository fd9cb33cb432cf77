//! A budget of bytes that blocking code waits for: this is what bounds the memory of a run.

use parking_lot::{Condvar, Mutex};

/// Counts bytes that are held; [`Gate::enter`] waits until there is room.
#[derive(Debug)]
pub(crate) struct Gate {
    held: Mutex<u64>,
    room: Condvar,
    limit: u64,
}

impl Gate {
    pub(crate) fn new(limit: u64) -> Self {
        Self { held: Mutex::new(0), room: Condvar::new(), limit }
    }

    /// Waits until `bytes` fit. Something larger than the whole budget passes alone.
    pub(crate) fn enter(&self, bytes: u64) {
        let mut held = self.held.lock();
        while *held > 0 && *held + bytes > self.limit {
            self.room.wait(&mut held);
        }
        *held += bytes;
    }

    /// Gives bytes back.
    pub(crate) fn leave(&self, bytes: u64) {
        let mut held = self.held.lock();
        *held = held.saturating_sub(bytes);
        drop(held);
        self.room.notify_all();
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}
