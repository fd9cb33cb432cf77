//! The rules of one job.

use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// How many snapshots stay, by kind of period. A rule that is `None` keeps nothing by itself; no rule at all keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// The newest this many.
    pub last: Option<u32>,
    /// The newest of each of this many hours that have one.
    pub hourly: Option<u32>,
    /// The newest of each of this many days that have one.
    pub daily: Option<u32>,
    /// The newest of each of this many ISO weeks that have one.
    pub weekly: Option<u32>,
    /// The newest of each of this many months that have one.
    pub monthly: Option<u32>,
    /// The newest of each of this many years that have one.
    pub yearly: Option<u32>,
    /// All that are at most this much older than the newest.
    pub within: Option<Duration>,
    /// Any time up to this long ago stays recoverable: all that are younger, and the newest one that is not.
    pub recovery_window: Option<Duration>,
}

impl Keep {
    /// Whether there is no rule, so that everything stays.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts().iter().all(|(_, n)| n.is_none()) && self.within.is_none() && self.recovery_window.is_none()
    }

    /// Refuses a zero: it looks like "keep none" and like "no limit", and would be neither.
    ///
    /// # Errors
    /// [`Kind::Config`] that names the rule.
    pub fn validate(&self) -> Result<()> {
        let zero = self.counts().into_iter().find(|(_, n)| *n == Some(0)).map(|(name, _)| name);
        let zero = zero.or(self.within.is_some_and(|w| w.is_zero()).then_some("within"));
        let zero = zero.or(self.recovery_window.is_some_and(|w| w.is_zero()).then_some("recovery_window"));
        match zero {
            None => Ok(()),
            Some(name) => Err(Error::new(Kind::Config, format!("`keep.{name}` is zero")).hint(format!(
                "Leave `{name}` out if this rule should keep nothing. A job without any rule keeps every snapshot."
            ))),
        }
    }

    /// In plain English: `7 daily, 4 weekly`, `all within 14d`, `everything`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts: Vec<String> = self.counts().iter().filter_map(|(name, n)| n.map(|n| format!("{n} {name}"))).collect();
        parts.extend(self.within.map(|w| format!("all within {}", text(w))));
        parts.extend(self.recovery_window.map(|w| format!("any time of the last {}", text(w))));
        if parts.is_empty() { "everything".into() } else { parts.join(", ") }
    }

    /// The rules that count, by name.
    pub(super) fn counts(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("last", self.last),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ]
    }
}

/// What a built-in policy keeps: `hourly` (24 hourly, 7 daily), `daily` (14 daily), `gfs` (7 daily, 4 weekly, 12 monthly).
/// When they run is in the schedule room under the same names.
#[must_use]
pub fn built_in(policy: &str) -> Option<Keep> {
    let none = Keep::default();
    Some(match policy {
        "hourly" => Keep { hourly: Some(24), daily: Some(7), ..none },
        "daily" => Keep { daily: Some(14), ..none },
        "gfs" => Keep { daily: Some(7), weekly: Some(4), monthly: Some(12), ..none },
        _ => return None,
    })
}

/// `14d`, `36h`, `90s`: in the largest unit that is exact.
pub(super) fn text(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        s if s > 0 && s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s > 0 && s % 3_600 == 0 => format!("{}h", s / 3_600),
        s if s > 0 && s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}
