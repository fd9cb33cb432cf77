//! A job's lease, kept fresh while the job runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::lock_holder;
use crate::error::{Context, Result};
use crate::model::JobName;
use crate::runtime::{Cancel, process};
use crate::store::lease::{self, Lease};
use crate::store::{ErrorKind, Key, Store};

/// How long a lease lasts without being refreshed: what a job waits after its daemon was killed.
const TTL: Duration = Duration::from_secs(60);
/// It is refreshed this often.
const REFRESH: Duration = Duration::from_secs(20);

/// A lease with a task that refreshes it. Dropped without [`Held::release`], it expires.
pub(in crate::app) struct Held {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Option<Lease>>,
}

/// What came of asking for a lease.
pub(in crate::app) enum Asked {
    /// It is ours.
    Taken(Held),
    /// Somebody else's, by that name where it is known.
    Elsewhere(String),
}

/// Where a job's lease is.
pub(in crate::app) fn key(job: &JobName) -> Result<Key> {
    Ok(Key::new(format!("strongroom/leases/{job}"))?)
}

/// Where the lease of a job's drills is; no job has such a name.
pub(in crate::app) fn drill_key(job: &JobName) -> Result<Key> {
    Ok(Key::new(format!("strongroom/leases/{job}.drill"))?)
}

/// Asks for a lease. `lost` fires when somebody else took it over.
pub(in crate::app) async fn acquire(store: &Arc<dyn Store>, key: Key, lost: &Cancel) -> Result<Asked> {
    let what = || format!("take the lease {key}");
    let owner = owner();
    // The token only has to differ from other tokens.
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::from_os_rng();
    let taken = Lease::acquire_or_inherit(Arc::clone(store), key.clone(), &owner, TTL, &mut rng, &is_dead).await.context(what)?;
    let Some(lease) = taken else {
        let holder = lease::peek(store.as_ref(), &key).await.context(what)?;
        return Ok(Asked::Elsewhere(
            holder.map_or_else(|| "another process".to_owned(), |h| format!("{} since {}", h.owner, h.acquired)),
        ));
    };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(keep(lease, stopped, lost.clone()));
    Ok(Asked::Taken(Held { stop: Some(stop), task }))
}

/// This process: machine, process, and the space in which that number means something (containers of one pod share
/// a name, and each has its own process 1).
fn owner() -> String {
    let holder = lock_holder();
    format!("{} (pid {}, {})", holder.hostname, holder.pid, pid_space())
}

fn pid_space() -> String {
    std::fs::read_link("/proc/self/ns/pid").map_or_else(|_| "pid:?".to_owned(), |p| p.display().to_string())
}

/// Whether an owner is a process of this machine that is gone. Where that cannot be told, it is not.
fn is_dead(owner: &str) -> bool {
    let holder = lock_holder();
    let of_here = owner
        .strip_prefix(&format!("{} (pid ", holder.hostname))
        .and_then(|rest| rest.strip_suffix(&format!(", {})", pid_space())));
    let Some(pid) = of_here.and_then(|pid| pid.parse::<u32>().ok()) else { return false };
    // Our own number on a lease that we ask for is another run of this process, which is alive.
    pid != holder.pid && std::path::Path::new("/proc/self").exists() && !process::exists(pid)
}

impl Held {
    /// Gives it back, so that the next run need not wait for its end.
    pub(in crate::app) async fn release(mut self) {
        if let Some(stop) = self.stop.take() {
            // The task is gone if the lease was lost, and then there is nothing to give back.
            stop.send(()).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_this_machine_that_is_gone_is_dead() {
        let host = lock_holder().hostname;
        assert!(!is_dead(&owner()));
        assert!(!is_dead(&format!("{host} (pid 1, {})", pid_space())));
        assert!(is_dead(&format!("{host} (pid 4194999, {})", pid_space())), "beyond the largest number of a process");
        for other in [
            format!("elsewhere (pid 4194999, {})", pid_space()),
            format!("{host} (pid 4194999, pid:[1])"),
            format!("{host} (pid x, {})", pid_space()),
            host,
            String::new(),
        ] {
            assert!(!is_dead(&other), "{other}");
        }
    }
}
