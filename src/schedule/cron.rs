//! A cron expression: checked field by field with errors that teach, `H` resolved, searched forwards and backwards.

use std::str::FromStr;

use croner::Cron;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::zone::first_instant;
use crate::error::{Error, Kind, Result};

/// A field's name, smallest and largest value, and the largest that `H` may pick (every month has a 28th).
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    hash_max: u32,
}

const FIELDS: [Field; 6] = [
    Field { name: "second", min: 0, max: 59, hash_max: 59 },
    Field { name: "minute", min: 0, max: 59, hash_max: 59 },
    Field { name: "hour", min: 0, max: 23, hash_max: 23 },
    Field { name: "day of month", min: 1, max: 31, hash_max: 28 },
    Field { name: "month", min: 1, max: 12, hash_max: 12 },
    Field { name: "day of week", min: 0, max: 7, hash_max: 6 },
];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A checked expression with every `H` resolved.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    cron: Cron,
    /// Runs in every hour, so that it follows elapsed time instead of the wall clock.
    every_hour: bool,
}

impl Expression {
    /// Five fields, or six with seconds in front, or `@hourly` and the like. `key` (`tenant/job`) decides what `H` means.
    pub(super) fn parse(text: &str, key: &str) -> Result<Self> {
        let fields = split(text)?;
        let mut resolved = Vec::with_capacity(6);
        for (field, value) in FIELDS.iter().zip(&fields) {
            let items: Result<Vec<String>> =
                value.split(',').map(|item| field.item(item, key).map_err(|e| e.context(format!("schedule `{text}`")))).collect();
            resolved.push(items?.join(","));
        }
        let plain = resolved.join(" ");
        let cron = Cron::from_str(&plain).map_err(|e| {
            Error::new(Kind::Config, format!("schedule `{text}` is not a cron expression")).because(e).hint(SHAPE)
        })?;
        let every_hour = cron.pattern.hours.values().len() == 24;
        let this = Self { cron, every_hour };
        // The calendar repeats after 400 years; what has not come by then never comes.
        let from = jiff::civil::date(2000, 1, 1).at(0, 0, 0, 0);
        let comes = this.cron.find_next_occurrence(&from, true).is_ok_and(|t| t.year() <= 2400);
        if !comes {
            return Err(Error::new(Kind::Config, format!("schedule `{text}` never runs: no such date exists"))
                .hint("Check day of month against month, e.g. February has no 30th. For the last day of each month write `L`: `0 2 L * *`."));
        }
        Ok(this)
    }

    /// The first run strictly after `t`.
    pub(super) fn next(&self, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
        if self.every_hour { self.next_elapsed(zone, t) } else { self.next_wall(zone, t) }
    }

    /// The last run at or before `t`.
    pub(super) fn previous(&self, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
        if self.every_hour { self.previous_elapsed(zone, t) } else { self.previous_wall(zone, t) }
    }

    /// What it means in plain English, in lower case.
    pub(super) fn describe(&self) -> String {
        let text = self.cron.describe().replacen("At every ", "Every ", 1);
        let mut chars = text.trim_end_matches('.').chars();
        chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
    }

    fn after(&self, civil: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&civil, inclusive).ok()
    }

    fn before(&self, civil: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_previous_occurrence(&civil, inclusive).ok()
    }

    /// `first_instant` never decreases, so the answer is the first match after the wall clock at `t` whose instant is
    /// past `t`. More than one step is taken only in the second pass through a repeated hour.
    fn next_wall(&self, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
        let mut civil = zone.to_datetime(t);
        loop {
            civil = self.after(civil, false)?;
            let at = first_instant(zone, civil)?;
            if at > t {
                return Some(at);
            }
        }
    }

    fn previous_wall(&self, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
        let now = zone.to_datetime(t);
        let mut civil = if first_instant(zone, now)? < t {
            // The second pass through a repeated hour: all of the first pass is over, later wall-clock times included.
            let nanosecond = SignedDuration::from_nanos(1);
            let change = zone.preceding(t.checked_add(nanosecond).ok()?).next()?.timestamp();
            let end = zone.to_offset(change.checked_sub(nanosecond).ok()?).to_datetime(change);
            self.before(end, false)?
        } else {
            self.before(now, true)?
        };
        loop {
            let at = first_instant(zone, civil)?;
            if at <= t {
                return Some(at);
            }
            civil = self.before(civil, false)?;
        }
    }

    /// Walks the stretches of constant offset: within one, wall clock and elapsed time agree.
    fn next_elapsed(&self, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
        let (mut from, mut inclusive) = (t, false);
        loop {
            let offset = zone.to_offset(from);
            let at = offset.to_timestamp(self.after(offset.to_datetime(from), inclusive)?).ok()?;
            match zone.following(from).next().map(|x| x.timestamp()) {
                Some(change) if change <= at => (from, inclusive) = (change, true),
                _ => return Some(at),
            }
        }
    }

    fn previous_elapsed(&self, zone: &TimeZone, t: Timestamp) -> Option<Timestamp> {
        let mut from = t;
        loop {
            let offset = zone.to_offset(from);
            let at = offset.to_timestamp(self.before(offset.to_datetime(from), true)?).ok()?;
            // The change that began this stretch; it belongs to the stretch itself.
            let start = if zone.to_offset(from.checked_sub(SignedDuration::from_nanos(1)).ok()?) == offset {
                zone.preceding(from).next().map(|x| x.timestamp())
            } else {
                Some(from)
            };
            match start {
                Some(change) if at < change => from = change.checked_sub(SignedDuration::from_secs(1)).ok()?,
                _ => return Some(at),
            }
        }
    }
}

const SHAPE: &str = "Write `minute hour day-of-month month day-of-week`, e.g. `0 2 * * *` (02:00 every day), `H 2 * * MON-FRI` or `*/15 * * * *`; \
    a sixth field in front is seconds.";

/// Six fields, upper case; seconds are 0 where they are left out.
fn split(text: &str) -> Result<Vec<String>> {
    let upper = text.trim().to_ascii_uppercase();
    let expanded = match upper.as_str() {
        "@HOURLY" => "0 * * * *",
        "@DAILY" | "@MIDNIGHT" => "0 0 * * *",
        "@WEEKLY" => "0 0 * * 0",
        "@MONTHLY" => "0 0 1 * *",
        "@YEARLY" | "@ANNUALLY" => "0 0 1 1 *",
        other => other,
    };
    let mut fields: Vec<String> = expanded.split_whitespace().map(str::to_owned).collect();
    match fields.len() {
        5 => fields.insert(0, "0".into()),
        6 => {}
        n => {
            let count = if n == 1 { "1 field".to_owned() } else { format!("{n} fields") };
            return Err(
                Error::new(Kind::Config, format!("schedule `{text}` has {count} instead of 5 (or 6 with seconds)")).hint(SHAPE)
            );
        }
    }
    Ok(fields)
}

impl Field {
    /// The largest value that is not another name of a smaller one: Sunday is 0 and 7.
    fn top(&self) -> u32 {
        if self.max == 7 { 6 } else { self.max }
    }

    fn wrong(&self, item: &str, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::Config, format!("`{item}` in the {} field: {why}", self.name)).hint(SHAPE)
    }

    /// Checks one of the comma-separated parts and resolves `H` and names in it.
    fn item(&self, item: &str, key: &str) -> Result<String> {
        if item.is_empty() {
            return Err(self.wrong(item, "there is nothing between two commas"));
        }
        let (base, step) = match item.split_once('/') {
            Some((base, step)) => (base, Some(self.step(item, step)?)),
            None => (item, None),
        };
        if base == "H" || base.starts_with("H(") {
            return self.hashed(item, base, step, key);
        }
        // `L` (last), `15W` (nearest weekday), `FRI#2` (second Friday) and `?`: left to the library.
        let special = match self.name {
            "day of month" => base == "?" || base.contains(['L', 'W']),
            "day of week" => base == "?" || base.contains('#') || base.ends_with('L'),
            _ => false,
        };
        if base == "*" || special {
            return Ok(item.to_owned());
        }
        let plain = match base.split_once('-') {
            Some((a, b)) => {
                let (a, b) = (self.value(item, a)?, self.value(item, b)?);
                // Up to Sunday is a range to 7, so that it ascends.
                let b = if self.max == 7 && b == 0 { 7 } else { b };
                if a > b {
                    return Err(
                        self.wrong(item, format!("the range runs backwards; write `{a}-{},{}-{b}`", self.top(), self.min))
                    );
                }
                format!("{a}-{b}")
            }
            None => {
                let value = self.value(item, base)?;
                if let Some(step) = step {
                    return Err(self.wrong(item, format!("a step needs a range: write `{value}-{}/{step}`", self.top())));
                }
                value.to_string()
            }
        };
        Ok(step.map_or(plain.clone(), |s| format!("{plain}/{s}")))
    }

    fn value(&self, item: &str, text: &str) -> Result<u32> {
        let named = match self.name {
            "month" => MONTHS.iter().position(|m| *m == text).map(|i| i + 1),
            "day of week" => DAYS.iter().position(|d| *d == text),
            _ => None,
        };
        let number = match named {
            Some(n) => u32::try_from(n).ok(),
            None => text.parse::<u32>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
        };
        match number {
            Some(n) if (self.min..=self.max).contains(&n) => Ok(n),
            Some(n) => Err(self.wrong(item, format!("{n} is not in {}-{}", self.min, self.max))),
            None => Err(self.wrong(item, format!("`{text}` is not a number in {}-{}", self.min, self.max))),
        }
    }

    fn step(&self, item: &str, step: &str) -> Result<u32> {
        let count = self.top() - self.min + 1;
        let n = step.parse::<u32>().ok().filter(|n| *n > 0);
        let n = n.ok_or_else(|| self.wrong(item, format!("`{step}` is not a step of 1 or more")))?;
        if n > count {
            let unit = match self.name {
                "second" => "s",
                "minute" => "m",
                "hour" => "h",
                _ => "d",
            };
            return Err(self
                .wrong(item, format!("a step of {n} in a field of {count} values runs once per round, not every {n}"))
                .hint(format!("For a fixed interval write `every: {n}{unit}` instead of a cron expression.")));
        }
        Ok(n)
    }

    /// `H`, `H/15`, `H(0-29)` and `H(0-29)/10`, as in Jenkins: the job's name picks the value, the same one for ever.
    fn hashed(&self, item: &str, base: &str, step: Option<u32>, key: &str) -> Result<String> {
        let (low, high) = match base.strip_prefix("H(") {
            None => (self.min, self.hash_max),
            Some(inner) => {
                let range = inner.strip_suffix(')').and_then(|r| r.split_once('-'));
                let (a, b) = range.ok_or_else(|| self.wrong(item, "write a range as `H(0-29)`"))?;
                (self.value(item, a)?, self.value(item, b)?)
            }
        };
        if low > high {
            return Err(self.wrong(item, "the range runs backwards"));
        }
        let spread = step.unwrap_or(high - low + 1).min(high - low + 1);
        let pick =
            low + hash(&["H", self.name, key]).checked_rem(u64::from(spread)).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Ok(match step {
            Some(step) => format!("{pick}-{high}/{step}"),
            None => pick.to_string(),
        })
    }
}

/// A stable hash of texts: the same on every machine and in every version.
pub(super) fn hash(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"strongroom schedule v1");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut out = [0; 8];
    hasher.finalize_xof().fill(&mut out);
    u64::from_le_bytes(out)
}
