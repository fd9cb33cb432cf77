//! The configuration as it is written: one struct a block, every field optional, nothing checked.
//!
//! These structs are the one list of names: the JSON Schema is made from them, unknown keys are told by that schema,
//! and what is required or in range is decided in `config::validate`. The doc comments are the schema's descriptions.

mod drill;
mod job;
mod repository;
mod wal;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub use drill::{RawAssertion, RawAssertionIn, RawDrill, RawHeartbeat};
pub use job::{
    RawCheckpoint, RawCommand, RawFrom, RawHook, RawHooks, RawJob, RawKeep, RawOnChange, RawPgBase, RawPgDump, RawPolicy,
    RawVolume, RawWalInSnapshot,
};
pub use repository::{
    RawAccessTier, RawAzure, RawAzureAuth, RawChecksum, RawRepository, RawS3, RawSecret, RawSecretOrText, RawSse, RawTimeouts,
};
pub use wal::{RawPgWal, RawWalCompression, RawWalMode};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Strongroom configuration", rename = "Config")]
pub struct RawConfig {
    /// Where the tenants live: a DNS label such as `production`. Default: `production`.
    pub environment: Option<String>,
    /// The repository settings every tenant starts from.
    pub repository: Option<RawRepository>,
    /// Whose data is backed up, by tenant name (DNS labels).
    pub tenants: BTreeMap<String, RawTenant>,
    /// What the daemon serves over HTTP. Nothing unless set.
    pub http: Option<RawHttp>,
    /// What the process may use.
    pub limits: Option<RawLimits>,
    /// Named schedules and retentions for `policy:`. `hourly`, `daily` and `gfs` exist already and may be replaced.
    pub policies: BTreeMap<String, RawPolicy>,
    /// Where indexes and trees are cached; a cache, safe to delete. Default: `$XDG_CACHE_HOME/strongroom`.
    pub cache_dir: Option<String>,
}

/// A number, or a text such as `256MiB`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Size")]
pub enum RawSize {
    /// Bytes.
    Number(u64),
    /// `256MiB`, `1GB`, `200MiB/s`.
    Text(String),
}

/// One tenant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Tenant")]
pub struct RawTenant {
    /// Laid over the default repository, field by field. With a `url` of its own, nothing of the default's `s3` and
    /// `azure` blocks is taken over.
    pub repository: Option<RawRepository>,
    /// What is backed up, by job name (DNS labels).
    pub jobs: BTreeMap<String, RawJob>,
}

/// What the daemon serves.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Http")]
pub struct RawHttp {
    /// Address for `/metrics`, `/healthz` and `/readyz`: `0.0.0.0:9390`.
    pub metrics: Option<String>,
    /// Address of the dashboard (not available in this version; accepted and ignored).
    pub dashboard: Option<String>,
}

/// What the process may use.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub struct RawLimits {
    /// Memory budget. Default: 256MiB, or less where the cgroup allows less.
    pub memory: Option<RawSize>,
    /// Jobs that run at the same time. Default: 4.
    pub jobs: Option<i64>,
    /// Jobs that run at the same time on one store. Default: as many as `jobs`.
    pub jobs_per_store: Option<i64>,
    /// Rate at which is written to each store: `200MiB/s`. 0, the default, is no limit.
    pub upload: Option<RawSize>,
    /// Rate at which stores are read, by restores and checks above all. 0, the default, is no limit.
    pub read: Option<RawSize>,
    /// Times of day in which no scheduled run starts: `["08:00-18:00"]`.
    pub quiet_hours: Option<Vec<String>>,
    /// IANA time zone of the quiet hours. Default: UTC.
    pub timezone: Option<String>,
}
