//! How far the log of an archive leads from a base backup.

use super::{Archived, Base, Stretch};
use crate::model::{Lsn, SegmentName, Time, Timeline, TimelineHistory};

/// Where a recovery can get to, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// One behind the last byte of log that can be replayed.
    pub(super) to: Lsn,
    /// The timeline that this byte is on.
    pub(super) timeline: Timeline,
    /// When the newest commit before it was made, where that is known.
    pub(super) newest: Option<Time>,
    /// No commit of the last stretch was made after this time, where that is known.
    pub(super) quiet_after: Option<Time>,
    /// Where the last record before it begins, where that is known.
    pub(super) last: Option<Lsn>,
    /// There is more log of this history further on, from here: what lies between is missing.
    pub(super) gap_until: Option<Lsn>,
}

/// Follows `history` from the base backup on. `None` if the base backup is not part of this history, or if the log that
/// makes it consistent is missing.
pub(super) fn reach(base: &Base, archived: Option<&Archived>, history: &TimelineHistory) -> Option<Reach> {
    let facts = &base.facts;
    if !history.contains(facts.timeline, facts.stop) {
        return None;
    }
    let size = facts.segment_size;
    let first_of_segment = |lsn: Lsn| SegmentName::at(Timeline(1), lsn, size).start(size);
    let mut found = Reach {
        to: if facts.wal_included { facts.stop } else { facts.start },
        timeline: facts.timeline,
        newest: None,
        quiet_after: None,
        last: None,
        gap_until: None,
    };
    let stretches: &[Stretch] = archived.map_or(&[], |a| &a.stretches);
    let ends = legs(history);
    let own = ends.iter().position(|(t, _)| *t == facts.timeline)?;
    let ends = ends.get(own..).unwrap_or_default();
    for (timeline, end) in ends {
        // Where a timeline was left in the middle of a segment, its successor has that segment from its beginning on.
        while let Some(stretch) =
            stretches.iter().find(|s| s.timeline == *timeline && s.from <= found.to && s.to.min(*end) > found.to)
        {
            found.to = stretch.to.min(*end);
            found.timeline = *timeline;
            let whole = stretch.to <= *end;
            (found.newest, found.last) = if whole { (stretch.newest, stretch.last) } else { (None, None) };
            found.quiet_after = stretch.quiet_after;
        }
        if found.to < first_of_segment(*end) {
            break;
        }
    }
    if found.to < facts.stop {
        return None;
    }
    found.gap_until = stretches
        .iter()
        .filter(|s| ends.iter().any(|(t, end)| *t == s.timeline && s.from < *end))
        .filter(|s| s.from > found.to)
        .map(|s| s.from)
        .min();
    Some(found)
}

/// The timelines of a history, oldest first, each with where it was left.
fn legs(history: &TimelineHistory) -> Vec<(Timeline, Lsn)> {
    let own = (history.timeline, Lsn(u64::MAX));
    history.ancestors.iter().map(|a| (a.timeline, a.switch)).chain([own]).collect()
}
