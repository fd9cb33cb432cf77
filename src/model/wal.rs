//! Positions in PostgreSQL's write-ahead log, and the names of what it is stored in.
//!
//! Rules as in PostgreSQL's `xlog_internal.h` (segment names) and `timeline.c` (history files).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// A position in the log, in bytes from its beginning. Text form as PostgreSQL prints it: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |digits: &str| {
            let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let parts = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        let Some((high, low)) = parts else {
            return Err(Error::new(Kind::Failed, format!("`{text}` is not a WAL position"))
                .hint("A WAL position (LSN) is written as two hexadecimal numbers, such as 16/B374D848."));
        };
        Ok(Self(high << 32 | low))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// A line of history of a cluster: 1 at first, one more at each promotion and each recovery that ends. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Timeline {
    /// The name of its history file: `00000002.history`.
    #[must_use]
    pub fn history_name(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

/// The `wal_segment_size` of a cluster, in bytes: a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// What `initdb` chooses by itself: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// # Errors
    /// When it is not a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            return Ok(Self(bytes));
        }
        Err(Error::new(Kind::Failed, format!("{bytes} bytes cannot be the size of a WAL segment"))
            .hint("PostgreSQL knows powers of two from 1 MiB to 1 GiB."))
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Segments in each 4 GiB of log: how far the last part of a name counts.
    #[must_use]
    pub fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = Error;

    fn try_from(bytes: u64) -> Result<Self> {
        Self::new(bytes)
    }
}

/// The name of a segment file: `TTTTTTTTLLLLLLLLSSSSSSSS`. Ordered by timeline, then position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SegmentName {
    /// The timeline it was written on.
    pub timeline: Timeline,
    /// The position divided by 4 GiB.
    pub log: u32,
    /// The number within these 4 GiB; below [`SegmentSize::per_log`].
    pub seg: u32,
}

impl SegmentName {
    /// The segment that the byte at `lsn` is in.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "both parts have 32 bits by construction")]
    pub fn at(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, log: (lsn.0 >> 32) as u32, seg: ((lsn.0 & 0xFFFF_FFFF) / size.0) as u32 }
    }

    /// The segment that ends at or holds the byte before `lsn`: the last one needed to reach this position.
    #[must_use]
    pub fn before(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        Self::at(timeline, Lsn(lsn.0.saturating_sub(1)), size)
    }

    /// Its first byte.
    #[must_use]
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn((u64::from(self.log) << 32).saturating_add(u64::from(self.seg).saturating_mul(size.0)))
    }

    /// One behind its last byte.
    #[must_use]
    pub fn end(self, size: SegmentSize) -> Lsn {
        Lsn(self.start(size).0.saturating_add(size.0))
    }

    /// The following one on the same timeline.
    #[must_use]
    pub fn next(self, size: SegmentSize) -> Self {
        Self::at(self.timeline, self.end(size), size)
    }

    /// The same stretch of log on another timeline.
    #[must_use]
    pub fn on(self, timeline: Timeline) -> Self {
        Self { timeline, ..self }
    }

    /// Its first 16 characters: timeline and log, the folder it is archived in.
    #[must_use]
    pub fn folder(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.seg)
    }
}

/// Eight upper-case hexadecimal digits, as in every name PostgreSQL gives to WAL.
fn eight(digits: &str) -> Option<u32> {
    let valid = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    valid.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

impl FromStr for SegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = || Some((eight(text.get(..8)?)?, eight(text.get(8..16)?)?, eight(text.get(16..)?)?));
        match parts() {
            Some((timeline @ 1.., log, seg)) => Ok(Self { timeline: Timeline(timeline), log, seg }),
            _ => Err(Error::new(Kind::Failed, format!("`{text}` is not the name of a WAL segment"))),
        }
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for SegmentName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// What `archive_command` may be asked to store and `restore_command` to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalFile {
    /// A whole segment.
    Segment(SegmentName),
    /// `TTTTTTTT.history`.
    History(Timeline),
    /// `<segment>.<offset>.backup`: what a base backup leaves in the log.
    BackupHistory(SegmentName, u32),
    /// `<segment>.partial`: the last segment of an old timeline, not whole, left by a promotion.
    Partial(SegmentName),
}

impl FromStr for WalFile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            Error::new(Kind::Usage, format!("`{text}` is no file of a WAL archive"))
                .hint("Known are segments (24 hexadecimal digits), .history, .backup and .partial files; give %f, not %p.")
        };
        let (stem, rest) = text.split_once('.').unwrap_or((text, ""));
        match rest {
            "history" => match eight(stem) {
                Some(timeline @ 1..) => Ok(Self::History(Timeline(timeline))),
                _ => Err(unknown()),
            },
            "partial" => stem.parse().map(Self::Partial).map_err(|_| unknown()),
            "" if !text.ends_with('.') => stem.parse().map(Self::Segment).map_err(|_| unknown()),
            _ => {
                let offset = rest.strip_suffix(".backup").and_then(eight).ok_or_else(unknown)?;
                Ok(Self::BackupHistory(stem.parse().map_err(|_| unknown())?, offset))
            }
        }
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::History(timeline) => f.write_str(&timeline.history_name()),
            Self::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
            Self::Partial(name) => write!(f, "{name}.partial"),
        }
    }
}

/// Where a timeline came from: the content of its history file. Timeline 1 has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline it describes.
    pub timeline: Timeline,
    /// Its ancestors, oldest first, each with the position at which its successor left it.
    pub ancestors: Vec<Ancestor>,
}

/// One line of a history file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// One behind the last byte of it that belongs to the successor's history.
    pub switch: Lsn,
}

impl TimelineHistory {
    /// Timeline 1, or any other whose history is not known.
    #[must_use]
    pub fn root(timeline: Timeline) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads a history file: `parent<TAB>switch<TAB>reason` a line; `#` begins a comment.
    ///
    /// # Errors
    /// A line that is neither, and timelines or positions that do not grow: PostgreSQL refuses these too.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let bad =
                || Error::new(Kind::Failed, format!("{}: not a line of a timeline's history: `{line}`", timeline.history_name()));
            let mut parts = line.split_ascii_whitespace();
            let parent: u32 = parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad)?;
            let switch: Lsn = parts.next().and_then(|s| s.parse().ok()).ok_or_else(bad)?;
            let grows = ancestors.last().is_none_or(|last| last.timeline.0 < parent && last.switch <= switch);
            if parent == 0 || parent >= timeline.0 || !grows {
                return Err(bad());
            }
            ancestors.push(Ancestor { timeline: Timeline(parent), switch });
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timeline that the byte at `lsn` is on, seen from this one.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> Timeline {
        self.ancestors.iter().find(|a| lsn < a.switch).map_or(self.timeline, |a| a.timeline)
    }

    /// Whether `position` on `timeline` is part of this history: on this timeline, or on an ancestor no later than where it
    /// was left.
    #[must_use]
    pub fn contains(&self, timeline: Timeline, position: Lsn) -> bool {
        timeline == self.timeline || self.ancestors.iter().any(|a| a.timeline == timeline && position <= a.switch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_names_are_those_of_postgresql() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.to_string(), "16/B374D848");
        let name = SegmentName::at(Timeline(1), lsn, SegmentSize::DEFAULT);
        assert_eq!(name.to_string(), "0000000100000016000000B3");
        assert_eq!(name.start(SegmentSize::DEFAULT).to_string(), "16/B3000000");
        let last: SegmentName = "0000000100000016000000FF".parse().unwrap();
        assert_eq!(last.next(SegmentSize::DEFAULT).to_string(), "000000010000001700000000");
        let large = SegmentSize::new(1 << 30).unwrap();
        assert_eq!(
            "000000010000001600000003".parse::<SegmentName>().unwrap().next(large).to_string(),
            "000000010000001700000000"
        );
        assert_eq!(SegmentName::before(Timeline(2), Lsn(32 << 20), SegmentSize::DEFAULT).to_string(), "000000020000000000000001");
        for bad in ["", "/", "1/", "1/123456789", "g/1", "1/+1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_kind_of_file_name_is_told_apart() {
        for name in [
            "0000000100000016000000B3",
            "00000002.history",
            "0000000100000016000000B3.00000028.backup",
            "0000000100000016000000B3.partial",
        ] {
            assert_eq!(name.parse::<WalFile>().unwrap().to_string(), name);
        }
        for bad in [
            "",
            ".",
            "0000000100000016000000b3",
            "0000000100000016000000B3.",
            "00000000.history",
            "../0000000100000016000000B3",
            "0000000100000016000000B3.gz",
            "00000000000000160000000A",
        ] {
            assert!(bad.parse::<WalFile>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_history_says_which_timeline_a_position_is_on() {
        let history =
            TimelineHistory::parse(Timeline(3), "1\t0/5000000\tno recovery target\n\n# x\n2\t0/9000000\tbefore 2026\n").unwrap();
        assert_eq!(history.timeline_at(Lsn(0x4FF_FFFF)), Timeline(1));
        assert_eq!(history.timeline_at(Lsn(0x500_0000)), Timeline(2));
        assert_eq!(history.timeline_at(Lsn(0x900_0000)), Timeline(3));
        assert!(history.contains(Timeline(1), Lsn(0x500_0000)) && !history.contains(Timeline(1), Lsn(0x500_0001)));
        for bad in ["x", "1", "3\t0/1\t", "2\t0/9\t\n1\t0/A\t", "1\t0/9\t\n2\t0/8\t"] {
            assert!(TimelineHistory::parse(Timeline(3), bad).is_err(), "{bad}");
        }
    }
}
