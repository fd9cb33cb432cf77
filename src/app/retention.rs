//! Retention of one job: the plan, and the removal of what it lets go.
//!
//! Only snapshots are removed here. Their data stays until it is collected (`app::prune`), and what a reader
//! with a lock needs stays until that lock is gone.

use jiff::tz::TimeZone;
use serde::Serialize;

use super::facts::{HOLD, is_complete};
use super::{Context, altered};
use crate::config::settings::Job;
use crate::error::{Context as _, Error, Result};
use crate::model::{Id, Time};
use crate::repository::{RepoLock, Repository, Snapshot};
use crate::retention::{Action, Candidate, Guards, Keep, Plan, plan};
use crate::schedule::Spec;

/// What happens to the snapshots of one job, and why. Part of the `--json` output of `prune`.
#[derive(Debug, Clone, Serialize)]
pub struct Retained {
    /// Whose.
    pub tenant: String,
    /// Which job.
    pub job: String,
    /// The rules, in English.
    pub keep: String,
    /// One for each snapshot of the job, newest first.
    pub snapshots: Vec<Fate>,
    /// What a person should look at, one sentence each.
    pub alarms: Vec<String>,
    /// Why nothing was removed although the plan says so. Absent where the plan was followed, or would be.
    pub refused: Option<String>,
    /// How many snapshots were removed: 0 for a dry run.
    pub removed: usize,
}

/// One snapshot's part in the plan.
#[derive(Debug, Clone, Serialize)]
pub struct Fate {
    /// Which.
    pub id: Id,
    /// When its backup began.
    pub time: Time,
    /// Bytes of everything in it.
    pub bytes: u64,
    /// `keep`, `remove` or `ignore` (it stays, and counts for nothing).
    pub action: Action,
    /// Why, at least one.
    pub reasons: Vec<String>,
}

impl Retained {
    /// How many snapshots have this fate.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        self.snapshots.iter().filter(|f| f.action == action).count()
    }
}

/// How retention is applied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Only the plan; nothing is removed.
    pub dry_run: bool,
    /// The breaker does not trip.
    pub force: bool,
}

/// Whose snapshots it is about, and which of them stay.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Whose.
    pub tenant: &'a str,
    /// The job in the snapshots' tags.
    pub job: &'a str,
    /// The rules.
    pub keep: Keep,
    /// IANA name of the time zone whose calendar the rules are counted in.
    pub timezone: &'a str,
}

impl<'a> From<&'a Job> for Subject<'a> {
    /// As configured, in the calendar of the job's schedule.
    fn from(job: &'a Job) -> Self {
        let timezone = match &job.schedule {
            Spec::Cron { timezone, .. } => timezone,
            Spec::Every(_) | Spec::Never => "UTC",
        };
        Self { tenant: job.tenant.as_str(), job: job.name.as_str(), keep: job.keep.unwrap_or_default(), timezone }
    }
}

/// Plans a job's retention from `snapshots` (all of the repository's) and, unless it is a dry run, removes what the plan
/// lets go, oldest first. `lock` is checked before each removal; `None` only for dry runs.
///
/// The error of a guard is returned beside the plan, so that the plan can be shown.
///
/// # Errors
/// The store's failures. What was removed until then stays removed; running it again does the rest.
pub async fn apply(ctx: &Context, repo: &Repository, of: Subject<'_>, snapshots: &[Snapshot], lock: Option<&RepoLock>, options: Options) -> Result<(Retained, Option<Error>)> {
    let what = || format!("apply retention of {}/{}", of.tenant, of.job);
    let altered = altered::find(repo, snapshots).await.context(what)?;
    let candidates: Vec<Candidate> = snapshots.iter().map(|s| candidate(s, altered.contains(&s.id))).collect();
    // Both clocks as close together as can be had.
    let store_now = ctx.store_time(repo.store()).await.context(what)?;
    // The configuration was checked; a zone that is gone since moves the edges of days by hours, no more.
    let zone = TimeZone::get(of.timezone).unwrap_or(TimeZone::UTC);
    let guards = Guards { force: options.force, zone, ..Guards::new(ctx.clock().now(), store_now) };
    let plan = plan(of.job, &candidates, &of.keep, &guards);
    let mut out = describe(of, &plan);
    for alarm in &out.alarms {
        tracing::warn!("{alarm}");
    }
    let going = plan.count(Action::Remove);
    match plan.removals() {
        Err(refusal) => {
            out.refused = Some(refusal.report());
            Ok((out, Some(refusal.context(what()))))
        }
        Ok(_) if options.dry_run || going == 0 => Ok((out, None)),
        Ok(ids) => {
            for id in ids {
                ctx.cancel().check()?;
                if let Some(lock) = lock {
                    lock.verify().await.context(what)?;
                }
                repo.remove_snapshot(id).await.context(|| format!("remove snapshot {}", id.short())).context(what)?;
                tracing::info!("removed snapshot {}: no rule keeps it", id.short());
                out.removed += 1;
            }
            Ok((out, None))
        }
    }
}

/// What retention needs to know of a snapshot.
fn candidate(snapshot: &Snapshot, altered: bool) -> Candidate {
    let file = &snapshot.file;
    Candidate {
        id: snapshot.id,
        time: file.time,
        end: Some(file.end()),
        job: file.tag("job").map(str::to_owned),
        complete: is_complete(file),
        altered,
        hold: file.has_tag(HOLD),
        size: file.summary.as_ref().map_or(0, |s| s.total_bytes_processed),
    }
}

fn describe(of: Subject<'_>, plan: &Plan) -> Retained {
    let own = plan.decisions.iter().filter(|d| d.snapshot.job.as_deref() == Some(of.job));
    let fates = own.map(|d| Fate { id: d.snapshot.id, time: d.snapshot.time, bytes: d.snapshot.size, action: d.action, reasons: d.reasons.clone() });
    Retained {
        tenant: of.tenant.to_owned(),
        job: of.job.to_owned(),
        keep: of.keep.describe(),
        snapshots: fates.collect(),
        alarms: plan.alarms.clone(),
        refused: None,
        removed: 0,
    }
}
