//! Which WAL is still needed, and by what. Pure.
//!
//! A stretch of WAL is needed if it is
//! - between start and stop of a retained base backup, complete or not, of whatever job;
//! - behind the start of a base backup that times can be recovered from: every one of a job without a recovery window; of jobs
//!   with one, those that ended in the longest window, and of each timeline the newest complete one before it;
//! - behind the position that a running restore holds.
//!
//! "Behind" means on the same timeline and on every timeline that came from it later, all of it.
//!
//! **In doubt everything stays**, with an alarm: a backup whose facts cannot be read, a hold that cannot be read, a system
//! without a complete base backup, a timeline whose history is not known, a newest timeline that no backup reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::model::{Id, Lsn, SystemId, Time, Timeline, TimelineHistory};

/// A retained base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its snapshot.
    pub id: Id,
    /// The job that made it; need not be in the configuration.
    pub job: String,
    /// What it is of.
    pub system: SystemId,
    /// The timeline it was taken on.
    pub timeline: Timeline,
    /// Where replay begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// When it was consistent.
    pub stopped: Time,
    /// Whether everything that was asked for is in it, and nobody altered it.
    pub complete: bool,
}

/// A restore in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its name, for reasons.
    pub name: String,
    /// The number of the system it restores.
    pub identifier: u64,
    /// The timeline replay begins on.
    pub timeline: Timeline,
    /// Where replay begins.
    pub from: Lsn,
    /// It counts until then.
    pub expires: Time,
}

/// Where a system's timelines came from, as its archive knows it.
pub type Lineage = BTreeMap<Timeline, TimelineHistory>;

/// A system that has WAL in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Which.
    pub id: SystemId,
    /// Every timeline with WAL in the archive.
    pub timelines: BTreeSet<Timeline>,
    /// The known histories. Timeline 1 needs none.
    pub lineage: Lineage,
    /// When its newest WAL was stored; `None` where that is not known.
    pub newest_wal: Option<Time>,
}

/// Everything about one cluster's archive.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Each with a folder of its own in the archive.
    pub systems: Vec<System>,
    /// Every retained base backup of the cluster, of all its jobs.
    pub bases: Vec<Base>,
    /// Restores in progress.
    pub holds: Vec<Hold>,
    /// Recovery windows by job. The bases of other jobs are for recovery to any time since.
    pub windows: BTreeMap<String, Duration>,
    /// What could not be found out, one sentence each. Anything here keeps all WAL.
    pub doubts: Vec<String>,
}

/// A needed stretch of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Its first position.
    pub from: Lsn,
    /// One behind its last; `None`: to the end of the timeline, WAL that is yet to come included.
    pub to: Option<Lsn>,
    /// By what.
    pub reason: String,
}

/// What is needed of one system's WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// All of it, for this reason.
    Everything(String),
    /// These stretches, by timeline, in order, none inside another. Of a timeline that is not listed, nothing.
    Stretches(BTreeMap<Timeline, Vec<Stretch>>),
}

impl Need {
    /// Whether WAL from `from` up to, not including, `to` on a timeline is needed, or a part of it.
    #[must_use]
    pub fn wants(&self, timeline: Timeline, from: Lsn, to: Lsn) -> bool {
        match self {
            Self::Everything(_) => true,
            Self::Stretches(of) => {
                of.get(&timeline).is_some_and(|s| s.iter().any(|s| s.from < to && s.to.is_none_or(|end| from < end)))
            }
        }
    }

    /// The oldest position of a timeline that is needed; `None` if nothing of it is. With [`Need::Everything`] its beginning.
    #[must_use]
    pub fn oldest(&self, timeline: Timeline) -> Option<Lsn> {
        match self {
            Self::Everything(_) => Some(Lsn(0)),
            Self::Stretches(of) => of.get(&timeline)?.first().map(|s| s.from),
        }
    }
}

/// What is needed of a cluster's WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// One for each of the systems that were given.
    pub systems: Vec<(SystemId, Need)>,
    /// What a person should look at. Each is one sentence.
    pub alarms: Vec<String>,
}

/// Decides what is needed, at the time `now` of the store's clock.
#[must_use]
pub fn wal_need(cluster: &Cluster, now: Time) -> Needs {
    let mut alarms: Vec<String> = cluster.doubts.iter().map(|d| format!("no WAL is removed: {d}")).collect();
    let mut systems = Vec::new();
    for system in &cluster.systems {
        let need = match cluster.doubts.first() {
            Some(doubt) => Need::Everything(doubt.clone()),
            None => of_system(cluster, system, now, &mut alarms),
        };
        systems.push((system.id, need));
    }
    Needs { systems, alarms }
}

fn of_system(cluster: &Cluster, system: &System, now: Time, alarms: &mut Vec<String>) -> Need {
    let bases: Vec<&Base> = cluster.bases.iter().filter(|b| b.system == system.id).collect();
    let holds: Vec<&Hold> = cluster.holds.iter().filter(|h| h.identifier == system.id.identifier && h.expires > now).collect();
    if !bases.iter().any(|b| b.complete) {
        if bases.is_empty() && holds.is_empty() && is_superseded(cluster, system) {
            return Need::Stretches(BTreeMap::new());
        }
        let why = format!("system {} has no complete base backup", system.id);
        alarms.push(format!("no WAL of it is removed: {why}"));
        return Need::Everything(why);
    }
    let mut wanted = Wanted { system, of: BTreeMap::new() };
    let open = open_bases(cluster, system, &bases, now);
    for base in bases {
        let name = format!("base backup {} of job {}", base.id.short(), base.job);
        if open.contains(&base.id) {
            wanted.from(base.timeline, base.start, &format!("recovery from {name}"));
        } else {
            // At least one byte, so that the segment it began in stays.
            let to = base.stop.max(Lsn(base.start.0.saturating_add(1)));
            wanted.add(base.timeline, base.start, Some(to), name);
        }
    }
    for hold in holds {
        wanted.from(hold.timeline, hold.from, &format!("restore in progress ({})", hold.name));
    }
    for timeline in &system.timelines {
        if timeline.0 > 1 && !system.lineage.contains_key(timeline) {
            let why = format!("the history of timeline {timeline} of system {} is not known", system.id);
            alarms.push(format!("its WAL is not removed: {why}"));
            wanted.add(*timeline, Lsn(0), None, why);
        }
    }
    if let Some(newest) = system.timelines.last()
        && !wanted.of.contains_key(newest)
    {
        let why = format!("no base backup reaches the newest timeline {newest} of system {}", system.id);
        alarms.push(format!("its WAL is not removed, and cannot be recovered to: {why}"));
        wanted.add(*newest, Lsn(0), None, why);
    }
    Need::Stretches(wanted.of.into_iter().map(|(timeline, all)| (timeline, merged(all))).collect())
}

/// The base backups of a system that times are recovered from: those that WAL is kept behind, without end.
#[must_use]
pub fn recovery_bases(cluster: &Cluster, system: &System, now: Time) -> BTreeSet<Id> {
    let bases: Vec<&Base> = cluster.bases.iter().filter(|b| b.system == system.id).collect();
    open_bases(cluster, system, &bases, now)
}

/// Whether the cluster went on as another system since this one's last WAL: without a base backup it is of no use to anybody.
fn is_superseded(cluster: &Cluster, system: &System) -> bool {
    let Some(last) = system.newest_wal else { return false };
    let newer = |b: &&Base| b.system != system.id && b.complete && b.stopped > last;
    cluster.bases.iter().any(|b| newer(&b))
}

/// The bases that WAL is kept behind, without end.
fn open_bases(cluster: &Cluster, system: &System, bases: &[&Base], now: Time) -> BTreeSet<Id> {
    let windowed = |b: &&Base| cluster.windows.contains_key(&b.job);
    let mut open: BTreeSet<Id> = bases.iter().filter(|b| !windowed(b)).map(|b| b.id).collect();
    // One cluster, one stream of WAL: the longest window is that of all jobs that have one.
    let Some(window) = cluster.windows.values().max() else { return open };
    let is_inside = |b: &Base| now.seconds_since(b.stopped) <= window.as_secs_f64();
    open.extend(bases.iter().filter(|b| windowed(b) && is_inside(b)).map(|b| b.id));
    let timelines: BTreeSet<Timeline> = system.timelines.iter().copied().chain(bases.iter().map(|b| b.timeline)).collect();
    for timeline in timelines {
        let before = bases.iter().filter(|b| b.complete && windowed(b) && !is_inside(b));
        let reaching = before.filter(|b| is_in_history(system, timeline, b.timeline, b.stop));
        open.extend(reaching.max_by_key(|b| (b.stopped, b.id)).map(|b| b.id));
    }
    open
}

/// Whether a position is part of a timeline's history. One whose history is not known has only itself.
fn is_in_history(system: &System, timeline: Timeline, of: Timeline, position: Lsn) -> bool {
    timeline == of || system.lineage.get(&timeline).is_some_and(|h| h.contains(of, position))
}

/// Collects stretches of one system.
struct Wanted<'a> {
    system: &'a System,
    of: BTreeMap<Timeline, Vec<Stretch>>,
}

impl Wanted<'_> {
    fn add(&mut self, timeline: Timeline, from: Lsn, to: Option<Lsn>, reason: String) {
        self.of.entry(timeline).or_default().push(Stretch { from, to, reason });
    }

    /// A timeline from a position on, and all of every timeline that came from it behind that position.
    fn from(&mut self, timeline: Timeline, from: Lsn, reason: &str) {
        self.add(timeline, from, None, reason.to_owned());
        let system = self.system;
        for (later, history) in &system.lineage {
            if *later != timeline && history.contains(timeline, from) {
                // Its own WAL begins in the segment in which it left its parent.
                let begin = history.ancestors.last().map_or(Lsn(0), |a| a.switch);
                self.add(*later, begin, None, reason.to_owned());
            }
        }
    }
}

/// In order, without stretches that lie inside another.
fn merged(mut all: Vec<Stretch>) -> Vec<Stretch> {
    let end = |s: &Stretch| s.to.unwrap_or(Lsn(u64::MAX));
    all.sort_by(|a, b| (a.from, std::cmp::Reverse(end(a)), &a.reason).cmp(&(b.from, std::cmp::Reverse(end(b)), &b.reason)));
    let mut out: Vec<Stretch> = Vec::new();
    for stretch in all {
        if out.last().is_none_or(|last| end(last) < end(&stretch)) {
            out.push(stretch);
        }
    }
    out
}

#[cfg(test)]
mod tests;
