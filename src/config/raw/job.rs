//! Jobs, sources and policies as they are written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{RawDrill, RawPgWal, RawSecret, RawSecretOrText, RawSize};

/// One job: exactly one source, and when to run it, and what to keep.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Job")]
pub struct RawJob {
    /// Logical backup of PostgreSQL databases.
    pub pg_dump: Option<RawPgDump>,
    /// Physical base backup of a PostgreSQL cluster.
    pub pg_base: Option<RawPgBase>,
    /// Continuous WAL archive. It has no schedule and no retention of its own: WAL stays for as long as a base backup needs it.
    pub pg_wal: Option<RawPgWal>,
    /// A directory.
    pub volume: Option<RawVolume>,
    /// The standard output of a program.
    pub command: Option<RawCommand>,
    /// A named schedule and retention: `hourly`, `daily`, `gfs` or one of `policies`. Fields of the job win over its.
    pub policy: Option<String>,
    /// A cron expression (five fields, or six with seconds in front; `H` spreads jobs), `every 6h` or `never`.
    pub schedule: Option<String>,
    /// Run again this long after the last start: `6h`.
    pub every: Option<String>,
    /// IANA time zone the schedule is read in. Default: UTC.
    pub timezone: Option<String>,
    /// Start up to this much later, by a delay that is stable for the job: `20m`.
    pub jitter: Option<String>,
    /// Which snapshots stay. Without it (and without a policy) nothing is ever removed.
    pub keep: Option<RawKeep>,
    /// End the run after this long: `2h`. Default: 24h.
    pub timeout: Option<String>,
    /// How often a failed run is tried again. Default: 3.
    pub retries: Option<i64>,
    /// Commands around the reading of a volume.
    pub hooks: Option<RawHooks>,
    /// What a file that changed while it was read means. Default: `warn`.
    pub on_change: Option<RawOnChange>,
    /// How restores of it are tried.
    pub drill: Option<RawDrill>,
}

/// What a file that changed while it was read means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OnChange")]
pub enum RawOnChange {
    /// A counted warning.
    Warn,
    /// The snapshot is incomplete.
    Incomplete,
}

/// Databases, dumped with `pg_dump`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PgDump")]
pub struct RawPgDump {
    /// Connection URL `postgres://user@host/database`, or a secret that holds one.
    pub url: Option<RawSecretOrText>,
    /// The password, where the URL holds none.
    pub password: Option<RawSecret>,
    /// Databases by name or pattern (`ameide_*`). Default: the URL's database; `["*"]` is all of them.
    pub databases: Option<Vec<String>>,
    /// Databases left out, by name or pattern.
    pub exclude_databases: Option<Vec<String>>,
    /// Roles and tablespaces too. Default: true.
    pub globals: Option<bool>,
    /// How long to wait for a table's lock before the dump is tried again: `60s`.
    pub lock_timeout: Option<String>,
    /// Further arguments for `pg_dump`, such as `--exclude-table-data=public.log`.
    pub arguments: Option<Vec<String>>,
    /// Directories with client programs (`pg_dump`, …). Default: the best of those installed in the usual places.
    pub client_dirs: Option<Vec<String>>,
}

/// A physical base backup: the whole cluster, file by file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PgBase")]
pub struct RawPgBase {
    /// Connection URL `postgres://user@host/database` (several hosts for a cluster), or a secret that holds one.
    pub url: Option<RawSecretOrText>,
    /// The password, where the URL holds none.
    pub password: Option<RawSecret>,
    /// The server's data directory, where it can be read directly. Without it the server sends the files.
    pub data_directory: Option<String>,
    /// Name of the cluster: ties base backups to their WAL. Default: `main`.
    pub cluster: Option<String>,
    /// Which server of several: `primary`, `standby` or `prefer_standby`. Default: the first that answers.
    pub from: Option<RawFrom>,
    /// Whether the WAL of the backup is put into the snapshot. Default: `always`. That of a standby always is.
    pub wal_in_snapshot: Option<RawWalInSnapshot>,
    /// How long to wait for the last WAL of the backup. Default: 5m.
    pub wal_timeout: Option<String>,
    /// How the server's checkpoint at the start is made. Default: `fast`.
    pub checkpoint: Option<RawCheckpoint>,
    /// The most to read a second: `100MiB/s`. Default: no limit.
    pub max_rate: Option<RawSize>,
}

/// Which server a base backup is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "From")]
pub enum RawFrom {
    /// The primary only.
    Primary,
    /// A standby only.
    Standby,
    /// A standby, else the primary.
    PreferStandby,
}

/// Whether the WAL of a base backup is put into its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "WalInSnapshot")]
pub enum RawWalInSnapshot {
    /// The snapshot can be restored by itself.
    Always,
    /// Only if the WAL archive does not have it.
    WhenNoArchive,
}

/// How a checkpoint is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Checkpoint")]
pub enum RawCheckpoint {
    /// At once.
    Fast,
    /// Its writes are spread over minutes, as the server's own.
    Spread,
}

/// A directory and everything below it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Volume")]
pub struct RawVolume {
    /// Absolute path of the directory. `{tenant}` and `{environment}` are filled in.
    pub path: Option<String>,
    /// Only what matches one of these globs, relative to the path.
    pub include: Option<Vec<String>>,
    /// Not what matches one of these globs, with everything below it.
    pub exclude: Option<Vec<String>>,
    /// Leave out what is in directories with a `CACHEDIR.TAG`. Default: true.
    pub exclude_caches: Option<bool>,
    /// Record access times; every read then makes a change. Default: false.
    pub with_atime: Option<bool>,
    /// Stay on the file system of the path. Default: false.
    pub one_file_system: Option<bool>,
    /// Record a volume that is nearly empty although the last snapshot was large. Default: false.
    pub allow_empty: Option<bool>,
}

/// A program whose standard output is one file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Command")]
pub struct RawCommand {
    /// The program and its arguments; no shell. Needs `--allow-commands`.
    pub run: Option<Vec<String>>,
    /// Name of the file in the snapshot. Default: `output`.
    pub file: Option<String>,
    /// Environment variables of the program, as secrets or plain texts; it sees these and `PATH` only.
    pub env: Option<BTreeMap<String, RawSecretOrText>>,
    /// Whether an output of no bytes is a success. Default: false.
    pub allow_empty: Option<bool>,
}

/// A named schedule and retention.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Policy")]
pub struct RawPolicy {
    /// A cron expression, `every 6h` or `never`.
    pub schedule: Option<String>,
    /// Run again this long after the last start.
    pub every: Option<String>,
    /// IANA time zone the schedule is read in. Default: UTC.
    pub timezone: Option<String>,
    /// Start up to this much later.
    pub jitter: Option<String>,
    /// Which snapshots stay.
    pub keep: Option<RawKeep>,
    /// How restores are tried; fields of a job's own `drill` win.
    pub drill: Option<RawDrill>,
}

/// Which snapshots stay: those that any of these rules wants.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Keep")]
pub struct RawKeep {
    /// The newest n.
    pub last: Option<i64>,
    /// The newest of each of n hours.
    pub hourly: Option<i64>,
    /// The newest of each of n days.
    pub daily: Option<i64>,
    /// The newest of each of n weeks.
    pub weekly: Option<i64>,
    /// The newest of each of n months.
    pub monthly: Option<i64>,
    /// The newest of each of n years.
    pub yearly: Option<i64>,
    /// All that are younger than this: `14d`.
    pub within: Option<String>,
    /// Any time up to this long ago stays recoverable: `14d` keeps all that are younger, and the newest that is older. Of
    /// a base backup's cluster, the WAL that this needs stays too.
    pub recovery_window: Option<String>,
}

/// Commands around the reading of a volume, in order.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Hooks")]
pub struct RawHooks {
    /// Before; the first failure ends the run.
    pub pre: Option<Vec<RawHook>>,
    /// After; each of them always, also when the run failed.
    pub post: Option<Vec<RawHook>>,
}

/// One command.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Hook")]
pub struct RawHook {
    /// The program and its arguments; no shell. Needs `--allow-commands`.
    pub run: Option<Vec<String>>,
    /// It is killed after this time, which counts as a failure. Default: 5m.
    pub timeout: Option<String>,
}
