//! After WAL was lost, a base backup: without one, nothing behind the hole can be recovered.
//!
//! What is to be done is read from the archive, so a process that dies in between changes nothing: a hole asks for a base backup
//! until one is there that began after it was noticed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::open;
use crate::app::Context;
use crate::config::settings::WalJob;
use crate::error::Result;
use crate::model::Time;
use crate::runtime::Cancel;

/// After a failure, or while another process is at it.
const AGAIN: Duration = Duration::from_secs(120);

/// Makes base backups of the cluster that a WAL archive belongs to.
#[async_trait]
pub trait BaseJob: Send + Sync + fmt::Debug {
    /// Makes one unless a complete one began after `since`. Tells whether there is one now. Logs its own failures.
    async fn make(&self, since: Time, cancel: &Cancel) -> bool;
}

/// Looks after one archive until told to stop. `lost` wakes it.
pub(super) async fn watch(ctx: Context, job: WalJob, bases: Vec<Arc<dyn BaseJob>>, lost: Arc<Notify>, stop: Cancel) {
    let mut done: Option<Time> = None;
    while !stop.is_cancelled() {
        let settled = match newest_gap(&ctx, &job).await {
            Ok(noticed) if noticed <= done => true,
            Ok(noticed) => {
                let noticed = noticed.unwrap_or_default();
                tracing::warn!(
                    "job {}: WAL was lost (noticed at {noticed}); a base backup that began later is needed",
                    job.selector()
                );
                let mut made = false;
                for base in &bases {
                    made |= base.make(noticed, &stop).await;
                }
                if made {
                    done = Some(noticed);
                }
                made
            }
            Err(e) => {
                tracing::debug!("job {}: whether WAL was lost is not known: {}", job.selector(), e.chain());
                false
            }
        };
        tokio::select! {
            () = tokio::time::sleep(AGAIN), if !settled => {}
            () = lost.notified() => {}
            () = stop.cancelled() => {}
        }
    }
}

/// When the newest hole of the current system was noticed.
async fn newest_gap(ctx: &Context, job: &WalJob) -> Result<Option<Time>> {
    let archive = open(ctx, job).await?;
    let Some(current) = archive.systems().await?.last().map(|a| a.system) else { return Ok(None) };
    let identity = archive.folder(current).identity().await?;
    Ok(identity.and_then(|i| i.gaps.iter().map(|g| g.noticed).max()))
}
