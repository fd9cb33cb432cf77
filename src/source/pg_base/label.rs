//! `backup_label`: what the server says about a backup when it ends.

use crate::error::{Error, Kind, Result};
use crate::model::{Lsn, Timeline};

/// The facts in a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where replay begins.
    pub start: Lsn,
    /// The checkpoint that replay begins with.
    pub checkpoint: Lsn,
    /// The timeline of both.
    pub timeline: Timeline,
    /// Taken from a standby.
    pub from_standby: bool,
}

impl Label {
    /// Reads a label.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for a label without start, checkpoint or timeline: a backup with it could not be restored.
    pub fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(str::trim);
        let bad = || Error::new(Kind::Corrupt, "the server's backup label is not understood");
        let lsn = |name: &str| field(name).and_then(|f| f.split(' ').next()).and_then(|f| f.parse::<Lsn>().ok()).ok_or_else(bad);
        Ok(Self {
            start: lsn("START WAL LOCATION")?,
            checkpoint: lsn("CHECKPOINT LOCATION")?,
            timeline: field("START TIMELINE").and_then(|t| t.parse().ok()).map(Timeline).ok_or_else(bad)?,
            from_standby: field("BACKUP FROM") == Some("standby"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read() {
        let text = "START WAL LOCATION: 1/2000028 (file 000000030000000100000002)\nCHECKPOINT LOCATION: 1/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIME: 2026-11-21 07:00:00 UTC\nLABEL: strongroom\nSTART TIMELINE: 3\n";
        let label = Label::parse(text).unwrap();
        assert_eq!((label.start.to_string(), label.checkpoint.to_string()), ("1/2000028".into(), "1/2000060".into()));
        assert_eq!((label.timeline, label.from_standby), (Timeline(3), true));
        for cut in ["START WAL", "CHECKPOINT", "START TIMELINE"] {
            let without: String = text.lines().filter(|l| !l.starts_with(cut)).map(|l| format!("{l}\n")).collect();
            assert!(Label::parse(&without).is_err(), "{cut}");
        }
    }
}
