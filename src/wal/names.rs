//! Where things lie below `wal/`, and the way back from a key to what it is.

use crate::error::Result;
use crate::model::{Lsn, SegmentName, SystemId, WalFile};
use crate::store::Key;

/// The keys of one system's folder.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// Ends with `/`.
    pub(super) root: String,
}

impl Names {
    pub(super) fn new(cluster: &str, system: SystemId) -> Self {
        Self { root: format!("wal/{cluster}/{system}/") }
    }

    fn key(&self, below: &str) -> Result<Key> {
        Ok(Key::new(format!("{}{below}", self.root))?)
    }

    pub(super) fn identity(&self) -> Result<Key> {
        self.key("identity")
    }

    pub(super) fn file(&self, file: &WalFile) -> Result<Key> {
        match file {
            WalFile::History(_) => self.key(&format!("history/{file}")),
            WalFile::Segment(name) | WalFile::Partial(name) | WalFile::BackupHistory(name, _) => {
                self.key(&format!("{}/{file}", name.folder()))
            }
        }
    }

    /// Everything about one segment, tips and parts included, and about no other.
    pub(super) fn of_segment(&self, name: SegmentName) -> String {
        format!("{}{}/{name}", self.root, name.folder())
    }

    pub(super) fn tips(&self, name: SegmentName) -> String {
        format!("{}.tip/", self.of_segment(name))
    }

    /// A tip that begins so many bytes into its segment.
    pub(super) fn tip(&self, name: SegmentName, offset: u64) -> Result<Key> {
        Ok(Key::new(format!("{}{offset:08x}", self.tips(name)))?)
    }

    /// What a key of this folder is.
    pub(super) fn parse(&self, key: &Key) -> Option<Entry> {
        let below = key.as_str().strip_prefix(&self.root)?;
        let mut steps = below.split('/');
        let (folder, name, rest) = (steps.next()?, steps.next()?, steps.next());
        if steps.next().is_some() {
            return None;
        }
        if folder == "history" {
            return rest.is_none().then(|| name.parse().ok().map(Entry::File)).flatten();
        }
        let Some(rest) = rest else {
            return name.parse().ok().filter(|f| self.file(f).is_ok_and(|k| k == *key)).map(Entry::File);
        };
        if let Some(segment) = name.strip_suffix(".tip") {
            let offset = u32::from_str_radix(rest, 16).ok().filter(|_| rest.len() == 8)?;
            return Some(Entry::Tip(segment.parse().ok()?, u64::from(offset)));
        }
        Some(Entry::Part(name.strip_suffix(".part")?.parse().ok()?))
    }
}

/// The frames of a large object: beside it, see `crypto::object`.
pub(super) fn part(of: &Key, salt: &str, number: u16) -> Result<Key> {
    Ok(Key::new(format!("{of}.part/{salt}-{number:04x}"))?)
}

/// What an object in a folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    File(WalFile),
    /// Of this segment, from this byte of it on.
    Tip(SegmentName, u64),
    /// Of this file.
    Part(WalFile),
}

/// The position of a byte of a segment.
pub(super) fn position(start: Lsn, offset: u64) -> Lsn {
    Lsn(start.0.saturating_add(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are() {
        let names = Names::new("main", "17-7387432087440429062".parse().unwrap());
        let segment: SegmentName = "0000000100000016000000B3".parse().unwrap();
        let root = "wal/main/17-7387432087440429062/";
        for (file, key) in [
            ("0000000100000016000000B3", "0000000100000016/0000000100000016000000B3"),
            ("0000000100000016000000B3.partial", "0000000100000016/0000000100000016000000B3.partial"),
            ("0000000100000016000000B3.00000028.backup", "0000000100000016/0000000100000016000000B3.00000028.backup"),
            ("00000002.history", "history/00000002.history"),
        ] {
            let file: WalFile = file.parse().unwrap();
            let made = names.file(&file).unwrap();
            assert_eq!(made.as_str(), format!("{root}{key}"));
            assert_eq!(names.parse(&made), Some(Entry::File(file.clone())));
            let part = part(&made, "00ff", 3).unwrap();
            assert!(part.as_str().ends_with(".part/00ff-0003"));
            assert_eq!(names.parse(&part), (!matches!(file, WalFile::History(_))).then_some(Entry::Part(file)));
        }
        assert_eq!(names.parse(&names.tip(segment, 0x28).unwrap()), Some(Entry::Tip(segment, 0x28)));
        for other in ["identity", "0000000100000016/x", "0000000200000016/0000000100000016000000B3", "a/b/c/d"] {
            assert_eq!(names.parse(&Key::new(format!("{root}{other}")).unwrap()), None, "{other}");
        }
        for bad in ["17", "017-1", "17-x", "17-1-", ""] {
            assert!(bad.parse::<SystemId>().is_err(), "{bad}");
        }
    }
}
