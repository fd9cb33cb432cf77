//! One file, read in order: up to the length it had when it was opened, pages checked on the way. The page cache is left as it was:
//! the server works with it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, Stat};
use rustix::io::Errno;

use super::rules::FileClass;
use crate::error::{Context, Result};
use crate::model::Lsn;
use crate::postgres::{Crc32c, page};
use crate::runtime::direct;

/// Bytes read at a time.
pub const READ_BYTES: usize = 1 << 20;

/// From this size on files do not stay in the page cache if they were not there before.
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
            // Advice only: to read what it is asked for and nothing ahead, which would look as if the server had it there. Several
            // readers and a MiB at a time are enough for every disk.
            rustix::fs::fadvise(&fd, 0, None, Advice::Random).ok();
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

    /// How much [`FileReader::read`] reads next, at most [`READ_BYTES`]; 0 at the end.
    #[must_use]
    pub fn next_length(&self) -> usize {
        wanted(self.size, self.at).map_or(0, |r| usize::try_from(r.end - r.start).unwrap_or(READ_BYTES).min(READ_BYTES))
    }

    /// Reads on into an empty buffer with room for [`FileReader::next_length`]. It stays empty at the end, which may come early:
    /// replay repeats a truncation.
    ///
    /// # Errors
    /// Reading failed.
    pub fn read(&mut self, class: FileClass, content: &Content, buffer: &mut Vec<u8>) -> Result<()> {
        let length = self.next_length();
        let Some(range) = wanted(self.size, self.at).filter(|_| length > 0) else { return Ok(()) };
        let passing = self.size >= LARGE && !self.is_cached(range.start, length);
        self.fill(buffer, range.start, length).context(|| format!("read {}", self.path.display()))?;
        let got = buffer.len();
        if let (FileClass::Relation { segment }, Some(since)) = (class, content.since) {
            self.check(buffer, segment, content, since);
        }
        self.crc.0.update(buffer);
        if passing {
            let length = std::num::NonZeroU64::new(got as u64);
            // Advice only. What the server wrote and is not on disk yet stays.
            rustix::fs::fadvise(&self.fd, range.start, length, Advice::DontNeed).ok();
        }
        self.at = range.start.saturating_add(got as u64);
        if got < length {
            // It is shorter now.
            self.size = self.at;
        }
        Ok(())
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

    /// Whether a range seems to be in the page cache: its first, last and middle page.
    fn is_cached(&self, at: u64, length: usize) -> bool {
        let length = length as u64;
        [0, length / 2, length.saturating_sub(1)].iter().all(|n| direct::is_cached(&self.fd, at.saturating_add(*n)) == Some(true))
    }

    /// Appends up to `length` bytes from `at` on; fewer at the end of the file.
    fn fill(&self, buffer: &mut Vec<u8>, at: u64, length: usize) -> std::io::Result<()> {
        buffer.reserve_exact(length);
        while buffer.len() < length {
            let place = at.saturating_add(buffer.len() as u64);
            match rustix::io::pread(&self.fd, rustix::buffer::spare_capacity(buffer), place) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        buffer.truncate(length);
        Ok(())
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
            let mut again = Vec::new();
            let read = self.fill(&mut again, self.at.saturating_add(start as u64), size);
            if read.is_ok() && again.len() == size {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const CONTENT: Content = Content { page_size: 8192, segment_pages: 131_072, since: Some(Lsn(100)) };
    const RELATION: FileClass = FileClass::Relation { segment: 0 };

    fn open(file: &std::fs::File) -> FileReader {
        let fd: OwnedFd = file.try_clone().unwrap().into();
        let stat = rustix::fs::fstat(&fd).unwrap();
        FileReader::new(fd, "test".into(), &stat)
    }

    fn read_all(reader: &mut FileReader, class: FileClass) -> u64 {
        let mut total = 0;
        loop {
            let mut buffer = Vec::new();
            reader.read(class, &CONTENT, &mut buffer).unwrap();
            if buffer.is_empty() {
                return total;
            }
            total += buffer.len() as u64;
        }
    }

    #[test]
    fn growth_is_not_read_and_truncation_is_an_early_end() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 3_000_000], 0).unwrap();
        let mut grows = open(&file);
        file.write_all_at(&[2; 100], 3_000_000).unwrap();
        assert_eq!(read_all(&mut grows, FileClass::Other), 3_000_000);
        assert_eq!(grows.crc(), crate::postgres::crc32c(&[1; 3_000_000]));
        let mut shrinks = open(&file);
        shrinks.read(FileClass::Other, &CONTENT, &mut Vec::new()).unwrap();
        file.set_len(1_500_000).unwrap();
        assert_eq!(read_all(&mut shrinks, FileClass::Other), 1_500_000 - READ_BYTES as u64);
        assert_eq!(read_all(&mut shrinks, FileClass::Other), 0);
    }

    #[test]
    fn the_page_cache_is_left_as_it_was() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 4 << 20], 0).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::Random).unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let cached = |mib: u64| direct::is_cached(&file, (mib << 20) + 500_000);
        // In memory only, as some temporary directories are, everything is always there.
        let evicts = cached(0) == Some(false);
        file.read_exact_at(&mut vec![0; 1 << 20], 2 << 20).unwrap();
        assert_eq!(read_all(&mut open(&file), RELATION), 4 << 20);
        for mib in [3, 1, 0] {
            assert_eq!(cached(mib), Some(!evicts), "{mib}");
        }
        assert_eq!(cached(2), Some(true));
    }

    #[test]
    fn pages_behind_a_gibibyte_keep_their_numbers() {
        // As with a larger segment size than usual: 1 GiB and 1 MiB, of which only the last page is not a hole.
        let file = tempfile::tempfile().unwrap();
        let last = (1u64 << 30) + (1 << 20) - 8192;
        let mut page = vec![5u8; 8192];
        page[..8].fill(0);
        let block = u32::try_from(last / 8192).unwrap();
        let sum = page::checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&page, last).unwrap();
        let read_end = |expected: &[u32]| {
            let mut reader = open(&file);
            reader.at = 1 << 30;
            assert_eq!(read_all(&mut reader, RELATION), 1 << 20);
            assert_eq!(reader.bad_pages(), expected);
        };
        read_end(&[]);
        file.write_all_at(&[6], last + 5000).unwrap();
        read_end(&[block]);
    }

    #[test]
    fn a_page_that_was_being_written_is_right_at_the_second_look() {
        let file = tempfile::tempfile().unwrap();
        let mut page = vec![5u8; 8192];
        page[..8].fill(0);
        let sum = page::checksum(&page, 0);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&page, 0).unwrap();
        let mut reader = open(&file);
        let mut torn = page.clone();
        torn[4096..].fill(9);
        reader.check(&mut torn, 0, &CONTENT, Lsn(100));
        assert!(torn == page && reader.bad_pages().is_empty());
        // Changed since the backup began: replay sees to it.
        let mut recent = page.clone();
        recent[4..8].copy_from_slice(&200u32.to_le_bytes());
        file.write_all_at(&recent, 0).unwrap();
        assert_eq!(read_all(&mut reader, RELATION), 8192);
        assert!(reader.bad_pages().is_empty());
    }
}
