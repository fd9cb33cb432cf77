//! Snapshot files.

use serde::{Deserialize, Serialize};

use crate::model::{Id, Time};

/// A snapshot with its name.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// SHA-256 of the stored file.
    pub id: Id,
    /// What it says.
    pub file: SnapshotFile,
}

/// `snapshots/<id>` as JSON, in the order stock clients write. Fields of others are kept and written last.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// When the backup began.
    pub time: Time,
    /// The snapshot it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The root directory's tree.
    pub tree: Id,
    /// Absolute paths of what was backed up.
    #[serde(default)]
    pub paths: Vec<String>,
    /// `<tenant>.<job>` for ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Who ran it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Numeric owner of the process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// Numeric group of the process.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Patterns that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub excludes: Vec<String>,
    /// `k=v` words that people filter on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub tags: Vec<String>,
    /// The first id of a snapshot that was rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// Which program wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// Counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<SnapshotSummary>,
    /// Fields that this program does not know.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl SnapshotFile {
    /// The value of the tag `name=value`.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find_map(|t| t.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the tag is there, alone.
    #[must_use]
    pub fn has_tag(&self, name: &str) -> bool {
        self.tags.iter().any(|t| t == name)
    }

    /// When the backup ended; when it began, if that was not recorded.
    #[must_use]
    pub fn end(&self) -> Time {
        self.summary.as_ref().map_or(self.time, |s| s.backup_end)
    }
}

/// Counts of a backup. All absent counts are 0.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotSummary {
    /// When the scan began.
    pub backup_start: Time,
    /// When it ended.
    pub backup_end: Time,
    /// Files the parent did not have.
    pub files_new: u64,
    /// Files that differ.
    pub files_changed: u64,
    /// Files taken over.
    pub files_unmodified: u64,
    /// Directories the parent did not have.
    pub dirs_new: u64,
    /// Directories that differ.
    pub dirs_changed: u64,
    /// Directories taken over.
    pub dirs_unmodified: u64,
    /// New data blobs.
    pub data_blobs: u64,
    /// New tree blobs.
    pub tree_blobs: u64,
    /// Bytes of new blobs.
    pub data_added: u64,
    /// The same in packs.
    pub data_added_packed: u64,
    /// Files seen.
    pub total_files_processed: u64,
    /// Bytes of the files seen.
    pub total_bytes_processed: u64,
}
