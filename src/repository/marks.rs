//! One bit for each of many things, set from several threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bits by number. Memory: one bit each.
#[derive(Debug)]
pub(super) struct Marks(Vec<AtomicU64>);

impl Marks {
    /// `len` bits, none set.
    pub(super) fn new(len: usize) -> Self {
        Self((0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Sets a bit; `true` if it was not set before. Bits beyond the end are never set.
    pub(super) fn set(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word.fetch_or(1 << (at % 64), Relaxed) & (1 << (at % 64)) == 0)
    }

    /// Whether a bit is set.
    pub(super) fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word.load(Relaxed) & (1 << (at % 64)) != 0)
    }

    /// How many are set.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.load(Relaxed).count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_was_set_once() {
        let marks = Marks::new(130);
        assert!(marks.set(0) && marks.set(64) && marks.set(129) && !marks.set(64));
        assert!(!marks.set(192), "beyond the last word");
        assert!(marks.get(129) && !marks.get(1) && !marks.get(1000));
        assert_eq!(marks.count(), 3);
    }
}
