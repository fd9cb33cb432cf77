//! Locks in the repository, as stock clients understand them: the one thing that keeps a prune away from a writer.
//!
//! Protocol: look at all locks; write one's own; wait 200 ms; look again; on conflict delete one's own and fail. Every
//! five minutes the lock is written anew and the old one deleted. A lock not refreshed for 30 minutes is stale: stock
//! clients then allow `unlock` to remove it, so a writer that slept that long must not commit on it ([`RepoLock::verify`]).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Repository, raw};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Time};
use crate::runtime::Cancel;
use crate::store::{self, Key};

/// A lock is written anew this often.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// Not refreshed for this long, a lock may no longer be relied on: 30 minutes less a margin.
const TRUSTED_SECONDS: f64 = 22.5 * 60.0;
/// Others may remove a lock this old.
const STALE_SECONDS: f64 = 30.0 * 60.0;
/// Time for somebody who looked just before us to appear.
const SETTLE: Duration = Duration::from_millis(200);

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
}

impl LockFile {
    /// Whether its holder is a process of this machine that no longer runs.
    #[must_use]
    pub fn is_dead_here(&self, hostname: &str) -> bool {
        self.hostname == hostname && self.pid != std::process::id() && !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Whether it was not refreshed for 30 minutes, by a clock that the caller trusts (the store's).
    #[must_use]
    pub fn is_stale(&self, now: Time) -> bool {
        now.seconds_since(self.time) > STALE_SECONDS
    }

    fn describe(&self) -> String {
        let kind = if self.exclusive { "exclusively " } else { "" };
        format!("{kind}by {}@{} (pid {}) since {}", self.username, self.hostname, self.pid, self.time)
    }
}

/// A lock that is held. Cloning shares it. Refreshed until [`RepoLock::release`] or until the last clone is dropped;
/// dropped without release, its object stays until it is removed as dead.
#[derive(Clone)]
pub struct RepoLock(Arc<Held>);

struct Held {
    repo: Repository,
    holder: LockHolder,
    mode: LockMode,
    current: Mutex<(Id, Time)>,
    /// One refresh or check at a time.
    turn: tokio::sync::Mutex<()>,
    stop: Cancel,
    after_dead: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes a lock.
pub(super) async fn acquire(repo: &Repository, mode: LockMode, holder: &LockHolder, cancel: &Cancel) -> Result<RepoLock> {
    let dead = remove_dead_here(repo, &holder.hostname).await?;
    conflict(repo, mode, None, cancel).await?;
    let time = repo.clock().now();
    let id = write(repo, mode, holder, time).await.context(|| "write a lock")?;
    let settled = tokio::select! {
        () = cancel.cancelled() => cancel.check(),
        () = tokio::time::sleep(SETTLE) => conflict(repo, mode, Some(id), cancel).await,
    };
    if let Err(e) = settled {
        remove(repo, &id).await.context(|| "remove our lock again")?;
        return Err(e);
    }
    let held = Held {
        repo: repo.clone(),
        holder: holder.clone(),
        mode,
        current: Mutex::new((id, time)),
        turn: tokio::sync::Mutex::new(()),
        stop: Cancel::new(),
        after_dead: dead > 0,
    };
    let lock = RepoLock(Arc::new(held));
    spawn_refresh(&lock);
    Ok(lock)
}

/// The task holds the lock weakly, so that dropping it ends the task.
fn spawn_refresh(lock: &RepoLock) {
    let (weak, stop) = (Arc::downgrade(&lock.0), lock.0.stop.clone());
    lock.0.repo.runtime().spawn(async move {
        let mut wait = REFRESH;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let Some(held) = weak.upgrade() else { return };
            match held.refresh().await {
                Ok(()) => wait = REFRESH,
                Err(e) => {
                    tracing::warn!("the repository lock could not be refreshed, will try again: {}", e.chain());
                    wait = Duration::from_secs(30);
                }
            }
        }
    });
}

impl Held {
    /// Writes the lock anew and deletes the old one. Fails with [`Kind::Locked`] if the old one was removed by others.
    async fn refresh(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (old, _) = *self.current.lock();
        self.must_exist(&old).await?;
        let time = self.repo.clock().now();
        let id = write(&self.repo, self.mode, &self.holder, time).await?;
        let slept_long = time.seconds_since(self.current.lock().1) > TRUSTED_SECONDS;
        if slept_long {
            // Somebody may have judged the old one stale and be removing it right now.
            tokio::time::sleep(SETTLE).await;
            if let Err(lost) = self.must_exist(&old).await {
                remove(&self.repo, &id).await?;
                return Err(lost);
            }
        }
        *self.current.lock() = (id, time);
        remove(&self.repo, &old).await
    }

    async fn must_exist(&self, id: &Id) -> Result<()> {
        match self.repo.store().head(&key(id)?).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == store::ErrorKind::NotFound => Err(Error::new(Kind::Locked, "our lock was removed while we worked")
                .hint("Somebody ran `unlock`, or this process stood still for over 30 minutes. Nothing was committed; run it again: uploaded data is used.")),
            Err(e) => Err(Error::from(e)),
        }
    }
}

impl RepoLock {
    /// Whether others may hold locks at the same time.
    #[must_use]
    pub fn mode(&self) -> LockMode {
        self.0.mode
    }

    /// Makes sure that the lock is there and fresh: call right before something is committed.
    ///
    /// # Errors
    /// [`Kind::Locked`] if it was removed; the store's failures.
    pub async fn verify(&self) -> Result<()> {
        let age = self.0.repo.clock().now().seconds_since(self.0.current.lock().1);
        if age.abs() > TRUSTED_SECONDS {
            return self.0.refresh().await;
        }
        let _turn = self.0.turn.lock().await;
        let (id, _) = *self.0.current.lock();
        self.0.must_exist(&id).await
    }

    /// Whether the lock of a killed process of this machine was found and removed on the way: it may have left packs
    /// that no index names.
    #[must_use]
    pub fn follows_a_killed_run(&self) -> bool {
        self.0.after_dead
    }

    /// Ends the refreshing and deletes the lock.
    ///
    /// # Errors
    /// The store's failures; the lock is then removed as dead later.
    pub async fn release(&self) -> Result<()> {
        self.0.stop.cancel();
        let _turn = self.0.turn.lock().await;
        let (id, _) = *self.0.current.lock();
        remove(&self.0.repo, &id).await.context(|| "remove the lock")
    }
}

fn key(id: &Id) -> Result<Key> {
    Ok(Key::new(format!("locks/{id}"))?)
}

async fn write(repo: &Repository, mode: LockMode, holder: &LockHolder, time: Time) -> Result<Id> {
    let file = LockFile {
        time,
        exclusive: mode == LockMode::Exclusive,
        hostname: holder.hostname.clone(),
        username: holder.username.clone(),
        pid: holder.pid,
    };
    let sealed = raw::encode(repo.key(), repo.format_version(), &file)?;
    raw::save(repo.store().as_ref(), "locks", sealed).await
}

async fn remove(repo: &Repository, id: &Id) -> Result<()> {
    Ok(repo.store().delete(&key(id)?).await?)
}

/// All locks. A lock that vanishes meanwhile is none; an empty one is none (a broken write of others).
pub(super) async fn load_all(repo: &Repository, cancel: &Cancel) -> Result<Vec<(Id, LockFile)>> {
    let mut out = Vec::new();
    for (id, meta) in raw::list(repo.store().as_ref(), "locks").await? {
        if meta.size == 0 {
            continue;
        }
        let mut waits = [1u64, 5, 10].into_iter();
        loop {
            let loaded = raw::load(repo.store().as_ref(), "locks", &id).await.and_then(|b| raw::decode::<LockFile>(repo.key(), &b));
            match loaded {
                Ok(file) => out.push((id, file)),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => {
                    let Some(seconds) = waits.next() else {
                        return Err(e.context(format!("lock {} cannot be read", id.short())).hint("If no other client is at work, `restic unlock --remove-all` removes it."));
                    };
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

async fn conflict(repo: &Repository, mode: LockMode, own: Option<Id>, cancel: &Cancel) -> Result<()> {
    for (id, file) in load_all(repo, cancel).await? {
        if Some(id) != own && (mode == LockMode::Exclusive || file.exclusive) {
            let stale = if file.is_stale(repo.store().now().await?) { "; it was not refreshed for over 30 minutes" } else { "" };
            return Err(Error::new(Kind::Locked, format!("the repository at {} is locked {}{stale}", repo.store().location(), file.describe()))
                .hint("Wait for it to end. If its holder is dead, run `strongroom unlock TENANT`."));
        }
    }
    Ok(())
}

/// Removes locks of processes of this machine that no longer run. Returns how many.
pub(super) async fn remove_dead_here(repo: &Repository, hostname: &str) -> Result<usize> {
    let mut removed = 0;
    for (id, file) in load_all(repo, &Cancel::new()).await? {
        if file.is_dead_here(hostname) {
            remove(repo, &id).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes locks proven dead: those of [`remove_dead_here`] and, by the store's clock, those over 30 minutes old whose
/// hostname `is_ours` says is of our own making and gone. Returns how many were removed and which remain.
pub(super) async fn remove_dead(repo: &Repository, hostname: &str, is_ours: &(dyn Fn(&LockFile) -> bool + Send + Sync)) -> Result<(usize, Vec<LockFile>)> {
    let mut removed = remove_dead_here(repo, hostname).await?;
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
