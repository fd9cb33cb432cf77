//! Lengths of time as people write them: `90m`, `6h`, `14d`, `1h30m`.

use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// Units from the longest to the shortest: name, seconds.
const UNITS: [(&str, u64); 5] = [("w", 7 * 86_400), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Reads `90m`, `6h`, `14d`, `2w`, `1h30m`, `45s`: whole numbers with a unit, longest unit first, no spaces. A day is
/// 24 hours. Months and years are not accepted, because their length depends on the calendar.
///
/// # Errors
/// [`Kind::Config`] with a hint that lists the units.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = |why: &str| {
        Error::new(Kind::Config, format!("`{}` is not a length of time: {why}", text.escape_debug()))
            .hint("Write whole numbers with the units w, d, h, m and s, e.g. `90m`, `6h`, `14d` or `1h30m`.")
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("it is empty"));
    }
    let mut total = 0u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong("a number is missing or too large"))?;
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        if unit.is_empty() {
            return Err(wrong("a unit is missing"));
        }
        // Consumes longer units too, so that `30m1h` and `1h1h` are refused.
        let Some((_, seconds)) = units.by_ref().find(|(name, _)| *name == unit) else {
            return Err(wrong(&format!("`{unit}` is not a unit, or not in the order w, d, h, m, s")));
        };
        total = number.checked_mul(*seconds).and_then(|n| total.checked_add(n)).ok_or_else(|| wrong("it is too long"))?;
        rest = after;
    }
    Ok(Duration::from_secs(total))
}

/// The shortest text that [`parse_duration`] reads back as the same whole seconds, e.g. `1d12h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut out = String::new();
    for (name, seconds) in UNITS.iter().skip(1) {
        if rest >= *seconds {
            out.push_str(&format!("{}{name}", rest / seconds));
            rest %= seconds;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}
