//! What can be recovered at all, told when something cannot.

use super::{Archived, Base, Reach, history_for, reach};
use crate::model::{Id, Lsn, Time, Timeline};
use crate::postgres::recovery::FollowTimeline;

/// A stretch of a cluster's past that can be recovered to, every point of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    /// The system, in decimal digits.
    pub system_identifier: String,
    /// The base backup that opens it.
    pub snapshot: Id,
    /// When that was consistent: the earliest time.
    pub from_time: Time,
    /// The position of the same.
    pub from: Lsn,
    /// Where the log ends.
    pub to: Lsn,
    /// The newest commit before that, where it is known.
    pub to_time: Option<Time>,
    /// The timeline of its end.
    pub timeline: Timeline,
    /// Log is missing right behind it, and there is later log.
    pub gap: bool,
}

/// Of `bases`, newest first: an older one that reaches as far widens the window.
pub(super) fn windows(bases: &[&Base], archived: &[Archived], follow: FollowTimeline) -> Vec<Window> {
    let mut out: Vec<Window> = Vec::new();
    for base in bases {
        let facts = &base.facts;
        let archived = archived.iter().find(|a| a.system_identifier == facts.system_identifier);
        let Some(history) = history_for(base, bases, archived, follow) else { continue };
        let Some(Reach { to, timeline, newest, gap_until, .. }) = reach(base, archived, &history) else { continue };
        let own = Window {
            system_identifier: facts.system_identifier.to_string(),
            snapshot: base.snapshot,
            from_time: facts.stopped,
            from: facts.stop,
            to,
            to_time: newest,
            timeline,
            gap: gap_until.is_some(),
        };
        let same = |w: &&mut Window| w.to == to && w.timeline == timeline && w.system_identifier == own.system_identifier;
        match out.iter_mut().find(same) {
            Some(wider) => (wider.snapshot, wider.from_time, wider.from) = (own.snapshot, own.from_time, own.from),
            None => out.push(own),
        }
    }
    out.sort_by_key(|w| (w.from_time, w.from));
    out
}

/// For people.
pub(super) fn sentence(windows: &[Window]) -> String {
    if windows.is_empty() {
        return "Nothing can be recovered along this timeline; try --target-timeline current.".to_owned();
    }
    let one = |w: &Window| {
        let until = match w.to_time {
            Some(time) => format!("{} (newest commit {time})", w.to),
            None => w.to.to_string(),
        };
        if w.from == w.to {
            return format!("{} ({}, snapshot {})", w.from_time, w.from, w.snapshot.short());
        }
        format!("from {} ({}, snapshot {}) to {until} on timeline {}", w.from_time, w.from, w.snapshot.short(), w.timeline)
    };
    let list: Vec<String> = windows.iter().map(one).collect();
    format!("What can be reached: {}.", list.join("; "))
}
