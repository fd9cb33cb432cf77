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

/// After a failure, or while another process is at it: at first, and at most. A base backup reads everything.
const AGAIN: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(3600));

/// What became of a base backup that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Made {
    /// There is none.
    Nothing,
    /// There is one that lacks something. Another one at once would lack it, too.
    Incomplete,
    /// There is one.
    Complete,
}

/// Makes base backups of the cluster that a WAL archive belongs to.
#[async_trait]
pub trait BaseJob: Send + Sync + fmt::Debug {
    /// Makes one unless a complete one began after `since`. Tells what there is now. Logs its own failures.
    async fn make(&self, since: Time, cancel: &Cancel) -> Made;
}

/// Looks after one archive until told to stop. `lost` wakes it.
pub(super) async fn watch(ctx: Context, job: WalJob, bases: Vec<Arc<dyn BaseJob>>, lost: Arc<Notify>, stop: Cancel) {
    look_after(&job.selector().to_string(), || newest_gap(&ctx, &job), &bases, &lost, &stop).await;
}

/// `look` tells when the newest hole was noticed.
async fn look_after<R: Future<Output = Result<Option<Time>>>>(
    job: &str,
    look: impl Fn() -> R,
    bases: &[Arc<dyn BaseJob>],
    lost: &Notify,
    stop: &Cancel,
) {
    let mut done: Option<Time> = None;
    let mut pause = AGAIN.0;
    while !stop.is_cancelled() {
        let settled = match look().await {
            Ok(noticed) if noticed <= done => true,
            Ok(noticed) => {
                let noticed = noticed.unwrap_or_default();
                tracing::warn!("job {job}: WAL was lost (noticed at {noticed}); a base backup that began later is needed");
                let mut made = Made::Nothing;
                for base in bases {
                    made = made.max(base.make(noticed, stop).await);
                }
                if made == Made::Incomplete {
                    tracing::error!(
                        "job {job}: the base backup after WAL was lost is incomplete, and is made again only by its schedule: until one is complete, no point in time since can be relied on. Mend what it lacks and make one"
                    );
                }
                if made > Made::Nothing {
                    done = Some(noticed);
                }
                made > Made::Nothing
            }
            Err(e) => {
                tracing::debug!("job {job}: whether WAL was lost is not known: {}", e.chain());
                false
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause), if !settled => {}
            () = lost.notified() => {}
            () = stop.cancelled() => {}
        }
        pause = if settled { AGAIN.0 } else { pause.saturating_mul(2).min(AGAIN.1) };
    }
}

/// When the newest hole of the current system was noticed.
async fn newest_gap(ctx: &Context, job: &WalJob) -> Result<Option<Time>> {
    let archive = open(ctx, job).await?;
    let Some(current) = archive.systems().await?.last().map(|a| a.system) else { return Ok(None) };
    let identity = archive.folder(current).identity().await?;
    Ok(identity.and_then(|i| i.gaps.iter().map(|g| g.noticed).max()))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::Instant;

    use super::*;

    /// Notes after how many seconds it was asked.
    #[derive(Debug)]
    struct Fake(Made, Instant, Mutex<Vec<u64>>);

    #[async_trait]
    impl BaseJob for Fake {
        async fn make(&self, _since: Time, _cancel: &Cancel) -> Made {
            self.2.lock().push(self.1.elapsed().as_secs());
            self.0
        }
    }

    /// When base backups were asked for in four hours; a further hole is noticed after three and a half.
    async fn asked(makes: Made) -> Vec<u64> {
        let fake = Arc::new(Fake(makes, Instant::now(), Mutex::default()));
        let (lost, stop, noticed) = (Notify::new(), Cancel::new(), Mutex::new(Time::new(1_000, 0)));
        let bases: Vec<Arc<dyn BaseJob>> = vec![fake.clone()];
        let look = || std::future::ready(Ok(Some(*noticed.lock())));
        let meanwhile = async {
            tokio::time::sleep(Duration::from_secs(12_600)).await;
            *noticed.lock() = Time::new(2_000, 0);
            lost.notify_one();
            tokio::time::sleep(Duration::from_secs(1_800)).await;
            stop.cancel();
        };
        tokio::join!(look_after("a/wal", look, &bases, &lost, &stop), meanwhile);
        fake.2.lock().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_base_backup_that_is_not_complete_is_not_made_over_and_over() {
        assert_eq!(asked(Made::Complete).await, [0, 12_600]);
        assert_eq!(asked(Made::Incomplete).await, [0, 12_600]);
        assert_eq!(asked(Made::Nothing).await, [0, 120, 360, 840, 1_800, 3_720, 7_320, 10_920, 12_600]);
    }
}
