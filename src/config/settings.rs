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
    pub store: StoreSettings,
    /// Opens it. Read when it is opened.
    pub password: Secret,
    /// zstd level of new data, 1 to 19.
    pub compression: i32,
}

/// A place for objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// A directory, absolute.
    Local {
        /// The directory that holds the repository's `config`.
        path: PathBuf,
    },
    /// An S3 bucket.
    S3(S3),
    /// An Azure container.
    Azure(Azure),
}

/// An S3 bucket or what speaks like one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// Bucket.
    pub bucket: String,
    /// Key prefix without leading and trailing `/`; may be empty.
    pub prefix: String,
    /// Region, where set.
    pub region: Option<String>,
    /// `http(s)://host[:port]`, where it is not AWS.
    pub endpoint: Option<String>,
    /// The bucket in the path instead of the host name.
    pub path_style: bool,
    /// Which checksums are sent.
    pub checksum: Checksum,
    /// Server-side encryption.
    pub sse: Sse,
    /// Storage class of packs.
    pub storage_class: Option<String>,
    /// PEM file with the authority of the endpoint's certificate.
    pub ca_file: Option<PathBuf>,
    /// Static keys; the usual chain where absent.
    pub keys: Option<S3Keys>,
    /// Whether plain http is accepted.
    pub allow_http: bool,
}

/// Static credentials of an S3 store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Keys {
    /// Access key id.
    pub id: Secret,
    /// Its secret.
    pub secret: Secret,
    /// Token of temporary keys.
    pub session_token: Option<Secret>,
}

/// Which checksums are sent with S3 requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Only where demanded.
    WhenRequired,
    /// Wherever supported.
    WhenSupported,
}

/// Server-side encryption of an S3 bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// What the bucket does by itself.
    BucketDefault,
    /// Keys of the store.
    S3,
    /// This key of the key service.
    Kms(String),
}

/// An Azure Blob container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Azure {
    /// Storage account.
    pub account: String,
    /// Container.
    pub container: String,
    /// Name prefix without leading and trailing `/`; may be empty.
    pub prefix: String,
    /// The URL up to and including the account, where it is not Azure's own.
    pub endpoint: Option<String>,
    /// How to prove who we are.
    pub auth: AzureAuth,
    /// Access tier of packs.
    pub access_tier: Option<String>,
    /// PEM file with the authority of the endpoint's certificate.
    pub ca_file: Option<PathBuf>,
    /// Whether plain http is accepted.
    pub allow_http: bool,
}

/// How to prove who we are to Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureAuth {
    /// The token that Kubernetes projects into the pod; client id where it is not in the environment.
    WorkloadIdentity(Option<String>),
    /// The identity of the machine; client id of a user-assigned one.
    ManagedIdentity(Option<String>),
    /// The account's key.
    SharedKey(Secret),
    /// A shared access signature.
    Sas(Secret),
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
    /// Bytes a second sent to stores. `None`: no limit.
    pub upload: Option<u64>,
    /// Bytes a second read from sources. `None`: no limit.
    pub read: Option<u64>,
    /// When no scheduled run starts.
    pub quiet_hours: QuietHours,
}
