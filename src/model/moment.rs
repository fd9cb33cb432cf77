//! Times as people write them: `2026-11-21 14:00 Europe/Berlin`, `yesterday 14:00`, `5 minutes ago`.

use jiff::civil::{DateTime, Time as Clock};
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};

use super::Time;
use crate::error::{Error, Kind, Result};

const FORMS: &str = "Write 2026-11-21T02:00:00Z, `2026-11-21 04:00:00+02:00`, `2026-11-21 04:00 Europe/Berlin`, `yesterday 14:00`, `5 minutes ago` or 6h (six hours ago). Without a zone it is UTC.";

/// Reads a moment, seen from `now`. Without a zone it is UTC, which is also where days begin.
///
/// Known are: RFC 3339; a date and a time of day with `T` or a space between them, followed by nothing, an offset (`+02`,
/// `+0200`, `-03:30`, `Z`) or the name of a zone (`UTC`, `Europe/Berlin`); `now`; `today` and `yesterday` with a time of
/// day and a zone; a length of time, with or without `ago`. A date alone is not a moment.
///
/// # Errors
/// [`Kind::Usage`] for anything else, for an unknown zone, and for a local time that does not exist or exists twice (when
/// clocks change).
pub fn moment(text: &str, now: Time) -> Result<Time> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    let bad = |why: &str| Error::new(Kind::Usage, format!("`{}` is no time: {why}", text.escape_debug())).hint(FORMS);
    let here = now.to_jiff().ok_or_else(|| bad("the clock is out of range"))?;
    let utc = here.to_zoned(TimeZone::UTC);
    if text == "now" {
        return Ok(now);
    }
    let (day, rest) = text.split_once([' ', 'T']).unwrap_or((text, ""));
    let unknown = || bad("the zone is not known");
    if day == "today" || day == "yesterday" {
        let (clock, zone) = split_zone(rest).ok_or_else(unknown)?;
        let clock: Clock = clock.parse().map_err(|_| bad("which time of that day?"))?;
        let today = utc.with_time_zone(zone.clone()).date();
        let date = if day == "today" { Some(today) } else { today.yesterday().ok() };
        let date = date.ok_or_else(|| bad("the clock is out of range"))?;
        return settle(date.to_datetime(clock), zone, &bad);
    }
    if day.parse::<jiff::civil::Date>().is_ok() && !rest.is_empty() {
        let (clock, zone) = split_zone(rest).ok_or_else(unknown)?;
        let at: DateTime = format!("{day}T{clock}").parse().map_err(|_| bad("the time of day is not one"))?;
        return settle(at, zone, &bad);
    }
    ago(text, &utc).ok_or_else(|| bad("neither a moment nor how long ago"))
}

/// `5 minutes ago`, `1d6h`: that long before `now`.
fn ago(text: &str, now: &Zoned) -> Option<Time> {
    let span: Span = text.parse().ok()?;
    // jiff reads `ago` as a minus; a plain length means the same here.
    let then = now.checked_sub(span.abs()).ok()?;
    Some(then.timestamp().into())
}

/// Time of day and zone; no zone is UTC. `None`: a zone that is not known.
fn split_zone(text: &str) -> Option<(&str, TimeZone)> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(text.len());
    let (clock, zone) = (text.get(..end)?, text.get(end..)?.trim());
    let zone = match zone {
        "" | "Z" | "z" | "UTC" => TimeZone::UTC,
        _ if zone.starts_with(['+', '-']) => TimeZone::fixed(offset(zone)?),
        _ => TimeZone::get(zone.trim_start_matches('[').trim_end_matches(']')).ok()?,
    };
    Some((clock, zone))
}

fn offset(text: &str) -> Option<jiff::tz::Offset> {
    let digits: String = text.get(1..)?.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 1 | 2 | 4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(digits.len().min(2));
    let minutes: i32 = if minutes.is_empty() { 0 } else { minutes.parse().ok()? };
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes * 60;
    jiff::tz::Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds }).ok()
}

fn settle(at: DateTime, zone: TimeZone, bad: &dyn Fn(&str) -> Error) -> Result<Time> {
    let found = zone.to_ambiguous_timestamp(at);
    if found.is_ambiguous() {
        return Err(bad("clocks change there: it does not exist or exists twice. Write it with an offset, such as +02:00"));
    }
    found.unambiguous().map(Time::from).map_err(|_| bad("it is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now: Time = "2026-11-21T12:00:00.5Z".parse().unwrap();
        for (text, time) in [
            ("2026-11-20T02:00:00+02:00", "2026-11-20T00:00:00Z"),
            ("2026-11-20 02:00:00.25", "2026-11-20T02:00:00.25Z"),
            ("2026-11-20 02:00 Europe/Berlin", "2026-11-20T01:00:00Z"),
            ("2026-07-20T02:00[Europe/Berlin]", "2026-07-20T00:00:00Z"),
            ("2026-11-20 02:00:00+02", "2026-11-20T00:00:00Z"),
            ("2026-11-20 02:00:00.123456-0330", "2026-11-20T05:30:00.123456Z"),
            ("yesterday 14:00", "2026-11-20T14:00:00Z"),
            ("today 04:30 Europe/Berlin", "2026-11-21T03:30:00Z"),
            ("yesterday 23:59:59 UTC", "2026-11-20T23:59:59Z"),
            ("5 minutes ago", "2026-11-21T11:55:00.5Z"),
            ("1 hour 30 minutes ago", "2026-11-21T10:30:00.5Z"),
            ("1d6h", "2026-11-20T06:00:00.5Z"),
            ("90s", "2026-11-21T11:58:30.5Z"),
            ("now", "2026-11-21T12:00:00.5Z"),
        ] {
            assert_eq!(moment(text, now).unwrap_or_else(|e| panic!("{text}: {e:?}")).to_string(), time, "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "tomorrow 10:00",
            "2026-11-20",
            "2026-11-20 25:00",
            "2026-11-20 10:00 Mars/Olympus",
            "14:00",
            "soon",
            // Not there, and there twice.
            "2026-03-29 02:30 Europe/Berlin",
            "2026-10-25 02:30 Europe/Berlin",
        ] {
            assert!(moment(bad, now).is_err_and(|e| e.kind() == Kind::Usage), "{bad}");
        }
    }
}
