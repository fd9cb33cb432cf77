//! A directory of the target: made when something goes into it, finished when everything below is.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Before};
use super::descriptors::Slot;
use super::job::Job;
use super::remove;
use crate::error::Result;
use crate::model::Metadata;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Ours alone until it is finished.
const NEW_MODE: u32 = 0o700;

/// Whether the directory is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Not,
    /// By us: whatever is in it came from the snapshot.
    Fresh,
    /// It was there before.
    Existing,
}

#[derive(Debug)]
pub(super) struct Folder {
    above: Option<Arc<Folder>>,
    /// One checked segment; for the target its whole path.
    name: Vec<u8>,
    meta: Option<Metadata>,
    /// Chosen only for what may be below: if it exists its metadata stays.
    on_the_way: bool,
    /// The snapshot may not have all of its entries.
    partial: bool,
    made: Mutex<Made>,
    slot: Slot,
    /// Entries that are not done, and one for the planner.
    pending: AtomicUsize,
    /// What the snapshot does not have, to be removed at the end.
    extras: Mutex<Vec<Vec<u8>>>,
}

/// The one directory that may be reached through links: the user named it.
pub(super) fn open_target(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(rustix::fs::CWD, path, OPEN, Mode::empty())
}

impl Folder {
    pub(super) fn target(path: PathBuf, fd: OwnedFd, meta: Option<Metadata>) -> rustix::io::Result<Arc<Self>> {
        let folder = Self::new(None, path.into_os_string().into_encoded_bytes(), meta, (false, false), Made::Existing);
        *folder.slot.lock() = Some(Arc::new(fd));
        Ok(Arc::new(folder))
    }

    /// A directory below this one; nothing is made yet.
    pub(super) fn below(self: &Arc<Self>, name: Vec<u8>, meta: Metadata, on_the_way: bool, partial: bool) -> Arc<Self> {
        self.pending.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self::new(Some(self.clone()), name, Some(meta), (on_the_way, partial), Made::Not))
    }

    fn new(
        above: Option<Arc<Self>>,
        name: Vec<u8>,
        meta: Option<Metadata>,
        (on_the_way, partial): (bool, bool),
        made: Made,
    ) -> Self {
        Self {
            above,
            name,
            meta,
            on_the_way,
            partial,
            made: Mutex::new(made),
            slot: Slot::default(),
            pending: AtomicUsize::new(1),
            extras: Mutex::default(),
        }
    }

    pub(super) fn is_target(&self) -> bool {
        self.above.is_none()
    }

    pub(super) fn is_on_the_way(&self) -> bool {
        self.on_the_way
    }

    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    pub(super) fn made(&self) -> Made {
        *self.made.lock()
    }

    /// Path below the target, `/`-separated; empty for the target.
    pub(super) fn relative(&self) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = self;
        while let Some(above) = &at.above {
            parts.push(at.name.as_slice());
            at = above;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// Path of an entry, for messages.
    pub(super) fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path().join(OsStr::from_bytes(name))
    }

    /// Its own path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        let mut top = self;
        while let Some(above) = &top.above {
            top = above;
        }
        let relative = if self.is_target() { Vec::new() } else { self.relative() };
        PathBuf::from(OsStr::from_bytes(&top.name)).join(OsStr::from_bytes(&relative))
    }

    /// One more entry to wait for.
    pub(super) fn expect(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn set_extras(&self, names: Vec<Vec<u8>>) {
        *self.extras.lock() = names;
    }

    /// The open directory, made if it is not there. Something else in its place is removed first, if it is one entry.
    pub(super) fn fd(&self, job: &Job<'_>) -> rustix::io::Result<Arc<OwnedFd>> {
        if let Some(fd) = &*self.slot.lock() {
            return Ok(fd.clone());
        }
        let Some(above) = &self.above else { return Err(Errno::BADF) };
        let dir = above.fd(job)?;
        let mut made = self.made.lock();
        let fd = match *made {
            Made::Not => {
                let (fd, how) = self.make(&dir, above.made() == Made::Fresh)?;
                if how == Made::Existing {
                    note_habits(job, fd.as_fd())?;
                }
                *made = how;
                fd
            }
            _ => self.open(&dir)?,
        };
        drop(made);
        Ok(self.keep(job, fd))
    }

    /// The open directory if it is there; nothing is made.
    pub(super) fn fd_if_there(&self, job: &Job<'_>) -> rustix::io::Result<Option<Arc<OwnedFd>>> {
        if self.made() != Made::Not {
            return self.fd(job).map(Some);
        }
        let Some(above) = &self.above else { return Ok(None) };
        let Some(dir) = above.fd_if_there(job)? else { return Ok(None) };
        match self.open(&dir) {
            Ok(fd) => {
                note_habits(job, fd.as_fd())?;
                *self.made.lock() = Made::Existing;
                Ok(Some(self.keep(job, fd)))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn keep(&self, job: &Job<'_>, fd: OwnedFd) -> Arc<OwnedFd> {
        let fd = Arc::new(fd);
        *self.slot.lock() = Some(fd.clone());
        job.folders.opened(&self.slot);
        fd
    }

    fn open(&self, dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(dir, self.name.as_slice(), OPEN | OFlags::NOFOLLOW, Mode::empty())
    }

    fn make(&self, dir: &OwnedFd, in_fresh: bool) -> rustix::io::Result<(OwnedFd, Made)> {
        if !in_fresh {
            match self.open(dir) {
                Ok(fd) => return Ok((fd, Made::Existing)),
                Err(Errno::NOENT) => {}
                // Some other thing, or a symbolic link, which must not be followed.
                Err(Errno::NOTDIR | Errno::LOOP) => rustix::fs::unlinkat(dir, self.name.as_slice(), AtFlags::empty())?,
                Err(e) => return Err(e),
            }
        }
        rustix::fs::mkdirat(dir, self.name.as_slice(), Mode::from_raw_mode(NEW_MODE))?;
        Ok((self.open(dir)?, Made::Fresh))
    }

    /// One entry less to wait for; after the last one the directory is finished, and so on upwards.
    pub(super) fn entry_done(self: &Arc<Self>, job: &Job<'_>) -> Result<()> {
        let mut folder = self;
        while folder.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            folder.finish(job)?;
            match &folder.above {
                Some(above) => folder = above,
                None => break,
            }
        }
        Ok(())
    }

    fn finish(&self, job: &Job<'_>) -> Result<()> {
        let made = self.made();
        if made == Made::Not {
            return Ok(());
        }
        let done = self.fd(job).map_err(|e| (e, "open"));
        let fd = match done {
            Ok(fd) => fd,
            Err((e, doing)) => return job.failed(&self.path(), doing, e),
        };
        for name in std::mem::take(&mut *self.extras.lock()) {
            remove::tree(job, fd.as_fd(), &name, self)?;
        }
        let left_alone = made == Made::Existing && self.on_the_way;
        if let (Some(meta), false) = (&self.meta, left_alone) {
            let before = match made {
                Made::Existing => match rustix::fs::fstat(&fd) {
                    Ok(stat) => Before::Existing(Box::new(stat)),
                    Err(e) => return job.failed(&self.path(), "look at", e),
                },
                _ => Before::Fresh { mode: NEW_MODE },
            };
            attributes::apply(job, fd.as_fd(), meta, &before, true, &|| self.path())?;
        }
        if !self.is_target() {
            self.slot.lock().take();
        }
        Job::count(&job.progress.dirs, 1);
        Ok(())
    }
}

/// What an existing directory hands down to new entries, and whether we may write into it at all.
pub(super) fn note_habits(job: &Job<'_>, fd: std::os::fd::BorrowedFd<'_>) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(fd)?;
    if stat.st_mode & 0o2000 != 0 {
        job.who.gives_group.store(true, Ordering::Relaxed);
    }
    if rustix::fs::fgetxattr_query(fd, "system.posix_acl_default").is_ok_and(|n| n > 0) {
        job.who.gives_acl.store(true, Ordering::Relaxed);
    }
    if job.who.uid != 0 && stat.st_uid == job.who.uid && stat.st_mode & 0o700 != 0o700 {
        // Ours, but closed to ourselves: opened for the restore. Its own mode comes last.
        rustix::fs::fchmod(fd, Mode::from_raw_mode((stat.st_mode & 0o7777) | 0o700))?;
    }
    Ok(())
}
