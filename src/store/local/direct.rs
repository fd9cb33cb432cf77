//! Writing and reading large objects past the page cache.
//!
//! Nobody reads an object soon after it was put, and nobody twice. In the cache it would take the place of what the neighbours of a
//! backup, such as PostgreSQL, want to find there; the copy into it took half of all system time of a first backup, and the copy out
//! of it a fifth of all processor time of fetching WAL.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use crate::runtime::direct;
use crate::runtime::memory::{PAGE, page_aligned};

/// Less is not worth the calls: of what is read, which is often still in the cache, and of what is written.
const SMALL_READ: usize = 1 << 20;
const SMALL_WRITE: usize = 128 << 10;
/// What does not begin at a page of memory, or comes in pieces, is copied through so much that does.
const THROUGH: usize = 1 << 20;

/// Writes `pieces` from the file's position on, up to the last whole page, and says how many bytes that were; the rest is for the
/// caller to write. 0 if the bytes are few, or if the file system does not do it.
///
/// # Errors
/// As of a write.
pub(super) fn write(file: &File, pieces: &[Bytes]) -> io::Result<usize> {
    let length: usize = pieces.iter().map(Bytes::len).sum();
    if length < SMALL_WRITE {
        return Ok(0);
    }
    if !direct::switch(file, true) {
        return Ok(0);
    }
    let done = match pieces {
        [one] if one.as_ptr().align_offset(PAGE) == 0 => write_pages(file, one),
        many => write_through(file, many),
    };
    // What could be switched on can be switched off; a file that stays direct refuses the rest, which is an error then.
    direct::switch(file, false);
    done
}

/// Reads a range that lies inside the file. `None`: read it in the usual way, for it is small, or in the cache already, or the file
/// system does not do it, or there was an error that the usual way tells.
pub(super) fn read(file: &File, range: &Range<u64>) -> Option<Bytes> {
    let wanted = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
    if wanted < SMALL_READ || direct::is_cached(file, range.start) != Some(false) || !direct::switch(file, true) {
        return None;
    }
    let out = read_pages(file, range.start, wanted);
    direct::switch(file, false);
    out
}

fn read_pages(file: &File, from: u64, wanted: usize) -> Option<Bytes> {
    let before = usize::try_from(from % PAGE as u64).ok()?;
    let whole = (before + wanted).next_multiple_of(PAGE);
    let mut memory = page_aligned(Vec::with_capacity(whole + PAGE));
    let start = memory.len();
    memory.resize(start + whole, 0);
    let mut done = 0;
    while done < before + wanted {
        let rest = memory.get_mut(start + done..)?;
        match file.read_at(rest, from - before as u64 + done as u64) {
            Ok(0) => return None,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        }
        // Only the end of the file is not at a page, and nothing behind it is wanted.
        if !done.is_multiple_of(PAGE) && done < before + wanted {
            return None;
        }
    }
    Some(Bytes::from(memory).slice(start + before..start + before + wanted))
}

/// Writes whole pages of `bytes`, which begin at one, until it cannot go on directly. Says how many bytes it wrote.
fn write_pages(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    let whole = bytes.len() - bytes.len() % PAGE;
    let mut done = 0;
    // Short of a whole page, the position is no place for a direct write any more.
    while done % PAGE == 0
        && let Some(rest) = bytes.get(done..whole).filter(|r| !r.is_empty())
    {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // It took the flag, and wants larger pages or other memory.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn write_through(file: &File, pieces: &[Bytes]) -> io::Result<usize> {
    let mut page = page_aligned(Vec::with_capacity(THROUGH + PAGE));
    let start = page.len();
    let mut done = 0;
    for piece in pieces {
        let mut piece = &piece[..];
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(start + THROUGH - page.len()));
            page.extend_from_slice(now);
            piece = later;
            if page.len() == start + THROUGH {
                let written = write_pages(file, page.get(start..).unwrap_or_default())?;
                done += written;
                if written < THROUGH {
                    return Ok(done);
                }
                page.truncate(start);
            }
        }
    }
    Ok(done + write_pages(file, page.get(start..).unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory::page_aligned;

    #[test]
    fn a_range_is_read_wherever_it_begins_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let content: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let length = content.len() as u64;
        for range in [0..length, 1..length, 4096..length - 1, 5000..2_000_000, 8192..8192 + (2 << 20)] {
            let expected = &content[range.start as usize..range.end as usize];
            assert_eq!(read(&file, &range), None, "it is in the cache");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            let can = direct::switch(&file, true) && direct::switch(&file, false);
            let read = read(&file, &range);
            // Asking whether a page is in the cache may bring it there.
            let cached = direct::is_cached(&file, range.start) != Some(false);
            assert!(if can { read.is_some() || cached } else { read.is_none() }, "{range:?}");
            assert!(read.is_none_or(|read| read == expected), "{range:?}");
            // Into the cache for the next one.
            assert!(std::fs::read(&path).unwrap() == content);
        }
        assert_eq!(read(&file, &(0..4096)), None, "it is small");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(read(&file, &(0..length + 1)), None, "the usual way says that it is too short");
    }

    #[test]
    fn whole_pages_are_written_and_the_rest_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut memory = page_aligned(Vec::with_capacity(4 << 20));
        let start = memory.len();
        memory.extend_from_slice(&content);
        let aligned = Bytes::from(memory).slice(start..);
        let in_pieces = content.chunks(70_001).map(Bytes::copy_from_slice).collect();
        for (name, pieces) in
            [("aligned", vec![aligned.clone()]), ("not aligned", vec![aligned.slice(1..)]), ("pieces", in_pieces)]
        {
            let path = folder.path().join(name);
            let bytes = pieces.concat();
            let mut file = File::create(&path).unwrap();
            let done = write(&file, &pieces).unwrap();
            // All of it where the file system can.
            let can = direct::switch(&file, true) && direct::switch(&file, false);
            assert_eq!(done, if can { bytes.len() - bytes.len() % PAGE } else { 0 }, "{name}");
            file.write_all(&bytes[done..]).unwrap();
            drop(file);
            assert!(std::fs::read(&path).unwrap() == bytes, "{name}");
        }
        let few = write(&File::create(folder.path().join("few")).unwrap(), &[aligned.slice(..PAGE)]).unwrap();
        assert_eq!(few, 0);
    }
}
