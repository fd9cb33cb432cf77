//! A point in time as files and snapshots carry it.

use std::fmt;

/// Seconds since 1970-01-01T00:00:00Z (negative before) and nanoseconds within that second (0..1e9).
///
/// Wider than any calendar library's range on purpose: file systems hold years before 1677 and after 2262 and
/// they must come back as they were. Ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub secs: i64,
    /// 0..=999_999_999.
    pub nanos: u32,
}

impl Time {
    /// From seconds and nanoseconds; nanoseconds past one second are carried.
    #[must_use]
    pub fn new(secs: i64, nanos: u32) -> Self {
        Self { secs: secs.saturating_add(i64::from(nanos / 1_000_000_000)), nanos: nanos % 1_000_000_000 }
    }

    /// For calendar arithmetic. `None` outside years -9999..=9999.
    #[must_use]
    pub fn to_jiff(self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::new(self.secs, i32::try_from(self.nanos).ok()?).ok()
    }

    /// Seconds from `earlier` to `self`, negative when `self` is earlier.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.secs.saturating_sub(earlier.secs)) as f64 + (f64::from(self.nanos) - f64::from(earlier.nanos)) / 1e9
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(t: jiff::Timestamp) -> Self {
        let nanos = t.subsec_nanosecond();
        if nanos < 0 {
            Self { secs: t.as_second() - 1, nanos: (nanos + 1_000_000_000).unsigned_abs() }
        } else {
            Self { secs: t.as_second(), nanos: nanos.unsigned_abs() }
        }
    }
}

impl From<std::time::SystemTime> for Time {
    fn from(t: std::time::SystemTime) -> Self {
        match t.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Self { secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                let secs = -i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                match d.subsec_nanos() {
                    0 => Self { secs, nanos: 0 },
                    n => Self { secs: secs - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

/// RFC 3339 in UTC with as many fraction digits as needed, e.g. `2026-11-21T02:00:00.5Z`.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (y, mo, d) = civil_from_days(self.secs.div_euclid(86_400));
        let s = self.secs.rem_euclid(86_400);
        let (h, mi, s) = (s / 3600, s / 60 % 60, s % 60);
        if y < 0 {
            write!(f, "-{:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}", -y)?;
        } else {
            write!(f, "{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}")?;
        }
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian calendar, by 400-year eras that start in March.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// (year, month, day) to days since 1970-01-01; the inverse of [`civil_from_days`].
fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let mp = if m > 2 { m - 3 } else { m + 9 };
    let doy = (153 * mp + 2) / 5 + d - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// A text that is not an RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an RFC 3339 time")]
pub struct ParseTimeError(String);

impl std::str::FromStr for Time {
    type Err = ParseTimeError;

    /// RFC 3339 with any offset and 0..=9 fraction digits (more are cut off), years 0000..=9999.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        parse(s.as_bytes()).ok_or_else(|| ParseTimeError(s.chars().take(60).collect()))
    }
}

fn parse(b: &[u8]) -> Option<Time> {
    fn number(b: &[u8], from: usize, len: usize) -> Option<i64> {
        b.get(from..from + len)?.iter().try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
    }
    let (y, mo, d) = (number(b, 0, 4)?, number(b, 5, 2)?, number(b, 8, 2)?);
    let (h, mi, s) = (number(b, 11, 2)?, number(b, 14, 2)?, number(b, 17, 2)?);
    let shape = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')].iter().all(|(i, c)| b.get(*i) == Some(c));
    if !shape
        || !matches!(b.get(10), Some(b'T' | b't' | b' '))
        || !(1..=12).contains(&mo)
        || !(1..=31).contains(&d)
        || h > 23
        || mi > 59
        || s > 60
    {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0u32;
    if b.get(at) == Some(&b'.') {
        at += 1;
        let start = at;
        let mut scale = 100_000_000;
        while let Some(c) = b.get(at).filter(|c| c.is_ascii_digit()) {
            nanos += u32::from(c - b'0') * scale;
            scale /= 10;
            at += 1;
        }
        if at == start {
            return None;
        }
    }
    let offset = match b.get(at)? {
        b'Z' | b'z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && b.get(at + 3) == Some(&b':') => {
            let o = number(b, at + 1, 2)? * 3600 + number(b, at + 4, 2)? * 60;
            if *sign == b'-' { -o } else { o }
        }
        _ => return None,
    };
    Some(Time { secs: days_from_civil(y, mo, d) * 86_400 + h * 3600 + mi * 60 + s - offset, nanos })
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form_is_the_one_restic_writes() {
        assert_eq!(Time::new(0, 0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Time::new(1, 500_000_000).to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Time::new(7_258_118_400, 1).to_string(), "2200-01-01T00:00:00.000000001Z");
        assert_eq!(Time::new(-1, 0).to_string(), "1969-12-31T23:59:59Z");
        assert_eq!("2026-11-21T04:00:00.25+02:00".parse::<Time>().ok(), Some(Time::new(1_795_226_400, 250_000_000)));
        for bad in
            ["", "2026-11-21", "2026-11-21T04:00:00", "2026-11-21T04:00:00.Z", "2026-13-21T04:00:00Z", "2026-11-21T04:00:00+0200"]
        {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(secs in -62_167_219_200i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let t = Time::new(secs, nanos);
            prop_assert_eq!(t.to_string().parse::<Time>().ok(), Some(t));
        }
    }
}
