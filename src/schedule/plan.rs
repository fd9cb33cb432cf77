//! One job's schedule, and when it starts next.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::cron::{Expression, hash};
use super::{CLOCK_TOLERANCE_SECS, QuietHours, Spec, zone};
use crate::error::Result;
use crate::model::Time;

/// When one job runs. Pure: the same questions always get the same answers.
#[derive(Debug, Clone)]
pub struct Schedule {
    times: Times,
    key: String,
    jitter: Duration,
    seed: u64,
    quiet: QuietHours,
}

#[derive(Debug, Clone)]
enum Times {
    Cron(Box<Expression>, TimeZone),
    Every(Duration),
    Never,
}

/// A run that lies ahead, or one that is overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The time the schedule names; in the past for a missed run. What metrics and leases call this run.
    pub due: Time,
    /// When to start: never before `due`, later by jitter and quiet hours; not in the future if it should start now.
    pub at: Time,
}

impl Schedule {
    /// `key` is `tenant/job`: it decides `H` and jitter. `jitter` delays each run by up to that long, differently for
    /// each run. Schedules with the same `seed` (0 where nobody asks) agree with each other.
    ///
    /// # Errors
    /// None for a [`Spec`] made by [`Spec::parse`], else what that would have said.
    pub fn new(spec: &Spec, key: &str, jitter: Duration, seed: u64, quiet: QuietHours) -> Result<Self> {
        let times = match spec {
            Spec::Cron { expression, timezone } => {
                Times::Cron(Box::new(Expression::parse(expression, key)?), zone::find(timezone)?)
            }
            Spec::Every(interval) => Times::Every(*interval),
            Spec::Never => Times::Never,
        };
        Ok(Self { times, key: key.to_owned(), jitter, seed, quiet })
    }

    /// The first time strictly after `t` that the schedule names, without jitter and quiet hours. For an interval,
    /// `t` is the last start. `None` for `never`, and beyond the year 5000.
    #[must_use]
    pub fn next_after(&self, t: Time) -> Option<Time> {
        match &self.times {
            Times::Never => None,
            Times::Every(interval) => Some(add(t, *interval)),
            Times::Cron(cron, zone) => cron.next(zone, t.to_jiff()?).map(Time::from),
        }
    }

    /// The last time at or before `t` that the schedule names. `None` for intervals, which name no times of their own,
    /// and for `never`.
    #[must_use]
    pub fn last_due_before(&self, t: Time) -> Option<Time> {
        match &self.times {
            Times::Never | Times::Every(_) => None,
            Times::Cron(cron, zone) => cron.previous(zone, t.to_jiff()?).map(Time::from),
        }
    }

    /// The run that should have started by `now` and did not, given when the last successful one **started**. Of
    /// several missed runs only the newest is told: they are caught up once. A job that never ran has missed its run.
    /// A start over 5 minutes ahead of `now` is a wrong clock and counts as unknown.
    #[must_use]
    pub fn missed(&self, last_start: Option<Time>, now: Time) -> Option<Time> {
        let last = last_start.filter(|l| l.seconds_since(now) <= CLOCK_TOLERANCE_SECS as f64);
        match &self.times {
            Times::Never => None,
            Times::Every(interval) => last.map_or(Some(now), |l| Some(add(l, *interval)).filter(|due| *due <= now)),
            Times::Cron(..) => self.last_due_before(now).filter(|due| last.is_none_or(|l| l < *due)),
        }
    }

    /// When to start next: the missed run, if there is one, else the coming one; jitter and quiet hours included.
    /// `None` for `never`.
    #[must_use]
    pub fn next_start(&self, last_start: Option<Time>, now: Time) -> Option<Start> {
        let due = match self.missed(last_start, now) {
            Some(due) => due,
            None => match (&self.times, last_start) {
                (Times::Every(interval), Some(last)) => add(last, *interval),
                _ => self.next_after(now)?,
            },
        };
        let at = self.quiet.open_at(add(due, self.delay(due)).max(now));
        Some(Start { due, at })
    }

    /// The jitter of the run due at that time: 0 up to the setting, at most half of the time to the next run.
    #[must_use]
    pub fn delay(&self, due: Time) -> Duration {
        let gap = match self.next_after(due) {
            Some(next) => Duration::from_secs(u64::try_from(next.secs.saturating_sub(due.secs)).unwrap_or(0)),
            None => return Duration::ZERO,
        };
        let most = self.jitter.min(gap / 2).as_secs();
        if most == 0 {
            return Duration::ZERO;
        }
        let pick = hash(&["jitter", &self.key, &due.secs.to_string(), &self.seed.to_string()]);
        Duration::from_secs(pick % (most + 1))
    }
}

fn add(t: Time, d: Duration) -> Time {
    Time::new(t.secs.saturating_add(i64::try_from(d.as_secs()).unwrap_or(i64::MAX)), t.nanos + d.subsec_nanos())
}
