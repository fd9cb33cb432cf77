//! Removing WAL that nothing needs. The policy says what is needed; this file makes sure that nothing else is touched.
//!
//! Within a timeline the oldest goes first, so that a crash leaves what is kept, and what is left of the rest, without a new
//! hole in it. History files and the identity object are never removed.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::coverage::Survey;
use super::folder::Folder;
use super::identity::Stretch;
use super::names::Entry;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName, Time, Timeline, WalFile};
use crate::store::Key;

/// Parts of an object that is not there are of a push under way, or of one that died: then they are older than this, in seconds.
const UNDER_WAY: f64 = 86_400.0;
/// Removals at once.
const AT_ONCE: usize = 16;

/// What must stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Need {
    /// The timelines that were looked at. Nothing of any other is touched: it may have begun meanwhile.
    pub timelines: Vec<Timeline>,
    /// What is needed of them; see [`super::Identity::reachable`] and [`super::Identity::path`].
    pub stretches: Vec<Stretch>,
}

impl Need {
    fn includes(&self, survey: &Survey, name: SegmentName) -> bool {
        let (start, end) = (name.start(survey.size), name.end(survey.size));
        let needs = |s: &Stretch| s.timeline == name.timeline && end > s.from && s.to.is_none_or(|to| start < to);
        !self.timelines.contains(&name.timeline) || self.stretches.iter().any(needs)
    }
}

/// What [`Folder::expire`] will remove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpiryPlan {
    /// In the order in which they go.
    pub segments: Vec<SegmentName>,
    /// Stored bytes of everything that goes.
    pub bytes: u64,
    keys: Vec<Key>,
    below: BTreeMap<Timeline, Lsn>,
}

impl ExpiryPlan {
    /// Whether nothing is to be removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many objects go, segments included.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.keys.len()
    }
}

/// Decides what goes: every segment that no stretch of `need` touches, with what belongs to it; tips of segments that are whole;
/// leftovers of pushes that died. Pure. `now`: by the store's clock.
///
/// # Errors
/// [`Kind::Failed`] if nothing at all is needed: then the policy found no base backup, and no WAL may go.
pub fn plan_expiry(survey: &Survey, need: &Need, now: Time) -> Result<ExpiryPlan> {
    if need.stretches.is_empty() {
        return Err(Error::new(Kind::Failed, "no base backup needs any WAL, so none is removed")
            .hint("Make a base backup. Without one the WAL is of no use, but it is kept in case one was overlooked."));
    }
    let mut plan = ExpiryPlan::default();
    // By timeline and then by age, each followed by what belongs to it.
    let mut order: Vec<(SegmentName, u8, Key, u64)> = Vec::new();
    for segment in &survey.segments {
        if need.includes(survey, segment.name) {
            continue;
        }
        plan.segments.push(segment.name);
        order.push((segment.name, 0, survey.names.file(&WalFile::Segment(segment.name))?, segment.bytes));
    }
    let is_there = |file: &WalFile| match file {
        WalFile::Segment(name) => survey.has(*name),
        other => survey.beside.iter().any(|b| b.entry == Entry::File(other.clone())),
    };
    for beside in &survey.beside {
        let (name, goes) = match &beside.entry {
            Entry::File(WalFile::Partial(name) | WalFile::BackupHistory(name, _)) => (*name, !need.includes(survey, *name)),
            Entry::File(WalFile::Segment(_) | WalFile::History(_)) => continue,
            Entry::Tip(name, _) => (*name, survey.has(*name) || !need.includes(survey, *name)),
            Entry::Part(file) => match file {
                WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name, _) => {
                    let abandoned = !is_there(file) && now.seconds_since(beside.stored) > UNDER_WAY;
                    (*name, abandoned || (is_there(file) && !need.includes(survey, *name)))
                }
                WalFile::History(_) => continue,
            },
        };
        if goes {
            order.push((name, 1, beside.key.clone(), beside.bytes));
        }
    }
    order.sort_unstable_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
    plan.bytes = order.iter().map(|o| o.3).sum();
    for timeline in &need.timelines {
        let goes = plan.segments.iter().rev().find(|n| n.timeline == *timeline);
        let mut of_it = survey.segments.iter().map(|s| s.name).filter(|n| n.timeline == *timeline);
        let stays = of_it.find(|n| need.includes(survey, *n));
        if let Some(goes) = goes {
            plan.below.insert(*timeline, stays.map_or(goes.end(survey.size), |s| s.start(survey.size)));
        }
    }
    plan.keys = order.into_iter().map(|o| o.2).collect();
    Ok(plan)
}

impl Folder {
    /// Carries a plan out. Safe to repeat; dropped half-way, the rest is simply still there.
    ///
    /// # Errors
    /// The store's failures. What was removed stays removed.
    pub async fn expire(&self, plan: &ExpiryPlan) -> Result<()> {
        if plan.is_empty() {
            return Ok(());
        }
        // First, so that nobody takes what is about to go for a fault.
        self.record_expiry(&plan.below).await?;
        let store = &self.objects().store;
        // Owned, so that whoever awaits this may do so in a task.
        let removals = stream::iter(plan.keys.clone()).map(|key| async move { store.delete(&key).await });
        removals.buffered(AT_ONCE).try_collect::<()>().await.context(|| format!("expire WAL in {}", self.path()))
    }
}
