//! Collects what no snapshot needs any more: repacks, then deletes. Always after snapshots were removed, and alone in the
//! repository (exclusive lock), so that nothing a running backup relies on goes.

use std::sync::Arc;

use super::{Context, blocking, lock_holder, memory_share};
use crate::error::{Context as _, Kind, Result};
use crate::repository::{LockMode, PruneOptions, PruneProgress, PruneStats, RepoLock, Repository, plan_prune};
use crate::store::{ErrorKind, Key, Payload, PutMode};

/// Written after each collection; its time is the store's own.
const MARK: &str = "strongroom/collected";
/// The daemon collects at most this often, in seconds: repacking costs requests and bytes.
const EVERY_SECS: f64 = 23.0 * 3600.0;

/// Collects unless that was done within the last day. Somebody at work in the repository puts it off.
///
/// # Errors
/// As [`run`].
pub(super) async fn when_due(ctx: &Context, repo: &Repository) -> Result<Option<PruneStats>> {
    let last = match repo.store().head(&Key::new(MARK)?).await {
        Ok(meta) => Some(meta.modified),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let now = ctx.store_time(repo.store()).await?;
    if last.is_some_and(|last| now.seconds_since(last).abs() < EVERY_SECS) {
        return Ok(None);
    }
    let lock = match repo.lock(LockMode::Exclusive, &lock_holder(), ctx.cancel()).await {
        Ok(lock) => lock,
        Err(e) if e.kind() == Kind::Locked => {
            tracing::info!("collecting is put off: {}", e.chain());
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let done = run(ctx, repo, &lock).await;
    let released = lock.release().await;
    let stats = done?;
    released?;
    Ok(Some(stats))
}

/// Collects under an exclusive lock, and tells what it did.
///
/// # Errors
/// Damage that leaves in doubt what is needed ([`Kind::Corrupt`]; nothing is deleted then), a lost lock, the store's
/// failures. What is unneeded stays, and is collected next time.
pub(super) async fn run(ctx: &Context, repo: &Repository, lock: &RepoLock) -> Result<PruneStats> {
    let (held, repository, cancel) = (lock.clone(), repo.clone(), ctx.cancel().clone());
    let options = PruneOptions::for_memory(memory_share(ctx.settings(), 1));
    let stats = blocking(move || {
        let prune = plan_prune(&repository, &options, &cancel)?;
        if !prune.is_nothing() {
            prune.execute(&held, &Arc::new(PruneProgress::default()), &cancel)?;
        }
        Ok(prune.stats().clone())
    })
    .await
    .context(|| "collect what no snapshot needs")?;
    repo.store().put(&Key::new(MARK)?, Payload::from(b"1\n".to_vec()), PutMode::Overwrite).await?;
    tracing::info!("collected: {}", describe(&stats));
    Ok(stats)
}

/// In one line.
#[must_use]
pub fn describe(stats: &PruneStats) -> String {
    let packs = stats.packs_deleted + stats.packs_repacked + stats.orphans_deleted;
    let left = stats.bytes_unused_left;
    let text = format!(
        "{packs} packs with {} bytes deleted, {} bytes copied, {left} unneeded bytes stay",
        stats.bytes_deleted, stats.bytes_repacked
    );
    match &stats.held_back {
        Some(why) => format!("{text} ({why})"),
        None => text,
    }
}
