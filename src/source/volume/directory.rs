//! An open directory of a volume.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An open directory and where it is. Closed when dropped.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    relative: Vec<u8>,
    /// On another file system than the volume although only one is wanted: has no entries for us.
    foreign: bool,
}

impl Dir {
    pub(super) fn root(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path, relative: Vec::new(), foreign: false }
    }

    pub(super) fn child(&self, fd: OwnedFd, name: &[u8], foreign: bool) -> Self {
        Self { fd, path: self.path.join(OsStr::from_bytes(name)), relative: self.relative_of(name), foreign }
    }

    /// Its absolute path when it was opened: for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path below the volume, `/`-separated, empty for the volume itself.
    #[must_use]
    pub fn relative(&self) -> &[u8] {
        &self.relative
    }

    /// The path below the volume of an entry.
    #[must_use]
    pub fn relative_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.relative.len() + 1 + name.len());
        if !self.relative.is_empty() {
            path.extend_from_slice(&self.relative);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_root(&self) -> bool {
        self.relative.is_empty()
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.foreign
    }
}
