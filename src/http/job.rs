//! The metrics of one job.

use std::sync::Arc;

use super::metrics::{Families, Job, Operation, Outcome, Request, seconds};
use crate::error::Kind;
use crate::model::Time;

/// What is counted apart, each with its own age.
const OPERATIONS: [&str; 2] = ["backup", "prune"];
/// Kinds of requests to a store.
const REQUESTS: [&str; 5] = ["delete", "get", "head", "list", "put"];

/// One run that ended, retries included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `backup` or `prune`.
    pub operation: &'static str,
    /// When it began, first attempt included.
    pub start: Time,
    /// When the successful attempt of a backup began, which is the time of its snapshot. `None`: as `start`.
    pub snapshot: Option<Time>,
    /// When it ended.
    pub end: Time,
    /// `None` for success.
    pub failure: Option<Kind>,
    /// Attempts beyond the first.
    pub retries: u64,
    /// What was moved, where that is known (backups that reached their end).
    pub read_bytes: u64,
    /// New bytes before compression.
    pub added_bytes: u64,
    /// Bytes written to the store.
    pub stored_bytes: u64,
    /// What could not be read although it was asked for.
    pub missing: u64,
    /// Pages with wrong checksums, where a base backup looked for them.
    pub bad_pages: Option<u64>,
    /// What succeeded but deserves a look.
    pub warnings: u64,
    /// Requests by kind: `put`, `get`, `list`, `delete`, `head`; other kinds are not shown.
    pub requests: Vec<(&'static str, u64)>,
}

impl Run {
    /// A run that moved nothing.
    #[must_use]
    pub fn new(operation: &'static str, start: Time, end: Time, failure: Option<Kind>) -> Self {
        Self {
            operation,
            start,
            snapshot: None,
            end,
            failure,
            retries: 0,
            read_bytes: 0,
            added_bytes: 0,
            stored_bytes: 0,
            missing: 0,
            bad_pages: None,
            warnings: 0,
            requests: Vec::new(),
        }
    }
}

/// Writes the metrics of one job. Cheap to make and to clone.
#[derive(Debug, Clone)]
pub struct JobMetrics {
    pub(super) families: Arc<Families>,
    pub(super) job: Job,
}

impl JobMetrics {
    fn operation(&self, operation: &'static str) -> Operation {
        Operation { tenant: self.job.tenant.clone(), job: self.job.job.clone(), operation }
    }

    fn outcome(&self, operation: &'static str, result: &'static str) -> Outcome {
        Outcome { tenant: self.job.tenant.clone(), job: self.job.job.clone(), operation, result }
    }

    fn request(&self, request: &'static str) -> Request {
        Request { tenant: self.job.tenant.clone(), job: self.job.job.clone(), request }
    }

    /// Makes counters appear with 0, so that their first increase is seen.
    pub fn known(&self) {
        self.running(false);
        let f = &self.families;
        for operation in OPERATIONS {
            for result in ["ok", "failed"] {
                drop(f.runs.get_or_create(&self.outcome(operation, result)));
            }
        }
    }

    /// Whether it is running now.
    pub fn running(&self, running: bool) {
        self.families.running.get_or_create(&self.job).set(i64::from(running));
    }

    /// When it starts next; `None` where nothing is scheduled.
    pub fn next_run(&self, at: Option<Time>) {
        match at {
            Some(at) => {
                self.families.next_run.get_or_create(&self.job).set(seconds(at));
            }
            None => {
                self.families.next_run.remove(&self.job);
            }
        }
    }

    /// When the last successful backup in the repository began; `None` where that is not known.
    pub fn last_success(&self, begun: Option<Time>) {
        let operation = self.operation("backup");
        match begun {
            Some(begun) => {
                self.families.last_success.get_or_create(&operation).set(seconds(begun));
            }
            None => {
                self.families.last_success.remove(&operation);
            }
        }
    }

    /// When a successful backup in the repository began that was looked up. A newer one may be known meanwhile, and stays.
    pub fn looked_up(&self, begun: Time) {
        let known = self.families.last_success.get_or_create(&self.operation("backup"));
        known.set(known.get().max(seconds(begun)));
    }

    /// Retention looked at the job: this many complete snapshots are left, this many went.
    pub fn retained(&self, snapshots: usize, removed: usize) {
        self.families.snapshots.get_or_create(&self.job).set(i64::try_from(snapshots).unwrap_or(i64::MAX));
        self.families.removed.get_or_create(&self.job).inc_by(removed as u64);
    }

    /// What the last retention found that a person should look at.
    pub fn retention_alarms(&self, count: usize) {
        self.families.retention_alarms.get_or_create(&self.job).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A run ended.
    pub fn finished(&self, run: &Run) {
        let f = &self.families;
        let op = self.operation(run.operation);
        let result = run.failure.map_or("ok", Kind::as_str);
        f.runs.get_or_create(&self.outcome(run.operation, result)).inc();
        f.retries.get_or_create(&op).inc_by(run.retries);
        f.last_run.get_or_create(&op).set(seconds(run.end));
        f.last_duration.get_or_create(&op).set(run.end.seconds_since(run.start).max(0.0));
        f.last_exit_code.get_or_create(&op).set(run.failure.map_or(0, |k| i64::from(k.exit_code())));
        if run.failure.is_none() {
            f.last_success.get_or_create(&op).set(seconds(run.snapshot.unwrap_or(run.start)));
        }
        for (kind, count) in &run.requests {
            if REQUESTS.contains(kind) {
                f.requests.get_or_create(&self.request(kind)).inc_by(*count);
            }
        }
        if run.operation != "backup" {
            return;
        }
        f.read.get_or_create(&self.job).inc_by(run.read_bytes);
        f.added.get_or_create(&self.job).inc_by(run.added_bytes);
        f.stored.get_or_create(&self.job).inc_by(run.stored_bytes);
        // The figures of a run that made no snapshot would look like those of one that did.
        if matches!(run.failure, None | Some(Kind::Incomplete)) {
            f.last_read.get_or_create(&self.job).set(run.read_bytes as f64);
            f.last_added.get_or_create(&self.job).set(run.added_bytes as f64);
            f.last_stored.get_or_create(&self.job).set(run.stored_bytes as f64);
            f.last_missing.get_or_create(&self.job).set(i64::try_from(run.missing).unwrap_or(i64::MAX));
            if let Some(pages) = run.bad_pages {
                f.last_bad_pages.get_or_create(&self.job).set(i64::try_from(pages).unwrap_or(i64::MAX));
            }
            f.last_warnings.get_or_create(&self.job).set(i64::try_from(run.warnings).unwrap_or(i64::MAX));
        }
    }

    /// The job is gone from the configuration: its metrics go too.
    pub fn forget(&self) {
        let f = &self.families;
        for operation in OPERATIONS {
            let op = self.operation(operation);
            f.last_success.remove(&op);
            f.last_run.remove(&op);
            f.last_duration.remove(&op);
            f.last_exit_code.remove(&op);
            f.retries.remove(&op);
            for kind in Kind::ALL {
                f.runs.remove(&self.outcome(operation, kind.as_str()));
            }
            f.runs.remove(&self.outcome(operation, "ok"));
        }
        for request in REQUESTS {
            f.requests.remove(&self.request(request));
        }
        for family in [&f.last_read, &f.last_added, &f.last_stored, &f.next_run] {
            family.remove(&self.job);
        }
        for family in [&f.last_missing, &f.last_bad_pages, &f.last_warnings, &f.running, &f.snapshots, &f.retention_alarms] {
            family.remove(&self.job);
        }
        for family in [&f.read, &f.added, &f.stored, &f.removed] {
            family.remove(&self.job);
        }
    }
}
