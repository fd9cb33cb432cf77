//! All metrics of the process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::drill::DrillMetrics;
use super::job::JobMetrics;
use super::process;
use super::wal::{WalFamilies, WalMetrics};
use crate::model::Time;

/// A gauge of seconds or bytes.
pub(super) type Number = Gauge<f64, AtomicU64>;

/// Which job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Job {
    pub(super) tenant: String,
    pub(super) job: String,
}

/// Which result of a job: `backup` or `prune`; each has its own age.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Operation {
    pub(super) tenant: String,
    pub(super) job: String,
    pub(super) operation: &'static str,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    pub(super) tenant: String,
    pub(super) job: String,
    pub(super) operation: &'static str,
    pub(super) result: &'static str,
}

/// How a drill ended: `ok` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Drilled {
    pub(super) tenant: String,
    pub(super) job: String,
    pub(super) result: &'static str,
}

/// Requests to a store by kind: `put`, `get`, `list`, `delete`, `head`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) tenant: String,
    pub(super) job: String,
    pub(super) request: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Everything that `/metrics` shows. Clones share one state.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(super) families: Arc<Families>,
    registry: Arc<Registry>,
}

#[derive(Debug, Default)]
pub(super) struct Families {
    pub(super) last_success: Family<Operation, Number>,
    pub(super) last_run: Family<Operation, Number>,
    pub(super) last_duration: Family<Operation, Number>,
    pub(super) last_exit_code: Family<Operation, Gauge>,
    pub(super) runs: Family<Outcome, Counter>,
    pub(super) retries: Family<Operation, Counter>,
    pub(super) last_read: Family<Job, Number>,
    pub(super) last_added: Family<Job, Number>,
    pub(super) last_stored: Family<Job, Number>,
    pub(super) read: Family<Job, Counter>,
    pub(super) added: Family<Job, Counter>,
    pub(super) stored: Family<Job, Counter>,
    pub(super) requests: Family<Request, Counter>,
    pub(super) last_missing: Family<Job, Gauge>,
    pub(super) last_bad_pages: Family<Job, Gauge>,
    pub(super) last_warnings: Family<Job, Gauge>,
    pub(super) next_run: Family<Job, Number>,
    pub(super) running: Family<Job, Gauge>,
    pub(super) snapshots: Family<Job, Gauge>,
    pub(super) removed: Family<Job, Counter>,
    pub(super) retention_alarms: Family<Job, Gauge>,
    pub(super) drill_last_success: Family<Job, Number>,
    pub(super) drill_last_run: Family<Job, Number>,
    pub(super) drill_passed: Family<Job, Gauge>,
    pub(super) drill_rpo: Family<Job, Number>,
    pub(super) drill_rto: Family<Job, Number>,
    pub(super) drill_max_age: Family<Job, Number>,
    pub(super) drill_runs: Family<Drilled, Counter>,
    pub(super) wal: WalFamilies,
    jobs: Gauge,
    reload_good: Gauge,
    reload_time: Number,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"))
    }
}

impl Metrics {
    /// Nothing measured yet. `version` is shown by `strongroom_build_info`.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let f = Arc::new(Families::default());
        let mut registry = Registry::default();
        // Process metrics have the names that every exporter gives them.
        process::register(&mut registry);
        let r = registry.sub_registry_with_prefix("strongroom");
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version }).set(1);
        r.register("build_info", "Version of this process; always 1", build);
        r.register("jobs", "Jobs in the configuration in use", f.jobs.clone());
        r.register(
            "config_last_reload_successful",
            "Whether the newest configuration file is in use (1) or was refused (0)",
            f.reload_good.clone(),
        );
        r.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read, in seconds since 1970",
            f.reload_time.clone(),
        );

        r.register(
            "job_last_success_timestamp_seconds",
            "When the newest successful run began, in seconds since 1970; backups are looked up in the repository at start",
            f.last_success.clone(),
        );
        r.register(
            "job_last_run_timestamp_seconds",
            "When the last run of this process ended, in seconds since 1970",
            f.last_run.clone(),
        );
        r.register("job_last_duration_seconds", "How long the last run took, retries included", f.last_duration.clone());
        r.register(
            "job_last_exit_code",
            "How the last run ended: 0 ok, 3 incomplete, else the documented exit code of its failure",
            f.last_exit_code.clone(),
        );
        r.register("job_runs", "Runs that ended, by result", f.runs.clone());
        r.register("job_retries", "Attempts beyond the first of a run", f.retries.clone());
        r.register("job_last_read_bytes", "Bytes read from the source by the last backup", f.last_read.clone());
        r.register("job_last_added_bytes", "New bytes of the last backup, before compression", f.last_added.clone());
        r.register("job_last_stored_bytes", "Bytes that the last backup wrote to the store", f.last_stored.clone());
        r.register("job_read_bytes", "Bytes read from the source", f.read.clone());
        r.register("job_added_bytes", "New bytes, before compression", f.added.clone());
        r.register("job_stored_bytes", "Bytes written to the store", f.stored.clone());
        r.register("job_store_requests", "Requests sent to the store, by kind", f.requests.clone());
        r.register(
            "job_last_missing_objects",
            "What the last backup could not read although it was asked for; above 0 the backup is incomplete",
            f.last_missing.clone(),
        );
        r.register(
            "job_last_bad_pages",
            "Pages with wrong checksums in the last base backup, which is incomplete if there are any",
            f.last_bad_pages.clone(),
        );
        r.register("job_last_warnings", "Warnings of the last backup", f.last_warnings.clone());
        r.register(
            "job_next_run_timestamp_seconds",
            "When the next run is due, in seconds since 1970; absent for jobs that only run on request",
            f.next_run.clone(),
        );
        r.register("job_running", "Whether the job is running in this process", f.running.clone());
        r.register(
            "job_snapshots",
            "Complete snapshots of the job in the repository, as of its last retention",
            f.snapshots.clone(),
        );
        r.register("job_removed_snapshots", "Snapshots that retention removed", f.removed.clone());
        r.register(
            "job_retention_alarms",
            "What the last retention found that a person should look at: WAL that may not be removed, snapshots from the future",
            f.retention_alarms.clone(),
        );
        register_drills(r, &f);
        f.wal.register(r);
        Self { families: f, registry: Arc::new(registry) }
    }

    /// The drill metrics of one job.
    #[must_use]
    pub fn drill(&self, tenant: &str, job: &str) -> DrillMetrics {
        DrillMetrics { families: Arc::clone(&self.families), job: Job { tenant: tenant.into(), job: job.into() } }
    }

    /// The metrics of one job.
    #[must_use]
    pub fn job(&self, tenant: &str, job: &str) -> JobMetrics {
        JobMetrics { families: Arc::clone(&self.families), job: Job { tenant: tenant.into(), job: job.into() } }
    }

    /// The metrics of one WAL archive.
    #[must_use]
    pub fn wal(&self, tenant: &str, job: &str) -> WalMetrics {
        WalMetrics { families: Arc::clone(&self.families), job: Job { tenant: tenant.into(), job: job.into() } }
    }

    /// How many jobs there are now.
    pub fn jobs(&self, count: usize) {
        self.families.jobs.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A configuration was read at that time and is in use.
    pub fn reloaded(&self, at: Time) {
        self.families.reload_good.set(1);
        self.families.reload_time.set(seconds(at));
    }

    /// A configuration was refused; the old one goes on.
    pub fn reload_refused(&self) {
        self.families.reload_good.set(0);
    }

    /// OpenMetrics 1.0 text.
    pub(super) fn open_metrics(&self) -> String {
        let mut out = String::new();
        // Writing into a string cannot fail.
        prometheus_client::encoding::text::encode(&mut out, &self.registry).ok();
        out
    }
}

fn register_drills(r: &mut Registry, f: &Families) {
    r.register(
        "drill_last_success_timestamp_seconds",
        "When the newest drill that passed began, in seconds since 1970; looked up in the repository at start",
        f.drill_last_success.clone(),
    );
    r.register("drill_last_run_timestamp_seconds", "When the last drill ended, however it ended", f.drill_last_run.clone());
    r.register("drill_passed", "Whether the last drill passed (1) or failed (0)", f.drill_passed.clone());
    r.register(
        "drill_rpo_seconds",
        "Recovery point that the newest good drill proved: the age of the newest data that came back",
        f.drill_rpo.clone(),
    );
    r.register(
        "drill_rto_seconds",
        "Recovery time that the newest good drill proved: restore, recovery and checks",
        f.drill_rto.clone(),
    );
    r.register(
        "drill_max_age_seconds",
        "Age at which the last good drill counts as stale, where the configuration sets one",
        f.drill_max_age.clone(),
    );
    r.register("drill_runs", "Drills that ended, by result", f.drill_runs.clone());
}

/// The Prometheus text.
impl std::fmt::Display for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::text::prometheus(&self.open_metrics()))
    }
}

pub(super) fn seconds(t: Time) -> f64 {
    t.secs as f64 + f64::from(t.nanos) / 1e9
}
