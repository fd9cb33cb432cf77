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
}

impl Job {
    /// `tenant/job`.
    #[must_use]
    pub fn selector(&self) -> Selector {
        Selector { tenant: self.tenant.clone(), job: Some(self.name.clone()) }
    }
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
