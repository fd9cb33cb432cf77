//! Locks in the repository, as stock clients understand them: the one thing that keeps a prune away from a writer.
//!
//! Protocol: look at all locks; write one's own; wait 200 ms; look again; on conflict delete one's own and fail. The second
//! look shows who looked before our lock was there and wrote after we had looked. He finds ours when he looks again, 200 ms
//! after his own was written, if ours was written sooner than that after our first look. So a shared lock that was written
//! at once ([`PROMPT`]) may be worked under without waiting: nobody who keeps to the protocol can be at work alone. The second
//! look is then made before the first commit ([`RepoLock::verify`]), for those who do not keep to it. Every
//! five minutes the lock is written anew and the old one deleted. A lock not refreshed for 30 minutes is stale: stock
//! clients then allow `unlock` to remove it, so a writer that slept that long must not commit on it ([`RepoLock::verify`]).
//!
//! What leaks on a crash, or where a lock could not be deleted: the lock object. [`dead`] removes it once its holder is
//! proven gone, or is this process and does not rely on it any more ([`relied`]).

mod dead;
mod file;
mod relied;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::relied::Relied;
use super::Repository;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Time};
use crate::runtime::Cancel;
use crate::store;

pub use dead::ProcessMark;
pub(super) use dead::remove_dead;
pub(super) use file::load_all;
pub use file::{LockFile, LockHolder, LockMode};

/// A lock is written anew this often.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// After a failure it is tried again this often.
const RETRY: Duration = Duration::from_secs(30);
/// Not refreshed for this long, a lock may no longer be relied on: 30 minutes less a margin.
const TRUSTED_SECONDS: f64 = 22.5 * 60.0;
/// Others may remove a lock this old.
const STALE_SECONDS: f64 = 30.0 * 60.0;
/// Time for somebody who looked just before us to appear.
const SETTLE: Duration = Duration::from_millis(200);
/// A lock that was written this soon after the first look is seen by the second look of everybody whom that did not show:
/// half of [`SETTLE`], for there is no need to come close.
const PROMPT: Duration = Duration::from_millis(100);

/// A lock that is held. Cloning shares it. Refreshed until [`RepoLock::release`] or until the last clone is dropped, which
/// tries to delete its object but cannot wait for it or tell of a failure.
#[derive(Clone)]
pub struct RepoLock(Arc<Held>);

struct Held {
    repo: Repository,
    holder: LockHolder,
    mode: LockMode,
    current: Mutex<Current>,
    /// When it was first written, until it was looked for others again.
    unsettled: tokio::sync::Mutex<Option<Instant>>,
    /// One refresh or check at a time.
    turn: tokio::sync::Mutex<()>,
    stop: Cancel,
    after_dead: bool,
}

/// The objects of a lock.
struct Current {
    /// The newest; `None` once it was released.
    id: Option<Relied>,
    /// When that was written, by our clock.
    time: Time,
    /// Older ones that could not be deleted.
    leftovers: Vec<Id>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
        let Current { id, leftovers, .. } = self.current.get_mut();
        let objects: Vec<Id> = id.take().map(|relied| relied.id()).into_iter().chain(leftovers.drain(..)).collect();
        if !objects.is_empty() {
            let repo = self.repo.clone();
            self.repo.runtime().spawn(async move {
                for id in objects {
                    if let Err(e) = file::remove(&repo, &id).await {
                        tracing::debug!("a lock stays until it is removed as dead: {}", e.chain());
                    }
                }
            });
        }
    }
}

/// Takes a lock.
pub(super) async fn acquire(repo: &Repository, mode: LockMode, holder: &LockHolder, cancel: &Cancel) -> Result<RepoLock> {
    let dead = dead::remove_dead_here(repo, &holder.hostname).await?;
    let began = Instant::now();
    conflict(repo, mode, None, cancel).await?;
    let time = repo.clock().now();
    let relied = file::write(repo, mode, holder, time).await.context(|| "write a lock")?;
    let written = Instant::now();
    // Held from here on, so that it is removed if this call fails or is dropped.
    let lock = RepoLock(Arc::new(Held {
        repo: repo.clone(),
        holder: holder.clone(),
        mode,
        current: Mutex::new(Current { id: Some(relied), time, leftovers: Vec::new() }),
        unsettled: tokio::sync::Mutex::new(Some(written)),
        turn: tokio::sync::Mutex::new(()),
        stop: Cancel::new(),
        after_dead: dead.killed > 0,
    }));
    let may_wait = mode == LockMode::Shared && written.duration_since(began) < PROMPT;
    if !may_wait && let Err(e) = lock.0.settle(cancel).await {
        lock.release().await.context(|| "remove our lock again")?;
        return Err(e);
    }
    spawn_refresh(&lock);
    Ok(lock)
}

async fn conflict(repo: &Repository, mode: LockMode, own: Option<Id>, cancel: &Cancel) -> Result<()> {
    for (id, file) in load_all(repo, cancel).await? {
        if Some(id) != own && (mode == LockMode::Exclusive || file.exclusive) {
            let stale = if file.is_stale(repo.store().now().await?) { "; it was not refreshed for over 30 minutes" } else { "" };
            return Err(Error::new(
                Kind::Locked,
                format!("the repository at {} is locked {}{stale}", repo.store().location(), file.describe()),
            )
            .hint("Wait for it to end. If its holder is dead, run `strongroom unlock TENANT`."));
        }
    }
    Ok(())
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
                Err(_) if stop.is_cancelled() => return,
                Err(e) => {
                    tracing::warn!("the repository lock could not be refreshed, will try again: {}", e.chain());
                    wait = RETRY;
                }
            }
        }
    });
}

impl Held {
    /// The second look, where it was not made yet: not before [`SETTLE`] has passed since the lock was written.
    async fn settle(&self, cancel: &Cancel) -> Result<()> {
        let mut unsettled = self.unsettled.lock().await;
        let Some(written) = *unsettled else { return Ok(()) };
        tokio::select! {
            () = cancel.cancelled() => return cancel.check(),
            () = tokio::time::sleep_until(written + SETTLE) => {}
        }
        let (id, _) = self.current()?;
        conflict(&self.repo, self.mode, Some(id), cancel).await?;
        *unsettled = None;
        Ok(())
    }

    /// Writes the lock anew and deletes the old one. Fails with [`Kind::Locked`] if the old one was removed by others.
    async fn refresh(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let (old, written) = self.current()?;
        self.must_exist(&old).await?;
        let time = self.repo.clock().now();
        let new = file::write(&self.repo, self.mode, &self.holder, time).await?;
        if time.seconds_since(written).abs() > TRUSTED_SECONDS {
            // Somebody may have judged the old one stale and be removing it right now.
            tokio::time::sleep(SETTLE).await;
            if let Err(lost) = self.must_exist(&old).await {
                file::remove(&self.repo, &new.id()).await?;
                return Err(lost);
            }
        }
        {
            let mut current = self.current.lock();
            current.id = Some(new);
            current.time = time;
            current.leftovers.push(old);
        }
        if let Err(e) = self.remove_leftovers().await {
            // The lock itself is fine, and the next refresh tries again.
            tracing::debug!("an older object of our lock could not be deleted: {}", e.chain());
        }
        Ok(())
    }

    fn current(&self) -> Result<(Id, Time)> {
        let current = self.current.lock();
        let relied = current.id.as_ref().ok_or_else(|| Error::new(Kind::Bug, "a lock was used after its release"))?;
        Ok((relied.id(), current.time))
    }

    async fn remove_leftovers(&self) -> Result<()> {
        loop {
            let Some(id) = self.current.lock().leftovers.last().copied() else { return Ok(()) };
            file::remove(&self.repo, &id).await?;
            self.current.lock().leftovers.retain(|left| *left != id);
        }
    }

    async fn must_exist(&self, id: &Id) -> Result<()> {
        match self.repo.store().head(&file::key(id)?).await {
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

    /// Makes sure that the lock is there and fresh, the first time also that nobody holds one that conflicts: call right
    /// before something is committed.
    ///
    /// # Errors
    /// [`Kind::Locked`] if it was removed, or another is in its way; the store's failures.
    pub async fn verify(&self) -> Result<()> {
        self.0.settle(&self.0.stop).await?;
        let (_, written) = self.0.current()?;
        if self.0.repo.clock().now().seconds_since(written).abs() > TRUSTED_SECONDS {
            return self.0.refresh().await;
        }
        let _turn = self.0.turn.lock().await;
        let (id, _) = self.0.current()?;
        self.0.must_exist(&id).await
    }

    /// Whether the lock of a killed process of this machine was found and removed on the way: it may have left packs
    /// that no index names.
    #[must_use]
    pub fn follows_a_killed_run(&self) -> bool {
        self.0.after_dead
    }

    /// Ends the refreshing and deletes the lock. Safe to repeat after a failure.
    ///
    /// # Errors
    /// The store's failures; it is tried once more when the last clone is dropped, else the next lock that this machine takes
    /// removes it.
    pub async fn release(&self) -> Result<()> {
        self.0.stop.cancel();
        let _turn = self.0.turn.lock().await;
        {
            let mut current = self.0.current.lock();
            let last = current.id.take().map(|relied| relied.id());
            current.leftovers.extend(last);
        }
        self.0.remove_leftovers().await.context(|| "remove the lock")
    }
}
