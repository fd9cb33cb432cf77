//! Memory for the contents of some blobs side by side, each beginning where direct I/O wants it. It is used again and again: new
//! memory costs a page fault every 4 KiB.

use std::ops::Range;

use crate::repository::index::BlobPlace;
use crate::runtime::memory::PAGE;

/// Contents that are held together, in bytes; a larger one is held alone.
const ROOM: usize = 2 << 20;
/// How many at most.
const COUNT: usize = 256;

/// Empty at first.
#[derive(Debug, Default)]
pub(super) struct Arena {
    memory: Vec<u8>,
    /// First byte at a multiple of [`PAGE`].
    start: usize,
    used: usize,
}

impl Arena {
    /// How many of these fit together: one at least, if there is one. Repetitions of a place take no room.
    pub(super) fn fitting(&self, places: impl Iterator<Item = BlobPlace>) -> usize {
        let (mut bytes, mut count, mut last) = (0usize, 0, None);
        let mut n = 0;
        for place in places {
            if last != Some(place) {
                last = Some(place);
                bytes = bytes.saturating_add((place.plain_len() as usize).next_multiple_of(PAGE));
                count += 1;
                if n > 0 && (bytes > ROOM || count > COUNT) {
                    break;
                }
            }
            n += 1;
        }
        n
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// Room for one content behind the others. What [`Arena::fitting`] did not count may not fit and be empty.
    pub(super) fn take(&mut self, length: usize) -> (Range<usize>, &mut [u8]) {
        if self.used == 0 && self.memory.len() < length.max(ROOM).saturating_add(2 * PAGE) {
            // The former goes first.
            self.memory = Vec::new();
            self.memory = vec![0; length.max(ROOM).saturating_add(2 * PAGE)];
            // It may be said to be impossible; then contents are not aligned, which costs time only.
            self.start = match self.memory.as_ptr().align_offset(PAGE) {
                n if n < PAGE => n,
                _ => 0,
            };
        }
        let from = self.start + self.used;
        let range = from..from.saturating_add(length);
        self.used = self.used.saturating_add(length).next_multiple_of(PAGE);
        (range.clone(), self.memory.get_mut(range).unwrap_or_default())
    }

    pub(super) fn get(&self, range: &Range<usize>) -> &[u8] {
        self.memory.get(range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_lie_side_by_side_and_aligned() {
        let place = |n: u32, length: u32| BlobPlace { pack: 0, offset: n, length: 40, uncompressed: length };
        let mut arena = Arena::default();
        let blobs = [place(1, 1 << 20), place(1, 1 << 20), place(2, 5000), place(3, 1 << 20), place(4, 9 << 20), place(5, 1)];
        assert_eq!(arena.fitting(blobs.into_iter()), 3);
        assert_eq!(arena.fitting(blobs.into_iter().skip(3)), 1);
        assert_eq!(arena.fitting(blobs.into_iter().skip(4)), 1);
        assert_eq!(arena.fitting(blobs.into_iter().skip(5)), 1);
        for lengths in [&[1 << 20, 5000, 1][..], &[9 << 20], &[4096, 4096]] {
            arena.clear();
            let mut taken = Vec::new();
            for (n, &length) in (1u8..).zip(lengths) {
                let (range, out) = arena.take(length);
                assert_eq!(out.len(), length);
                assert_eq!(out.as_ptr().align_offset(PAGE), 0);
                out.fill(n);
                taken.push((n, range));
            }
            for (n, range) in taken {
                assert!(arena.get(&range).iter().all(|b| *b == n));
            }
        }
    }
}
