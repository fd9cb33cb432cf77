//! The slot on the other hosts: made there too, and moved along with what is stored, so that whichever host is next still has
//! the WAL that is missing, and none keeps more than that.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::ReceiveOptions;
use super::begin::Connected;
use crate::error::{Context, Error, Kind};
use crate::model::Lsn;
use crate::postgres::{ConnectionSettings, SlotCare, keep_physical_slot};

/// How often the slots are moved. Between two of them the others keep a little more than they must.
const EVERY: Duration = Duration::from_secs(20);
/// How long one host may take.
const LIMIT: Duration = Duration::from_secs(15);

/// A host that fails is told of in the log after this many times in a row, a minute, and then every hour.
const TOLD: (u32, u32) = (3, 180);

/// Ends when dropped.
pub(super) struct Keeper {
    stored: watch::Sender<Lsn>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl Keeper {
    /// Looks after every host of these settings but the one that is streamed from.
    pub(super) fn start(settings: &ConnectionSettings, connected: &Connected, options: &ReceiveOptions) -> Self {
        let (stored, position) = watch::channel(Lsn(0));
        let others = settings.others(connected.replication.settings());
        let some = !others.is_empty();
        let system = connected.folder.system().identifier;
        let care = SlotCare { name: options.slot.clone(), system, most: options.max_slot_size };
        let work = async move {
            let mut failures = vec![0_u32; others.len()];
            loop {
                for (host, failed) in others.iter().zip(&mut failures) {
                    let at = *position.borrow();
                    let done = tokio::time::timeout(LIMIT, keep_physical_slot(host, &care, at)).await;
                    let done = done.unwrap_or_else(|_| Err(Error::new(Kind::Unavailable, "no answer in time")));
                    let Err(e) = done.context(|| format!("keep the replication slot {} of {host} up to date", care.name)) else {
                        *failed = 0;
                        continue;
                    };
                    *failed = failed.saturating_add(1);
                    if *failed % TOLD.1 == TOLD.0 {
                        tracing::warn!("{}; after a failover to it WAL may be missing", e.chain());
                    } else {
                        tracing::debug!("{}", e.chain());
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        };
        let task = some.then(|| AbortOnDropHandle::new(tokio::spawn(work)));
        Self { stored, _task: task }
    }

    /// Everything before this is stored.
    pub(super) fn stored(&self, position: Lsn) {
        self.stored.send_replace(position);
    }
}
