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

    /// Gives bytes back. Who waits is woken once a quarter is free: to be woken for every small blob, and to find no room, would
    /// cost more than the blob.
    pub(crate) fn leave(&self, bytes: u64) {
        let mut held = self.held.lock();
        *held = held.saturating_sub(bytes);
        let has_room = *held <= self.limit - self.limit / 4;
        drop(held);
        if has_room {
            self.room.notify_all();
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}
