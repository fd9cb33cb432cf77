//! A directory under our hands: single files in it, without following links out of it.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::model::Metadata;

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// No file that is read here is larger.
const LARGEST: u64 = 64 << 20;

/// Who gets what we write, and how open it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// User and group, where we may choose.
    ids: Option<(u32, u32)>,
    /// Of directories; files have it without `x`.
    pub(super) mode: u32,
}

impl Owner {
    /// As the data directory was: PostgreSQL wants 0700 or 0750 and nothing else.
    pub(super) fn of(meta: Option<&Metadata>) -> Self {
        let root = rustix::process::geteuid().is_root();
        let mode = if meta.is_some_and(|m| m.mode & 0o777 == 0o750) { 0o750 } else { 0o700 };
        Self { ids: meta.filter(|_| root).map(|m| (m.uid, m.gid)), mode }
    }

    /// Gives it to an open file or directory.
    pub(super) fn give(self, fd: impl AsFd, is_dir: bool) -> rustix::io::Result<()> {
        if let Some((uid, gid)) = self.ids {
            rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let mode = if is_dir { self.mode } else { self.mode & 0o666 };
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Folder {
    /// The directory at `path`, which may be reached through links: the user named it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::openat(rustix::fs::CWD, path, DIR, Mode::empty())
            .map_err(std::io::Error::from)
            .context(|| format!("open directory {}", path.display()))?;
        Ok(Self { path: path.to_owned(), fd })
    }

    /// A directory in this one; `None` if there is none, or a link.
    pub(super) fn below(&self, name: &str) -> Result<Option<Self>> {
        match rustix::fs::openat(&self.fd, name, DIR | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { path: self.path.join(name), fd })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(self.failed("open", name, e)),
        }
    }

    /// Makes a directory where there is none.
    pub(super) fn make(&self, name: &str, owner: Owner) -> Result<Self> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(self.failed("make", name, e)),
        }
        let made = self.below(name)?.ok_or_else(|| self.failed("open", name, Errno::NOTDIR))?;
        owner.give(&made.fd, true).map_err(|e| self.failed("set owner and mode of", name, e))?;
        Ok(made)
    }

    /// Removes one entry that is no directory; `false` if it was not there.
    pub(super) fn remove(&self, name: &str) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.failed("remove", name, e)),
        }
    }

    /// Names of everything in it.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>> {
        let failed = |e| self.failed("list", ".", e);
        let mut out = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                out.push(name);
            }
        }
        Ok(out)
    }

    /// A small file's content; `None` if there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let mut content = Vec::new();
                let file = std::fs::File::from(fd);
                file.take(LARGEST).read_to_end(&mut content).context(|| format!("read {}", self.path.join(name).display()))?;
                Ok(Some(content))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.failed("open", name, e)),
        }
    }

    /// Puts a file in place, whole or not at all; on disk when this returns.
    pub(super) fn write(&self, name: &str, content: &[u8], owner: Owner) -> Result<()> {
        let new = format!("{name}.strongroom-new");
        self.remove(&new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, new.as_str(), flags, Mode::from_raw_mode(0o600))
            .map_err(|e| self.failed("make", &new, e))?;
        owner.give(&fd, false).map_err(|e| self.failed("set owner and mode of", &new, e))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content).and_then(|()| file.sync_all()).context(|| format!("write {}", self.path.join(&new).display()))?;
        rustix::fs::renameat(&self.fd, new.as_str(), &self.fd, name).map_err(|e| self.failed("put in place", name, e))?;
        self.sync()
    }

    /// Which entries there are is on disk when this returns.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).map_err(|e| self.failed("write to disk", ".", e))
    }

    /// Everything written to this file system so far is on disk when this returns.
    pub(super) fn sync_all(&self) -> Result<()> {
        rustix::fs::syncfs(&self.fd).map_err(|e| self.failed("write to disk", ".", e))
    }

    pub(super) fn failed(&self, doing: &str, name: &str, errno: Errno) -> Error {
        let path = if name == "." { self.path.clone() } else { self.path.join(name) };
        let kind = if matches!(errno, Errno::PERM | Errno::ACCESS | Errno::ROFS) { Kind::Denied } else { Kind::Failed };
        Error::new(kind, format!("{doing} {}", path.display())).because(std::io::Error::from(errno))
    }
}
