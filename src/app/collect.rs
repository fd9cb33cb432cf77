//! Removes data that no snapshot refers to.

use super::Context;
use crate::error::Result;
use crate::repository::{RepoLock, Repository};

/// Collects under the exclusive lock.
///
/// # Errors
/// The store's failures.
#[allow(clippy::unused_async, reason = "the engine's part is async")]
pub(super) async fn run(_ctx: &Context, _repo: &Repository, _lock: &RepoLock) -> Result<Option<serde_json::Value>> {
    Ok(None)
}
