//! The configuration as it is written: one struct a block, every field optional, nothing checked.
//!
//! These structs are the one list of names: the JSON Schema is made from them, unknown keys are told by that schema,
//! and what is required or in range is decided in [`super::validate`]. The doc comments are the schema's descriptions.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

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

/// Where a repository is kept and how it is opened.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Repository")]
pub struct RawRepository {
    /// `s3://bucket/prefix`, `azblob://container/prefix` or `file:///absolute/path`.
    pub url: Option<String>,
    /// Below the URL, where each tenant's repository lies. `{root}` (the URL's own path), `{environment}` and
    /// `{tenant}` are filled in. Default: `{root}/{environment}/{tenant}`.
    pub layout: Option<String>,
    /// The password that opens the repository.
    pub password: Option<RawSecret>,
    /// Settings of an S3 store.
    pub s3: Option<RawS3>,
    /// Settings of an Azure Blob store.
    pub azure: Option<RawAzure>,
    /// Whether plain `http://` endpoints may be used. Default: false.
    pub allow_http: Option<bool>,
    /// zstd level of new data, 1 (fast) to 19 (small). Default: 1.
    pub compression: Option<i64>,
}

/// S3 and what speaks like it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "S3")]
pub struct RawS3 {
    /// Region of the bucket. Default: what the environment says, else `us-east-1`.
    pub region: Option<String>,
    /// Another server than AWS: `https://host:port`.
    pub endpoint: Option<String>,
    /// Put the bucket into the path instead of the host name. Default: true with an endpoint of its own, else false.
    pub path_style: Option<bool>,
    /// Which checksums are sent. Default: `auto`.
    pub checksum: Option<RawChecksum>,
    /// Server-side encryption. Default: the bucket's.
    pub sse: Option<RawSse>,
    /// Storage class of packs, e.g. `STANDARD_IA`. Default: the bucket's.
    pub storage_class: Option<String>,
    /// A PEM file with the certificate authority that signed the endpoint's certificate.
    pub ca_file: Option<String>,
    /// Access key. Default: the usual chain (environment, profile, web identity, pod identity, instance).
    pub access_key_id: Option<RawSecretOrText>,
    /// Secret of that key.
    pub secret_access_key: Option<RawSecret>,
    /// Session token of temporary keys.
    pub session_token: Option<RawSecret>,
}

/// Which checksums are sent with S3 requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Checksum")]
pub enum RawChecksum {
    /// `when_required` where an endpoint is set, else what AWS recommends.
    Auto,
    /// Only where the operation demands it, for servers that know no newer checksums.
    WhenRequired,
    /// With every request that supports it.
    WhenSupported,
}

/// Server-side encryption of an S3 bucket: one of the two.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Sse")]
pub struct RawSse {
    /// SSE-S3: keys of the store itself.
    pub s3: Option<bool>,
    /// SSE-KMS with this key (id, alias or ARN).
    pub kms_key_id: Option<String>,
}

/// Azure Blob Storage.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Azure")]
pub struct RawAzure {
    /// Storage account.
    pub account: Option<String>,
    /// How to prove who we are. Default: `shared_key` or `sas` where one is given, else `workload_identity`.
    pub auth: Option<RawAzureAuth>,
    /// The account's key, for `shared_key`.
    pub key: Option<RawSecret>,
    /// A shared access signature, for `sas`.
    pub sas: Option<RawSecret>,
    /// Client id of a user-assigned identity.
    pub client_id: Option<String>,
    /// Another server than `https://<account>.blob.core.windows.net`: the URL up to and including the account.
    pub endpoint: Option<String>,
    /// Access tier of packs: `Hot`, `Cool` or `Cold`. Default: the account's.
    pub access_tier: Option<String>,
    /// A PEM file with the certificate authority that signed the endpoint's certificate.
    pub ca_file: Option<String>,
}

/// How to prove who we are to Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "AzureAuth")]
pub enum RawAzureAuth {
    /// The token that Kubernetes projects into the pod.
    WorkloadIdentity,
    /// The identity of the machine.
    ManagedIdentity,
    /// The account's key.
    SharedKey,
    /// A shared access signature.
    Sas,
}

/// Where a secret is kept: exactly one of the four. `{tenant}` and `{environment}` are filled in.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Secret")]
pub struct RawSecret {
    /// Path of a file; one trailing line end is cut off.
    pub file: Option<String>,
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A program and its arguments, whose standard output it is. Needs `--allow-commands`.
    pub command: Option<Vec<String>>,
    /// The text itself, for demos.
    pub value: Option<String>,
}

impl std::fmt::Debug for RawSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self { file: Some(_), .. } => "file",
            Self { env: Some(_), .. } => "env",
            Self { command: Some(_), .. } => "command",
            _ => "value",
        };
        write!(f, "RawSecret({kind})")
    }
}

/// A secret by reference, or the text itself.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "SecretOrText")]
pub enum RawSecretOrText {
    /// The text itself.
    Text(String),
    /// Where it is kept.
    Secret(RawSecret),
}

impl std::fmt::Debug for RawSecretOrText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("RawSecret(text)"),
            Self::Secret(s) => s.fmt(f),
        }
    }
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

/// One job: exactly one source, and when to run it, and what to keep.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Job")]
pub struct RawJob {
    /// Logical backup of PostgreSQL databases.
    pub pg_dump: Option<RawPgDump>,
    /// Physical base backup (not available in this version).
    pub pg_base: Option<RawPgBase>,
    /// Continuous WAL archive (not available in this version).
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

/// A physical base backup. Not available in this version.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PgBase")]
pub struct RawPgBase {
    /// Connection URL, or a secret that holds one.
    pub url: Option<RawSecretOrText>,
    /// The server's data directory, where it can be read directly.
    pub data_directory: Option<String>,
    /// Name of the cluster: ties base backups to their WAL. Default: `main`.
    pub cluster: Option<String>,
    /// Whether WAL is put into the snapshot: `always` or `when_no_archive`.
    pub wal_in_snapshot: Option<String>,
}

/// A WAL archive. Not available in this version.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PgWal")]
pub struct RawPgWal {
    /// Connection URL, or a secret that holds one.
    pub url: Option<RawSecretOrText>,
    /// Replication slot.
    pub slot: Option<String>,
    /// How far the archive may lag behind: `5s`.
    pub max_lag: Option<String>,
    /// Name of the cluster. Default: `main`.
    pub cluster: Option<String>,
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
    /// Upload rate: `200MiB/s`. 0, the default, is no limit.
    pub upload: Option<RawSize>,
    /// Rate at which sources are read. 0, the default, is no limit.
    pub read: Option<RawSize>,
    /// Times of day in which no scheduled run starts: `["08:00-18:00"]`.
    pub quiet_hours: Option<Vec<String>>,
    /// IANA time zone of the quiet hours. Default: UTC.
    pub timezone: Option<String>,
}
