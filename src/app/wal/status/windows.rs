//! To which points a recovery can get.

use std::collections::BTreeSet;

use serde::Serialize;

use super::super::bases::Base;
use crate::model::{Id, Lsn, SegmentName, Time, Timeline};
use crate::wal::{Identity, Stretch, Survey};

/// From the end of one base backup to the last position that WAL without a hole leads to, on one way through the timelines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Window {
    /// The base backup's snapshot.
    pub base: Id,
    /// The timeline it was made on.
    pub base_timeline: Timeline,
    /// The timeline that the way leads to.
    pub timeline: Timeline,
    /// The earliest position: where the base backup is consistent.
    pub from: Lsn,
    /// When that was, by the server's clock.
    pub from_time: Time,
    /// One behind the last position.
    pub to: Lsn,
    /// When the last segment was stored, by the store's clock: commits of that time, or somewhat earlier. `null` where the way ends
    /// with the base backup's own WAL.
    pub to_time: Option<Time>,
    /// Whether the archive goes on from there, as far as this timeline does; else a hole ends it.
    pub open: bool,
    /// Whether times are recovered from this base backup: WAL is kept behind it, and a hole there is a loss.
    pub needed: bool,
}

/// Of every base backup of this system, along every timeline that its WAL may go on with. `needed`: those that WAL is kept behind.
pub(super) fn of(identity: &Identity, survey: &Survey, bases: &[Base], needed: &BTreeSet<Id>) -> Vec<Window> {
    let own = bases
        .iter()
        .filter(|b| (b.facts.system_identifier, b.facts.major) == (identity.system.identifier, identity.system.major));
    let mut out = Vec::new();
    for base in own {
        let start = (base.facts.timeline, base.facts.start);
        for known in &identity.timelines {
            let Ok(path) = identity.path(start, (known.timeline, None)) else { continue };
            let needed = needed.contains(&base.snapshot);
            out.push(Window { needed, ..along(base, &path, known.timeline, survey) });
        }
    }
    out
}

/// As far as there is WAL. What is before the base backup's end is in the base backup.
fn along(base: &Base, path: &[Stretch], timeline: Timeline, survey: &Survey) -> Window {
    let size = survey.segment_size();
    let (mut to, mut open, mut last) = (base.facts.stop, true, None::<SegmentName>);
    for stretch in path {
        if stretch.to.is_some_and(|end| end <= base.facts.stop) {
            continue;
        }
        let from = stretch.from.max(to);
        let reached = survey.reach(stretch.timeline, from);
        if reached > from {
            last = Some(SegmentName::before(stretch.timeline, reached, size));
        }
        match stretch.to {
            // The descendant has its own copy of the segment in which it left.
            Some(end) if reached.0.saturating_add(size.bytes()) > end.0 => to = end,
            Some(_) => {
                (to, open) = (reached, false);
                break;
            }
            None => to = reached.max(to),
        }
    }
    // Behind a hole there is WAL that this way does not reach.
    let behind = |s: &crate::wal::StoredSegment| s.name.timeline == timeline && s.name.start(size) >= to;
    let open = open && !survey.segments().iter().any(behind);
    let stored = last.and_then(|l| {
        let at = survey.segments().binary_search_by_key(&l, |s| s.name).ok()?;
        survey.segments().get(at).map(|s| s.stored)
    });
    Window {
        base: base.snapshot,
        base_timeline: base.facts.timeline,
        timeline,
        from: base.facts.stop,
        from_time: base.facts.stopped,
        to,
        to_time: stored,
        open,
        needed: false,
    }
}
