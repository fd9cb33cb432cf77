//! Lock files: reading and writing them.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::STALE_SECONDS;
use super::dead::ProcessMark;
use super::relied::Relied;
use crate::crypto::sha256;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Time};
use crate::repository::{Repository, raw};
use crate::runtime::Cancel;
use crate::store::Key;

/// Locks are listed at most so often for one look at them.
const LISTINGS: u32 = 20;

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

pub(super) async fn write(repo: &Repository, mode: LockMode, holder: &LockHolder, time: Time) -> Result<Relied> {
    let file = LockFile {
        time,
        exclusive: mode == LockMode::Exclusive,
        hostname: holder.hostname.clone(),
        username: holder.username.clone(),
        pid: holder.pid,
        process: ProcessMark::of(holder.pid),
    };
    let sealed = raw::encode(repo.key(), repo.format_version(), &file)?;
    let relied = Relied::on(sha256(&sealed));
    raw::save(repo.store().as_ref(), "locks", sealed).await?;
    Ok(relied)
}

pub(super) async fn remove(repo: &Repository, id: &Id) -> Result<()> {
    Ok(repo.store().delete(&key(id)?).await?)
}

/// All locks that were there at one time; an empty one is none (a broken write of others).
///
/// A refreshed lock has another name and its old one is deleted: between a listing and the read of what it shows, the
/// new object goes unseen and the old one is gone. So if one vanished, it is listed again until all of a listing was read.
///
/// # Errors
/// A lock that cannot be read; [`Kind::Unavailable`] if locks keep vanishing; the store's failures.
pub(in crate::repository) async fn load_all(repo: &Repository, cancel: &Cancel) -> Result<Vec<(Id, LockFile)>> {
    let mut read: HashMap<Id, LockFile> = HashMap::new();
    for _ in 0..LISTINGS {
        let mut whole = true;
        let mut out = Vec::new();
        for (id, _) in raw::list(repo.store().as_ref(), "locks").await?.into_iter().filter(|(_, meta)| meta.size > 0) {
            let known = read.remove(&id);
            match if known.is_some() { known } else { load(repo, &id, cancel).await? } {
                Some(file) => out.push((id, file)),
                None => whole = false,
            }
        }
        if whole {
            return Ok(out);
        }
        read = out.into_iter().collect();
    }
    Err(Error::new(Kind::Unavailable, format!("the locks at {} vanish faster than they can be read", repo.store().location()))
        .hint("Try again. If it stays so, something between here and the store gives wrong answers."))
}

/// `None` if it is gone.
async fn load(repo: &Repository, id: &Id, cancel: &Cancel) -> Result<Option<LockFile>> {
    let mut waits = [1u64, 5, 10].into_iter();
    loop {
        match raw::load(repo.store().as_ref(), "locks", id).await.and_then(|b| raw::decode::<LockFile>(repo.key(), &b)) {
            Ok(file) => return Ok(Some(file)),
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => {
                let Some(seconds) = waits.next() else { return Err(unreadable(id, e)) };
                tokio::select! {
                    () = cancel.cancelled() => cancel.check()?,
                    () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
                }
            }
        }
    }
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
