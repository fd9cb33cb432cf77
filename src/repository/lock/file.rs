//! Lock files: reading and writing them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::STALE_SECONDS;
use super::dead::ProcessMark;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Time};
use crate::repository::{Repository, raw};
use crate::runtime::Cancel;
use crate::store::Key;

/// Whether others may hold locks at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Backups and reads: any number of them.
    Shared,
    /// Prune: alone.
    Exclusive,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The machine, with the pod's identity in it where there is one: a restarted pod must not look like its predecessor.
    pub hostname: String,
    /// The user.
    pub username: String,
    /// This process.
    pub pid: u32,
}

/// `locks/<id>` as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LockFile {
    /// When it was written or refreshed, by its writer's clock.
    pub time: Time,
    /// [`LockMode::Exclusive`].
    #[serde(default)]
    pub exclusive: bool,
    /// Machine of the holder.
    #[serde(default)]
    pub hostname: String,
    /// User of the holder.
    #[serde(default)]
    pub username: String,
    /// Process of the holder.
    #[serde(default)]
    pub pid: u32,
    /// Which process of that number. Ours only; stock clients ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessMark>,
}

impl LockFile {
    /// Whether its holder is proven to be a process of this machine that no longer runs.
    #[must_use]
    pub fn is_dead_here(&self, hostname: &str) -> bool {
        self.hostname == hostname && self.process.as_ref().is_some_and(|p| p.is_gone(self.pid))
    }

    /// Whether it was not refreshed for 30 minutes, by a clock that the caller trusts (the store's).
    #[must_use]
    pub fn is_stale(&self, now: Time) -> bool {
        now.seconds_since(self.time) > STALE_SECONDS
    }

    pub(super) fn describe(&self) -> String {
        let kind = if self.exclusive { "exclusively " } else { "" };
        format!("{kind}by {}@{} (pid {}) since {}", self.username, self.hostname, self.pid, self.time)
    }
}

pub(super) fn key(id: &Id) -> Result<Key> {
    Ok(Key::new(format!("locks/{id}"))?)
}

pub(super) async fn write(repo: &Repository, mode: LockMode, holder: &LockHolder, time: Time) -> Result<Id> {
    let file = LockFile {
        time,
        exclusive: mode == LockMode::Exclusive,
        hostname: holder.hostname.clone(),
        username: holder.username.clone(),
        pid: holder.pid,
        process: ProcessMark::of(holder.pid),
    };
    let sealed = raw::encode(repo.key(), repo.format_version(), &file)?;
    raw::save(repo.store().as_ref(), "locks", sealed).await
}

pub(super) async fn remove(repo: &Repository, id: &Id) -> Result<()> {
    Ok(repo.store().delete(&key(id)?).await?)
}

/// All locks. A lock that vanishes meanwhile is none; an empty one is none (a broken write of others).
pub(in crate::repository) async fn load_all(repo: &Repository, cancel: &Cancel) -> Result<Vec<(Id, LockFile)>> {
    let mut out = Vec::new();
    for (id, meta) in raw::list(repo.store().as_ref(), "locks").await? {
        if meta.size == 0 {
            continue;
        }
        let mut waits = [1u64, 5, 10].into_iter();
        loop {
            let loaded =
                raw::load(repo.store().as_ref(), "locks", &id).await.and_then(|b| raw::decode::<LockFile>(repo.key(), &b));
            match loaded {
                Ok(file) => out.push((id, file)),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => {
                    let Some(seconds) = waits.next() else { return Err(unreadable(&id, e)) };
                    tokio::select! {
                        () = cancel.cancelled() => cancel.check()?,
                        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
                    }
                    continue;
                }
            }
            break;
        }
    }
    Ok(out)
}

fn unreadable(id: &Id, e: Error) -> Error {
    let error = e.context(format!("lock {} cannot be read", id.short()));
    // Only damage is helped by removing it.
    if error.kind() == Kind::Corrupt {
        error.hint("If no other client is at work, `restic unlock --remove-all` removes it.")
    } else {
        error
    }
}
