//! The content of a file.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Advice, FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::entry::{ctime, mtime};
use super::{Dir, Found, Problem, ProblemKind, Volume};

/// From this size on the kernel is told that the file is read in order, and holes are looked for.
const LARGE: u64 = 1 << 20;

/// An open file. Holes are not read from the disk; they come as zeros.
#[derive(Debug)]
pub struct OpenFile {
    fd: OwnedFd,
    path: std::path::PathBuf,
    before: Stat,
    /// Not the file that was listed: its attributes are not those of the node.
    replaced: bool,
    at: u64,
    /// The data that the file position is in, for a file with holes.
    data: Option<std::ops::Range<u64>>,
}

impl Volume {
    /// Opens a listed file.
    ///
    /// # Errors
    /// It vanished, is no file any more, or may not be read.
    pub fn open_file(&self, dir: &Dir, found: &Found) -> Result<OpenFile, Problem> {
        let failed = |doing: &'static str| move |e: Errno| Problem::from_errno(dir, found, doing, e);
        // Not blocking: it may have become a pipe since it was listed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open_at(dir.fd(), found.name.as_slice(), flags).map_err(failed("open"))?;
        let before = rustix::fs::fstat(&fd).map_err(failed("look at"))?;
        let path = dir.path().join(found.path_name());
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(Problem::replaced(path));
        }
        let replaced = before.st_ino != found.meta.inode || before.st_dev != found.device;
        if replaced && found.meta.links > 1 {
            return Err(Problem::new(ProblemKind::Unreadable, path, "one of its hard links was replaced while the backup ran"));
        }
        let size = u64::try_from(before.st_size).unwrap_or(0);
        let mut data = None;
        if size >= LARGE {
            // Advice only.
            rustix::fs::fadvise(&fd, 0, None, Advice::Sequential).ok();
            if u64::try_from(before.st_blocks).unwrap_or(u64::MAX).saturating_mul(512) < size {
                data = Some(0..0);
            }
        }
        Ok(OpenFile { fd, path, before, replaced, at: 0, data })
    }
}

impl OpenFile {
    /// Length in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.before.st_size).unwrap_or(0)
    }

    /// The whole content of a file of at most `limit` bytes. `None` if it has more, whatever it had when it was listed: open
    /// it again and read it in pieces.
    ///
    /// # Errors
    /// Reading failed.
    pub fn read_small(&mut self, limit: u64) -> Result<Option<Vec<u8>>, Problem> {
        if self.size() > limit {
            return Ok(None);
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // One byte more than it should have, so that its end is seen without another call.
        let expected = usize::try_from(self.size()).unwrap_or(usize::MAX);
        let mut data: Vec<u8> = Vec::with_capacity(expected + 1);
        loop {
            let room = data.capacity() - data.len();
            match rustix::io::read(&self.fd, rustix::buffer::spare_capacity(&mut data)) {
                Ok(0) => break,
                Ok(n) if n < room && data.len() >= expected => break,
                Ok(_) if data.len() > limit => break,
                Ok(_) => {
                    if data.len() == data.capacity() {
                        data.reserve((limit + 1 - data.len()).min(64 << 10));
                    }
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(Problem::at(self.path.clone(), "read", e)),
            }
        }
        Ok((data.len() <= limit).then_some(data))
    }

    /// Whether the file changed since it was opened, or is not the one that was listed.
    ///
    /// # Errors
    /// It cannot be looked at any more.
    pub fn changed(&self) -> Result<bool, Problem> {
        let after = rustix::fs::fstat(&self.fd).map_err(|e| Problem::at(self.path.clone(), "look at", e))?;
        let before = &self.before;
        Ok(self.replaced || after.st_size != before.st_size || mtime(&after) != mtime(before) || ctime(&after) != ctime(before))
    }

    fn read_sparse(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut data = self.data.clone().unwrap_or(0..0);
        if self.at >= data.end {
            data = match rustix::fs::seek(&self.fd, SeekFrom::Data(self.at)) {
                Ok(start) => start..rustix::fs::seek(&self.fd, SeekFrom::Hole(start))?,
                // Nothing but a hole up to the end, wherever that is now.
                Err(Errno::NXIO) => {
                    let end = u64::try_from(rustix::fs::fstat(&self.fd)?.st_size).unwrap_or(0);
                    end..end
                }
                // The file system does not know holes: all of it is data.
                Err(_) => 0..u64::MAX,
            };
            self.data = Some(data.clone());
        }
        let clip = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(buffer.len());
        if self.at < data.start {
            let n = clip(data.start - self.at);
            if let Some(zeros) = buffer.get_mut(..n) {
                zeros.fill(0);
            }
            self.at += n as u64;
            return Ok(n);
        }
        let n = clip(data.end.saturating_sub(self.at));
        let Some(part) = buffer.get_mut(..n).filter(|p| !p.is_empty()) else { return Ok(0) };
        let n = rustix::io::pread(&self.fd, part, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Read for OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let done = match self.data {
                None => rustix::io::read(&self.fd, &mut *buffer).map_err(io::Error::from),
                Some(_) => self.read_sparse(buffer),
            };
            match done {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}
