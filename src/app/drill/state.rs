//! How a job's drills stand: for `status` and metrics.

use serde::Serialize;

use super::{Report, newest, newest_good};
use crate::app::Context;
use crate::app::facts::{is_complete, is_of_job};
use crate::config::settings::Job;
use crate::error::{Kind, Result};
use crate::http::{DrillFigures, DrillMetrics};
use crate::model::{Id, Time};
use crate::schedule::{QuietHours, Schedule, Spec};

/// How the drills of a job stand.
#[derive(Debug, Clone, Serialize)]
pub struct DrillStatus {
    /// `ok`; `failed`: the last one; `stale`: the last one passed and is too old; `never`: one is wanted and there was none;
    /// `unknown`: the report could not be read.
    pub state: DrillState,
    /// When the last one began.
    pub time: Option<Time>,
    /// How long ago that was by the store's clock, in seconds.
    pub age_seconds: Option<f64>,
    /// The snapshot that it restored.
    pub snapshot: Option<Id>,
    /// Proven recovery point, in seconds.
    pub rpo_seconds: Option<f64>,
    /// Proven recovery time, in seconds.
    pub rto_seconds: Option<f64>,
    /// What is wrong, in one sentence.
    pub problem: Option<String>,
}

/// See [`DrillStatus::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DrillState {
    /// The last one passed, recently enough.
    Ok,
    /// The last one failed.
    Failed,
    /// The last one passed and is too old.
    Stale,
    /// There was none.
    Never,
    /// Could not be found out.
    Unknown,
}

/// Whether the configuration wants drills of the job, so that their absence is worth a warning.
#[must_use]
pub fn is_expected(job: &Job) -> bool {
    job.drill.schedule != Spec::Never || job.drill.max_age.is_some()
}

/// How the drills of a job stand at `now`, given its newest report. `None` for a job that nobody drills.
///
/// # Errors
/// A schedule that cannot be made, which the configuration has ruled out.
pub fn status(job: &Job, newest: Option<&Result<Report>>, now: Time) -> Result<Option<DrillStatus>> {
    let blank = DrillStatus {
        state: DrillState::Never,
        time: None,
        age_seconds: None,
        snapshot: None,
        rpo_seconds: None,
        rto_seconds: None,
        problem: None,
    };
    let report = match newest {
        None if !is_expected(job) => return Ok(None),
        None => return Ok(Some(DrillStatus { problem: Some("its backups were never drilled".to_owned()), ..blank })),
        Some(Err(e)) => return Ok(Some(DrillStatus { state: DrillState::Unknown, problem: Some(e.chain()), ..blank })),
        Some(Ok(report)) => report,
    };
    let age = now.seconds_since(report.started);
    let stale = match job.drill.max_age {
        Some(limit) => age > limit.as_secs_f64(),
        None => {
            let name = format!("{} (drill)", job.selector());
            let schedule = Schedule::new(&job.drill.schedule, &name, std::time::Duration::ZERO, 0, QuietHours::default())?;
            schedule.missed(Some(report.started), now).is_some()
        }
    };
    let (state, problem) = match report.error() {
        Some(e) => (DrillState::Failed, Some(e.chain())),
        None if stale => {
            (DrillState::Stale, Some(format!("its last drill passed {} ago, which is too long", crate::app::format_age(age))))
        }
        None => (DrillState::Ok, None),
    };
    Ok(Some(DrillStatus {
        state,
        time: Some(report.started),
        age_seconds: Some(age),
        snapshot: report.snapshot,
        rpo_seconds: report.rpo_seconds,
        rto_seconds: report.rto_seconds,
        problem,
    }))
}

/// When the last drill of a job began, passed or not; shown in the metrics, too. If there was none: when the oldest
/// backup that one could have drilled was begun, else now, so that a new job's first drill waits for its first backup.
///
/// # Errors
/// When that could not be found out. A report that is damaged is passed over for the last good one.
pub async fn learn(ctx: &Context, job: &Job, metrics: &DrillMetrics) -> Result<Option<Time>> {
    let repo = ctx.repository(&job.tenant).await?;
    let name = job.name.as_str();
    let last = match newest(&repo, Some(name)).await?.remove(name) {
        None => {
            let snapshots = repo.load_snapshots().await?;
            let oldest = snapshots.iter().find(|s| is_of_job(&s.file, &job.name) && is_complete(&s.file));
            return Ok(Some(oldest.map_or_else(|| ctx.clock().now(), |s| s.file.time)));
        }
        Some(Ok(last)) => Some(last),
        Some(Err(e)) if e.kind() == Kind::Corrupt => None,
        Some(Err(e)) => return Err(e),
    };
    // What is proven stays proven until it is stale, also after a drill that failed.
    let good = newest_good(&repo, name).await?;
    good.iter().chain(last.as_ref()).for_each(|report| metrics.last(&figures(report)));
    Ok(last.or(good).map(|r| r.started))
}

/// A report as metrics show it.
pub(super) fn figures(report: &Report) -> DrillFigures {
    DrillFigures {
        started: report.started,
        ended: report.ended,
        ok: report.ok,
        rpo_seconds: report.rpo_seconds,
        rto_seconds: report.rto_seconds,
    }
}
