//! `wal receive`, and the same inside the daemon: a job's WAL is streamed from its server into the archive.
//!
//! Two processes may be told to do it: the server lets only one use the slot, and the other waits for its turn.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::server::Local;
use super::{open, spool};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Error, Kind, Result};
use crate::http::WalMetrics;
use crate::model::Lsn;
use crate::postgres::ConnectionSettings;
use crate::runtime::{Cancel, memory};
use crate::wal::{ReadSettings, ReceiveEvent, ReceiveOptions, Receiver, Watcher};

/// Between two tries to open the archive.
const AGAIN: Duration = Duration::from_secs(15);
/// The same failure is logged again after this long.
const REMIND: Duration = Duration::from_secs(300);
/// The most memory for WAL that is not stored yet.
const MEMORY: u64 = 64 << 20;

/// Told of each hole: a base backup should be made.
pub type OnGap = Arc<dyn Fn() + Send + Sync>;

/// Streams until cancelled. `on_gap` is called when WAL was lost.
///
/// # Errors
/// [`Kind::Usage`] for a job without a `url`; [`Kind::Denied`] for a server that was restored and not adopted; as
/// [`Receiver::run`].
pub async fn run(ctx: &Context, job: &WalJob, metrics: Option<WalMetrics>, on_gap: Option<OnGap>, cancel: &Cancel) -> Result<()> {
    let what = || format!("job {}", job.selector());
    let settings = settings(job)?;
    let watcher =
        Arc::new(Teller { job: job.selector().to_string(), metrics, on_gap, said: Mutex::default(), stored: Mutex::default() });
    let archive = loop {
        let refused = {
            let job = job.clone();
            blocking(move || Local::find(None, None, &job).refuse_restored(&job)).await
        };
        let opened = match refused {
            Ok(()) => open(ctx, job).await,
            Err(e) => Err(e),
        };
        match opened {
            Ok(archive) => break archive,
            Err(e) if e.kind() == Kind::Unavailable => watcher.event(ReceiveEvent::Interrupted(&e)),
            Err(e) => return Err(e).context(what),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    };
    let receiver = Receiver::new(archive, settings, options(ctx, job), watcher.clone());
    let done = receiver.run(cancel).await.context(what);
    if let Some(metrics) = &watcher.metrics {
        metrics.streaming(false);
    }
    done
}

fn options(ctx: &Context, job: &WalJob) -> ReceiveOptions {
    let s = &job.settings;
    let jobs = ctx.settings().tenants.values().map(|t| t.wal.len()).sum::<usize>().max(1) as u64;
    let budget = memory::budget(ctx.settings().limits.memory.unwrap_or(memory::DEFAULT_BUDGET));
    let defaults = ReceiveOptions::new(&s.slot);
    ReceiveOptions {
        max_lag: s.max_lag,
        max_slot_size: s.max_slot_size,
        // More than two at once only helps where a request takes very long.
        parallel: s.parallel.min(2),
        memory: (budget / 4 / jobs).min(MEMORY),
        spool: spool(ctx, job).unwrap_or(defaults.spool),
        slot: defaults.slot,
    }
}

fn settings(job: &WalJob) -> Result<Arc<ReadSettings>> {
    let url = job.settings.url.clone().ok_or_else(|| {
        Error::new(Kind::Usage, format!("job {} names no server to stream from", job.selector()))
            .hint("Add `url` to the `pg_wal` job.")
    })?;
    let password = job.settings.password.clone();
    Ok(Arc::new(move || {
        let settings = ConnectionSettings::parse(&url.read()?)?;
        Ok(match &password {
            Some(password) => settings.with_password(password.read()?),
            None => settings,
        })
    }))
}

/// Logs and counts what happens.
struct Teller {
    job: String,
    metrics: Option<WalMetrics>,
    on_gap: Option<OnGap>,
    said: Mutex<Option<(String, Instant)>>,
    stored: Mutex<Stored>,
}

/// How the store takes what is streamed.
#[derive(Debug, Default)]
struct Stored {
    /// What the last progress said.
    to: Option<Lsn>,
    /// Whether it has advanced since the store last failed. Not so at first: the store may have failed before this began.
    advanced: bool,
}

impl Stored {
    /// Whether this is the first advance after a failure.
    fn recovers(&mut self, to: Lsn) -> bool {
        let advances = self.to.replace(to).is_some_and(|before| before < to);
        let first = advances && !self.advanced;
        self.advanced |= advances;
        first
    }
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Teller({})", self.job)
    }
}

impl Teller {
    /// A failure that goes on is not a new one each second.
    fn is_new(&self, text: &str) -> bool {
        let mut said = self.said.lock();
        let old = said.as_ref().is_some_and(|(last, at)| last == text && at.elapsed() < REMIND);
        if !old {
            *said = Some((text.to_owned(), Instant::now()));
        }
        !old
    }

    fn count(&self, event: &ReceiveEvent<'_>) {
        let Some(metrics) = &self.metrics else { return };
        match event {
            ReceiveEvent::Streaming { .. } => metrics.streaming(true),
            ReceiveEvent::Progress(p) => {
                metrics.stream(p.received.0, p.stored.0, p.kept(), p.waiting);
                metrics.split(p.split);
                if self.stored.lock().recovers(p.stored) {
                    metrics.recovered();
                }
            }
            ReceiveEvent::Gap { .. } => metrics.gap(),
            ReceiveEvent::SlotDropped { .. } => metrics.slot_dropped(),
            ReceiveEvent::StoreFails(e) => {
                self.stored.lock().advanced = false;
                metrics.failed(e.kind());
            }
            ReceiveEvent::Interrupted(_) => metrics.streaming(false),
        }
    }
}

impl Watcher for Teller {
    fn event(&self, event: ReceiveEvent<'_>) {
        self.count(&event);
        let job = &self.job;
        match event {
            ReceiveEvent::Streaming { system, host, timeline, from } => {
                *self.said.lock() = None;
                tracing::info!("job {job}: streaming WAL of system {system} from {host}, timeline {timeline}, from {from} on");
            }
            ReceiveEvent::Progress(_) => {}
            ReceiveEvent::Gap { system, timeline, from, to, reason } => {
                tracing::error!(
                    "job {job}: WAL of system {system} is lost from {from} to {to} on timeline {timeline}: {reason}. No point in time from there to the end of the next base backup can be recovered. Make a base backup now"
                );
                if let Some(on_gap) = &self.on_gap {
                    on_gap();
                }
            }
            ReceiveEvent::SlotDropped { kept } => tracing::error!(
                "job {job}: the replication slot kept {kept} bytes of WAL on the server, more than `max_slot_size`, and was dropped: what is not stored of them is lost"
            ),
            ReceiveEvent::StoreFails(e) => {
                let report = e.report();
                if self.is_new(&report) {
                    tracing::warn!("job {job}: WAL cannot be stored, trying again (the server keeps it meanwhile): {report}");
                }
            }
            ReceiveEvent::Interrupted(e) => {
                let report = e.report();
                if self.is_new(&report) {
                    tracing::warn!("job {job}: no WAL is streamed, trying again: {report}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Metrics;
    use crate::model::Timeline;
    use crate::wal::Progress;

    #[test]
    fn an_outage_of_the_store_ends_when_more_is_stored() {
        let metrics = Metrics::new("test");
        let told = Some(metrics.wal("a", "wal"));
        let teller =
            Teller { job: "a/wal".into(), metrics: told, on_gap: None, said: Mutex::default(), stored: Mutex::default() };
        let progress = |stored| {
            let (received, server) = (Lsn(900), Lsn(900));
            let waiting = Duration::ZERO;
            let p = Progress { timeline: Timeline(1), received, stored: Lsn(stored), server, waiting, split: false };
            teller.event(ReceiveEvent::Progress(p));
        };
        let shows = |failing: u32| {
            let line = format!("strongroom_wal_push_failing{{tenant=\"a\",job=\"wal\"}} {failing}");
            assert!(metrics.to_string().contains(&line), "{line}\n{metrics}");
        };
        let fails = || teller.event(ReceiveEvent::StoreFails(&Error::new(Kind::Unavailable, "no answer")));
        progress(100);
        fails();
        progress(100);
        shows(1);
        progress(200);
        shows(0);
        // What others say of their pushes stays, and the next outage is shown again.
        metrics.wal("a", "wal").failed(Kind::Denied);
        progress(300);
        shows(1);
        fails();
        progress(400);
        shows(0);
        assert!(!metrics.to_string().contains("strongroom_wal_pushed_files_total{tenant=\"a\""), "{metrics}");
    }
}
