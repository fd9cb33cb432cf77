//! Hard links: the first name of a file gets the content, the others are linked to it once it is whole.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Before};
use super::folder::Folder;
use super::job::Job;
use crate::error::Result;
use crate::model::{Id, Metadata, Node, NodeKind};

/// The names of one file.
#[derive(Debug)]
pub(super) struct Group {
    content: Vec<Id>,
    meta: Metadata,
    /// Names not met yet.
    left: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The first name is not whole yet; these wait for it.
    Waiting(Vec<(Arc<Folder>, Vec<u8>)>),
    Whole(Arc<Folder>, Vec<u8>),
    Failed,
}

/// What a file with several names is.
pub(super) enum Joined {
    /// Not linked to anything, or the first of its group: to be restored like any file.
    File(Option<Arc<Group>>),
    /// Another name; it is being taken care of.
    Linked,
}

/// Finds out. `folder` waits for the entry already.
pub(super) fn join(job: &Job<'_>, folder: &Arc<Folder>, node: &Node) -> Result<Joined> {
    let NodeKind::File { content, .. } = &node.kind else { return Ok(Joined::File(None)) };
    let key = (node.meta.device_id, node.meta.inode);
    if node.meta.links < 2 || key.1 == 0 {
        return Ok(Joined::File(None));
    }
    let group = {
        let mut links = job.links.lock();
        let Some(group) = links.get(&key).cloned() else {
            let group = Arc::new(Group {
                content: content.clone(),
                meta: node.meta.clone(),
                left: AtomicU64::new(node.meta.links - 1),
                state: Mutex::new(State::Waiting(Vec::new())),
            });
            links.insert(key, group.clone());
            return Ok(Joined::File(Some(group)));
        };
        // The number was given to another file while the backup ran.
        if group.content != *content {
            return Ok(Joined::File(None));
        }
        if group.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            links.remove(&key);
        }
        group
    };
    let mut state = group.state.lock();
    match &mut *state {
        State::Waiting(waiting) => waiting.push((folder.clone(), node.name.clone())),
        State::Whole(first, name) => {
            link(job, &group, (first, name), (folder, &node.name))?;
            folder.entry_done(job)?;
        }
        State::Failed => {
            job.problem(&folder.path_of(&node.name), "is a hard link of a file that could not be restored");
            folder.entry_done(job)?;
        }
    }
    Ok(Joined::Linked)
}

impl Group {
    /// The first name is done: links those that wait.
    pub(super) fn settle(&self, job: &Job<'_>, folder: &Arc<Folder>, name: &[u8], whole: bool) -> Result<()> {
        let next = if whole { State::Whole(folder.clone(), name.to_vec()) } else { State::Failed };
        let before = std::mem::replace(&mut *self.state.lock(), next);
        let State::Waiting(waiting) = before else { return Ok(()) };
        for (to, to_name) in waiting {
            if whole {
                link(job, self, (folder, name), (&to, &to_name))?;
            } else {
                job.problem(&to.path_of(&to_name), "is a hard link of a file that could not be restored");
            }
            to.entry_done(job)?;
        }
        Ok(())
    }
}

type Place<'a> = (&'a Arc<Folder>, &'a [u8]);

fn link(job: &Job<'_>, group: &Group, from: Place<'_>, to: Place<'_>) -> Result<()> {
    let path = || to.0.path_of(to.1);
    let linked = (|| {
        let (from_dir, to_dir) = (from.0.fd(job)?, to.0.fd(job)?);
        match rustix::fs::linkat(&from_dir, from.1, &to_dir, to.1, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&to_dir, to.1, AtFlags::empty())?;
                rustix::fs::linkat(&from_dir, from.1, &to_dir, to.1, AtFlags::empty())
            }
            other => other,
        }
    })();
    match linked {
        Ok(()) => {
            Job::count(&job.progress.files, 1);
            Ok(())
        }
        // A file system that has none, or not that many: a file of its own, which is what the reader of it sees anyway.
        Err(Errno::MLINK | Errno::PERM | Errno::NOTSUP | Errno::XDEV) => {
            copy(job, group, from, to).or_else(|e| job.failed(&path(), "copy", e))
        }
        Err(e) => job.failed(&path(), "link", e),
    }
}

fn copy(job: &Job<'_>, group: &Group, from: Place<'_>, to: Place<'_>) -> rustix::io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from.0.fd(job)?, from.1, read, Mode::empty())?;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(to.0.fd(job)?, to.1, write, Mode::from_raw_mode(0o600))?;
    let (mut source, mut made) = (std::fs::File::from(source), std::fs::File::from(made));
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = source.read(&mut buffer).map_err(errno)?;
        let Some(data) = buffer.get(..n).filter(|d| !d.is_empty()) else { break };
        made.write_all(data).map_err(errno)?;
    }
    Job::count(&job.progress.files, 1);
    // Failures of metadata are told on their own.
    attributes::apply(job, made.as_fd(), &group.meta, &Before::Fresh { mode: 0o600 }, false, &|| to.0.path_of(to.1))
        .map_err(|_| Errno::IO)
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}
