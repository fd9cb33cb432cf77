//! How much goes up at once: so many files, in so much memory.
//!
//! Before a file is read nobody knows how far it can be compressed, so room is taken for all of it; once it is, what it does not need
//! goes to the next one. So one file is on its way to the store while others are compressed.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::object::PART;

/// What is counted, in bytes.
const UNIT: u64 = 1 << 10;
/// What a file under way takes besides its stored form.
const BESIDE: u64 = 3 << 20;

/// See the module. In turn: who asked first is served first.
#[derive(Debug)]
pub(super) struct Room {
    files: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    most: u32,
}

/// Room for one file, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _file: OwnedSemaphorePermit,
    memory: OwnedSemaphorePermit,
    /// What it began with.
    need: u32,
}

impl Room {
    /// For `files` at once in `memory` bytes; there is always room for one.
    pub(super) fn new(files: usize, memory: u64) -> Self {
        let most = units(memory).max(1);
        Self { files: Arc::new(Semaphore::new(files.max(1))), memory: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Waits for room for a file of this length. `None` never happens: the room is never closed.
    pub(super) async fn share(&self, length: u64) -> Option<Share> {
        let need = units(length.min(PART as u64) + BESIDE).min(self.most);
        let file = self.files.clone().acquire_owned().await.ok()?;
        let memory = self.memory.clone().acquire_many_owned(need).await.ok()?;
        Some(Share { _file: file, memory, need })
    }
}

impl Share {
    /// From now on it takes no more than `bytes`, and what a file takes besides: what is there already may have to be compared.
    pub(super) fn keep(&mut self, bytes: usize) {
        let spare = self.memory.num_permits().saturating_sub(units(bytes as u64 + BESIDE) as usize);
        drop(self.memory.split(spare));
    }

    /// Waits for as much as it began with. Gives back all of it first: two that each keep what the other one waits for would wait for
    /// ever.
    pub(super) async fn renew(&mut self) {
        drop(self.memory.split(self.memory.num_permits()));
        // The room is never closed.
        if let Ok(memory) = self.memory.semaphore().clone().acquire_many_owned(self.need).await {
            self.memory = memory;
        }
    }
}

fn units(bytes: u64) -> u32 {
    // A semaphore counts no further on small machines.
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(1 << 28)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_compressed_makes_room_for_the_next_one() {
        let room = Room::new(3, 42 << 20);
        let mut first = room.share(16 << 20).await.unwrap();
        let second = room.share(16 << 20).await.unwrap();
        assert!(futures::FutureExt::now_or_never(room.share(16 << 20)).is_none());
        first.keep(4 << 20);
        let third = futures::FutureExt::now_or_never(room.share(16 << 20)).flatten();
        assert!(third.is_none(), "7 + 19 + 19 is more than 42");
        first.keep(1 << 20);
        let third = futures::FutureExt::now_or_never(room.share(16 << 20)).flatten();
        assert!(third.is_some());
        // Now the number of files is the limit.
        assert!(futures::FutureExt::now_or_never(room.share(1)).is_none());
        // Who begins once more waits for the others, too.
        assert!(futures::FutureExt::now_or_never(first.renew()).is_none());
        drop(third);
        assert!(futures::FutureExt::now_or_never(first.renew()).is_some());
        drop((first, second));
        // One that is larger than everything has all of it.
        assert!(Room::new(1, 1).share(1 << 30).await.is_some());
    }
}
