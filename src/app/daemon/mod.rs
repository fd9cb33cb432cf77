//! `strongroom run`: the daemon. Listens, schedules, reloads, ends.
//!
//! - What is scheduled is decided by [`scheduler`] alone; [`turn`] is the loop around it; a run is `app::job`'s.
//! - **State lives in the store**: when each job last succeeded is read from its repository at start, so a missed run
//!   is caught up once, by whichever process is there.
//! - **Reload** on SIGHUP and when the file's content changes. A configuration with mistakes is refused, and the one in
//!   use goes on; so does one that wants to run programs where the process was not started with leave to.
//! - **End**: when told to stop (SIGTERM, SIGINT), what runs is cancelled, which keeps what was uploaded and gives locks and
//!   leases back, and waited for at most for the grace period.

mod entries;
mod reload;
mod scheduler;
mod turn;
mod wanted;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Settings, settings::Http};
use crate::error::{Context as _, Result};
use crate::http::{self, Health, Metrics};
use crate::runtime::{Cancel, Clock};

pub use reload::Origin;

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the configuration came from, to read it again; `None` where it did not come from a file.
    pub origin: Option<Origin>,
    /// How long running jobs have to end after SIGTERM. Keep it a few seconds below the pod's own grace period.
    pub grace: Duration,
}

impl Options {
    /// Reloads from `file` with the process's environment, as [`Origin::of_process`]; 25 s of grace, which fits a pod's default of 30.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { origin: file.map(Origin::of_process), grace: Duration::from_secs(25) }
    }
}

/// Runs until `stop` fires. If that takes longer than the grace period, jobs still run when this returns: the caller must
/// then end the process without waiting for its threads.
///
/// # Errors
/// An address that cannot be listened on; [`crate::error::Kind::Cancelled`] if jobs had to be cut off.
pub async fn run(settings: Settings, options: Options, clock: Arc<dyn Clock>, stop: Cancel) -> Result<()> {
    let (health, metrics) = (Health::new(clock.clone()), Metrics::default());
    let served = Cancel::new();
    let server = match &settings.http {
        Http { metrics: Some(address) } => {
            let listener = http::bind(&address.to_string()).await?;
            tracing::info!("serving /metrics, /healthz and /readyz on {address}");
            Some(tokio::spawn(http::serve(listener, metrics.clone(), health.clone(), served.clone())))
        }
        Http { metrics: None } => None,
    };
    let hang_up = signal(SignalKind::hangup()).context(|| "listen for SIGHUP")?;
    let (events, inbox) = mpsc::channel(1);
    let (asker, wanted) = wanted::channel();
    let builder = entries::Builder { clock: clock.clone(), metrics: metrics.clone(), http: settings.http.clone(), asker };
    let first = builder.build(settings)?;
    let watch =
        options.origin.map(|origin| tokio::spawn(reload::watch(origin, builder, events.clone(), hang_up, metrics.clone())));
    // Held, so that the loop's inbox stays open where nothing is watched.
    let _events = events;
    let ended = turn::Turn::new(clock, health, metrics).run(first, (inbox, wanted), stop, options.grace).await;
    if let Some(watch) = watch {
        watch.abort();
    }
    served.cancel();
    if let Some(server) = server {
        // Probes that are open get their answer; nobody is waited for.
        drop(tokio::time::timeout(Duration::from_millis(500), server).await);
    }
    ended
}

#[cfg(test)]
mod tests;
