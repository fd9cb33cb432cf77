//! One file, read in order: up to the length it had when it was opened, pages checked on the way, not left in the page cache.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Stat};
use rustix::io::Errno;

use super::rules::FileClass;
use crate::error::{Context, Result};
use crate::model::Lsn;
use crate::postgres::{Crc32c, page};

/// Bytes read at a time.
pub const READ_BYTES: usize = 1 << 20;

/// From this size on the kernel is told that a file is read in order.
const LARGE: u64 = 256 << 10;

/// How pages of relations are checked.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// Size of a page in bytes.
    pub page_size: u32,
    /// Pages in a file of a large relation.
    pub segment_pages: u32,
    /// Pages changed since are not judged: replay brings them in order. `None`: the cluster has no checksums.
    pub since: Option<Lsn>,
}

/// A file of a data directory.
#[derive(Debug)]
pub struct FileReader {
    fd: OwnedFd,
    path: PathBuf,
    size: u64,
    at: u64,
    crc: Crc,
    bad: Vec<u32>,
}

#[derive(Default)]
struct Crc(Crc32c);

impl std::fmt::Debug for Crc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crc")
    }
}

impl FileReader {
    pub(super) fn new(fd: OwnedFd, path: PathBuf, stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size >= LARGE {
            // Advice only.
            rustix::fs::fadvise(&fd, 0, None, Advice::Sequential).ok();
        }
        Self { fd, path, size, at: 0, crc: Crc::default(), bad: Vec::new() }
    }

    /// Its length in bytes when it was opened: nothing behind is read, since what is added later is in the WAL.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads on, up to [`READ_BYTES`]. Empty at the end, which may come early: replay repeats a truncation.
    ///
    /// # Errors
    /// Reading failed.
    pub fn read(&mut self, class: FileClass, content: &Content) -> Result<Vec<u8>> {
        let Some(range) = wanted(self.size, self.at) else { return Ok(Vec::new()) };
        let length = usize::try_from(range.end - range.start).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut buffer = vec![0; length];
        let got = self.fill(&mut buffer, range.start).context(|| format!("read {}", self.path.display()))?;
        buffer.truncate(got);
        if let (FileClass::Relation { segment }, Some(since)) = (class, content.since) {
            self.check(&mut buffer, segment, content, since);
        }
        self.crc.0.update(&buffer);
        if self.size >= LARGE {
            let length = std::num::NonZeroU64::new(got as u64);
            // Advice only. What the server wrote and is not on disk yet stays.
            rustix::fs::fadvise(&self.fd, self.at, length, Advice::DontNeed).ok();
        }
        self.at = range.start.saturating_add(got as u64);
        if got < length {
            // It is shorter now.
            self.size = self.at;
        }
        Ok(buffer)
    }

    /// CRC-32C of what was read.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc.0.value()
    }

    /// Pages whose checksum was wrong twice, counted in this file.
    #[must_use]
    pub fn bad_pages(&self) -> &[u32] {
        &self.bad
    }

    fn fill(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|r| !r.is_empty()) {
            match rustix::io::pread(&self.fd, rest, at.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    /// Judges the pages of a buffer. A page with a wrong checksum is read once more, since the server may have been writing it.
    fn check(&mut self, buffer: &mut [u8], segment: u32, content: &Content, since: Lsn) {
        let size = content.page_size as usize;
        let Some(first) = self.at.checked_div(u64::from(content.page_size)).and_then(|n| u32::try_from(n).ok()) else { return };
        let number = page::block_number(segment, first, content.segment_pages);
        let suspects: Vec<u32> = page::bad_pages(buffer, size, number, since).collect();
        for suspect in suspects {
            let index = suspect.wrapping_sub(number);
            let start = (index as usize).saturating_mul(size);
            let Some(place) = buffer.get_mut(start..start.saturating_add(size)) else { continue };
            let mut again = vec![0; size];
            let got = self.fill(&mut again, self.at.saturating_add(start as u64));
            if matches!(got, Ok(n) if n == size) {
                place.copy_from_slice(&again);
                if page::judge(place, suspect, since) != page::Verdict::Bad {
                    continue;
                }
            }
            self.bad.push(first.saturating_add(index));
        }
    }
}

/// The bytes of a file to read next, from `at` on; `None` at the end. Today all of them. Where the server can tell which blocks
/// changed since the last backup, this is where the others are left out and taken from it.
fn wanted(size: u64, at: u64) -> Option<std::ops::Range<u64>> {
    (at < size).then_some(at..size)
}
