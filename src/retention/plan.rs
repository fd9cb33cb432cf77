//! The decision about every snapshot.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::CLOCK_TOLERANCE_SECS;
use super::keep::Keep;
use super::system::kept_by_rules;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Lsn, SystemId, Time, Timeline, TimelineHistory};

/// What retention needs to know about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: Id,
    /// The id it had at first, where it was rewritten since; else its id. Two of one origin are one backup.
    pub origin: Id,
    /// When it was begun.
    pub time: Time,
    /// When its data was whole, where that is known.
    pub end: Option<Time>,
    /// The job in its `job=` tag; `None` where there is no such tag: made by another tool or by hand, and not ours to remove.
    pub job: Option<String>,
    /// Everything that was asked for is in it.
    pub complete: bool,
    /// Another program changed what is in it since it was made, so that it may lack what was asked for.
    pub altered: bool,
    /// Somebody said that it must stay.
    pub hold: bool,
    /// Bytes of its files, to show what a plan is about.
    pub size: u64,
    /// The database system a physical backup is of; `None` for everything else. Each system's history is judged on its own.
    pub system: Option<SystemId>,
    /// Where a physical backup is consistent: its timeline, and the position on it.
    pub stop: Option<(Timeline, Lsn)>,
}

/// The timelines of a system that has WAL in an archive, each with its history where that is known. Timeline 1 needs none.
pub type Lines = BTreeMap<Timeline, Option<TimelineHistory>>;

/// What happens to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It stays: a rule or a guard wants it.
    Keep,
    /// It goes.
    Remove,
    /// It stays, because this plan is not about it.
    Ignore,
}

/// What happens to one snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot, as it was given.
    pub snapshot: Candidate,
    /// What happens to it.
    pub action: Action,
    /// Why: at least one, e.g. `daily 3 of 7`, `held`, `no rule keeps it`.
    pub reasons: Vec<String>,
}

/// What keeps a plan from doing harm.
#[derive(Debug, Clone)]
pub struct Guards {
    /// Now, by this machine's clock.
    pub local_now: Time,
    /// Now, by the store's clock; decides what lies in the future.
    pub store_now: Time,
    /// The calendar that periods are counted in.
    pub zone: TimeZone,
    /// The breaker: a plan is refused that removes more than this share of the job's complete snapshots …
    pub max_share: f64,
    /// … and more than this many of them.
    pub max_removed: usize,
    /// The user has seen the plan and wants it (`prune --force`): the breaker does not trip. Nothing else is switched off.
    pub force: bool,
    /// What the WAL archive knows of each system's timelines, for recovery windows.
    pub lines: BTreeMap<SystemId, Lines>,
}

impl Guards {
    /// A calendar in UTC, a breaker at more than half and more than 10 snapshots, and no WAL archive.
    #[must_use]
    pub fn new(local_now: Time, store_now: Time) -> Self {
        let lines = BTreeMap::new();
        Self { local_now, store_now, zone: TimeZone::UTC, max_share: 0.5, max_removed: 10, force: false, lines }
    }
}

/// What happens to each snapshot. Only [`Plan::removals`] tells what may really be removed.
#[derive(Debug)]
pub struct Plan {
    /// One for each snapshot given, newest first.
    pub decisions: Vec<Decision>,
    /// What a person should look at. Each is one sentence that names the snapshot or job.
    pub alarms: Vec<String>,
    refusal: Option<Error>,
}

impl Plan {
    /// The snapshots to remove, oldest first, so that a run that is cut short leaves the newer ones.
    ///
    /// # Errors
    /// [`Kind::Failed`] if a guard refuses the plan: the clocks differ, or the breaker tripped (`prune --force` passes it).
    pub fn removals(self) -> Result<Vec<Id>> {
        match self.refusal {
            Some(refusal) => Err(refusal),
            None => Ok(self.decisions.iter().rev().filter(|d| d.action == Action::Remove).map(|d| d.snapshot.id).collect()),
        }
    }

    /// Why [`Plan::removals`] will refuse, if it will.
    #[must_use]
    pub fn refusal(&self) -> Option<&Error> {
        self.refusal.as_ref()
    }

    /// How many snapshots have this outcome.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        self.decisions.iter().filter(|d| d.action == action).count()
    }
}

/// Decides about the snapshots of `job`; those of other jobs and of nobody are ignored. Planning again after the
/// removals removes nothing more. See the room's documentation for rules and guards.
#[must_use]
pub fn plan(job: &str, snapshots: &[Candidate], keep: &Keep, guards: &Guards) -> Plan {
    let mut sorted: Vec<&Candidate> = snapshots.iter().collect();
    sorted.sort_by_key(|c| std::cmp::Reverse((c.time, c.id)));
    let mut alarms = Vec::new();

    let future =
        |c: &Candidate| c.time.max(c.end.unwrap_or(c.time)).seconds_since(guards.store_now) > CLOCK_TOLERANCE_SECS as f64;
    let believed: Vec<&Candidate> =
        sorted.iter().copied().filter(|c| c.job.as_deref() == Some(job) && c.complete && !future(c)).collect();
    let counted: Vec<&Candidate> = believed.iter().copied().filter(|c| !c.altered).collect();
    let kept = kept_by_rules(&counted, keep, guards);
    // Altered ones push nothing out, and stay where they would if they were whole.
    let kept_altered = kept_by_rules(&believed, keep, guards);
    let newest = counted.first().copied();

    let mut decisions = Vec::with_capacity(sorted.len());
    for c in sorted {
        let mut reasons = Vec::new();
        let action = match c.job.as_deref() {
            None => {
                reasons.push("it has no job tag, so it is not ours to remove".into());
                Action::Ignore
            }
            Some(other) if other != job => {
                reasons.push(format!("it belongs to job {other}"));
                Action::Ignore
            }
            Some(_) if future(c) => {
                alarms.push(format!(
                    "snapshot {} of job {job} is dated {}, ahead of the store's clock ({}); retention ignores it",
                    c.id.short(),
                    c.time.max(c.end.unwrap_or(c.time)),
                    guards.store_now
                ));
                reasons.push("it is dated in the future".into());
                Action::Ignore
            }
            Some(_) => {
                reasons.extend(c.hold.then(|| "held".to_owned()));
                if c.complete {
                    if newest.is_some_and(|n| n.id == c.id) {
                        reasons.push("newest complete snapshot of the job".into());
                    }
                    let kept = if c.altered { &kept_altered } else { &kept };
                    let rules = kept.get(&c.id).cloned().unwrap_or_default();
                    if c.altered && !rules.is_empty() {
                        reasons.push("altered by another program, so it counts for nothing".into());
                    }
                    reasons.extend(rules);
                } else if newest.is_none_or(|n| (n.time, n.id) < (c.time, c.id)) {
                    reasons.push("incomplete, and there is no newer complete one".into());
                }
                if reasons.is_empty() {
                    reasons.push(if c.complete {
                        "no rule keeps it".into()
                    } else {
                        "incomplete, and there is a newer complete one".to_owned()
                    });
                    Action::Remove
                } else {
                    Action::Keep
                }
            }
        };
        decisions.push(Decision { snapshot: c.clone(), action, reasons });
    }
    let refusal = refuse(job, &decisions, guards);
    Plan { decisions, alarms, refusal }
}

fn refuse(job: &str, decisions: &[Decision], guards: &Guards) -> Option<Error> {
    let apart = guards.local_now.seconds_since(guards.store_now);
    if apart.abs() > CLOCK_TOLERANCE_SECS as f64 {
        let side = if apart > 0.0 { "ahead of" } else { "behind" };
        return Some(
            Error::new(
                Kind::Failed,
                format!(
                    "this machine's clock ({}) is {:.0} s {side} the store's ({}), so nothing of job {job} is removed",
                    guards.local_now,
                    apart.abs(),
                    guards.store_now
                ),
            )
            .hint("Set the clock (NTP) on whichever side is wrong, then run prune again. Backups go on meanwhile."),
        );
    }
    let ours = |d: &&Decision| d.snapshot.complete && d.action != Action::Ignore;
    let total = decisions.iter().filter(ours).count();
    let gone = decisions.iter().filter(ours).filter(|d| d.action == Action::Remove).count();
    if !guards.force && gone > guards.max_removed && gone as f64 > total as f64 * guards.max_share {
        return Some(
            Error::new(Kind::Failed, format!("retention would remove {gone} of {total} complete snapshots of job {job} at once, which is unusual, so it removes none"))
                .hint("Look at the plan with `strongroom prune --dry-run`. If it is what you want, run `strongroom prune --force`; else correct `keep`."),
        );
    }
    None
}
