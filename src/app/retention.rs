//! Retention of one job: the plan, and the removal of what it lets go.
//!
//! Only snapshots are removed here. Their data stays until it is collected (`app::prune`), and what a reader
//! with a lock needs stays until that lock is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::tz::TimeZone;
use serde::Serialize;

use super::facts::{HOLD, is_complete};
use super::{Context, altered, base_facts};
use crate::config::settings::Job;
use crate::error::{Context as _, Error, Result};
use crate::model::{BaseBackup, Id, SystemId, TenantName, Time};
use crate::repository::{RepoLock, Repository, Snapshot};
use crate::retention::{Action, Candidate, Guards, Keep, Lines, Plan, plan};
use crate::schedule::Spec;
use crate::wal::Archive;

/// What is kept of which job.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Whose.
    pub tenant: TenantName,
    /// The job in the snapshots' tags; need not be in the configuration.
    pub job: String,
    /// The rules.
    pub keep: Keep,
    /// The calendar they are counted in.
    pub zone: TimeZone,
}

impl Rules {
    /// Those of the configuration, in the calendar of the job's schedule.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        let zone = match &job.schedule {
            Spec::Cron { timezone, .. } => TimeZone::get(timezone).unwrap_or(TimeZone::UTC),
            Spec::Every(_) | Spec::Never => TimeZone::UTC,
        };
        Self { tenant: job.tenant.clone(), job: job.name.to_string(), keep: job.keep.unwrap_or_default(), zone }
    }
}

/// What happens to the snapshots of one job, and why. Part of the `--json` output of `prune`.
#[derive(Debug, Clone, Serialize)]
pub struct JobPrune {
    /// Which job.
    pub job: String,
    /// The rules, in English.
    pub keep: String,
    /// One for each snapshot of the job, newest first.
    pub snapshots: Vec<Verdict>,
    /// What a person should look at, one sentence each.
    pub alarms: Vec<String>,
    /// Why nothing was removed although the plan says so. Absent where the plan was followed, or would be.
    pub refused: Option<String>,
    /// How many snapshots were removed: 0 for a dry run.
    pub removed: usize,
}

/// What happens to one snapshot, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
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

impl JobPrune {
    /// How many snapshots this happens to.
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

/// Plans a job's retention from `snapshots` (all of the repository's) and, unless it is a dry run, removes what the plan
/// lets go, oldest first. `lock` is checked before each removal; `None` only for dry runs.
///
/// The error of a guard is returned beside the plan, so that the plan can be shown.
///
/// # Errors
/// The store's failures. What was removed until then stays removed; running it again does the rest.
pub async fn apply(
    ctx: &Context,
    repo: &Repository,
    rules: &Rules,
    snapshots: &[Snapshot],
    lock: Option<&RepoLock>,
    options: Options,
) -> Result<(JobPrune, Option<Error>)> {
    let what = || format!("apply retention of {}/{}", rules.tenant, rules.job);
    let altered = altered::find(repo, snapshots).await.context(what)?;
    let facts = base_facts::of(repo, snapshots).await.context(what)?;
    let candidates: Vec<Candidate> = snapshots
        .iter()
        .map(|s| {
            // One that cannot be read is of no known system, and pushes none of theirs out.
            let facts = facts.get(&s.id).and_then(|f| f.as_ref().ok());
            candidate(s, altered.contains(&s.id), facts)
        })
        .collect();
    let lines = if rules.keep.recovery_window.is_some() {
        lines(repo, &rules.job, snapshots, &facts).await.context(what)?
    } else {
        BTreeMap::new()
    };
    // Both clocks as close together as can be had.
    let store_now = ctx.store_time(repo.store()).await.context(what)?;
    let guards = Guards { force: options.force, zone: rules.zone.clone(), lines, ..Guards::new(ctx.clock().now(), store_now) };
    let plan = plan(&rules.job, &candidates, &rules.keep, &guards);
    let mut out = describe(rules, &plan);
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
fn candidate(snapshot: &Snapshot, altered: bool, base: Option<&BaseBackup>) -> Candidate {
    let file = &snapshot.file;
    Candidate {
        id: snapshot.id,
        origin: file.original.unwrap_or(snapshot.id),
        time: file.time,
        end: Some(base.map_or_else(|| file.end(), |b| b.stopped)),
        job: file.tag("job").map(str::to_owned),
        complete: is_complete(file),
        altered,
        hold: file.has_tag(HOLD),
        size: file.summary.as_ref().map_or(0, |s| s.total_bytes_processed),
        system: base.map(|b| SystemId { major: b.major, identifier: b.system_identifier }),
        stop: base.map(|b| (b.timeline, b.stop)),
    }
}

/// The timelines in the WAL archives of the clusters that this job's base backups are of. Without them nothing is removed: which
/// base backup a timeline needs is not known.
async fn lines(
    repo: &Repository,
    job: &str,
    snapshots: &[Snapshot],
    facts: &HashMap<Id, Result<BaseBackup>>,
) -> Result<BTreeMap<SystemId, Lines>> {
    let own = snapshots.iter().filter(|s| s.file.tag("job") == Some(job));
    let clusters: BTreeSet<&str> = own.filter_map(|s| Some(facts.get(&s.id)?.as_ref().ok()?.cluster.as_str())).collect();
    let mut out: BTreeMap<SystemId, Lines> = BTreeMap::new();
    for cluster in clusters {
        let archive = Archive::open(repo.store().clone(), repo.object_seal()?, cluster)?;
        for admitted in archive.systems().await? {
            let Some(identity) = archive.folder(admitted.system).identity().await? else { continue };
            let known = identity.timelines.iter().map(|k| (k.timeline, identity.history(k.timeline)));
            out.entry(admitted.system).or_default().extend(known);
        }
    }
    Ok(out)
}

fn describe(rules: &Rules, plan: &Plan) -> JobPrune {
    let own = plan.decisions.iter().filter(|d| d.snapshot.job.as_deref() == Some(rules.job.as_str()));
    let verdicts = own.map(|d| Verdict {
        id: d.snapshot.id,
        time: d.snapshot.time,
        bytes: d.snapshot.size,
        action: d.action,
        reasons: d.reasons.clone(),
    });
    JobPrune {
        job: rules.job.clone(),
        keep: rules.keep.describe(),
        snapshots: verdicts.collect(),
        alarms: plan.alarms.clone(),
        refused: None,
        removed: 0,
    }
}
