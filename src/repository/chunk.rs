//! Where one blob ends and the next begins. Boundaries are a matter of this engine only: readers take any.
//!
//! Content-defined (FastCDC, gear hash) for files and dumps, so that an insertion moves boundaries near it and nowhere
//! else; fixed-size and page-aligned for PostgreSQL relation files, which change in place. The parameters are part of
//! the repository's economy: changing them stores everything once more, so golden tests pin them.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// How a file is cut into blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    /// Content-defined, 512 KiB to 2 MiB, mean about 1.2 MiB: ordinary files.
    Content,
    /// Content-defined, 64 KiB to 1 MiB, mean about 200 KiB: dumps, where changed rows are scattered.
    Stream,
    /// Every so many bytes (a power of two, at least 64 KiB): relation files.
    Fixed(u32),
}

/// A file no longer than this is one blob whatever its content.
pub const SMALL_FILE: u64 = 512 << 10;

#[derive(Debug, Clone, Copy)]
struct Limits {
    min: usize,
    avg: usize,
    max: usize,
    block: usize,
}

impl Chunking {
    fn limits(self) -> Limits {
        match self {
            Chunking::Content => Limits { min: 512 << 10, avg: 1 << 20, max: 2 << 20, block: 4 << 20 },
            Chunking::Stream => Limits { min: 64 << 10, avg: 128 << 10, max: 1 << 20, block: 4 << 20 },
            Chunking::Fixed(n) => {
                let n = (n as usize).max(64 << 10);
                Limits { min: n, avg: n, max: n, block: n.max(4 << 20).next_multiple_of(n) }
            }
        }
    }
}

/// Blocks that no chunk refers to any more, for the next files: new memory costs a page fault every 4 KiB, and memory given
/// back in pieces between others is never given back to the system.
#[derive(Debug, Clone, Default)]
pub struct Blocks(Arc<Mutex<Vec<Vec<u8>>>>);

impl Blocks {
    /// An empty one with room for `size` bytes.
    #[must_use]
    pub fn take(&self, size: usize) -> Vec<u8> {
        let mut block = self.0.lock().pop().unwrap_or_default();
        block.reserve_exact(size);
        block
    }

    /// Its bytes, to be cut into chunks; the block comes back when the last of them is gone.
    #[must_use]
    pub fn share(&self, block: Vec<u8>) -> Bytes {
        Bytes::from_owner(Shared { block, blocks: self.clone() })
    }
}

/// What chunks are slices of.
struct Shared {
    block: Vec<u8>,
    blocks: Blocks,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut block = std::mem::take(&mut self.block);
        if block.capacity() > 0 {
            block.clear();
            self.blocks.0.lock().push(block);
        }
    }
}

/// Cuts a stream that is read or pushed in pieces of any size. Boundaries depend on the bytes only, never on how they
/// arrived. Holds at most one block (4 MiB) of its own; chunks it gave out share theirs.
#[derive(Debug)]
pub(crate) struct Chunker {
    limits: Limits,
    fixed: bool,
    masks: (u64, u64),
    blocks: Blocks,
    block: Vec<u8>,
    /// What the last block held beyond its chunks; the next one begins with it. Copied only then, so that whoever waits
    /// for room does not hold two blocks.
    rest: Bytes,
}

impl Chunker {
    pub(crate) fn new(chunking: Chunking, blocks: Blocks) -> Self {
        let limits = chunking.limits();
        Self {
            limits,
            fixed: matches!(chunking, Chunking::Fixed(_)),
            masks: fastcdc::v2020::select_masks(limits.avg, fastcdc::v2020::Normalization::Level1),
            blocks,
            block: Vec::new(),
            rest: Bytes::new(),
        }
    }

    /// Fills the block from `reader` and gives out the chunks that are certain. `Ok(0)` at the end of the stream.
    pub(crate) fn read_from(&mut self, reader: &mut impl Read, out: &mut Vec<Bytes>) -> std::io::Result<usize> {
        self.grow();
        let room = self.limits.block - self.block.len();
        let n = reader.by_ref().take(room as u64).read_to_end(&mut self.block)?;
        if self.block.len() == self.limits.block {
            self.cut(false, out);
        }
        Ok(n)
    }

    /// Takes bytes that were already read.
    pub(crate) fn push(&mut self, mut data: &[u8], out: &mut Vec<Bytes>) {
        while !data.is_empty() {
            self.grow();
            let n = data.len().min(self.limits.block - self.block.len());
            let (now, later) = data.split_at(n);
            self.block.extend_from_slice(now);
            data = later;
            if self.block.len() == self.limits.block {
                self.cut(false, out);
            }
        }
    }

    /// Gives out what is left, and says how much of its block is empty: that is nobody's as long as a chunk is there.
    pub(crate) fn finish(mut self, out: &mut Vec<Bytes>) -> usize {
        self.grow();
        let empty = self.block.capacity() - self.block.len();
        self.cut(true, out);
        empty
    }

    fn grow(&mut self) {
        if self.block.capacity() == 0 {
            self.block = self.blocks.take(self.limits.block);
            self.block.extend_from_slice(&std::mem::take(&mut self.rest));
        }
    }

    fn cut(&mut self, end: bool, out: &mut Vec<Bytes>) {
        let mut at = 0;
        let mut ends = Vec::new();
        while let Some(rest) = self.block.get(at..).filter(|r| !r.is_empty() && (end || r.len() >= self.limits.max)) {
            at += self.next(rest);
            ends.push(at);
        }
        let block = std::mem::take(&mut self.block);
        let block = self.blocks.share(block);
        self.rest = block.slice(at..);
        let mut start = 0;
        for end in ends {
            out.push(block.slice(start..end));
            start = end;
        }
    }

    fn next(&self, rest: &[u8]) -> usize {
        let Limits { min, avg, max, .. } = self.limits;
        if self.fixed {
            return max.min(rest.len());
        }
        let (strict, loose) = self.masks;
        // The crate wants the left-shifted masks beside the plain ones.
        let (_, n) = fastcdc::v2020::cut(rest, min, avg, max, strict, loose, strict << 1, loose << 1);
        n.clamp(1, rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;
    use proptest::prelude::*;

    fn noise(len: usize) -> Vec<u8> {
        (0u32..).flat_map(|i| sha256(&i.to_le_bytes()).0).take(len).collect()
    }

    fn lengths(chunking: Chunking, data: &[u8], piece: usize) -> Vec<usize> {
        let (mut chunker, mut out) = (Chunker::new(chunking, Blocks::default()), Vec::new());
        for p in data.chunks(piece) {
            chunker.push(p, &mut out);
        }
        chunker.finish(&mut out);
        assert_eq!(out.concat(), data);
        out.iter().map(Bytes::len).collect()
    }

    #[test]
    fn boundaries_are_pinned() {
        let data = noise(9 << 20);
        assert_eq!(lengths(Chunking::Content, &data, 1 << 20), GOLDEN_CONTENT);
        assert_eq!(lengths(Chunking::Stream, data.get(..1 << 20).unwrap_or_default(), 1 << 20), GOLDEN_STREAM);
        assert_eq!(lengths(Chunking::Fixed(64 << 10), data.get(..150_000).unwrap_or_default(), 4096), [65536, 65536, 18928]);
        assert_eq!(lengths(Chunking::Content, &vec![0; 9 << 20], 1 << 20), [2 << 20, 2 << 20, 2 << 20, 2 << 20, 1 << 20]);
        assert!(lengths(Chunking::Content, &[], 1).is_empty());
    }

    const GOLDEN_CONTENT: [usize; 8] = [637_477, 2_010_659, 1_255_910, 2_097_152, 563_974, 1_510_104, 1_238_716, 123_192];
    const GOLDEN_STREAM: [usize; 6] = [143_301, 182_419, 155_576, 151_269, 266_574, 149_437];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn boundaries_do_not_depend_on_how_bytes_arrive(len in 0usize..12_000_000, piece in 1000usize..3_000_000) {
            let data = noise(len);
            let pushed = lengths(Chunking::Content, &data, piece);
            let (mut chunker, mut out, mut reader) = (Chunker::new(Chunking::Content, Blocks::default()), Vec::new(), data.as_slice());
            while chunker.read_from(&mut reader, &mut out).map_err(|e| TestCaseError::fail(e.to_string()))? > 0 {}
            chunker.finish(&mut out);
            prop_assert_eq!(pushed, out.iter().map(Bytes::len).collect::<Vec<_>>());
        }

        #[test]
        fn an_insertion_changes_few_chunks(at in 0usize..12_000_000, byte in any::<u8>()) {
            let mut data = noise(12 << 20);
            let cut = |d: &[u8]| { let (mut c, mut o) = (Chunker::new(Chunking::Stream, Blocks::default()), Vec::new()); c.push(d, &mut o); c.finish(&mut o); o };
            let before: std::collections::HashSet<Bytes> = cut(&data).into_iter().collect();
            data.insert(at, byte);
            let changed = cut(&data).into_iter().filter(|c| !before.contains(c)).count();
            prop_assert!(changed <= 6, "{} chunks changed", changed);
        }
    }
}
