//! A file being restored.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{self, Before};
use super::descriptors::Slot;
use super::folder::Folder;
use super::job::Job;
use super::links::Group;
use super::output;
use crate::error::Result;
use crate::model::{Id, Metadata};

const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// What is there under the file's name.
#[derive(Debug)]
enum There {
    /// Nothing.
    Nothing,
    /// A regular file, as the listing said; not looked at yet.
    Something,
    /// Ours, made with this mode.
    Fresh(u32),
    /// A file that was there, and its length by then.
    Existing(Box<Stat>),
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) folder: Arc<Folder>,
    pub(super) name: Vec<u8>,
    pub(super) meta: Metadata,
    pub(super) size: u64,
    pub(super) content: Vec<Id>,
    pub(super) group: Option<Arc<Group>>,
    /// Chunks that are not in place.
    remaining: AtomicU32,
    failed: AtomicBool,
    there: Mutex<There>,
    slot: Slot,
    /// A new file is written around the page cache.
    direct: AtomicBool,
}

impl Target {
    /// `pages`: its chunks are whole pages, as far as can be told.
    #[allow(clippy::too_many_arguments, reason = "what is known of a file, handed over once")]
    pub(super) fn new(
        folder: Arc<Folder>,
        name: Vec<u8>,
        meta: Metadata,
        size: u64,
        content: Vec<Id>,
        group: Option<Arc<Group>>,
        exists: bool,
        pages: bool,
    ) -> Self {
        let there = if exists { There::Something } else { There::Nothing };
        let remaining = AtomicU32::new(u32::try_from(content.len()).unwrap_or(u32::MAX));
        Self {
            folder,
            name,
            meta,
            size,
            content,
            group,
            remaining,
            failed: AtomicBool::new(false),
            there: Mutex::new(there),
            slot: Slot::default(),
            direct: AtomicBool::new(pages && !exists),
        }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.folder.path_of(&self.name)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Gives it up after a failed system call; the restore goes on unless nothing else would fare better.
    pub(super) fn give_up(&self, job: &Job<'_>, doing: &str, errno: Errno) -> Result<()> {
        if self.failed.swap(true, Ordering::AcqRel) { Ok(()) } else { job.failed(&self.path(), doing, errno) }
    }

    /// Gives it up because a chunk is damaged.
    pub(super) fn give_up_damaged(&self, job: &Job<'_>, error: crate::error::Error) -> Result<()> {
        if self.failed.swap(true, Ordering::AcqRel) { Ok(()) } else { job.damaged(&self.path(), error) }
    }

    fn open_with(&self, job: &Job<'_>, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(self.folder.fd(job)?, self.name.as_slice(), FLAGS | flags, Mode::from_raw_mode(mode))
    }

    /// Looks at what is there. The file, its length and mtime if it may be kept and rewritten; `None` if a new one will be made.
    pub(super) fn existing(&self, job: &Job<'_>) -> rustix::io::Result<Option<(Arc<OwnedFd>, Box<Stat>)>> {
        let mut there = self.there.lock();
        let stat = match &*there {
            There::Existing(stat) => Some(stat.clone()),
            There::Something => {
                let found = self.keep_existing(job)?;
                *there = found.clone().map_or(There::Nothing, There::Existing);
                found
            }
            There::Nothing | There::Fresh(_) => None,
        };
        drop(there);
        match stat {
            Some(stat) => Ok(Some((self.fd(job)?, stat))),
            None => Ok(None),
        }
    }

    fn keep_existing(&self, job: &Job<'_>) -> rustix::io::Result<Option<Box<Stat>>> {
        match self.open_with(job, OFlags::RDWR, 0) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd)?;
                // Its other names may be anywhere, outside too: writing into it, or a chmod, would reach them.
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1 {
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    if size != self.size {
                        rustix::fs::ftruncate(&fd, self.size)?;
                    }
                    *self.slot.lock() = Some(Arc::new(fd));
                    job.files.opened(&self.slot);
                    return Ok(Some(Box::new(stat)));
                }
            }
            Err(Errno::NOENT) => return Ok(None),
            // May not be opened, is being executed, or is no file any more: a new one takes its place.
            Err(Errno::ACCESS | Errno::PERM | Errno::TXTBSY | Errno::LOOP | Errno::NXIO) => {}
            Err(e) => return Err(e),
        }
        match rustix::fs::unlinkat(self.folder.fd(job)?, self.name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The open file, made if it is not there.
    fn fd(&self, job: &Job<'_>) -> rustix::io::Result<Arc<OwnedFd>> {
        if let Some(fd) = &*self.slot.lock() {
            return Ok(fd.clone());
        }
        let mut there = self.there.lock();
        if let Some(fd) = &*self.slot.lock() {
            return Ok(fd.clone());
        }
        let fd = match &*there {
            There::Fresh(_) | There::Existing(_) => self.open_with(job, OFlags::RDWR, 0)?,
            There::Nothing | There::Something => {
                // May be closed and opened again: it must stay open to us until it is whole.
                let mode = attributes::first_mode(job, &self.meta) | 0o600;
                let fd = self.open_with(job, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode)?;
                *there = There::Fresh(mode & !job.who.umask);
                rustix::fs::ftruncate(&fd, self.size)?;
                fd
            }
        };
        let fd = Arc::new(fd);
        output::set_direct(fd.as_fd(), &self.direct);
        *self.slot.lock() = Some(fd.clone());
        drop(there);
        job.files.opened(&self.slot);
        Ok(fd)
    }

    /// Opens it for reading only, to be verified.
    pub(super) fn reopen(&self, job: &Job<'_>) -> rustix::io::Result<OwnedFd> {
        self.open_with(job, OFlags::RDONLY, 0)
    }

    /// The contents of chunks that follow each other.
    pub(super) fn write(self: &Arc<Self>, job: &Job<'_>, offset: u64, pieces: &[&[u8]]) -> Result<()> {
        if !self.has_failed() {
            let whole = self.content.len() == 1 && matches!(*self.there.lock(), There::Nothing);
            let written = match pieces {
                [data] if whole => self.write_whole(job, data)?,
                _ => self.write_part(job, offset, pieces),
            };
            match written {
                Ok(()) => Job::count(&job.progress.bytes_written, pieces.iter().map(|p| p.len() as u64).sum()),
                Err(e) => self.give_up(job, "write", e)?,
            }
        }
        self.chunks_done(job, u32::try_from(pieces.len()).unwrap_or(u32::MAX))
    }

    /// A new file of one chunk: four system calls in all where its owner and mode are what new files get.
    fn write_whole(&self, job: &Job<'_>, data: &[u8]) -> Result<rustix::io::Result<()>> {
        let mode = attributes::first_mode(job, &self.meta);
        let fd = match self.open_with(job, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(fd) => fd,
            Err(e) => return Ok(Err(e)),
        };
        let made = mode & !job.who.umask;
        *self.there.lock() = There::Fresh(made);
        let done = output::write(fd.as_fd(), 0, &[data], 0, &AtomicBool::new(false));
        if let Err(e) = done {
            return Ok(Err(e));
        }
        attributes::apply(job, fd.as_fd(), &self.meta, &Before::Fresh { mode: made }, false, &|| self.path())?;
        // Marks it as finished: nothing is left to be set when its last (and only) chunk is counted.
        *self.there.lock() = There::Nothing;
        Ok(Ok(()))
    }

    fn write_part(&self, job: &Job<'_>, offset: u64, pieces: &[&[u8]]) -> rustix::io::Result<()> {
        let fd = self.fd(job)?;
        let was = match &*self.there.lock() {
            There::Existing(stat) => u64::try_from(stat.st_size).unwrap_or(u64::MAX),
            _ => 0,
        };
        output::write(fd.as_fd(), offset, pieces, was, &self.direct)
    }

    /// So many chunks are in place, or never will be. After the last one the file is finished.
    pub(super) fn chunks_done(self: &Arc<Self>, job: &Job<'_>, n: u32) -> Result<()> {
        if n == 0 || self.remaining.fetch_sub(n, Ordering::AcqRel) != n {
            return Ok(());
        }
        if !self.has_failed()
            && let Err(e) = self.finish(job)?
        {
            self.give_up(job, "finish", e)?;
        }
        self.slot.lock().take();
        let failed = self.has_failed();
        if failed && matches!(*self.there.lock(), There::Fresh(_)) {
            // Half a file looks like a whole one.
            if let Ok(dir) = self.folder.fd(job) {
                rustix::fs::unlinkat(dir, self.name.as_slice(), AtFlags::empty()).ok();
            }
        }
        if !failed {
            Job::count(&job.progress.files, 1);
        }
        if let Some(group) = &self.group {
            group.settle(job, &self.folder, &self.name, !failed)?;
        }
        self.folder.entry_done(job)
    }

    fn finish(&self, job: &Job<'_>) -> Result<rustix::io::Result<()>> {
        let before = match &*self.there.lock() {
            // Written as a whole, with everything.
            There::Nothing => return Ok(Ok(())),
            There::Fresh(mode) => Before::Fresh { mode: *mode },
            There::Existing(stat) => Before::Existing(stat.clone()),
            There::Something => return Ok(Err(Errno::NOENT)),
        };
        match self.fd(job) {
            Ok(fd) => attributes::apply(job, fd.as_fd(), &self.meta, &before, false, &|| self.path()).map(Ok),
            Err(e) => Ok(Err(e)),
        }
    }

    /// A file without content.
    pub(super) fn make_empty(self: &Arc<Self>, job: &Job<'_>) -> Result<()> {
        self.remaining.store(1, Ordering::Release);
        let made = self.existing(job).and_then(|found| match found {
            Some(_) => Ok(()),
            None => self.fd(job).map(drop),
        });
        if let Err(e) = made {
            self.give_up(job, "make", e)?;
        }
        self.chunks_done(job, 1)
    }
}
