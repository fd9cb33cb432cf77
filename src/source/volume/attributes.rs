//! What an entry has beside its `stat`: extended attributes and the target of a symbolic link.
//!
//! There is no call that takes a directory and a name for extended attributes on every kernel in use, and opening an
//! entry for them would cost two more calls and fail on what may not be read. `/proc/self/fd/<directory>/<name>` is the
//! same thing in one call; where `/proc` is not mounted, the absolute path is taken.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{lgetxattr, listxattr, llistxattr};
use rustix::io::Errno;

use super::{Dir, Found, FoundKind, Problem, Volume};
use crate::model::Xattr;

impl Volume {
    /// Reads extended attributes and, of a symbolic link, its target. Needed only for what is new or has another ctime.
    ///
    /// # Errors
    /// It vanished, or may not be read.
    pub fn complete(&self, dir: &Dir, found: &mut Found) -> Result<(), Problem> {
        if found.kind == FoundKind::Symlink {
            let target = rustix::fs::readlinkat(dir.fd(), found.name.as_slice(), Vec::new());
            found.target = target.map_err(|e| Problem::from_errno(dir, found, "read the link", e))?.into_bytes();
        }
        if !self.devices.has_xattrs(found.device) {
            return Ok(());
        }
        match of_entry(dir, &found.name) {
            Ok(xattrs) => found.meta.xattrs = xattrs,
            Err(Errno::NOTSUP) => self.devices.note_no_xattrs(found.device),
            Err(e) => return Err(Problem::from_errno(dir, found, "read extended attributes", e)),
        }
        Ok(())
    }
}

fn of_entry(dir: &Dir, name: &[u8]) -> rustix::io::Result<Vec<Xattr>> {
    let mut path = format!("/proc/self/fd/{}/", dir.fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    match read_all(&path, |p, b| llistxattr(p, b)) {
        Err(Errno::NOENT) if !std::path::Path::new("/proc/self/fd").exists() => {
            let path = dir.path().join(std::ffi::OsStr::from_bytes(name));
            read_all(path.as_os_str().as_bytes(), |p, b| llistxattr(p, b))
        }
        other => other,
    }
}

/// Of an open directory itself.
pub(super) fn of_directory(dir: &Dir) -> io::Result<Vec<Xattr>> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/.", dir.fd().as_raw_fd()));
    let path = if path.exists() { path } else { dir.path().to_owned() };
    match read_all(path.as_os_str().as_bytes(), |p, b| listxattr(p, b)) {
        Err(Errno::NOTSUP) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

fn read_all(path: &[u8], list: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<Xattr>> {
    let mut small = [0u8; 512];
    let names = match list(path, &mut small) {
        Ok(0) => return Ok(Vec::new()),
        Ok(n) => small.get(..n).unwrap_or_default().to_vec(),
        Err(Errno::RANGE) => grow(|b| list(path, b))?,
        Err(e) => return Err(e),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let value = match lgetxattr(path, name, &mut small) {
            Ok(n) => small.get(..n).unwrap_or_default().to_vec(),
            Err(Errno::RANGE) => grow(|b| lgetxattr(path, name, b))?,
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e),
        };
        xattrs.push(Xattr { name: name.to_vec(), value });
    }
    Ok(xattrs)
}

/// The kernel's limit for a value and for a list of names is 64 KiB.
fn grow(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let n = read(&mut buffer)?;
    buffer.truncate(n);
    Ok(buffer)
}
