//! Bytes into a file: neighbours in one call, long runs of zeros as holes, and around the page cache where that is possible.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;

use crate::runtime::direct;
use crate::runtime::memory::PAGE;

/// Chunks that are written with one call at most.
pub(super) const PIECES: usize = 256;
/// Runs of zeros from this length on become holes; shorter ones are not worth a gap on the disk.
const HOLE: usize = 64 << 10;

/// Switches a new descriptor to writing around the page cache if `wanted` says so, and corrects `wanted` if it cannot be had.
pub(super) fn set_direct(fd: BorrowedFd<'_>, wanted: &AtomicBool) {
    if wanted.load(Relaxed) && !direct::switch(fd, true) {
        wanted.store(false, Relaxed);
    }
}

/// Writes `pieces` one after the other from `offset` on. From `was` on the file has nothing yet: long runs of zeros are left out
/// there. What cannot be written around the page cache is written through it, and so is everything after that.
pub(super) fn write(fd: BorrowedFd<'_>, offset: u64, pieces: &[&[u8]], was: u64, direct: &AtomicBool) -> rustix::io::Result<()> {
    let file = Output { fd, direct };
    // The first piece that is not written, and where it goes.
    let (mut first, mut start, mut at) = (0, offset, offset);
    for (n, piece) in pieces.iter().enumerate() {
        let end = at + piece.len() as u64;
        if at >= was && has_hole(piece) {
            file.all(start, pieces.get(first..n).unwrap_or_default())?;
            file.with_holes(at, piece)?;
            (first, start) = (n + 1, end);
        }
        at = end;
    }
    file.all(start, pieces.get(first..).unwrap_or_default())
}

struct Output<'a> {
    fd: BorrowedFd<'a>,
    direct: &'a AtomicBool,
}

impl Output<'_> {
    fn with_holes(&self, offset: u64, data: &[u8]) -> rustix::io::Result<()> {
        let (mut start, mut zeros, mut at) = (0, 0, 0);
        for block in data.chunks(PAGE) {
            if is_zero(block) {
                zeros += block.len();
            } else {
                if zeros >= HOLE {
                    self.all(offset + start as u64, &[data.get(start..at - zeros).unwrap_or_default()])?;
                    start = at;
                }
                zeros = 0;
            }
            at += block.len();
        }
        let left_out = if zeros >= HOLE { zeros } else { 0 };
        self.all(offset + start as u64, &[data.get(start..at - left_out).unwrap_or_default()])?;
        let end = offset + data.len() as u64;
        if left_out > 0 && u64::try_from(rustix::fs::fstat(self.fd)?.st_size).unwrap_or(0) < end {
            rustix::fs::ftruncate(self.fd, end)?;
        }
        Ok(())
    }

    fn all(&self, mut offset: u64, pieces: &[&[u8]]) -> rustix::io::Result<()> {
        let mut again = true;
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match rustix::io::pwritev(self.fd, left, offset) {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(Errno::INTR) => {}
                // Not aligned as this file system wants it. Another thread may have found that out at the same time.
                Err(Errno::INVAL) if again => {
                    again = false;
                    self.direct.store(false, Relaxed);
                    direct::switch(self.fd, false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether it has a run of zeros that is worth a hole.
fn has_hole(data: &[u8]) -> bool {
    let mut zeros = 0;
    data.len() >= HOLE
        && data.chunks(PAGE).any(|block| {
            zeros = if is_zero(block) { zeros + block.len() } else { 0 };
            zeros >= HOLE
        })
}

fn is_zero(block: &[u8]) -> bool {
    block.first() == Some(&0) && block.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn what_is_not_aligned_is_written_all_the_same() {
        let file = tempfile::tempfile().unwrap();
        let direct = AtomicBool::new(true);
        set_direct(file.as_fd(), &direct);
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251 + 1) as u8).collect();
        write(file.as_fd(), 100, &[&bytes[..7], &bytes[7..8192], &bytes[8192..]], 0, &direct).unwrap();
        assert!(!direct.load(Relaxed));
        let mut read = vec![0; 300_000];
        file.read_exact_at(&mut read, 100).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn long_zeros_are_left_out_where_nothing_is_and_written_where_something_was() {
        let zeros = vec![0u8; HOLE];
        let ones = vec![1u8; HOLE];
        let half: Vec<u8> = [&ones[..PAGE], &zeros, &ones[..PAGE]].concat();
        for was in [0, u64::MAX] {
            let file = tempfile::tempfile().unwrap();
            let before = vec![9u8; 4 * HOLE];
            if was > 0 {
                file.write_all_at(&before, 0).unwrap();
            }
            write(file.as_fd(), 0, &[&ones, &zeros, &half, &zeros], was, &AtomicBool::new(false)).unwrap();
            let expected = [&ones[..], &zeros, &half, &zeros].concat();
            let mut read = vec![9; expected.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            assert!(read == expected);
            if was == 0 {
                let meta = file.metadata().unwrap();
                assert_eq!(meta.len(), expected.len() as u64);
                assert!(meta.blocks() * 512 < meta.len(), "{} blocks", meta.blocks());
            }
        }
    }
}
