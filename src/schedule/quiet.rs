//! Hours in which no run starts.

use jiff::civil::{DateTime, Time as ClockTime};
use jiff::tz::TimeZone;

use super::zone;
use crate::error::{Error, Kind, Result};
use crate::model::Time;

const DAY: u32 = 24 * 60;

/// Daily windows such as `08:00-18:00` or, over midnight, `22:00-06:00`. The start belongs to the window, the end does
/// not. A run that falls into a window starts at its end; a run that is going on is not stopped.
#[derive(Debug, Clone)]
pub struct QuietHours {
    /// Minutes of the day: from (included), to (excluded, up to 24:00). None wraps; windows over midnight are cut in two.
    windows: Vec<(u32, u32)>,
    zone: TimeZone,
}

impl Default for QuietHours {
    fn default() -> Self {
        Self { windows: Vec::new(), zone: TimeZone::UTC }
    }
}

impl QuietHours {
    /// Reads windows in one time zone (UTC where it is left out). No window means that any time is fine.
    ///
    /// # Errors
    /// [`Kind::Config`] for a window that is not `HH:MM-HH:MM`, an empty one, an unknown zone, or windows that leave no
    /// minute of the day.
    pub fn parse(windows: &[impl AsRef<str>], timezone: Option<&str>) -> Result<Self> {
        let mut out = Self { windows: Vec::new(), zone: zone::find(timezone.unwrap_or("UTC"))? };
        for text in windows.iter().map(AsRef::as_ref) {
            let wrong = |why: &str| {
                Error::new(Kind::Config, format!("quiet hours `{}`: {why}", text.escape_debug()))
                    .hint("Write `HH:MM-HH:MM`, e.g. `08:00-18:00`, or over midnight `22:00-06:00`.")
            };
            let (from, to) = text.split_once('-').ok_or_else(|| wrong("there is no `-`"))?;
            let from = minute(from).filter(|m| *m < DAY).ok_or_else(|| wrong("the start is not a time of day"))?;
            let to = minute(to).ok_or_else(|| wrong("the end is not a time of day"))?;
            match from.cmp(&to) {
                std::cmp::Ordering::Less => out.windows.push((from, to)),
                std::cmp::Ordering::Greater => out.windows.extend([(from, DAY), (0, to)].into_iter().filter(|(a, b)| a < b)),
                std::cmp::Ordering::Equal => return Err(wrong("it is empty")),
            }
        }
        if (0..DAY).all(|m| out.inside(m).is_some()) {
            return Err(Error::new(Kind::Config, "the quiet hours leave no time to run")
                .hint("Leave at least a few hours of each day outside them."));
        }
        Ok(out)
    }

    /// The first moment at or after `t` that lies in no window.
    #[must_use]
    pub fn open_at(&self, t: Time) -> Time {
        let mut t = t;
        // Every round leaves one window, and somewhere in the day there is none; clock changes may add a few.
        for _ in 0..self.windows.len() * 3 {
            match self.end_of_window(t) {
                Some(end) => t = end,
                None => break,
            }
        }
        t
    }

    /// The end of a window that contains `minute`.
    fn inside(&self, minute: u32) -> Option<u32> {
        self.windows.iter().find(|(from, to)| (*from..*to).contains(&minute)).map(|(_, to)| *to)
    }

    fn end_of_window(&self, t: Time) -> Option<Time> {
        let now = t.to_jiff()?;
        let civil = self.zone.to_datetime(now);
        let to = self.inside(u32::from(civil.hour().unsigned_abs()) * 60 + u32::from(civil.minute().unsigned_abs()))?;
        let date = if to == DAY { civil.date().tomorrow().ok()? } else { civil.date() };
        let minute = to % DAY;
        let time = ClockTime::new(i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?, 0, 0).ok()?;
        let end = DateTime::from_parts(date, time);
        // In a repeated hour the first of two ends may be over already.
        let ambiguous = self.zone.to_ambiguous_timestamp(end);
        let first = zone::first_instant(&self.zone, end)?;
        let end = if first > now { first } else { ambiguous.later().ok()? };
        (end > now).then(|| end.into())
    }
}

/// `HH:MM` as minutes of the day; `24:00` is the end of it.
fn minute(text: &str) -> Option<u32> {
    let (h, m) = text.trim().split_once(':')?;
    let number = |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u32>().ok()).flatten();
    let (h, m) = (number(h)?, number(m)?);
    ((h < 24 && m < 60) || (h == 24 && m == 0)).then_some(h * 60 + m)
}
