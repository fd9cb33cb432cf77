//! Removes locks proven dead.

use serde::Serialize;

use super::Context;
use super::context::lock_holder;
use crate::error::Result;
use crate::model::{TenantName, Time};

/// What was removed and what stays.
#[derive(Debug, Clone, Serialize)]
pub struct Unlocked {
    /// Whose.
    pub tenant: TenantName,
    /// How many locks were removed.
    pub removed: usize,
    /// Those of holders that may live.
    pub remaining: Vec<Remaining>,
}

/// A lock that stays.
#[derive(Debug, Clone, Serialize)]
pub struct Remaining {
    /// Machine of the holder.
    pub hostname: String,
    /// User of the holder.
    pub username: String,
    /// Process of the holder.
    pub pid: u32,
    /// When it was last refreshed.
    pub time: Time,
    /// Whether it is held alone.
    pub exclusive: bool,
}

/// Removes the locks of processes of this machine that no longer run, and those that were not refreshed for over 30
/// minutes by the store's own clock. A live writer refreshes every five minutes, and commits nothing after it lost its lock.
///
/// # Errors
/// The store's failures; a lock that cannot be read.
pub async fn run(ctx: &Context, tenant: &TenantName) -> Result<Unlocked> {
    let repo = ctx.repository(tenant).await?;
    let (removed, left) = repo.remove_dead_locks(&lock_holder().hostname, &|_| true).await?;
    let remaining = left.into_iter().map(|l| Remaining {
        hostname: l.hostname,
        username: l.username,
        pid: l.pid,
        time: l.time,
        exclusive: l.exclusive,
    });
    Ok(Unlocked { tenant: tenant.clone(), removed, remaining: remaining.collect() })
}
