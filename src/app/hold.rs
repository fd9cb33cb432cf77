//! Marks a snapshot so that it never expires, or takes the mark away.

use serde::Serialize;

use super::context::lock_holder;
use super::facts::HOLD;
use super::select::Found;
use crate::error::{Context as _, Result};
use crate::model::{Id, TenantName};
use crate::repository::LockMode;
use crate::runtime::Cancel;

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// Whose.
    pub tenant: TenantName,
    /// Its id before.
    pub was: Id,
    /// Its id now; the same if nothing had to be done. References by the id before still work.
    pub id: Id,
    /// Whether it never expires now.
    pub hold: bool,
}

/// Rewrites the snapshot with or without the tag `hold`: the new one is written first, then the old one removed, so
/// that an interruption leaves both and never none.
///
/// # Errors
/// [`crate::error::Kind::Locked`] while a prune runs; the store's failures.
pub async fn run(found: &Found, hold: bool, cancel: &Cancel) -> Result<Held> {
    let (repo, old) = (&found.repository, &found.snapshot);
    let same = Held { tenant: found.tenant.clone(), was: old.id, id: old.id, hold };
    if old.file.has_tag(HOLD) == hold {
        return Ok(same);
    }
    let lock = repo.lock(LockMode::Shared, &lock_holder(), cancel).await?;
    let mut file = old.file.clone();
    file.tags.retain(|t| t != HOLD);
    if hold {
        file.tags.push(HOLD.to_owned());
    }
    // Kept from the first rewriting on, so that the id somebody wrote down still finds it.
    file.original = file.original.or(Some(old.id));
    let rewritten = async {
        lock.verify().await?;
        let id = repo.save_snapshot(&file).await?;
        repo.remove_snapshot(old.id).await.context(|| format!("remove the former version {}", old.id.short()))?;
        Ok::<_, crate::error::Error>(id)
    };
    let rewritten = rewritten.await;
    let released = lock.release().await;
    let id = rewritten.context(|| format!("rewrite snapshot {}", old.id.short()))?;
    released?;
    Ok(Held { id, ..same })
}
