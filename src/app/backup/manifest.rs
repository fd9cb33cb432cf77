//! `.strongroom/manifest.json`: what a snapshot is, inside its own tree, so that no rewrite by another tool loses it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Id, Time};

/// Version history. 1: first form.
pub(super) const MANIFEST_VERSION: u32 = 1;

/// The facts of one backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] of the writer. Readers refuse newer ones for restores that depend on it.
    pub version: u32,
    /// Version of the program that wrote the snapshot.
    pub program: String,
    /// Environment of the tenant.
    pub environment: String,
    /// Whose data it is.
    pub tenant: String,
    /// The job that made it.
    pub job: String,
    /// `volume`, `pg_dump`, `pg_base`, `command`.
    pub source: String,
    /// When reading began.
    pub started: Time,
    /// When reading ended.
    pub ended: Time,
    /// Whether everything asked for is in it.
    pub complete: bool,
    /// Name of each entry of the snapshot's root and its tree: another tool's change to the snapshot shows here.
    pub roots: BTreeMap<String, Id>,
    /// What is missing, one sentence each; at most 1,000 are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// How many are missing.
    #[serde(default)]
    pub missing_count: u64,
    /// What succeeded but deserves a look; at most 1,000 are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What the source found: server version, databases, versions of the tools, counts.
    #[serde(default)]
    pub facts: serde_json::Map<String, serde_json::Value>,
}

/// Name of the directory in a snapshot's root that holds our own files.
pub const OWN_DIR: &str = ".strongroom";
/// Name of the manifest in it.
pub const MANIFEST_FILE: &str = "manifest.json";
