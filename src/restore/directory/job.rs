//! What all threads of a restore share.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::descriptors::Descriptors;
use super::links::Group;
use super::warnings::{Counts, add};
use super::{Blobs, Filter, Options, Progress, Report};
use crate::error::{Error, Kind, Result};
use crate::runtime::Cancel;

/// Problems that are told in words; the rest is counted.
pub(super) const KEPT: usize = 1000;

pub(super) struct Job<'a> {
    pub(super) blobs: &'a dyn Blobs,
    pub(super) options: &'a Options,
    pub(super) filter: Filter,
    pub(super) progress: &'a Progress,
    pub(super) cancel: Cancel,
    /// `st_dev` of the target.
    pub(super) device: rustix::fs::Dev,
    pub(super) who: Who,
    pub(super) denied: Counts,
    pub(super) folders: Descriptors,
    pub(super) files: Descriptors,
    /// Hard links by device and inode, until each name was met.
    pub(super) links: Mutex<HashMap<(u64, u64), Arc<Group>>>,
    problems: Mutex<Vec<String>>,
    problem_count: AtomicU64,
}

/// Who restores, and what new files get without being told.
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u32,
    /// A directory of the target gives its group to new entries: their group must be set even if it is ours.
    pub(super) gives_group: AtomicBool,
    /// A directory of the target gives an ACL to new entries: it must be taken away again.
    pub(super) gives_acl: AtomicBool,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        blobs: &'a dyn Blobs,
        options: &'a Options,
        filter: Filter,
        progress: &'a Progress,
        cancel: &Cancel,
        device: rustix::fs::Dev,
    ) -> Self {
        let share = usize::try_from(crate::runtime::raise_open_files() / 4).unwrap_or(usize::MAX).clamp(16, 4096);
        Self {
            blobs,
            options,
            filter,
            progress,
            // Ended alone when one thread fails.
            cancel: cancel.child(),
            device,
            who: Who {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                umask: umask(),
                gives_group: AtomicBool::new(false),
                gives_acl: AtomicBool::new(false),
            },
            denied: Counts::default(),
            folders: Descriptors::new(share),
            files: Descriptors::new(share / 2),
            links: Mutex::default(),
            problems: Mutex::default(),
            problem_count: AtomicU64::new(0),
        }
    }

    /// Notes what is missing or wrong.
    pub(super) fn problem(&self, path: &Path, why: impl Display) {
        self.problem_count.fetch_add(1, Relaxed);
        let mut problems = self.problems.lock();
        if problems.len() < KEPT {
            problems.push(format!("{}: {why}", printable(path)));
        }
    }

    /// Notes a failed system call as a problem of this entry, or ends the restore if no other entry would fare better.
    pub(super) fn failed(&self, path: &Path, doing: &str, errno: Errno) -> Result<()> {
        let e = std::io::Error::from(errno);
        match errno {
            Errno::NOSPC | Errno::DQUOT => Err(Error::new(Kind::Failed, format!("{doing} {}", printable(path)))
                .because(e)
                .hint("Free some space (or raise the quota) and run the command again; it goes on from here.")),
            Errno::ROFS => Err(Error::new(Kind::Denied, format!("{doing} {}", printable(path))).because(e)),
            Errno::MFILE | Errno::NFILE => Err(Error::new(Kind::Failed, format!("{doing} {}", printable(path)))
                .because(e)
                .hint("Raise the limit of open files (`ulimit -n`).")),
            _ => {
                self.problem(path, format_args!("{doing}: {e}"));
                Ok(())
            }
        }
    }

    /// Notes a damaged blob or tree as a problem of this entry; other failures end the restore.
    pub(super) fn damaged(&self, path: &Path, error: Error) -> Result<()> {
        if error.kind() != Kind::Corrupt {
            return Err(error);
        }
        self.problem(path, error.chain());
        Ok(())
    }

    pub(super) fn count(counter: &AtomicU64, n: u64) {
        add(counter, n);
    }

    pub(super) fn into_report(self) -> Report {
        Report {
            problems: self.problems.into_inner(),
            problem_count: self.problem_count.load(Relaxed),
            denied: self.denied.sum(),
        }
    }
}

fn printable(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// Asking the kernel for the mask means setting it, for the whole process; its status file tells without.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("Umask:")).and_then(|m| u32::from_str_radix(m.trim(), 8).ok());
    // Unknown: as if everything were masked, so that each mode is set.
    mask.unwrap_or(0o777)
}
