//! The walk: trees into directories, small things made at once, files handed over in rounds.

use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::content::Target;
use super::folder::{self, Folder, Made};
use super::job::Job;
use super::links::{self, Joined};
use super::present::Present;
use super::round::{CHUNKS, Round, Slice};
use super::{Choice, remove, special};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};

/// Rounds that are fetched at the same time: while one waits for its last answers the next is under way.
const AT_ONCE: usize = 2;
/// What disks and direct I/O work in.
const PAGE: u64 = crate::runtime::memory::PAGE as u64;
/// Never removed from the top of a target: our own marks, and what a file system keeps for its check.
const KEPT: [&[u8]; 2] = [super::marker::DIR.as_bytes(), b"lost+found"];

/// Restores everything below `tree` into `target`.
pub(super) fn run(job: &Job<'_>, target: Arc<Folder>, tree: Id) -> Result<()> {
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let (sender, receiver) = crossbeam_channel::bounded::<Round>(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (receiver, failure) = (receiver.clone(), &failure);
            scope.spawn(move || {
                for round in receiver {
                    if failure.lock().is_some() {
                        continue;
                    }
                    if let Err(e) = round.run(job) {
                        failure.lock().get_or_insert(e);
                        job.cancel.cancel();
                    }
                }
            });
        }
        drop(receiver);
        let mut planner = Planner { job, sender, round: Round::default(), stack: vec![(target, tree)] };
        if let Err(e) = planner.walk() {
            failure.lock().get_or_insert(e);
            job.cancel.cancel();
        }
        // Dropping the planner ends the threads.
    });
    match failure.into_inner() {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

struct Planner<'a, 'b> {
    job: &'a Job<'b>,
    sender: crossbeam_channel::Sender<Round>,
    round: Round,
    /// Directories to do, the next one last.
    stack: Vec<(Arc<Folder>, Id)>,
}

impl Planner<'_, '_> {
    fn walk(&mut self) -> Result<()> {
        while let Some((folder, tree)) = self.stack.pop() {
            self.job.cancel.check()?;
            self.directory(&folder, tree)?;
            folder.entry_done(self.job)?;
        }
        self.hand_over()
    }

    fn hand_over(&mut self) -> Result<()> {
        let round = std::mem::take(&mut self.round);
        if round.slices.is_empty() {
            return Ok(());
        }
        self.sender.send(round).map_err(|_| Error::new(Kind::Bug, "the threads of a restore ended early"))
    }

    fn directory(&mut self, folder: &Arc<Folder>, tree: Id) -> Result<()> {
        let job = self.job;
        let mut present = match self.present(folder) {
            Ok(present) => present,
            Err(e) => return job.failed(&folder.path(), "make directory", e),
        };
        let mut above = folder.relative();
        if !above.is_empty() {
            above.push(b'/');
        }
        let mut below = Vec::new();
        // What ended the walk, told apart from what is wrong with the tree.
        let mut stopped = Ok(());
        let read = job.blobs.tree(tree, &mut |node| {
            stopped = self.node(folder, &above, node, &mut present, &mut below);
            if stopped.is_ok() { Ok(()) } else { Err(Error::new(Kind::Cancelled, "broken off")) }
        });
        stopped?;
        if let Err(e) = read {
            job.damaged(&folder.path(), e)?;
        } else if job.options.delete && !folder.is_partial() {
            let extra = |name: &[u8], kind: FileType| {
                let path = [&above, name].concat();
                let kept = folder.is_target() && KEPT.contains(&name);
                !kept && job.filter.choose(&path, kind == FileType::Directory) == Choice::Yes
            };
            let extras: Vec<_> = present.rest().filter(|(n, k)| extra(n, *k)).map(|(n, _)| n.to_vec()).collect();
            if !extras.is_empty() && self.may_remove(folder, &extras)? {
                folder.set_extras(extras);
            }
        }
        // The first directory of the list comes off the stack first.
        self.stack.extend(below.into_iter().rev());
        Ok(())
    }

    /// Whether `--delete` is about what is in a directory; tells if not.
    fn may_remove(&self, folder: &Arc<Folder>, extras: &[Vec<u8>]) -> Result<bool> {
        let job = self.job;
        let device = folder.fd(job).and_then(|fd| Ok(rustix::fs::fstat(&fd)?.st_dev));
        match device {
            Ok(device) if device == job.device || job.options.delete_mounted => Ok(true),
            Ok(_) => {
                if extras.iter().any(|name| !KEPT.contains(&name.as_slice())) {
                    let why = "has entries that the snapshot lacks; it is on another file system, where --delete removes nothing";
                    job.problem(&folder.path(), why);
                }
                Ok(false)
            }
            Err(e) => job.failed(&folder.path(), "look at", e).map(|()| false),
        }
    }

    /// One entry of a directory; directories go to `below`.
    fn node(
        &mut self,
        folder: &Arc<Folder>,
        above: &[u8],
        node: Node,
        present: &mut Present,
        below: &mut Vec<(Arc<Folder>, Id)>,
    ) -> Result<()> {
        let job = self.job;
        let name = node.name.as_slice();
        if !is_plain(name) {
            job.problem(
                &folder.path(),
                format_args!("has an entry with the impossible name `{}`; it was not restored", name.escape_ascii()),
            );
            return Ok(());
        }
        let path = [above, name].concat();
        let is_dir = matches!(node.kind, NodeKind::Dir { .. });
        let choice = job.filter.choose(&path, is_dir);
        let there = present.take(name);
        if choice == Choice::No || (folder.is_target() && name == super::marker::DIR.as_bytes()) {
            return Ok(());
        }
        self.entry(folder, node, there, choice, below)
    }

    fn present(&self, folder: &Arc<Folder>) -> rustix::io::Result<Present> {
        let fd = if folder.is_on_the_way() { folder.fd_if_there(self.job)? } else { Some(folder.fd(self.job)?) };
        let Some(fd) = fd else { return Ok(Present::default()) };
        if folder.is_target() {
            folder::note_habits(self.job, fd.as_fd())?;
        }
        if folder.made() == Made::Fresh {
            return Ok(Present::default());
        }
        Present::read(fd.as_fd())
    }

    fn entry(
        &mut self,
        folder: &Arc<Folder>,
        node: Node,
        there: Option<FileType>,
        choice: Choice,
        below: &mut Vec<(Arc<Folder>, Id)>,
    ) -> Result<()> {
        let job = self.job;
        if let Some(error) = &node.error {
            job.problem(&folder.path_of(&node.name), format_args!("could not be read when it was backed up: {error}"));
            if !matches!(node.kind, NodeKind::Dir { .. }) {
                return Ok(());
            }
        }
        match &node.kind {
            NodeKind::Dir { subtree: Some(tree) } => {
                let partial = node.error.is_some();
                let child = folder.below(node.name.clone(), node.meta, choice == Choice::OnTheWay, partial);
                below.push((child, *tree));
                Ok(())
            }
            NodeKind::Dir { subtree: None } => {
                job.problem(&folder.path_of(&node.name), "has no entries recorded, not even that it has none");
                Ok(())
            }
            NodeKind::File { .. } => self.file(folder, node, there),
            _ => {
                if !self.clear(folder, &node.name, there)? {
                    return Ok(());
                }
                special::make(job, folder, &node)
            }
        }
    }

    /// Frees a name. `false` if something is there that only `--delete` removes.
    fn clear(&self, folder: &Arc<Folder>, name: &[u8], there: Option<FileType>) -> Result<bool> {
        let job = self.job;
        let Some(kind) = there else { return Ok(true) };
        let dir = match folder.fd(job) {
            Ok(dir) => dir,
            Err(e) => return job.failed(&folder.path(), "open", e).map(|()| false),
        };
        if kind != FileType::Directory {
            return match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(true),
                Err(e) => job.failed(&folder.path_of(name), "replace", e).map(|()| false),
            };
        }
        if job.options.delete {
            remove::tree(job, dir.as_fd(), name, folder)?;
            return Ok(true);
        }
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                job.problem(
                    &folder.path_of(name),
                    "is a directory with entries in the target and something else in the snapshot; --delete would replace it",
                );
                Ok(false)
            }
            Err(e) => job.failed(&folder.path_of(name), "replace", e).map(|()| false),
        }
    }

    fn file(&mut self, folder: &Arc<Folder>, node: Node, there: Option<FileType>) -> Result<()> {
        let job = self.job;
        let exists = there == Some(FileType::RegularFile);
        if !exists && !self.clear(folder, &node.name, there)? {
            return Ok(());
        }
        folder.expect();
        let group = match links::join(job, folder, &node)? {
            Joined::Linked => return Ok(()),
            Joined::File(group) => group,
        };
        let NodeKind::File { size, content } = node.kind else { return Ok(()) };
        let count = content.len();
        if count == 0 && size != 0 {
            job.problem(&folder.path_of(&node.name), format_args!("is recorded with {size} bytes and no content"));
            return folder.entry_done(job);
        }
        let pages = !exists && self.pages(size, &content);
        let target = Arc::new(Target::new(folder.clone(), node.name, node.meta, size, content, group, exists, pages));
        if count == 0 {
            return target.make_empty(job);
        }
        let (mut start, mut offset) = (0, 0u64);
        while start < count {
            let end = count.min(start + CHUNKS);
            self.round.slices.push(Slice { target: target.clone(), chunks: start..end, offset, exists });
            self.round.chunks += end - start;
            if end < count {
                for id in target.content.get(start..end).unwrap_or_default() {
                    match job.blobs.length(id) {
                        Ok(length) => offset = offset.saturating_add(length.into()),
                        Err(e) => target.give_up_damaged(job, e)?,
                    }
                }
            }
            start = end;
            if self.round.is_full() {
                self.job.cancel.check()?;
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Whether a large file seems to be chunks of whole pages: relations are, and hardly anything that was cut by content.
    fn pages(&self, size: u64, content: &[Id]) -> bool {
        let first = content.first().map(|id| self.job.blobs.length(id));
        content.len() > 1 && size.is_multiple_of(PAGE) && matches!(first, Some(Ok(n)) if u64::from(n).is_multiple_of(PAGE))
    }
}

/// One segment that names an entry and cannot lead anywhere else.
fn is_plain(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, b'/' | 0))
}
