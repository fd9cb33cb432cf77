//! A schedule as the configuration writes it, checked but not yet tied to a job.

use std::fmt;
use std::time::Duration;

use super::cron::Expression;
use super::{format_duration, parse_duration, zone};
use crate::error::{Error, Kind, Result};

/// The shortest interval and the shortest gap that makes sense between two backups.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest interval, a hundred years: longer ones are mistakes, and sums with it stay far from any limit.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// When to run, as written in the configuration. Made by [`Spec::parse`], so that what exists is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// At the times of a cron expression.
    Cron {
        /// The expression as written: five fields, or six with seconds in front, or `@daily` and the like.
        expression: String,
        /// IANA name of the time zone the expression is read in.
        timezone: String,
    },
    /// Again and again, this long after the last start: 1 second to 100 years.
    Every(Duration),
    /// Only when somebody asks for it.
    Never,
}

impl Spec {
    /// Reads a cron expression (`0 2 * * *`, `H/15 * * * *`, `30 0 2 * * *` with seconds, `@daily`), an interval
    /// (`every 90m` or `@every 90m`) or `never`. `timezone` is UTC where it is left out, and matters to cron only.
    ///
    /// # Errors
    /// [`Kind::Config`] with a hint, for what is no schedule and for a schedule that never comes (30 February).
    pub fn parse(text: &str, timezone: Option<&str>) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::new(Kind::Config, "the schedule is empty")
                .hint("Write a cron expression such as `0 2 * * *`, an interval such as `every 6h`, or `never`."));
        }
        if matches!(text, "never" | "@never" | "manual") {
            return Ok(Self::Never);
        }
        if let Some(interval) = text.strip_prefix("@every ").or_else(|| text.strip_prefix("every ")) {
            return Self::every(parse_duration(interval)?);
        }
        if text.starts_with('@') && !text.contains(char::is_whitespace) {
            const KNOWN: [&str; 7] = ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"];
            if !KNOWN.contains(&text.to_ascii_lowercase().as_str()) {
                return Err(Error::new(Kind::Config, format!("`{text}` is not a schedule"))
                    .hint(format!("Known short forms: {}.", KNOWN.join(", "))));
            }
        }
        let timezone = timezone.unwrap_or("UTC");
        zone::find(timezone)?;
        // The key only moves `H` around and does not decide whether the expression is valid.
        Expression::parse(text, "")?;
        Ok(Self::Cron { expression: text.to_owned(), timezone: timezone.to_owned() })
    }

    /// The interval `every: <duration>`.
    ///
    /// # Errors
    /// [`Kind::Config`] below a second or above 100 years.
    pub fn every(interval: Duration) -> Result<Self> {
        if !(SHORTEST..=LONGEST).contains(&interval) {
            return Err(Error::new(Kind::Config, format!("an interval of {} is out of range", format_duration(interval)))
                .hint("Write an interval between 1s and 100 years (36600d), or `never`."));
        }
        Ok(Self::Every(interval))
    }

    /// What it means, in plain English: `at 02:00 (Europe/Berlin)`, `every 1h30m`, `never`. `key` as in
    /// [`super::Schedule::new`].
    #[must_use]
    pub fn describe(&self, key: &str) -> String {
        match self {
            Self::Never => "only on request".into(),
            Self::Every(interval) => format!("every {}", format_duration(*interval)),
            Self::Cron { expression, timezone } => match Expression::parse(expression, key) {
                Ok(e) => format!("{} ({timezone})", e.describe()),
                Err(_) => self.to_string(),
            },
        }
    }
}

/// The text that [`Spec::parse`] reads back; without the time zone.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Every(interval) => write!(f, "every {}", format_duration(*interval)),
            Self::Cron { expression, .. } => f.write_str(expression),
        }
    }
}

/// The schedule of a built-in policy: `hourly` (on the hour), `daily` and `gfs` (02:00), all in UTC. What they keep is
/// in the retention room under the same names.
#[must_use]
pub fn built_in(policy: &str) -> Option<Spec> {
    let expression = match policy {
        "hourly" => "0 * * * *",
        "daily" | "gfs" => "0 2 * * *",
        _ => return None,
    };
    Some(Spec::Cron { expression: expression.into(), timezone: "UTC".into() })
}
