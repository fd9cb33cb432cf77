//! Where to go on: pure, given what is stored and what the slot keeps.

use std::collections::BTreeSet;

use crate::model::{Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory};

/// What the archive has of a cluster's lineage, as far as it was looked at.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Whole segments.
    pub(super) whole: BTreeSet<SegmentName>,
    /// Segments that only tips are stored of.
    pub(super) begun: BTreeSet<SegmentName>,
}

/// A stream's first byte: the beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) timeline: Timeline,
    pub(super) start: Lsn,
}

/// The timelines of a lineage, oldest first, each with its end.
fn path(history: &TimelineHistory) -> impl DoubleEndedIterator<Item = (Timeline, Lsn)> + '_ {
    let past = history.ancestors.iter().map(|a| (a.timeline, a.switch));
    past.chain(std::iter::once((history.timeline, Lsn(u64::MAX))))
}

/// One behind the newest position that is stored, rounded down to the beginning of a segment that is not whole.
pub(super) fn end(history: &TimelineHistory, stored: &Stored, size: SegmentSize) -> Option<Lsn> {
    path(history).rev().find_map(|(timeline, switch)| {
        let on = |names: &BTreeSet<SegmentName>| names.iter().rev().find(|n| n.timeline == timeline).copied();
        let whole = on(&stored.whole).map(|n| n.end(size));
        let begun = on(&stored.begun).map(|n| n.start(size));
        let newest = whole.max(begun)?;
        // What was written behind the switch is not part of this lineage.
        Some(newest.min(floor(switch, size)))
    })
}

/// The first place of the lineage that is not stored, looked at from `from` (or the archive's end, where that is earlier) on.
pub(super) fn place(history: &TimelineHistory, stored: &Stored, from: Lsn, size: SegmentSize) -> Place {
    let mut start = floor(from, size);
    if let Some(end) = end(history, stored, size) {
        if end <= start {
            start = end;
        } else {
            while start < end && whole(history, stored, start, size) {
                start = Lsn(start.0.saturating_add(size.bytes()));
            }
        }
    }
    Place { timeline: first_timeline(history, stored, start, size), start }
}

/// Whether recovery finds the segment that begins here: under the name of the timeline at its end.
fn whole(history: &TimelineHistory, stored: &Stored, start: Lsn, size: SegmentSize) -> bool {
    let timeline = history.timeline_at(Lsn(start.0.saturating_add(size.bytes() - 1)));
    stored.whole.contains(&SegmentName::at(timeline, start, size))
}

/// The oldest timeline whose part of this segment is still needed.
fn first_timeline(history: &TimelineHistory, stored: &Stored, start: Lsn, size: SegmentSize) -> Timeline {
    let mut timeline = history.timeline_at(start);
    while stored.whole.contains(&SegmentName::at(timeline, start, size)) {
        match next_in_segment(history, Place { timeline, start }, size) {
            Some(next) => timeline = next,
            None => break,
        }
    }
    timeline
}

/// The timeline that goes on within the same segment, whose segment then holds all of this one's.
pub(super) fn next_in_segment(history: &TimelineHistory, place: Place, size: SegmentSize) -> Option<Timeline> {
    let end = Lsn(place.start.0.saturating_add(size.bytes()));
    let mut rest = path(history).skip_while(|(t, _)| *t != place.timeline);
    let (_, switch) = rest.next()?;
    rest.next().filter(|_| switch < end).map(|(next, _)| next)
}

/// The parts of a lost stretch on each timeline of the lineage.
pub(super) fn parts(history: &TimelineHistory, from: Lsn, to: Lsn) -> Vec<(Timeline, Lsn, Lsn)> {
    let mut begin = Lsn(0);
    let mut out = Vec::new();
    for (timeline, switch) in path(history) {
        let (a, b) = (from.max(begin), to.min(switch));
        if a < b {
            out.push((timeline, a, b));
        }
        begin = switch;
    }
    out
}

/// The beginning of the segment that this position is in.
pub(super) fn floor(lsn: Lsn, size: SegmentSize) -> Lsn {
    Lsn(lsn.0 - lsn.0 % size.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ancestor;

    const MB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(MB).unwrap()
    }

    fn names(list: &[(u32, u64)]) -> BTreeSet<SegmentName> {
        list.iter().map(|(t, n)| SegmentName::at(Timeline(*t), Lsn(n * MB), size())).collect()
    }

    fn stored(whole: &[(u32, u64)], begun: &[(u32, u64)]) -> Stored {
        Stored { whole: names(whole), begun: names(begun) }
    }

    /// Timeline 2 left timeline 1 in the middle of segment 5.
    fn two() -> TimelineHistory {
        TimelineHistory { timeline: Timeline(2), ancestors: vec![Ancestor { timeline: Timeline(1), switch: Lsn(5 * MB + 100) }] }
    }

    fn at(history: &TimelineHistory, stored: &Stored, from: u64) -> (u32, u64) {
        let place = place(history, stored, Lsn(from), size());
        assert_eq!(place.start.0 % MB, 0);
        (place.timeline.0, place.start.0 / MB)
    }

    #[test]
    fn it_goes_on_behind_what_is_stored() {
        let one = TimelineHistory::root(Timeline(1));
        assert_eq!(at(&one, &stored(&[], &[]), 7 * MB + 9), (1, 7), "an empty archive: where the slot begins");
        assert_eq!(at(&one, &stored(&[(1, 3), (1, 4)], &[]), 4 * MB + 9), (1, 5));
        assert_eq!(at(&one, &stored(&[(1, 3), (1, 4)], &[(1, 5)]), 5 * MB + 9), (1, 5));
        assert_eq!(at(&one, &stored(&[(1, 3)], &[]), 9 * MB), (1, 4), "a slot that begins later may still have it");
        assert_eq!(at(&one, &stored(&[(1, 3), (1, 5)], &[]), 3 * MB), (1, 4), "a hole that the slot can fill");
        assert_eq!(at(&one, &stored(&[(1, 1), (1, 3), (1, 4)], &[]), 3 * MB), (1, 5), "one that it cannot");
        assert_eq!(at(&one, &stored(&[], &[(1, 2)]), 9 * MB), (1, 2), "only the beginning of a segment is there");
    }

    #[test]
    fn a_switch_is_crossed_once() {
        assert_eq!(at(&two(), &stored(&[(1, 3)], &[]), 3 * MB), (1, 4));
        assert_eq!(at(&two(), &stored(&[(1, 4)], &[(1, 5)]), 5 * MB), (1, 5), "the rest of the old timeline first");
        assert_eq!(at(&two(), &stored(&[(1, 4)], &[(1, 5), (2, 5)]), 5 * MB), (1, 5));
        assert_eq!(at(&two(), &stored(&[(1, 4), (2, 5)], &[]), 5 * MB + 200), (2, 6));
        assert_eq!(at(&two(), &stored(&[(1, 4), (2, 5), (2, 6)], &[]), 4 * MB), (2, 7));
        assert_eq!(at(&two(), &stored(&[(1, 3), (2, 6)], &[]), 3 * MB), (1, 4), "what nobody archived before the switch");
        // The old primary went on alone for a while: its segments are not of this lineage.
        assert_eq!(at(&two(), &stored(&[(1, 4), (1, 5), (1, 6)], &[]), 6 * MB), (2, 5));
        assert_eq!(next_in_segment(&two(), Place { timeline: Timeline(1), start: Lsn(5 * MB) }, size()), Some(Timeline(2)));
        assert_eq!(next_in_segment(&two(), Place { timeline: Timeline(1), start: Lsn(4 * MB) }, size()), None);
        assert_eq!(next_in_segment(&two(), Place { timeline: Timeline(2), start: Lsn(5 * MB) }, size()), None);
    }

    #[test]
    fn a_hole_is_told_by_timeline() {
        let (a, s, b) = (Lsn(3 * MB), Lsn(5 * MB + 100), Lsn(8 * MB));
        assert_eq!(parts(&two(), a, b), [(Timeline(1), a, s), (Timeline(2), s, b)]);
        assert_eq!(parts(&two(), Lsn(6 * MB), b), [(Timeline(2), Lsn(6 * MB), b)]);
        assert_eq!(parts(&two(), b, b), []);
    }
}
