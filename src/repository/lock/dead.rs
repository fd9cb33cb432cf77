//! Locks whose holder is gone.
//!
//! Proof of death is strict, because removing the lock of a living writer lets a prune delete what it is about to refer
//! to. Hostname and process number do not suffice: containers of one pod, and pods on their node's network, share the
//! hostname while each counts processes from 1 and sees none of the others. So our locks also tell the boot, the
//! namespace of process numbers, and when the process started; where these are the same as ours, what we see is true.

use serde::{Deserialize, Serialize};

use super::file::{LockFile, load_all, remove};
use super::relied::is_relied_on;
use crate::error::Result;
use crate::repository::Repository;
use crate::runtime::{Cancel, process};

/// Tells a process from others of its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// The kernel's random id of this boot.
    boot: String,
    /// The namespace in which the process number means something.
    namespace: String,
    /// When the process started, in ticks since boot.
    started: u64,
}

impl ProcessMark {
    /// Of a process that this one can see. `None` where the kernel does not tell.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let (boot, namespace) = here()?;
        Some(Self { boot, namespace, started: started(pid)? })
    }

    /// Whether it is certain that the process runs no more.
    pub(super) fn is_gone(&self, pid: u32) -> bool {
        let visible = here().is_some_and(|(boot, namespace)| boot == self.boot && namespace == self.namespace);
        visible
            && match started(pid) {
                Some(started) => started != self.started,
                // Hidden from us, it may be there all the same.
                None => !process::exists(pid),
            }
    }
}

fn here() -> Option<(String, String)> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    // A mounted /proc of another namespace would show other processes under these numbers.
    let myself = std::fs::read_link("/proc/self").ok()?;
    (myself.to_str() == Some(&std::process::id().to_string()))
        .then(|| (boot.trim().to_owned(), namespace.to_string_lossy().into_owned()))
}

/// Field 22 of `stat`, counted after the program's name, which may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Locks that were removed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Removed {
    /// Of processes that no longer run.
    pub(super) killed: usize,
    /// Of this process, which does not rely on them.
    pub(super) abandoned: usize,
}

/// Removes locks of processes of this machine that no longer run, and those that this one could not delete when it was done.
pub(super) async fn remove_dead_here(repo: &Repository, hostname: &str) -> Result<Removed> {
    let mut removed = Removed::default();
    let me = std::process::id();
    let mark = ProcessMark::of(me);
    for (id, file) in load_all(repo, &Cancel::new()).await? {
        let ours = file.hostname == hostname && file.pid == me && file.process.is_some() && file.process == mark;
        if file.is_dead_here(hostname) {
            remove(repo, &id).await?;
            removed.killed += 1;
        } else if ours && !is_relied_on(&id) {
            remove(repo, &id).await?;
            removed.abandoned += 1;
        }
    }
    Ok(removed)
}

/// Removes locks proven dead: those of [`remove_dead_here`] and, by the store's clock, those over 30 minutes old whose
/// hostname `is_ours` says is of our own making and gone. Returns how many were removed and which remain.
pub(in crate::repository) async fn remove_dead(
    repo: &Repository,
    hostname: &str,
    is_ours: &(dyn Fn(&LockFile) -> bool + Send + Sync),
) -> Result<(usize, Vec<LockFile>)> {
    let here = remove_dead_here(repo, hostname).await?;
    let mut removed = here.killed + here.abandoned;
    let now = repo.store().now().await?;
    let mut left = Vec::new();
    for (id, file) in load_all(repo, &Cancel::new()).await? {
        if file.is_stale(now) && is_ours(&file) {
            remove(repo, &id).await?;
            removed += 1;
        } else {
            left.push(file);
        }
    }
    Ok((removed, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_would_be_seen_is_declared_gone() {
        let me = std::process::id();
        let mark = ProcessMark::of(me).expect("Linux tells");
        assert!(!mark.is_gone(me));
        let with = |f: &dyn Fn(&mut ProcessMark)| {
            let mut other = mark.clone();
            f(&mut other);
            other
        };
        assert!(with(&|m| m.started += 1).is_gone(me), "another process of this number");
        assert!(mark.is_gone(u32::MAX), "no process of this number");
        assert!(!with(&|m| m.boot.push('x')).is_gone(u32::MAX), "another machine, or another boot");
        assert!(!with(&|m| m.namespace.push('x')).is_gone(u32::MAX), "another container");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let mark = ProcessMark::of(child.id()).expect("a process");
        assert!(!mark.is_gone(child.id()));
        child.kill().and_then(|()| child.wait()).expect("killed");
        assert!(mark.is_gone(child.id()));
    }
}
