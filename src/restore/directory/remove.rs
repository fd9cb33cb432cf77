//! Removing what is in the way or too much, without following links and without leaving the file system.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::Choice;
use super::folder::Folder;
use super::job::Job;
use crate::error::Result;

/// Directories nested deeper than this are left: nobody made them by accident.
const DEPTH: usize = 1000;

/// Hands over names and kinds of a directory's entries.
pub(super) fn each_entry(
    dir: BorrowedFd<'_>,
    each: &mut dyn FnMut(&[u8], FileType) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    // A description of its own: the position of the one that was handed in may be anywhere.
    let dir = rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer: Vec<u8> = Vec::with_capacity(32 << 10);
    let mut raw = RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
            kind => kind,
        };
        each(name, kind)?;
    }
    Ok(())
}

/// Removes an entry of `folder`, open as `dir`, and all below it but for what the filter leaves out. What cannot be removed is a problem.
pub(super) fn tree(job: &Job<'_>, dir: BorrowedFd<'_>, name: &[u8], folder: &Folder) -> Result<()> {
    let mut relative = folder.relative();
    if !relative.is_empty() {
        relative.push(b'/');
    }
    relative.extend_from_slice(name);
    below(job, dir, name, &relative, folder.path_of(name), 0)
}

fn below(job: &Job<'_>, dir: BorrowedFd<'_>, name: &[u8], relative: &[u8], path: PathBuf, depth: usize) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => {
            Job::count(&job.progress.deleted, 1);
            return Ok(());
        }
        Err(Errno::NOENT) => return Ok(()),
        // A directory; some file systems say so with "not permitted".
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return job.failed(&path, "remove", e),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty()).and_then(|fd| {
        let devices = (rustix::fs::fstat(dir)?.st_dev, rustix::fs::fstat(&fd)?.st_dev);
        Ok((fd, devices))
    });
    let (fd, (above, here)) = match opened {
        Ok(opened) => opened,
        Err(e) => return job.failed(&path, "remove", e),
    };
    if above != here || depth >= DEPTH {
        job.problem(
            &path,
            if above == here { "is nested too deep to be removed" } else { "is a mount point and was left alone" },
        );
        return Ok(());
    }
    // As a whole before any of it goes: a listing of a directory that changes may skip entries.
    let mut found = Vec::new();
    let listed = each_entry(fd.as_fd(), &mut |name, kind| {
        found.push((name.to_vec(), kind));
        Ok(())
    });
    if let Err(e) = listed {
        return job.failed(&path, "list", e);
    }
    for (entry, kind) in found {
        job.cancel.check()?;
        let relative = [relative, &entry].join(&b'/');
        if job.filter.choose(&relative, kind == FileType::Directory) != Choice::No {
            below(job, fd.as_fd(), &entry, &relative, path.join(OsStr::from_bytes(&entry)), depth + 1)?;
        }
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => Job::count(&job.progress.deleted, 1),
        Err(Errno::NOENT) => {}
        // What could not be removed inside was told already, or is left out by the filter.
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return job.failed(&path, "remove", e),
    }
    Ok(())
}
