//! Two servers of one origin that both archive: after a failover the former primary lives on, and its timeline goes on behind the
//! point where that of the new one left it.
//!
//! Nobody here can know which of them is right, each has commits that the other lacks, and neither overwrites anything of the other.
//! So both are stored, a recovery gets the timeline that it asks for, and **it is told loudly**: in the log, as a metric, by `wal status`.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::coverage::Survey;
use super::folder::Folder;
use super::identity::Identity;
use crate::model::{Lsn, SegmentName, Time, Timeline};

/// Another process may list a timeline at any time: so often the identity object is read again while segments come.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// One split is told so often.
const REMIND: Duration = Duration::from_secs(60);

/// A timeline that goes on behind the point where another one left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Split {
    /// The one that goes on.
    pub timeline: Timeline,
    /// The one that left it.
    pub child: Timeline,
    /// Where.
    pub switch: Lsn,
}

/// A split that a listing shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct SeenSplit {
    /// What goes on.
    #[serde(flatten)]
    pub split: Split,
    /// How many whole segments behind the switch were stored after the other timeline was known.
    pub segments: u64,
    /// When the last of them was stored, by the store's clock.
    pub last_stored: Time,
}

/// What a folder remembers.
#[derive(Debug)]
pub(super) struct Watch(Mutex<State>);

#[derive(Debug)]
struct State {
    looked: Instant,
    told: Option<Instant>,
    split: Option<Split>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State { looked: Instant::now(), told: None, split: None }))
    }

    /// Whether it is time to read the identity object again.
    fn is_due(&self) -> bool {
        let mut state = self.0.lock();
        let due = state.looked.elapsed() >= LOOK_AGAIN;
        if due {
            state.looked = Instant::now();
        }
        due
    }

    /// Whether it is to be told.
    fn found(&self, split: Option<Split>) -> bool {
        let mut state = self.0.lock();
        let tell = split.is_some() && state.told.is_none_or(|at| at.elapsed() >= REMIND);
        if tell {
            state.told = Some(Instant::now());
        }
        state.split = split;
        tell
    }
}

impl Folder {
    /// Whether what this process stored last was behind a point where another timeline had left its own.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        self.watch().0.lock().split
    }

    /// Something was stored that begins here.
    pub(super) async fn watch_split(&self, timeline: Timeline, position: Lsn) {
        if self.watch().is_due()
            && let Err(e) = self.refresh().await
        {
            tracing::debug!("{}", e.chain());
        }
        let Ok(identity) = self.known_identity().await else { return };
        let split = identity.split(timeline, position);
        if let Some(Split { child, switch, .. }) = split.filter(|s| self.watch().found(Some(*s))) {
            tracing::error!(
                "timeline {timeline} of system {} goes on at {position}, although timeline {child} left it at {switch}: two servers of one origin write, and neither has what the other one commits. Stop one of them, or give it a `cluster` name of its own and run `strongroom wal adopt` there. All of it is stored",
                self.system()
            );
        } else if split.is_none() {
            self.watch().found(None);
        }
    }
}

impl Identity {
    /// Whether this position of a timeline lies behind a point where another one left it.
    fn split(&self, timeline: Timeline, position: Lsn) -> Option<Split> {
        let mut left = self.departures(timeline).into_iter();
        left.find(|(_, switch)| *switch <= position).map(|(child, switch)| Split { timeline, child, switch })
    }
}

impl Survey {
    /// Timelines that went on after another one that left them was known. What was archived before that is no split: a restore to
    /// an earlier time begins a timeline behind whose switch the former one has long been.
    #[must_use]
    pub fn splits(&self, identity: &Identity) -> Vec<SeenSplit> {
        let mut seen = Vec::new();
        for timeline in identity.timelines.iter().map(|k| k.timeline) {
            for (child, switch) in identity.departures(timeline) {
                let Some(since) = identity.known(child).map(|k| k.since) else { continue };
                let behind = |name: &SegmentName| name.timeline == timeline && name.start(self.size) >= switch;
                let late = self.segments.iter().filter(|s| behind(&s.name) && s.stored > since);
                let (segments, last) = late.fold((0, None), |(n, last), s| (n + 1, Some(s.stored).max(last)));
                if let Some(last_stored) = last {
                    seen.push(SeenSplit { split: Split { timeline, child, switch }, segments, last_stored });
                }
            }
        }
        seen
    }
}
