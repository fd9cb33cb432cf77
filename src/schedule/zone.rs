//! From wall-clock times to instants, over the gaps and overlaps that time zones make.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::error::{Error, Kind, Result};

/// The zone of that IANA name (`Europe/Berlin`), or `UTC`.
///
/// # Errors
/// [`Kind::Config`] for a name that the time zone database does not have.
pub(super) fn find(name: &str) -> Result<TimeZone> {
    if name.eq_ignore_ascii_case("utc") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(name).map_err(|e| {
        Error::new(Kind::Config, format!("there is no time zone `{}`", name.escape_debug()))
            .because(e)
            .hint("Use a name of the IANA time zone database such as `Europe/Berlin`, `America/New_York` or `UTC`.")
    })
}

/// The instant at which a wall clock first shows `civil` or, where it jumps over it, the instant of the jump.
/// Never decreases as `civil` grows.
pub(super) fn first_instant(zone: &TimeZone, civil: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
        AmbiguousOffset::Gap { before, .. } => {
            // Read with the offset before the jump, a skipped time lies at or after the jump itself.
            let past = before.to_timestamp(civil).ok()?;
            let just_after = past.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
            zone.preceding(just_after).next().map(|t| t.timestamp())
        }
    }
}
