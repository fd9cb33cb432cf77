//! The tar archives in which a server sends its files, taken apart as they come: nothing but a member's header is kept.
//!
//! The form is that of PostgreSQL's `tar.c`: ustar, names of at most 99 bytes in one field, numbers in octal digits or, where
//! these do not suffice, in base 256. The end of an archive may lack its two empty blocks.

use bytes::Bytes;

use crate::error::{Error, Kind, Result};
use crate::model::{Metadata, Time};

const BLOCK: usize = 512;

/// A file or directory of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path in the archive without `./` before and `/` behind.
    pub path: Vec<u8>,
    /// Whether it is a directory; else a file.
    pub is_dir: bool,
    /// Length of a file in bytes.
    pub size: u64,
    /// Owner, permissions, times.
    pub meta: Metadata,
}

/// What comes out of an archive. Each member that is a file has data, if it has any, and then an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent {
    /// A member begins.
    Begin(Member),
    /// Its next bytes.
    Data(Bytes),
    /// A file is whole.
    End,
}

/// Takes an archive apart.
#[derive(Debug, Default)]
pub struct TarReader {
    header: Vec<u8>,
    /// Bytes of the current file that are to come.
    left: u64,
    /// Bytes between it and the next header.
    padding: u64,
}

impl TarReader {
    /// At the beginning of an archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes and gives out what is in them.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for what is no archive of PostgreSQL's; those of `out`.
    pub fn feed(&mut self, mut bytes: Bytes, out: &mut dyn FnMut(TarEvent) -> Result<()>) -> Result<()> {
        let clip = |n: u64, bytes: &Bytes| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
        while !bytes.is_empty() {
            if self.left > 0 {
                let data = bytes.split_to(clip(self.left, &bytes));
                self.left = self.left.saturating_sub(data.len() as u64);
                out(TarEvent::Data(data))?;
                if self.left == 0 {
                    out(TarEvent::End)?;
                }
            } else if self.padding > 0 {
                let skipped = bytes.split_to(clip(self.padding, &bytes));
                self.padding = self.padding.saturating_sub(skipped.len() as u64);
            } else {
                let missing = BLOCK.saturating_sub(self.header.len());
                self.header.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
                if self.header.len() == BLOCK {
                    let member = parse(&self.header)?;
                    self.header.clear();
                    if let Some(member) = member {
                        self.left = member.size;
                        self.padding = member.size.wrapping_neg() % BLOCK as u64;
                        let empty_file = !member.is_dir && member.size == 0;
                        out(TarEvent::Begin(member))?;
                        if empty_file {
                            out(TarEvent::End)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The archive ended.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it ended in the middle of a member.
    pub fn finish(&self) -> Result<()> {
        if self.left == 0 && self.header.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Corrupt, "the server's archive ends in the middle of a file"))
    }
}

/// `None` for the empty blocks at the end.
fn parse(header: &[u8]) -> Result<Option<Member>> {
    if header.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let bad = |what: &str| Error::new(Kind::Corrupt, format!("the server's archive is not understood: {what}"));
    let field = |from: usize, length: usize| header.get(from..from.saturating_add(length)).unwrap_or_default();
    let numeric = |from: usize, length: usize, what: &str| number(field(from, length)).ok_or_else(|| bad(what));
    let sum = header.iter().enumerate().fold(0u64, |sum, (i, b)| {
        // Its own field counts as spaces.
        sum.saturating_add(u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
    });
    if numeric(148, 8, "a checksum")? != sum {
        return Err(bad("the checksum of a header is wrong"));
    }
    let text = |from, length| field(from, length).split(|b| *b == 0).next().unwrap_or_default();
    let mut path = match text(345, 155) {
        [] => text(0, 100).to_vec(),
        prefix => [prefix, b"/", text(0, 100)].concat(),
    };
    while path.last() == Some(&b'/') {
        path.pop();
    }
    if path.starts_with(b"./") {
        path.drain(..2);
    }
    if path.is_empty() || path.split(|b| *b == b'/').any(|p| p.is_empty() || p == b"." || p == b"..") {
        return Err(bad("an impossible path"));
    }
    let is_dir = match header.get(156) {
        Some(b'0' | 0) => false,
        Some(b'5') => true,
        _ => return Err(bad("a member that is neither file nor directory")),
    };
    let mtime = Time::new(i64::try_from(numeric(136, 12, "a time")?).unwrap_or(i64::MAX), 0);
    let id = |n: u64| u32::try_from(n).unwrap_or(0);
    let meta = Metadata {
        mode: id(numeric(100, 8, "permissions")?) & 0o7777,
        uid: id(numeric(108, 8, "an owner")?),
        gid: id(numeric(116, 8, "a group")?),
        mtime,
        atime: mtime,
        ctime: mtime,
        links: u64::from(!is_dir),
        ..Metadata::default()
    };
    let size = if is_dir { 0 } else { numeric(124, 12, "a length")? };
    Ok(Some(Member { path, is_dir, size, meta }))
}

/// Octal digits, or base 256 after a first byte of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, rest)) = field.split_first() {
        return rest.iter().try_fold(0u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(path: &str, kind: u8, size: &[u8]) -> Vec<u8> {
        let mut h = vec![0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, b"0000640\0");
        put(108, b"0000145\0");
        put(116, b"0000150\0");
        put(124, size);
        put(136, b"14724036740 ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        put(148, b"        ");
        let sum: u64 = h.iter().map(|b| u64::from(*b)).sum();
        h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        h
    }

    fn archive() -> Vec<u8> {
        let mut all = header("base/", b'5', b"00000000000 ");
        all.extend(header("./base/PG_VERSION", b'0', b"00000000003 "));
        all.extend(b"17\n");
        all.resize(all.len() + 509, 0);
        all.extend(header("empty", b'0', b"00000000000 "));
        all.extend(header("full", b'0', b"00000001000 "));
        all.extend([7; 512]);
        all
    }

    fn events(bytes: &[u8], step: usize) -> (Vec<String>, Result<()>) {
        let (mut reader, mut out, mut data) = (TarReader::new(), Vec::new(), 0);
        for piece in bytes.chunks(step) {
            let fed = reader.feed(Bytes::copy_from_slice(piece), &mut |event| {
                match event {
                    TarEvent::Begin(m) => out.push(format!("{} {} {}", String::from_utf8_lossy(&m.path), m.is_dir, m.size)),
                    TarEvent::Data(d) => data += d.len(),
                    TarEvent::End => out.push(format!("end {}", std::mem::take(&mut data))),
                }
                Ok(())
            });
            if fed.is_err() {
                return (out, fed);
            }
        }
        (out, reader.finish())
    }

    #[test]
    fn members_come_out_whatever_the_pieces() {
        let mut bytes = archive();
        let expected = ["base true 0", "base/PG_VERSION false 3", "end 3", "empty false 0", "end 0", "full false 512", "end 512"];
        for step in [1, 7, 512, 600, 100_000] {
            let (found, end) = events(&bytes, step);
            assert_eq!(found, expected, "{step}");
            end.unwrap();
        }
        bytes.extend([0; 1024]);
        assert!(events(&bytes, 512).1.is_ok());
        let cut = archive().len() - 1;
        assert_eq!(events(&archive()[..cut], 512).1.unwrap_err().kind(), Kind::Corrupt);
        assert!(events(&archive()[..600], 512).1.is_err());
    }

    #[test]
    fn large_files_and_owners_are_read() {
        let mut size = [0u8; 12];
        size[0] = 0x80;
        size[4..].copy_from_slice(&(9u64 << 30).to_be_bytes());
        let member = parse(&header("16384", b'0', &size)).unwrap().unwrap();
        assert_eq!((member.size, member.meta.mode, member.meta.uid, member.meta.gid), (9 << 30, 0o640, 101, 104));
        assert_eq!(member.meta.mtime, Time::new(0o14724036740, 0));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        for path in ["../x", "a//b", "/", "a/../b"] {
            assert!(parse(&header(path, b'0', b"00000000000 ")).is_err(), "{path}");
        }
        assert!(parse(&header("link", b'2', b"00000000000 ")).is_err());
        let mut wrong = header("a", b'0', b"00000000000 ");
        wrong[1] = b'x';
        assert!(parse(&wrong).is_err());
    }
}
