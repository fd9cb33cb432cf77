//! The metrics of a job's drills.

use std::sync::Arc;

use super::metrics::{Drilled, Families, Job, seconds};
use crate::model::Time;

/// What a drill came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrillFigures {
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub ended: Time,
    /// Whether it passed.
    pub ok: bool,
    /// Proven recovery point, in seconds.
    pub rpo_seconds: Option<f64>,
    /// Proven recovery time, in seconds.
    pub rto_seconds: Option<f64>,
}

/// Writes the drill metrics of one job. Cheap to make and to clone.
#[derive(Debug, Clone)]
pub struct DrillMetrics {
    pub(super) families: Arc<Families>,
    pub(super) job: Job,
}

impl DrillMetrics {
    fn outcome(&self, result: &'static str) -> Drilled {
        Drilled { tenant: self.job.tenant.clone(), job: self.job.job.clone(), result }
    }

    /// Drills are wanted; a last good one older than `max_age` seconds is stale.
    pub fn wanted(&self, max_age: Option<f64>) {
        for result in ["ok", "failed"] {
            drop(self.families.drill_runs.get_or_create(&self.outcome(result)));
        }
        match max_age {
            Some(seconds) => drop(self.families.drill_max_age.get_or_create(&self.job).set(seconds)),
            None => drop(self.families.drill_max_age.remove(&self.job)),
        }
    }

    /// The last drill, found in the repository; it is not counted.
    pub fn last(&self, f: &DrillFigures) {
        let all = &self.families;
        all.drill_passed.get_or_create(&self.job).set(i64::from(f.ok));
        all.drill_last_run.get_or_create(&self.job).set(seconds(f.ended));
        if !f.ok {
            return;
        }
        all.drill_last_success.get_or_create(&self.job).set(seconds(f.started));
        if let Some(rpo) = f.rpo_seconds {
            all.drill_rpo.get_or_create(&self.job).set(rpo);
        }
        if let Some(rto) = f.rto_seconds {
            all.drill_rto.get_or_create(&self.job).set(rto);
        }
    }

    /// A drill ended with a report.
    pub fn drilled(&self, f: &DrillFigures) {
        self.last(f);
        self.families.drill_runs.get_or_create(&self.outcome(if f.ok { "ok" } else { "failed" })).inc();
    }

    /// A drill could not begin, or its result not be kept.
    pub fn failed(&self, ended: Time) {
        self.drilled(&DrillFigures { started: ended, ended, ok: false, rpo_seconds: None, rto_seconds: None });
    }

    /// The job is gone from the configuration, or is not drilled any more: its metrics go too.
    pub fn forget(&self) {
        let f = &self.families;
        for family in [&f.drill_last_success, &f.drill_last_run, &f.drill_rpo, &f.drill_rto, &f.drill_max_age] {
            family.remove(&self.job);
        }
        f.drill_passed.remove(&self.job);
        for result in ["ok", "failed"] {
            f.drill_runs.remove(&self.outcome(result));
        }
    }
}
