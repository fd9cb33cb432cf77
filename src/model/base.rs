//! What a physical base backup says about itself: in its snapshot's manifest, read by restore, retention and drill.

use serde::{Deserialize, Serialize};

use super::{Lsn, SegmentSize, Time, Timeline};

/// Facts of one base backup, under `pg_base` in the facts of `.strongroom/manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseBackup {
    /// Name of the cluster: ties it to its WAL archive.
    pub cluster: String,
    /// `initdb` gave it this number; decimal text, since JSON readers lose digits of large numbers.
    #[serde(with = "as_text")]
    pub system_identifier: u64,
    /// Major version of the server.
    pub major: u32,
    /// The server's version as it writes it.
    pub server_version: String,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// The timeline at its start and stop.
    pub timeline: Timeline,
    /// Where replay begins: the checkpoint's redo position of `backup_label`.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// When it began, by the server's clock.
    pub started: Time,
    /// When it was consistent, by the server's clock: the earliest time that can be recovered to from it.
    pub stopped: Time,
    /// Read from a standby.
    pub from_standby: bool,
    /// Whether the WAL from start to stop is in the snapshot, so that it can be restored without an archive.
    pub wal_included: bool,
    /// Every tablespace besides the default ones.
    #[serde(default)]
    pub tablespaces: Vec<Tablespace>,
    /// Whether the cluster has page checksums.
    #[serde(default)]
    pub checksums: bool,
    /// Pages whose checksum was wrong twice; at most 1,000 are listed.
    #[serde(default)]
    pub bad_pages: Vec<BadPage>,
    /// Versions of the libraries that decide how text is sorted: `libc`, `icu`. Different ones corrupt indexes silently.
    #[serde(default)]
    pub collation_versions: std::collections::BTreeMap<String, String>,
    /// Configuration files that lie outside the data directory, kept under `/config` of the snapshot: name there, path on the server.
    #[serde(default)]
    pub outside_files: std::collections::BTreeMap<String, String>,
}

/// A tablespace: in the snapshot at [`TABLESPACES`]`/<oid>/`, and one that lay inside the data directory at
/// `pg_tblspc/<oid>/` of that. Snapshots of former versions have all of them there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number.
    pub oid: u32,
    /// The directory it had on the server; relative to the data directory's `pg_tblspc` where its link is.
    pub path: String,
}

impl Tablespace {
    /// Whether it lay inside the data directory, where developers' servers may have them.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.path.starts_with('/') && !self.path.starts_with("../")
    }
}

/// Where a snapshot has the tablespaces, beside the data directory. The links of the data directory lead there, so that a snapshot
/// that any tool restores starts as it is: a server does not recover with directories in the place of links.
pub const TABLESPACES: &str = "tablespaces";

/// A page with a wrong checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// File, relative to the data directory.
    pub file: String,
    /// Number of the page in that file, from 0.
    pub block: u32,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
