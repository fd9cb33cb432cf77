//! The lock of those who only read: it keeps a prune away while they do.

use std::future::Future;

use super::lock_holder;
use crate::error::{Kind, Result};
use crate::repository::{LockMode, Repository};
use crate::runtime::Cancel;

/// Runs `work` under a shared lock. Where the credentials may not write locks, it runs without one, with a warning.
///
/// # Errors
/// [`Kind::Locked`] while a prune runs; what `work` says.
pub(super) async fn with_read_lock<T>(
    repository: &Repository,
    cancel: &Cancel,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let lock = match repository.lock(LockMode::Shared, &lock_holder(), cancel).await {
        Ok(lock) => Some(lock),
        Err(e) if e.kind() == Kind::Denied => {
            tracing::warn!(
                "these credentials may not write locks: reading goes on without one, and a prune at the same time could remove what is read"
            );
            None
        }
        Err(e) => return Err(e),
    };
    let result = work.await;
    if let Some(lock) = lock
        && let Err(e) = lock.release().await
    {
        tracing::warn!("the lock could not be removed: {}", e.chain());
    }
    result
}
