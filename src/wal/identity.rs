//! The identity object of a folder: whose WAL this is, and how its timelines descend from each other. Pure: no I/O.
//!
//! **Invariant**: a timeline is listed here before its first segment is in the folder. Entries are added and never changed or
//! removed, so that a copy of it in memory is at worst incomplete, never wrong.
//!
//! Version history: 1 = this.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::model::{Ancestor, Lsn, SegmentName, SegmentSize, SystemId, Time, Timeline, TimelineHistory};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of this form: 1.
    pub version: u32,
    /// Whose WAL it is.
    pub system: SystemId,
    /// `wal_segment_size` of the cluster.
    pub segment_size: SegmentSize,
    /// In ascending order of their numbers.
    pub timelines: Vec<KnownTimeline>,
    /// Stretches that were never archived and never will be.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// Raised at each write, so that each write is a new state also where states are told by content.
    pub serial: u64,
}

/// A timeline that has, or may have, segments here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownTimeline {
    /// Its number.
    pub timeline: Timeline,
    /// Where it came from, oldest first; empty for timeline 1. `None`: not known, because archiving began on it and its history
    /// file was not there.
    pub ancestors: Option<Vec<Ancestor>>,
    /// When it was listed, by the store's clock.
    pub since: Time,
    /// The newest segment that was stored, or an earlier one: it is written from time to time only.
    #[serde(default)]
    pub newest: Option<SegmentName>,
    /// WAL before this position was expired on purpose.
    #[serde(default)]
    pub expired_below: Option<Lsn>,
}

/// WAL that is lost: recovery cannot cross it, so a new base backup is needed behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// On which timeline.
    pub timeline: Timeline,
    /// The first position that is missing.
    pub from: Lsn,
    /// The first position that is there again.
    pub to: Lsn,
    /// Why, for people.
    pub reason: String,
    /// When it was noticed, by the store's clock.
    pub noticed: Time,
}

/// Part of a timeline: from a position (inclusive) to another (exclusive), or without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Which timeline.
    pub timeline: Timeline,
    /// Its first byte.
    pub from: Lsn,
    /// One behind its last byte.
    pub to: Option<Lsn>,
}

impl Identity {
    /// Of a folder without timelines.
    #[must_use]
    pub fn new(system: SystemId, segment_size: SegmentSize) -> Self {
        Self { version: 1, system, segment_size, timelines: Vec::new(), gaps: Vec::new(), serial: 0 }
    }

    /// What is known of a timeline.
    #[must_use]
    pub fn known(&self, timeline: Timeline) -> Option<&KnownTimeline> {
        self.timelines.iter().find(|k| k.timeline == timeline)
    }

    /// A timeline's history, as its history file would tell it: of a listed timeline, or of an ancestor of one.
    #[must_use]
    pub fn history(&self, timeline: Timeline) -> Option<TimelineHistory> {
        if let Some(ancestors) = self.known(timeline).and_then(|k| k.ancestors.clone()) {
            return Some(TimelineHistory { timeline, ancestors });
        }
        self.timelines.iter().filter_map(|k| k.ancestors.as_deref()).find_map(|ancestors| {
            let at = ancestors.iter().position(|a| a.timeline == timeline)?;
            Some(TimelineHistory { timeline, ancestors: ancestors.get(..at)?.to_vec() })
        })
    }

    /// The highest timeline whose history is known: what `recovery_target_timeline = latest` finds.
    #[must_use]
    pub fn latest(&self) -> Option<Timeline> {
        self.timelines.iter().filter(|k| k.ancestors.is_some()).map(|k| k.timeline).max()
    }

    /// Lists a timeline, if its history agrees with what is known. `ancestors`: `None` if its history file is not at hand.
    /// Tells whether something changed.
    ///
    /// # Errors
    /// [`Kind::Failed`]: it descends from other timelines than these, so it is another cluster's or that of a second primary; or
    /// its history is needed and was not given.
    pub fn add(&mut self, timeline: Timeline, ancestors: Option<Vec<Ancestor>>, now: Time) -> Result<bool> {
        let ancestors = if timeline.0 == 1 { Some(Vec::new()) } else { ancestors };
        let Some(new) = ancestors else {
            if self.known(timeline).is_some() {
                return Ok(false);
            }
            if !self.timelines.is_empty() {
                return Err(Error::new(
                    Kind::Failed,
                    format!("timeline {timeline} of system {} is not known to the archive", self.system),
                )
                .hint(format!(
                    "Archive {} first; it lies in pg_wal of the server. `strongroom wal adopt` does it for a server that began to archive later.",
                    timeline.history_name()
                )));
            }
            self.insert(KnownTimeline { timeline, ancestors: None, since: now, newest: None, expired_below: None });
            return Ok(true);
        };
        for known in &self.timelines {
            let Some(theirs) = &known.ancestors else {
                continue;
            };
            if known.timeline == timeline && *theirs == new {
                return Ok(false);
            }
            if !agree((timeline, &new), (known.timeline, theirs)) {
                return Err(self.foreign(timeline, &new, known.timeline, theirs));
            }
        }
        match self.timelines.iter_mut().find(|k| k.timeline == timeline) {
            Some(known) => known.ancestors = Some(new),
            None => {
                let known = KnownTimeline { timeline, ancestors: Some(new), since: now, newest: None, expired_below: None };
                self.insert(known);
            }
        }
        Ok(true)
    }

    fn insert(&mut self, known: KnownTimeline) {
        let at = self.timelines.partition_point(|k| k.timeline < known.timeline);
        self.timelines.insert(at, known);
    }

    fn foreign(&self, new: Timeline, ours: &[Ancestor], known: Timeline, theirs: &[Ancestor]) -> Error {
        let say = |ancestors: &[Ancestor]| match ancestors {
            [] => "no ancestors".to_owned(),
            some => some.iter().map(|a| format!("{} until {}", a.timeline, a.switch)).collect::<Vec<_>>().join(", "),
        };
        Error::new(
            Kind::Failed,
            format!(
                "timeline {new} ({}) does not agree with timeline {known} ({}) that system {} has in the archive",
                say(ours),
                say(theirs),
                self.system
            ),
        )
        .hint("Two servers of the same origin went different ways. Let only one of them archive here; give the other one a `cluster` name of its own and run `strongroom wal adopt` there.")
    }

    /// Everything that recovery from `from` on this timeline may ever read, whichever way it goes: the rest of the timeline and
    /// every timeline that left it, or a descendant, at or behind that position.
    #[must_use]
    pub fn reachable(&self, timeline: Timeline, from: Lsn) -> Vec<Stretch> {
        let mut found = vec![Stretch { timeline, from, to: None }];
        for known in &self.timelines {
            let Some(ancestors) = &known.ancestors else { continue };
            let leaves = ancestors.iter().any(|a| a.timeline == timeline && a.switch >= from);
            if let Some(begin) = ancestors.last().filter(|_| leaves) {
                found.push(Stretch { timeline: known.timeline, from: begin.switch, to: None });
            }
        }
        found
    }

    /// The way from `from` on one timeline to `to` (or the end) on another: what a recovery to there reads.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the second does not descend from the first at or behind that position.
    pub fn path(&self, from: (Timeline, Lsn), to: (Timeline, Option<Lsn>)) -> Result<Vec<Stretch>> {
        let no = || {
            let end = to.1.map_or_else(|| "the end".to_owned(), |l| l.to_string());
            Error::new(Kind::Failed, format!("no way leads from {} on timeline {} to {end} of timeline {}", from.1, from.0, to.0))
        };
        let ancestors = if from.0 == to.0 { Vec::new() } else { self.history(to.0).ok_or_else(no)?.ancestors };
        let mut at = from.1;
        let mut found = Vec::new();
        if from.0 != to.0 {
            let first = ancestors.iter().position(|a| a.timeline == from.0).ok_or_else(no)?;
            for ancestor in ancestors.iter().skip(first) {
                if ancestor.switch < at {
                    return Err(no());
                }
                found.push(Stretch { timeline: ancestor.timeline, from: at, to: Some(ancestor.switch) });
                at = ancestor.switch;
            }
        }
        if to.1.is_some_and(|end| end < at) {
            return Err(no());
        }
        found.push(Stretch { timeline: to.0, from: at, to: to.1 });
        Ok(found)
    }

    /// Where descendants left this timeline, if one did behind `position`: then WAL of it up to there was written once.
    pub(super) fn left_after(&self, timeline: Timeline, position: Lsn) -> Option<(Timeline, Lsn)> {
        self.departures(timeline).into_iter().find(|(_, switch)| *switch > position)
    }

    /// The timelines that left this one directly, each with where it did.
    pub(super) fn departures(&self, timeline: Timeline) -> BTreeMap<Timeline, Lsn> {
        let departures = self.timelines.iter().filter_map(|known| {
            let ancestors = known.ancestors.as_deref()?;
            let at = ancestors.iter().position(|a| a.timeline == timeline)?;
            let child = ancestors.get(at + 1).map_or(known.timeline, |a| a.timeline);
            Some((child, ancestors.get(at)?.switch))
        });
        departures.collect()
    }
}

/// Whether two timelines can be of one cluster: as far back as they have a common ancestor, they share all of its past.
fn agree(a: (Timeline, &[Ancestor]), b: (Timeline, &[Ancestor])) -> bool {
    // Each timeline itself stands at the end of its own way, without a switch.
    let way = |(timeline, ancestors): (Timeline, &[Ancestor])| {
        let own = ancestors.iter().map(|a| (a.timeline, Some(a.switch)));
        own.chain(std::iter::once((timeline, None))).collect::<Vec<_>>()
    };
    let (a, b) = (way(a), way(b));
    let shared = a.iter().zip(&b).take_while(|(x, y)| x.0 == y.0).count();
    // No other timeline may be in both, at different depths or behind different ones.
    let (rest_a, rest_b) = (a.get(shared..).unwrap_or_default(), b.get(shared..).unwrap_or_default());
    if shared == 0 || rest_a.iter().any(|x| rest_b.iter().any(|y| x.0 == y.0)) {
        return false;
    }
    // All but the last common one were left at the same position; equal timelines have equal pasts.
    let same = |n: usize| a.iter().zip(&b).take(n).all(|(x, y)| x.1 == y.1);
    if rest_a.is_empty() && rest_b.is_empty() { same(shared) } else { same(shared - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(text: &str) -> Vec<Ancestor> {
        let pairs = text.split_whitespace().map(|p| p.split_once('@').unwrap());
        pairs.map(|(t, at)| Ancestor { timeline: Timeline(t.parse().unwrap()), switch: Lsn(at.parse().unwrap()) }).collect()
    }

    fn identity(timelines: &[(u32, &str)]) -> Identity {
        let mut made = Identity::new("17-1".parse().unwrap(), SegmentSize::DEFAULT);
        for (timeline, text) in timelines {
            assert!(made.add(Timeline(*timeline), Some(ways(text)), Time::default()).unwrap());
        }
        made
    }

    #[test]
    fn timelines_of_one_cluster_are_accepted_in_any_order() {
        for order in [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 1, 5, 2, 4]] {
            let mut made = Identity::new("17-1".parse().unwrap(), SegmentSize::DEFAULT);
            for timeline in order {
                let text = ["", "1@50", "1@50 2@90", "1@70", "1@50 2@60"][timeline as usize - 1];
                assert!(made.add(Timeline(timeline), Some(ways(text)), Time::default()).unwrap(), "{order:?} {timeline}");
                assert!(!made.add(Timeline(timeline), Some(ways(text)), Time::default()).unwrap());
                assert!(!made.add(Timeline(timeline), None, Time::default()).unwrap());
            }
            assert_eq!(made.timelines.iter().map(|k| k.timeline.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
            assert_eq!(made.latest(), Some(Timeline(5)));
        }
    }

    #[test]
    fn another_past_is_refused() {
        let known = identity(&[(1, ""), (2, "1@50"), (3, "1@50 2@90")]);
        for (timeline, text) in [(2, "1@51"), (3, "1@50"), (3, "1@50 2@91"), (4, "1@49 2@90"), (4, "2@90"), (9, "7@10"), (2, "")]
        {
            let refused = known.clone().add(Timeline(timeline), Some(ways(text)), Time::default());
            assert!(refused.is_err(), "{timeline} {text}");
        }
        let unknown = known.clone().add(Timeline(4), None, Time::default()).unwrap_err();
        assert!(unknown.hint_text().unwrap().contains("00000004.history"));
    }

    #[test]
    fn a_timeline_may_come_first_without_its_history() {
        let mut made = Identity::new("17-1".parse().unwrap(), SegmentSize::DEFAULT);
        assert!(made.add(Timeline(5), None, Time::default()).unwrap());
        assert_eq!((made.history(Timeline(5)), made.latest()), (None, None));
        assert!(made.add(Timeline(5), Some(ways("1@5 4@9")), Time::default()).unwrap());
        assert_eq!(made.history(Timeline(4)).unwrap().ancestors, ways("1@5"));
        assert!(made.add(Timeline(6), Some(ways("1@5 4@9 5@12")), Time::default()).unwrap());
    }

    #[test]
    fn ways_are_found() {
        let known = identity(&[(1, ""), (2, "1@50"), (3, "1@50 2@90"), (4, "1@70")]);
        let from = |timeline, at| {
            known.reachable(Timeline(timeline), Lsn(at)).iter().map(|s| (s.timeline.0, s.from.0)).collect::<Vec<_>>()
        };
        assert_eq!(from(1, 10), [(1, 10), (2, 50), (3, 90), (4, 70)]);
        assert_eq!(from(1, 50), [(1, 50), (2, 50), (3, 90), (4, 70)]);
        assert_eq!(from(1, 51), [(1, 51), (4, 70)]);
        assert_eq!(from(2, 60), [(2, 60), (3, 90)]);
        let path = known.path((Timeline(1), Lsn(10)), (Timeline(3), Some(Lsn(95)))).unwrap();
        let told: Vec<_> = path.iter().map(|s| (s.timeline.0, s.from.0, s.to.map(|l| l.0))).collect();
        assert_eq!(told, [(1, 10, Some(50)), (2, 50, Some(90)), (3, 90, Some(95))]);
        for (from, to) in [((1, 60), (3, 95)), ((4, 80), (3, 95)), ((1, 10), (3, 80)), ((1, 10), (9, 80))] {
            assert!(known.path((Timeline(from.0), Lsn(from.1)), (Timeline(to.0), Some(Lsn(to.1)))).is_err(), "{from:?} {to:?}");
        }
        assert_eq!(known.left_after(Timeline(1), Lsn(60)), Some((Timeline(4), Lsn(70))));
        let left = |timeline| known.departures(Timeline(timeline)).into_iter().map(|(t, at)| (t.0, at.0)).collect::<Vec<_>>();
        assert_eq!((left(1), left(2), left(3)), (vec![(2, 50), (4, 70)], vec![(3, 90)], vec![]));
    }
}
