//! Collects what no snapshot needs any more: repacks, then deletes. Always after snapshots were removed, and alone in the
//! repository (exclusive lock), so that nothing a running backup relies on goes.

use crate::error::{Kind, Result};
use crate::model::Time;
use crate::repository::{LockMode, RepoLock, Repository};
use crate::store::{ErrorKind, Key, Payload, PutMode};

use super::{Context, lock_holder};

/// Written after each collection; its time is the store's own.
const MARK: &str = "strongroom/collected";
/// The daemon collects at most this often, in seconds: repacking costs requests and bytes.
const EVERY_SECS: f64 = 23.0 * 3600.0;

/// Collects unless that was done within the last day. Somebody at work in the repository puts it off.
///
/// # Errors
/// The store's failures, damage that was met. What is unneeded then stays, and is collected later.
pub(super) async fn when_due(ctx: &Context, repo: &Repository) -> Result<()> {
    let last = match repo.store().head(&Key::new(MARK)?).await {
        Ok(meta) => Some(meta.modified),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let now: Time = ctx.store_time(repo.store()).await?;
    if last.is_some_and(|last| now.seconds_since(last).abs() < EVERY_SECS) {
        return Ok(());
    }
    let lock = match repo.lock(LockMode::Exclusive, &lock_holder(), ctx.cancel()).await {
        Ok(lock) => lock,
        Err(e) if e.kind() == Kind::Locked => {
            tracing::info!("collecting is put off: {}", e.chain());
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let done = run(ctx, repo, &lock).await;
    let released = lock.release().await;
    done?;
    released
}

/// Collects under an exclusive lock.
///
/// # Errors
/// As [`when_due`].
pub(super) async fn run(ctx: &Context, repo: &Repository, lock: &RepoLock) -> Result<()> {
    ctx.cancel().check()?;
    lock.verify().await?;
    repo.store().put(&Key::new(MARK)?, Payload::from(b"1\n".to_vec()), PutMode::Overwrite).await?;
    Ok(())
}
