//! Settings → what the loop schedules.

use std::sync::Arc;

use async_trait::async_trait;

use super::scheduler::{Entry, Limits};
use super::turn::{DRILL, Ended, Loaded, Task};
use super::wanted::Asker;
use crate::app::{Context, check_commands, drill, heartbeat, job, wal};
use crate::config::Settings;
use crate::config::settings::{Http, Job, WalJob};
use crate::error::Result;
use crate::http::Metrics;
use crate::model::Time;
use crate::runtime::{Cancel, Clock, memory};
use crate::schedule::Schedule;
use crate::source::SourceSettings;
use crate::store::{self, StoreUrl};

/// Makes entries of settings, the same way at start and at each reload.
#[derive(Debug, Clone)]
pub(super) struct Builder {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    /// What the process serves since it started; changes need a restart.
    pub(super) http: Http,
    /// For backups that are wanted now.
    pub(super) asker: Asker,
}

impl Builder {
    /// # Errors
    /// Jobs that want to run programs without leave.
    pub(super) fn build(&self, settings: Settings) -> Result<Loaded> {
        if settings.http != self.http {
            tracing::warn!("`http` changed in the configuration; that takes effect when the process is started again");
        }
        let limits = Limits { total: settings.limits.jobs, per_store: settings.limits.jobs_per_store };
        // A world of its own: repositories are opened anew, with the passwords and credentials of now.
        let ctx = Context::new(settings, self.clock.clone(), Cancel::new());
        let jobs = ctx.jobs(None)?;
        check_commands(&jobs, ctx.settings())?;
        let budget = memory::budget(ctx.settings().limits.memory.unwrap_or(memory::DEFAULT_BUDGET));
        let at_once = limits.total.min(jobs.len()).max(1);
        let share = budget / at_once as u64;
        let entries: Result<Vec<_>> = jobs.into_iter().map(|job| self.entry(&ctx, job, share)).collect();
        let mut entries = entries?;
        for job in ctx.settings().tenants.values().flat_map(|t| t.jobs.values()) {
            entries.extend(self.drill(&ctx, job)?);
        }
        let bases = |archive: &WalJob| -> Vec<Arc<dyn wal::rebase::BaseJob>> {
            let of_cluster =
                |job: &&Job| matches!(&job.source, SourceSettings::PgBase(s) if s.cluster == archive.settings.cluster);
            let jobs = ctx.tenant(&archive.tenant).map(|t| t.jobs.values().collect::<Vec<_>>()).unwrap_or_default();
            jobs.into_iter()
                .filter(of_cluster)
                .map(|job| Arc::new(OnDemand { name: job.selector().to_string(), asker: self.asker.clone() }) as _)
                .collect()
        };
        let services = wal::daemon::Services::of(&ctx, &self.metrics, bases)?;
        if entries.is_empty() && services.is_empty() {
            tracing::warn!("the configuration has no jobs");
        }
        let heartbeats = heartbeat::of(&ctx);
        Ok(Loaded { entries, limits, services, heartbeats })
    }

    fn entry(&self, ctx: &Context, job: &Job, memory: u64) -> Result<Entry<Arc<dyn Task>>> {
        let name = job.selector().to_string();
        let quiet = ctx.settings().limits.quiet_hours.clone();
        let schedule = Schedule::new(&job.schedule, &name, job.jitter, 0, quiet)?;
        let (store, history) = places(&ctx.tenant(&job.tenant)?.repository.store);
        Ok(Entry { name, store, history, schedule, task: Arc::new(self.backup(ctx, job, memory)) })
    }

    fn backup(&self, ctx: &Context, job: &Job, memory: u64) -> Backup {
        let metrics = self.metrics.job(job.tenant.as_str(), job.name.as_str());
        Backup { ctx: ctx.clone(), job: job.clone(), metrics, memory }
    }
}

impl Builder {
    /// The drills of a job, where they have a schedule.
    fn drill(&self, ctx: &Context, job: &Job) -> Result<Option<Entry<Arc<dyn Task>>>> {
        let metrics = self.metrics.drill(job.tenant.as_str(), job.name.as_str());
        if !drill::is_expected(job) {
            return Ok(None);
        }
        let name = format!("{}{DRILL}", job.selector());
        let quiet = ctx.settings().limits.quiet_hours.clone();
        let schedule = Schedule::new(&job.drill.schedule, &name, std::time::Duration::ZERO, 0, quiet)?;
        let (store, history) = places(&ctx.tenant(&job.tenant)?.repository.store);
        let task = Arc::new(Drill { ctx: ctx.clone(), job: job.clone(), metrics });
        Ok(Some(Entry { name, store, history, schedule, task }))
    }
}

/// Drills a job of the configuration.
struct Drill {
    ctx: Context,
    job: Job,
    metrics: crate::http::DrillMetrics,
}

impl std::fmt::Debug for Drill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "drill of {}", self.job.selector())
    }
}

#[async_trait]
impl Task for Drill {
    fn in_force(&self) {
        self.metrics.wanted(self.job.drill.max_age.map(|d| d.as_secs_f64()));
    }

    async fn last_success(&self) -> Result<Option<Time>> {
        drill::learn(&self.ctx, &self.job, &self.metrics).await
    }

    async fn run(&self, due: Time, cancel: &Cancel) -> Ended {
        let ctx = self.ctx.with_cancel(cancel.clone());
        let options = drill::Options { due: Some(due), metrics: Some(self.metrics.clone()), ..drill::Options::default() };
        match drill::run(&ctx, &self.job, &options).await {
            Ok(drill::Outcome::Already(begun)) => {
                tracing::info!("drilled already by another process, which began at {begun}");
                Ended::Done(by_the_clock_here(begun, due, ctx.clock().now()))
            }
            Ok(drill::Outcome::Elsewhere(who)) => {
                tracing::info!("being drilled elsewhere: {who}");
                Ended::Elsewhere
            }
            Ok(drill::Outcome::Drilled(report)) => match report.error() {
                None => {
                    let seconds = |s: Option<f64>| s.map_or_else(|| "?".to_owned(), |s| format!("{s:.1} s"));
                    tracing::info!(
                        "the drill passed: recovery point {}, recovery time {}",
                        seconds(report.rpo_seconds),
                        seconds(report.rto_seconds)
                    );
                    Ended::Done(by_the_clock_here(report.started, due, ctx.clock().now()))
                }
                Some(e) => {
                    tracing::error!("{}", e.report());
                    Ended::Failed
                }
            },
            Err(e) if cancel.is_cancelled() => {
                tracing::info!("stopped: {}", e.chain());
                Ended::Failed
            }
            Err(e) => {
                tracing::error!("the drill could not be made: {}", e.report());
                Ended::Failed
            }
        }
    }
}

/// When a drill that was due began, for the schedule, which knows the clock here; reports are dated by the store's, and one dated before
/// `due` would make the same drill due again.
fn by_the_clock_here(begun: Time, due: Time, now: Time) -> Time {
    begun.max(due).min(now)
}

/// What shares a store's limit: the bucket, container or directory above the repositories. And the repository in it.
fn places(settings: &store::Settings) -> (String, String) {
    let store = match &settings.url {
        StoreUrl::File { path, .. } => format!("file://{}", path.display()),
        StoreUrl::S3 { bucket, .. } => format!("s3://{}/{bucket}", settings.s3.endpoint.as_deref().unwrap_or_default()),
        StoreUrl::Azure { container, .. } => {
            format!("azblob://{}/{}/{container}", settings.azure.endpoint.as_deref().unwrap_or_default(), settings.azure.account)
        }
    };
    let repository = format!("{store}/{}", settings.url.prefix());
    (store, repository)
}

/// A job of the configuration.
#[derive(Clone)]
struct Backup {
    ctx: Context,
    job: Job,
    metrics: crate::http::JobMetrics,
    /// Its share of the process's budget, in bytes.
    memory: u64,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.job.selector())
    }
}

#[async_trait]
impl Task for Backup {
    async fn last_success(&self) -> Result<Option<Time>> {
        job::last_success(&self.ctx, &self.job).await
    }

    async fn run(&self, due: Time, cancel: &Cancel) -> Ended {
        let ctx = self.ctx.with_cancel(cancel.clone());
        let patience = job::Patience { retries: self.job.retries, unattended: true };
        let options = job::Options {
            why: job::Why::Due(due),
            patience,
            retain: true,
            memory: self.memory,
            metrics: Some(self.metrics.clone()),
            ..job::Options::asked(&self.job)
        };
        match job::run(&ctx, &self.job, &options).await {
            Ok(job::Outcome::Already(begun)) => {
                tracing::info!("done already by another process, which began at {begun}");
                Ended::Done(begun)
            }
            Ok(job::Outcome::Elsewhere(who)) => {
                tracing::info!("running elsewhere: {who}");
                Ended::Elsewhere
            }
            Ok(job::Outcome::Backed(report)) => {
                for warning in report.warnings.iter().take(20) {
                    tracing::warn!("{warning}");
                }
                let figures = format!(
                    "snapshot {} in {:.1} s: {} files, {} bytes, {} read, {} new, {} stored",
                    report.snapshot.short(),
                    report.ended.seconds_since(report.started),
                    report.files,
                    report.bytes_total,
                    report.bytes_read,
                    report.bytes_added,
                    report.bytes_stored
                );
                if report.complete {
                    tracing::info!("backed up: {figures}");
                    return Ended::Done(report.started);
                }
                for missing in report.missing.iter().take(20) {
                    tracing::error!("missing: {missing}");
                }
                tracing::error!("the backup is incomplete ({} missing): {figures}", report.missing_count);
                Ended::Incomplete(report.started)
            }
            Err(e) if cancel.is_cancelled() => {
                tracing::info!("stopped: {}", e.chain());
                Ended::Failed
            }
            Err(e) => {
                tracing::error!("failed: {}", e.report());
                Ended::Failed
            }
        }
    }
}

/// A base backup that the loop makes when it is wanted.
#[derive(Debug)]
struct OnDemand {
    name: String,
    asker: Asker,
}

#[async_trait]
impl wal::rebase::BaseJob for OnDemand {
    async fn make(&self, since: Time, cancel: &Cancel) -> wal::rebase::Made {
        match self.asker.ask(&self.name, since, cancel).await {
            Ended::Done(_) => wal::rebase::Made::Complete,
            Ended::Incomplete(_) => wal::rebase::Made::Incomplete,
            Ended::Failed | Ended::Elsewhere => wal::rebase::Made::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, load_text};
    use crate::runtime::SystemClock;

    #[test]
    fn another_environment_is_another_history_on_the_same_store() {
        let (asker, _wanted) = super::super::wanted::channel();
        let http = Http { metrics: None };
        let builder = Builder { clock: Arc::new(SystemClock), metrics: Metrics::new("test"), http, asker };
        let of = |environment: &str, folder: &str| {
            let text = format!(
                "environment: {environment}\nrepository: {{ url: 's3://bucket/{folder}', password: {{ value: x }} }}\ntenants:\n  a:\n    jobs:\n      x: {{ volume: {{ path: /x }}, drill: {{ schedule: '0 2 * * *' }} }}\n"
            );
            builder.build(load_text(&text, Format::Yaml, None, []).unwrap()).unwrap().entries
        };
        let before = of("test", "one");
        assert_eq!(before.len(), 2);
        for after in [of("live", "one"), of("test", "two")] {
            for (before, after) in before.iter().zip(after) {
                assert_eq!(before.store, after.store);
                assert_ne!(before.history, after.history);
            }
        }
        assert_eq!(before[0].history, of("test", "one")[0].history);
    }

    #[test]
    fn a_configuration_that_is_refused_leaves_the_metrics_alone() {
        let (asker, _wanted) = super::super::wanted::channel();
        let metrics = Metrics::new("test");
        let http = Http { metrics: None };
        let builder = Builder { clock: Arc::new(SystemClock), metrics: metrics.clone(), http, asker };
        let build = |jobs: &str| {
            let text = format!(
                "environment: test\nrepository: {{ url: 's3://bucket/x', password: {{ value: x }} }}\ntenants:\n  a:\n    jobs:\n{jobs}"
            );
            builder.build(load_text(&text, Format::Yaml, None, []).unwrap())
        };
        let shown = || -> Vec<String> {
            metrics.to_string().lines().filter(|l| l.starts_with("strongroom_drill_")).map(str::to_owned).collect()
        };
        let first = build("      x: { volume: { path: /x }, drill: { max_age: 2d } }\n").unwrap();
        assert!(shown().is_empty(), "it is not in force yet");
        first.entries.iter().for_each(|e| e.task.in_force());
        metrics.drill("a", "x").failed(Time::new(7000, 0));
        let before = shown();
        assert!(before.contains(&"strongroom_drill_max_age_seconds{tenant=\"a\",job=\"x\"} 172800.0".to_owned()), "{before:?}");
        // The archive wants to run a program, without leave.
        let archive = "      wal: { pg_wal: { url: { command: [echo, x] } } }\n";
        for changed in ["", ", drill: { max_age: 3d }"] {
            build(&format!("      x: {{ volume: {{ path: /x }}{changed} }}\n{archive}")).unwrap_err();
            assert_eq!(shown(), before);
        }
    }

    #[test]
    fn a_drill_that_was_made_is_not_due_again_whatever_the_stores_clock_says() {
        let spec = crate::schedule::Spec::parse("0 2 * * *", None).unwrap();
        let quiet = crate::schedule::QuietHours::default();
        let schedule = Schedule::new(&spec, "a/x (drill)", std::time::Duration::ZERO, 0, quiet).unwrap();
        let t = |text: &str| text.parse::<Time>().unwrap();
        let (due, now) = (t("2026-11-21T02:00:00Z"), t("2026-11-21T02:10:00Z"));
        for begun in ["2026-11-21T01:59:50Z", "2026-11-21T02:00:00Z", "2026-11-21T02:05:00Z", "2026-11-21T02:30:00Z"] {
            let last = by_the_clock_here(t(begun), due, now);
            assert_eq!(schedule.missed(Some(last), now), None, "{begun}");
        }
    }
}
