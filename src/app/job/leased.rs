//! A job's lease, kept fresh while the job runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::lock_holder;
use crate::error::{Context, Result};
use crate::model::JobName;
use crate::runtime::Cancel;
use crate::store::lease::{self, Lease};
use crate::store::{ErrorKind, Key, Store};

/// How long a lease lasts without being refreshed: what a job waits after its daemon was killed.
const TTL: Duration = Duration::from_secs(60);
/// It is refreshed this often.
const REFRESH: Duration = Duration::from_secs(20);

/// A lease with a task that refreshes it. Dropped without [`Held::release`], it expires.
pub(super) struct Held {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Option<Lease>>,
}

/// What came of asking for a lease.
pub(super) enum Asked {
    /// It is ours.
    Taken(Held),
    /// Somebody else's, by that name where it is known.
    Elsewhere(String),
}

/// Where a job's lease is.
pub(super) fn key(job: &JobName) -> Result<Key> {
    Ok(Key::new(format!("strongroom/leases/{job}"))?)
}

/// Asks for a job's lease. `lost` fires when somebody else took it over.
pub(super) async fn acquire(store: &Arc<dyn Store>, job: &JobName, lost: &Cancel) -> Result<Asked> {
    let what = || format!("take the lease of job {job}");
    let holder = lock_holder();
    let owner = format!("{} (pid {})", holder.hostname, holder.pid);
    let key = key(job)?;
    // The token only has to differ from other tokens.
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::from_os_rng();
    let taken = Lease::acquire(Arc::clone(store), key.clone(), &owner, TTL, &mut rng).await.context(what)?;
    let Some(lease) = taken else {
        let holder = lease::peek(store.as_ref(), &key).await.context(what)?;
        return Ok(Asked::Elsewhere(holder.map_or_else(|| "another process".to_owned(), |h| format!("{} since {}", h.owner, h.acquired))));
    };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(keep(lease, stopped, lost.clone()));
    Ok(Asked::Taken(Held { stop: Some(stop), task }))
}

impl Held {
    /// Gives it back, so that the next run need not wait for its end.
    pub(super) async fn release(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task is gone if the lease was lost, and then there is nothing to give back.
            let _ = stop.send(());
        }
        let Ok(Some(lease)) = (&mut self.task).await else { return };
        if let Err(e) = lease.release().await {
            tracing::warn!("the job's lease could not be released and has to expire: {e}");
        }
    }
}

/// Refreshes until told to stop; `None` once it was taken over.
async fn keep(mut lease: Lease, mut stopped: oneshot::Receiver<()>, lost: Cancel) -> Option<Lease> {
    loop {
        tokio::select! {
            _ = &mut stopped => return Some(lease),
            () = tokio::time::sleep(REFRESH) => {}
        }
        match lease.refresh().await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Conflict => {
                tracing::error!("this run stops, since another process took the job over: {e}");
                lost.cancel();
                return None;
            }
            // Nobody takes it before it ends; and if somebody does, the next refresh tells.
            Err(e) => tracing::warn!("the job's lease could not be refreshed, will try again: {e}"),
        }
    }
}
