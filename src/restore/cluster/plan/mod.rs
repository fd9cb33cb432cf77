//! Which base backup a recovery begins with, which log it needs and where it ends. Pure: what there is comes in, a plan
//! or a refusal that names what can be reached comes out.
//!
//! **Which base backup.** Of those on the history of the wanted timeline, the newest that was consistent before the target;
//! of a time that may be one of an earlier system (before an upgrade), for every other target only backups of the newest
//! system count. For a transaction or a named restore point nobody knows in advance where it is: the newest base backup is
//! taken unless one was named. A base backup that cannot reach the target is never taken instead.
//!
//! **A time later than the newest commit.** PostgreSQL 13 and later fail if the target is never reached, and on an idle
//! cluster no commit follows that would show that it was. Where the archive ends without a gap and its newest commit is not
//! after the target, the plan is to recover everything, with a note. But not for a time at which the cluster was another system
//! already: what that one wrote is not in this log. **Everything** is what there is now: the log goes on while files are restored
//! and replayed, so recovery ends behind the last record that is known, not where the log ends by then.

mod reach;
#[cfg(test)]
pub(super) mod tests;
mod windows;

use crate::error::{Error, Kind, Result};
use crate::model::{BaseBackup, Id, Lsn, SegmentName, SegmentSize, Time, Timeline, TimelineHistory};
use crate::postgres::recovery::{FollowTimeline, Target};
use reach::{Reach, reach};
pub use windows::Window;
use windows::{sentence, windows};

/// A base backup that could be restored.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its snapshot.
    pub snapshot: Id,
    /// What it says about itself.
    pub facts: BaseBackup,
    /// Bytes of everything in it, where that was recorded.
    pub bytes: Option<u64>,
}

/// What an archive holds of one system.
#[derive(Debug, Clone, Default)]
pub struct Archived {
    /// The system it is of.
    pub system_identifier: u64,
    /// The history of every timeline that the archive knows.
    pub histories: Vec<TimelineHistory>,
    /// Runs of log without a hole.
    pub stretches: Vec<Stretch>,
    /// When another system took its place, after an upgrade or a new `initdb`.
    pub followed: Option<Time>,
}

/// A run of log without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// All of it is on this timeline.
    pub timeline: Timeline,
    /// Its first byte.
    pub from: Lsn,
    /// One behind its last byte.
    pub to: Lsn,
    /// When the newest commit in it was made, if anybody looked and found one.
    pub newest: Option<Time>,
    /// No commit in it was made after this time, if anybody looked and found that.
    pub quiet_after: Option<Time>,
    /// Where its last record begins, if anybody looked and found it.
    pub last: Option<Lsn>,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where to stop.
    pub target: Target,
    /// Whether the target itself is in.
    pub inclusive: bool,
    /// Along which timeline.
    pub timeline: FollowTimeline,
    /// The base backup to begin with, if one was named. `false`: the choice is the planner's.
    pub pinned: Option<Id>,
    /// Now, by the store's clock.
    pub now: Time,
}

/// A recovery that can succeed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it begins with.
    pub base: Base,
    /// Where it ends; not always what was asked for, see [`Plan::notes`].
    pub target: Target,
    /// Whether the target itself is in.
    pub inclusive: bool,
    /// The target that was asked for lies behind all log: this one is where that ends now.
    pub everything: bool,
    /// The timeline that is recovered to.
    pub timeline: Timeline,
    /// The log it replays, from the beginning of the base backup to the target, or to the end where nobody knows before
    /// where the target is. `None` without an archive.
    pub log: Option<Log>,
    /// When the newest commit within reach was made, where that is known.
    pub newest: Option<Time>,
    /// What deserves a look. Each is one sentence.
    pub notes: Vec<String>,
}

/// A stretch of log to be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// From here.
    pub from: Lsn,
    /// To here, at most.
    pub to: Lsn,
    /// The timeline of its last byte.
    pub timeline: Timeline,
    /// Segments that this touches.
    pub segments: u64,
    /// Bytes in a segment.
    pub size: SegmentSize,
}

impl Log {
    /// The first segment.
    #[must_use]
    pub fn first(&self, timeline: Timeline) -> SegmentName {
        SegmentName::at(timeline, self.from, self.size)
    }

    /// The last segment.
    #[must_use]
    pub fn last(&self) -> SegmentName {
        SegmentName::before(self.timeline, self.to, self.size)
    }
}

/// Makes the plan. `bases` are the complete base backups of one cluster, or the one that was named; `archived` is empty
/// where there is no archive, or no way to read it during recovery.
///
/// # Errors
/// [`Kind::NotFound`] if there is no base backup, or none that reaches the target: the hint lists what can be reached.
/// [`Kind::Usage`] for a time in the future and a timeline that nobody knows.
pub fn plan(bases: &[Base], archived: &[Archived], wish: &Wish) -> Result<Plan> {
    let bases = newest_first(bases);
    let mut candidates: Vec<&Base> = bases.iter().copied().filter(|b| wish.pinned.is_none_or(|id| id == b.snapshot)).collect();
    let Some(newest) = candidates.first() else {
        return Err(Error::new(Kind::NotFound, "there is no base backup to begin with")
            .hint("`strongroom snapshots` lists what there is; an incomplete one must be named with --snapshot."));
    };
    if let Target::Time(time) = wish.target
        && time > wish.now
    {
        return Err(Error::new(Kind::Usage, format!("{time} lies in the future: it is {} now", wish.now))
            .hint("Leave the target out to recover everything there is."));
    }
    let system = newest.facts.system_identifier;
    if !matches!(wish.target, Target::Time(_)) {
        candidates.retain(|b| b.facts.system_identifier == system);
    }
    known_timeline(&bases, archived, wish.timeline)?;
    let mut refused = None;
    for base in candidates {
        let of_system = archived.iter().find(|a| a.system_identifier == base.facts.system_identifier);
        let Some(history) = history_for(base, &bases, of_system, wish.timeline) else { continue };
        let Some(reach) = reach(base, of_system, &history) else { continue };
        if begins_after(base, &wish.target) {
            continue;
        }
        match end(base, of_system, &reach, wish) {
            Ok(end) => return Ok(assemble(base, of_system.is_some(), &history, &reach, wish, end)),
            // Whatever keeps the newest from the target keeps the older ones too, and they are further away.
            Err(why) => {
                refused = Some(why);
                break;
            }
        }
    }
    let why = refused.unwrap_or_else(|| match wish.pinned {
        Some(_) => "the named base backup was consistent only later, or is no part of this timeline's history".to_owned(),
        None => "no base backup was consistent before it on this timeline's history".to_owned(),
    });
    let what = match &wish.target {
        Target::End => format!("the log cannot be followed: {why}"),
        target => format!("{target} cannot be reached: {why}"),
    };
    Err(Error::new(Kind::NotFound, what).hint(sentence(&windows(&bases, archived, wish.timeline))))
}

fn newest_first(bases: &[Base]) -> Vec<&Base> {
    let mut bases: Vec<&Base> = bases.iter().collect();
    bases.sort_by_key(|b| std::cmp::Reverse((b.facts.stopped, b.facts.stop)));
    bases
}

/// What can be recovered along a timeline, oldest first. Base backups whose log leads to the same end share a window.
#[must_use]
pub fn recoverable(bases: &[Base], archived: &[Archived], timeline: FollowTimeline) -> Vec<Window> {
    windows(&newest_first(bases), archived, timeline)
}

/// The history that a recovery from this base backup follows; `None` if it does not lead through the backup.
fn history_for(base: &Base, bases: &[&Base], archived: Option<&Archived>, follow: FollowTimeline) -> Option<TimelineHistory> {
    let known = |timeline: Timeline| {
        let found = archived.and_then(|a| a.histories.iter().find(|h| h.timeline == timeline));
        found.cloned().unwrap_or_else(|| TimelineHistory::root(timeline))
    };
    let system = base.facts.system_identifier;
    let history = match follow {
        FollowTimeline::Current => known(base.facts.timeline),
        FollowTimeline::Number(number) => known(number),
        FollowTimeline::Latest => {
            let of_bases = bases.iter().filter(|b| b.facts.system_identifier == system).map(|b| b.facts.timeline);
            let of_archive = archived.into_iter().flat_map(|a| a.histories.iter().map(|h| h.timeline));
            known(of_bases.chain(of_archive).max()?)
        }
    };
    history.contains(base.facts.timeline, base.facts.stop).then_some(history)
}

fn known_timeline(bases: &[&Base], archived: &[Archived], follow: FollowTimeline) -> Result<()> {
    let FollowTimeline::Number(wanted) = follow else { return Ok(()) };
    let of_bases = bases.iter().map(|b| b.facts.timeline);
    let of_archive = archived.iter().flat_map(|a| a.histories.iter().map(|h| h.timeline));
    let mut known: Vec<u32> = of_bases.chain(of_archive).map(|t| t.0).collect();
    known.sort_unstable();
    known.dedup();
    if known.contains(&wanted.0) {
        return Ok(());
    }
    let known: Vec<String> = known.iter().map(u32::to_string).collect();
    Err(Error::new(Kind::Usage, format!("there is no timeline {wanted}")).hint(format!("There are: {}.", known.join(", "))))
}

/// Whether the target lies before the point where this base backup is consistent.
fn begins_after(base: &Base, target: &Target) -> bool {
    match target {
        Target::Time(time) => base.facts.stopped > *time,
        Target::Lsn(lsn) => base.facts.stop > *lsn,
        _ => false,
    }
}

/// Where recovery ends.
struct End {
    target: Target,
    /// Instead of at the target that was asked for.
    everything: bool,
    notes: Vec<String>,
}

/// The target that ends recovery behind all log that is there now; `None` if that is not known.
fn everything(base: &Base, reach: &Reach) -> Option<Target> {
    match reach.last {
        Some(last) if last >= base.facts.stop => Some(Target::Lsn(last)),
        None if reach.to > base.facts.stop => None,
        // Nothing whole behind the base backup.
        _ => Some(Target::Immediate),
    }
}

/// What to tell PostgreSQL, or why the target is out of reach.
fn end(base: &Base, archived: Option<&Archived>, reach: &Reach, wish: &Wish) -> Result<End, String> {
    let has_archive = archived.is_some();
    let followed = archived.and_then(|a| a.followed);
    let gap = reach.gap_until.map(|until| format!("the log from {} to {until} is missing from the archive", reach.to));
    let none = "there is no WAL archive to recover from, so only the end of each base backup can be reached".to_owned();
    let mut notes = Vec::new();
    let mut all = None;
    let target = match &wish.target {
        Target::End => {
            if let Some(gap) = &gap {
                notes.push(format!("{gap}: recovery ends at {}", reach.to));
            }
            if let Some(since) = followed {
                notes.push(format!(
                    "this is the cluster as it was before another system took its place in the archive on {since}"
                ));
            }
            Target::End
        }
        Target::Immediate if has_archive => Target::Immediate,
        Target::Immediate => Target::End,
        _ if !has_archive => return Err(none),
        Target::Lsn(lsn) if *lsn > reach.to => {
            return Err(gap.unwrap_or_else(|| format!("the archive ends at {}", reach.to)));
        }
        Target::Lsn(lsn) if *lsn == reach.to => {
            all = everything(base, reach);
            if all.is_some() {
                notes.push(format!("position {lsn} is where the log ends: everything is recovered"));
            }
            wish.target.clone()
        }
        Target::Time(time) => match (reach.newest, gap) {
            (Some(newest), _) if newest > *time => Target::Time(*time),
            _ if followed.is_some_and(|since| since <= *time) => {
                let since = followed.unwrap_or_default();
                return Err(format!(
                    "another system took the place of {} in the archive on {since}, and no base backup of it was consistent before",
                    base.facts.system_identifier
                ));
            }
            (Some(newest), Some(gap)) => return Err(format!("{gap}; the newest commit before it is of {newest}")),
            (None, Some(gap)) => return Err(gap),
            (newest, None) => {
                let none_after =
                    newest.is_some() || reach.to == base.facts.stop || reach.quiet_after.is_some_and(|quiet| quiet <= *time);
                all = if none_after { everything(base, reach) } else { None };
                notes.push(match (&all, newest) {
                    (Some(_), Some(newest)) => format!(
                        "the newest commit in the archive is of {newest}, not after {time}: everything is recovered. If the cluster was not idle since, log is missing"
                    ),
                    (Some(_), None) => format!(
                        "the archive has no commit after {time}: everything is recovered. If the cluster was not idle since, log is missing"
                    ),
                    (None, _) => format!(
                        "no commit after {time} was found near the end of the archive: if there is none, the server says that the target was not reached; recover without a target then"
                    ),
                });
                Target::Time(*time)
            }
        },
        Target::Xid(_) | Target::Name(_) => {
            if wish.pinned.is_none() {
                notes.push(format!(
                    "where {} is cannot be known in advance: the newest base backup is used. If it was made later, name an earlier one with --snapshot",
                    wish.target
                ));
            }
            if let Some(gap) = &gap {
                notes.push(format!("{gap}: what lies beyond cannot be reached"));
            }
            wish.target.clone()
        }
        target @ Target::Lsn(_) => target.clone(),
    };
    Ok(End { everything: all.is_some(), target: all.unwrap_or(target), notes })
}

fn assemble(base: &Base, has_archive: bool, history: &TimelineHistory, reach: &Reach, wish: &Wish, end: End) -> Plan {
    let End { target, everything, notes } = end;
    let facts = &base.facts;
    let to = match target {
        Target::Immediate => facts.stop,
        // The record that begins there is read too.
        Target::Lsn(lsn) if !everything => Lsn(lsn.0.saturating_add(1)),
        _ => reach.to,
    };
    let log = has_archive.then(|| {
        let (size, last_byte) = (facts.segment_size, Lsn(to.0.saturating_sub(1)));
        let segments = (last_byte.0 / size.bytes()).saturating_sub(facts.start.0 / size.bytes()) + 1;
        Log { from: facts.start, to, timeline: history.timeline_at(last_byte), segments, size }
    });
    let inclusive = wish.inclusive || everything;
    Plan { base: base.clone(), target, inclusive, everything, timeline: history.timeline, log, newest: reach.newest, notes }
}
