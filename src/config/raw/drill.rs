//! Drills as they are written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawSecretOrText;

/// A real restore of a job's newest backup into a scratch place, with checks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Drill")]
pub struct RawDrill {
    /// When the daemon drills: a cron expression, `every 7d` or `never`. Default: only when somebody asks (`strongroom drill`).
    pub schedule: Option<String>,
    /// Drill again this long after the last one: `7d`.
    pub every: Option<String>,
    /// IANA time zone the schedule is read in. Default: UTC.
    pub timezone: Option<String>,
    /// A last good drill older than this is stale: `14d`. Default: when the schedule has missed one.
    pub max_age: Option<String>,
    /// A drill is ended, as failed, after this long. Default: the job's `timeout`.
    pub timeout: Option<String>,
    /// Absolute path of a directory with room for a whole restore. Default: the directory for temporary files.
    pub scratch: Option<String>,
    /// SQL that must return one row with `true`, each run in the restored database.
    pub assertions: Option<Vec<RawAssertion>>,
    /// A row with the time that the daemon writes into the database, so that a drill can tell what was lost.
    pub heartbeat: Option<RawHeartbeat>,
    /// Check tables and indexes with `pg_amcheck` (base backups; where it is installed). Default: true.
    pub amcheck: Option<bool>,
    /// Settings of the scratch server beside its own, such as `shared_preload_libraries`. By default it preloads nothing.
    pub settings: Option<BTreeMap<String, String>>,
    /// Directories with server programs (`postgres`, `initdb`, …). Default: the usual places.
    pub server_dirs: Option<Vec<String>>,
    /// The user that the scratch server runs as where this process is root. Default: `postgres`, else `nobody`.
    pub user: Option<String>,
}

/// SQL that must return one row with `true`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "AssertionOrText")]
pub enum RawAssertion {
    /// In the backup's only database (of a base backup: `postgres`).
    Text(String),
    /// In the database it names.
    In(RawAssertionIn),
}

/// An assertion about one database.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Assertion")]
pub struct RawAssertionIn {
    /// The database.
    pub database: Option<String>,
    /// The query.
    pub sql: Option<String>,
}

/// A row with the time, in the table `strongroom.heartbeat`, which is created where it is missing. The role needs no rights
/// but to create a schema in that database (or to write the table, where somebody created it).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Heartbeat")]
pub struct RawHeartbeat {
    /// How often it is written. Default: 30s.
    pub every: Option<String>,
    /// Connection URL, or a secret that holds one. Default: the job's own.
    pub url: Option<RawSecretOrText>,
    /// The database. Default: the URL's.
    pub database: Option<String>,
}
