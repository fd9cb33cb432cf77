//! The configuration after validation: what exists here is complete, in range and without contradictions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Environment, JobName, Selector, TenantName};
use crate::retention::Keep;
use crate::runtime::Secret;
use crate::schedule::{QuietHours, Spec};
use crate::source::SourceSettings;
use crate::store;

/// Everything a process needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the tenants live.
    pub environment: Environment,
    /// By name; never empty.
    pub tenants: BTreeMap<TenantName, Tenant>,
    /// What the daemon serves.
    pub http: Http,
    /// What the process may use.
    pub limits: Limits,
    /// Where indexes and trees are cached. `None`: the user's cache directory.
    pub cache_dir: Option<PathBuf>,
    /// The settings that name programs to run (paths such as `tenants.acme.jobs.broker.command.run`), which need
    /// [`crate::runtime::secret::allow_commands`].
    pub commands: Vec<String>,
}

/// One tenant.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its own repository.
    pub repository: Repository,
    /// By name; may be empty, for a tenant that is only restored.
    pub jobs: BTreeMap<JobName, Job>,
    /// The `pg_wal` jobs by name. They run all the time and make no snapshots, so they are not among `jobs`; no name is in both.
    pub wal: BTreeMap<JobName, WalJob>,
}

/// Where a tenant's repository is and how it is opened.
#[derive(Debug, Clone)]
pub struct Repository {
    /// The store, rooted at the repository: keys are `config`, `data/…`.
    pub store: store::Settings,
    /// Opens it. Read when it is opened.
    pub password: Secret,
    /// zstd level of new data, 1 to 19.
    pub compression: i32,
}

/// One job.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whose job.
    pub tenant: TenantName,
    /// Its name.
    pub name: JobName,
    /// What is backed up.
    pub source: SourceSettings,
    /// When it runs.
    pub schedule: Spec,
    /// It starts up to this much later.
    pub jitter: Duration,
    /// Which snapshots stay. `None`: all.
    pub keep: Option<Keep>,
    /// A run is ended after this long.
    pub timeout: Duration,
    /// How often a failed run is tried again.
    pub retries: u32,
    /// How restores of it are tried.
    pub drill: Drill,
}

/// How a job's backups are drilled. The default is what a drill without any settings does.
#[derive(Debug, Clone)]
pub struct Drill {
    /// When the daemon drills.
    pub schedule: Spec,
    /// A last good drill older than this is stale. `None`: when the schedule has missed one.
    pub max_age: Option<Duration>,
    /// A drill is ended after this long. `None`: after the job's own timeout.
    pub timeout: Option<Duration>,
    /// Where there is room for a restore. `None`: the directory for temporary files.
    pub scratch: Option<PathBuf>,
    /// What must be true of the restored databases.
    pub assertions: Vec<Assertion>,
    /// The row that tells how much was lost.
    pub heartbeat: Option<Heartbeat>,
    /// Whether `pg_amcheck` runs.
    pub amcheck: bool,
    /// Settings of the scratch server beside its own.
    pub settings: BTreeMap<String, String>,
    /// Where to look for server programs; if empty, in the usual places.
    pub server_dirs: Vec<PathBuf>,
    /// Whom the scratch server runs as where this process is root.
    pub user: Option<String>,
}

impl Default for Drill {
    fn default() -> Self {
        Self {
            schedule: Spec::Never,
            max_age: None,
            timeout: None,
            scratch: None,
            assertions: Vec::new(),
            heartbeat: None,
            amcheck: true,
            settings: BTreeMap::new(),
            server_dirs: Vec::new(),
            user: None,
        }
    }
}

/// A query that must return one row with `true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// Where it runs. `None`: in the backup's only database.
    pub database: Option<String>,
    /// The query.
    pub sql: String,
}

/// A row with the time, written again and again.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// How often it is written; at least 1 s.
    pub every: Duration,
    /// A libpq URL or key=value string. Read at each connection.
    pub url: Secret,
    /// The password, where the URL holds none.
    pub password: Option<Secret>,
    /// The database. `None`: the URL's.
    pub database: Option<String>,
}

impl Job {
    /// `tenant/job`.
    #[must_use]
    pub fn selector(&self) -> Selector {
        Selector { tenant: self.tenant.clone(), job: Some(self.name.clone()) }
    }
}

/// One WAL archive.
#[derive(Debug, Clone)]
pub struct WalJob {
    /// Whose job.
    pub tenant: TenantName,
    /// Its name.
    pub name: JobName,
    /// Where WAL comes from and how it is kept.
    pub settings: WalSettings,
}

impl WalJob {
    /// `tenant/job`.
    #[must_use]
    pub fn selector(&self) -> Selector {
        Selector { tenant: self.tenant.clone(), job: Some(self.name.clone()) }
    }
}

/// How a WAL archive is fed and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSettings {
    /// The cluster's hosts, as a libpq URL or key=value string. Read at each connection. Always there with [`WalMode::Receive`].
    pub url: Option<Secret>,
    /// The password, where the URL holds none.
    pub password: Option<Secret>,
    /// How WAL gets into the archive.
    pub mode: WalMode,
    /// The folder of the archive below `wal/`; one job a cluster.
    pub cluster: String,
    /// The physical replication slot.
    pub slot: String,
    /// How far the archive may lag behind a server that WAL is streamed from.
    pub max_lag: Duration,
    /// The slot is let go when it holds back more than this many bytes of WAL. `None`: never.
    pub max_slot_size: Option<u64>,
    /// The server's data directory, where this process can reach it. Absolute.
    pub data_directory: Option<PathBuf>,
    /// How new WAL is compressed.
    pub compression: WalCompression,
    /// Segments pushed or fetched at the same time, at least 1.
    pub parallel: usize,
    /// Bytes of WAL read ahead during a recovery.
    pub prefetch: u64,
    /// How long a fetch goes on trying to reach the store.
    pub fetch_timeout: Duration,
    /// The socket that the daemon serves, absolute; `None`: none.
    pub socket: Option<PathBuf>,
    /// Users that may use the socket beside root and the daemon's own.
    pub socket_uids: Vec<u32>,
    /// Primary groups whose members may use the socket; the first one owns it.
    pub socket_gids: Vec<u32>,
    /// For WAL on its way, absolute. `None`: a directory of the job's own in the cache.
    pub spool: Option<PathBuf>,
}

/// How WAL gets into an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalMode {
    /// The server pushes it.
    Archive,
    /// It is streamed from the server.
    Receive,
}

impl WalMode {
    /// The word in configs and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WalMode::Archive => "archive",
            WalMode::Receive => "receive",
        }
    }
}

/// How WAL is compressed. zstd takes its level from the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalCompression {
    /// zstd.
    Zstd,
    /// gzip.
    Gzip,
    /// lz4.
    Lz4,
    /// As it is.
    None,
}

/// What the daemon serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// For `/metrics`, `/healthz` and `/readyz`.
    pub metrics: Option<SocketAddr>,
}

/// What the process may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Memory budget in bytes, as configured; `None` where it is left to the machine (256 MiB or less).
    pub memory: Option<u64>,
    /// Jobs at the same time, at least 1.
    pub jobs: usize,
    /// Jobs at the same time on one store, at least 1.
    pub jobs_per_store: usize,
    /// When no scheduled run starts.
    pub quiet_hours: QuietHours,
}
