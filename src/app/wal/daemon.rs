//! What the daemon does for its `pg_wal` jobs, all the time: it serves their sockets, streams WAL where it is to be streamed, and
//! watches what waits to be archived.
//!
//! A socket that cannot be served is told and tried again; the other jobs go on. A new configuration takes the sockets over from
//! the old one, which still answers what is under way, if that comes soon; a client that comes in between asks again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::rebase::{self, BaseJob};
use super::shipper::Shipper;
use super::socket::{Listening, Place, Service, serve};
use super::{receive, spool, status};
use crate::app::{Context, blocking};
use crate::config::settings::{WalJob, WalMode};
use crate::error::{Error, Kind, Result};
use crate::http::{Metrics, WalMetrics};
use crate::runtime::{Cancel, secret};

/// Between two tries to serve a socket.
const AGAIN: Duration = Duration::from_secs(10);
/// How often `archive_status` is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// The services of a configuration, not started yet.
#[derive(Debug, Default)]
pub struct Services {
    sockets: BTreeMap<PathBuf, (Place, Vec<Arc<Shipper>>)>,
    jobs: Vec<(WalJob, WalMetrics, Vec<Arc<dyn BaseJob>>)>,
    ctx: Option<Context>,
}

impl Services {
    /// Of the `pg_wal` jobs of a configuration. Starts nothing. `bases` knows the jobs that make base backups of an archive's cluster.
    ///
    /// # Errors
    /// [`Kind::Denied`] for a job that wants to run a program (for a secret) where the process was not started with leave to.
    pub fn of(ctx: &Context, metrics: &Metrics, bases: impl Fn(&WalJob) -> Vec<Arc<dyn BaseJob>>) -> Result<Self> {
        let mut out = Self { ctx: Some(ctx.clone()), ..Self::default() };
        let jobs = ctx.wal_jobs(None)?;
        let with_socket = jobs.iter().filter(|job| job.settings.socket.is_some()).count();
        for job in jobs {
            check_commands(ctx, job)?;
            let metrics = metrics.wal(job.tenant.as_str(), job.name.as_str());
            metrics.known();
            out.jobs.push((job.clone(), metrics.clone(), bases(job)));
            let Some(path) = &job.settings.socket else { continue };
            let prefetch = spool(ctx, job).map(|dir| dir.join("ahead"));
            let shipper = Arc::new(Shipper::new(ctx.clone(), job.clone(), prefetch, Some(metrics)).one_of(with_socket));
            let settings = &job.settings;
            let place = || Place {
                path: path.clone(),
                uids: settings.socket_uids.clone(),
                gids: settings.socket_gids.clone(),
                mode: 0o660,
            };
            out.sockets.entry(path.clone()).or_insert_with(|| (place(), Vec::new())).1.push(shipper);
        }
        Ok(out)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}

/// The services in force.
#[derive(Debug, Default)]
pub struct Running {
    /// Of the process.
    end: Cancel,
    /// Of the services in force.
    stop: Cancel,
    tasks: JoinSet<()>,
    metrics: Arc<Mutex<ByName>>,
}

/// Metrics by tenant and job.
type ByName = BTreeMap<(String, String), WalMetrics>;

/// Removes what is shown of these, unless they are in the configuration.
fn forget(gone: &ByName, configured: &ByName) {
    gone.iter().filter(|(name, _)| !configured.contains_key(*name)).for_each(|(_, metrics)| metrics.forget());
}

impl Running {
    /// Starts these and ends those before.
    pub fn replace(&mut self, services: Services) {
        let before = std::mem::replace(&mut self.stop, self.end.child());
        let names: ByName =
            services.jobs.iter().map(|(j, m, _)| ((j.tenant.to_string(), j.name.to_string()), m.clone())).collect();
        let earlier = std::mem::replace(&mut *self.metrics.lock(), names.clone());
        forget(&earlier, &names);
        let (mut ending, metrics) = (std::mem::take(&mut self.tasks), self.metrics.clone());
        self.tasks.spawn(async move {
            while ending.join_next().await.is_some() {}
            // They told of their end.
            forget(&earlier, &metrics.lock());
        });
        for (place, shippers) in services.sockets.into_values() {
            self.tasks.spawn(keep_serving(place, shippers, (self.stop.clone(), self.end.clone()), names.clone()));
        }
        if let Some(ctx) = services.ctx {
            for (job, metrics, bases) in services.jobs {
                if job.settings.mode == WalMode::Receive {
                    let lost = Arc::new(Notify::new());
                    self.tasks.spawn(keep_receiving(ctx.clone(), job.clone(), metrics.clone(), lost.clone(), self.stop.clone()));
                    if !bases.is_empty() {
                        self.tasks.spawn(rebase::watch(ctx.clone(), job.clone(), bases, lost, self.stop.clone()));
                    }
                }
                self.tasks.spawn(watch(ctx.clone(), job, metrics, self.stop.clone()));
            }
        }
        before.cancel();
    }

    /// Ends all; the future is done when they have ended.
    pub fn end(&mut self) -> impl Future<Output = ()> + use<> {
        self.end.cancel();
        let mut tasks = std::mem::take(&mut self.tasks);
        async move { while tasks.join_next().await.is_some() {} }
    }
}

/// Serves one socket until told to end, whatever happens to it.
async fn keep_serving(place: Place, shippers: Vec<Arc<Shipper>>, (stop, end): (Cancel, Cancel), metrics: ByName) {
    let tell = |up: bool| {
        for shipper in &shippers {
            let job = shipper.job();
            if let Some(metrics) = metrics.get(&(job.tenant.to_string(), job.name.to_string())) {
                metrics.listening(up);
            }
        }
    };
    let mut said = String::new();
    while !stop.is_cancelled() {
        let served = match Listening::at(&place) {
            Ok(listening) => {
                tracing::info!("taking WAL on {}", place.path.display());
                said.clear();
                tell(true);
                let service = Arc::new(Service::new(shippers.iter().cloned(), stop.clone(), end.clone()));
                serve(listening, service).await
            }
            Err(e) => Err(e),
        };
        if let Err(e) = served {
            tell(false);
            let report = e.report();
            if said != report {
                tracing::error!("no WAL is taken on {}: {report}", place.path.display());
                said = report;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => {}
            }
        }
    }
    for shipper in &shippers {
        shipper.flush().await;
    }
}

/// Streams one job's WAL until told to end, whatever happens to it.
async fn keep_receiving(ctx: Context, job: WalJob, metrics: WalMetrics, lost: Arc<Notify>, stop: Cancel) {
    let mut said = String::new();
    while !stop.is_cancelled() {
        let lost = lost.clone();
        let on_gap: receive::OnGap = Arc::new(move || lost.notify_one());
        let Err(e) = receive::run(&ctx, &job, Some(metrics.clone()), Some(on_gap), &stop).await else { continue };
        metrics.streaming(false);
        let report = e.report();
        if said != report {
            tracing::error!("no WAL is streamed: {report}");
            said = report;
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Measures what waits to be archived, where it can be seen.
async fn watch(ctx: Context, job: WalJob, metrics: WalMetrics, stop: Cancel) {
    let Some(data) = job.settings.data_directory.clone() else { return };
    while !stop.is_cancelled() {
        let (dir, now) = (data.join("pg_wal"), ctx.clock().now());
        match blocking(move || status::waiting(&dir, now)).await {
            Ok(waiting) => metrics.ready(waiting.files, waiting.oldest_seconds),
            Err(e) => tracing::debug!("job {}: {}", job.selector(), e.chain()),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// As [`crate::app::check_commands`], for a WAL archive.
fn check_commands(ctx: &Context, job: &WalJob) -> Result<()> {
    let of = [
        format!("tenants.{}.jobs.{}.", job.tenant, job.name),
        format!("tenants.{}.repository.", job.tenant),
        "repository.".to_owned(),
    ];
    let wanted = ctx.settings().commands.iter().find(|c| of.iter().any(|prefix| c.starts_with(prefix)));
    match wanted {
        Some(path) if !secret::commands_allowed() => {
            let what = format!(
                "the configuration wants to run a program ({path}), and this process was not started with leave to run any"
            );
            Err(Error::new(Kind::Denied, what)
                .hint("Start it with --allow-commands (or STRONGROOM_ALLOW_COMMANDS=true) if you trust the configuration."))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, load_text};
    use crate::runtime::SystemClock;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_an_archive_that_went_tells_of_its_end_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        // A server that takes connections and says nothing.
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let archive = format!(
            "wal: {{ pg_wal: {{ mode: receive, url: 'postgres://x@127.0.0.1:{}/x', socket: none }} }}",
            server.local_addr().unwrap().port()
        );
        let ctx = |jobs: &str| {
            let text = format!(
                "environment: test\nrepository: {{ url: 'file://{}', password: {{ value: x }} }}\ntenants: {{ a: {{ jobs: {{ {jobs} }} }} }}\n",
                dir.path().display()
            );
            Context::new(load_text(&text, Format::Yaml, None, []).unwrap(), Arc::new(SystemClock), Cancel::new())
        };
        let with = ctx(&archive);
        crate::app::init::run(&with, &"a".parse().unwrap()).await.unwrap();
        let metrics = Metrics::new("test");
        let mut running = Running::default();
        running.replace(Services::of(&with, &metrics, |_| Vec::new()).unwrap());
        // It is at it.
        let asked = crate::app::blocking(move || Ok((server.accept().unwrap(), server))).await.unwrap();
        metrics.wal("a", "wal").gap();
        running.replace(Services::of(&ctx("x: { volume: { path: /x } }"), &metrics, |_| Vec::new()).unwrap());
        running.end().await;
        assert!(!metrics.to_string().contains("job=\"wal\""), "{metrics}");
        drop(asked);
    }
}
