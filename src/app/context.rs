//! What every use case needs: settings, clock, cancellation, open repositories.

use std::collections::HashMap;
use std::sync::Arc;

use super::store;
use crate::config::Settings;
use crate::config::settings::{Job, Tenant, WalJob};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Selector, TenantName};
use crate::repository::{LockHolder, RepoEnv, Repository};
use crate::runtime::{Cancel, Clock, secret};
use crate::store::{Store, StoreUrl};

/// One process's view of the world. Cloning shares it.
///
/// A repository is opened once and kept, so that its password is read and its key derived once per process and not
/// once per job.
#[derive(Clone)]
pub struct Context {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    cancel: Cancel,
    open: Arc<tokio::sync::Mutex<HashMap<TenantName, Opened>>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Opened {
    store: Arc<dyn Store>,
    repository: Option<Repository>,
}

impl Context {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, cancel: Cancel) -> Self {
        Self { settings: Arc::new(settings), clock, cancel, open: Arc::default() }
    }

    /// The configuration.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Tells the time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Ends with the process, or with the work it was given for.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The same world, with a token of its own: for one job's timeout.
    #[must_use]
    pub fn with_cancel(&self, cancel: Cancel) -> Self {
        Self { cancel, ..self.clone() }
    }

    /// A tenant of the configuration.
    ///
    /// # Errors
    /// [`Kind::Usage`] with the nearest name.
    pub fn tenant(&self, name: &TenantName) -> Result<&Tenant> {
        self.settings.tenants.get(name).ok_or_else(|| {
            let known = self.settings.tenants.keys().map(TenantName::as_str);
            unknown("tenant", name.as_str(), known)
        })
    }

    /// The jobs a selector names: one, or all of a tenant; without a selector, all of every tenant.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that does not exist, with the nearest one.
    pub fn jobs(&self, selector: Option<&Selector>) -> Result<Vec<&Job>> {
        let Some(selector) = selector else {
            return Ok(self.settings.tenants.values().flat_map(|t| t.jobs.values()).collect());
        };
        let tenant = self.tenant(&selector.tenant)?;
        match &selector.job {
            None => Ok(tenant.jobs.values().collect()),
            Some(job) => match tenant.jobs.get(job) {
                Some(job) => Ok(vec![job]),
                None if tenant.wal.contains_key(job) => {
                    let what = format!("`{selector}` is a WAL archive, which is no job that is run");
                    Err(Error::new(Kind::Usage, what)
                        .hint("PostgreSQL's archive_command feeds it, or `strongroom run`; `strongroom wal status` shows how far it is."))
                }
                None => Err(unknown("job", &selector.to_string(), tenant.jobs.keys().map(|j| j.as_str()))),
            },
        }
    }

    /// The WAL archives a selector names: one, or all of a tenant; without a selector, all of every tenant.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that does not exist, with the nearest one.
    pub fn wal_jobs(&self, selector: Option<&Selector>) -> Result<Vec<&WalJob>> {
        let Some(selector) = selector else {
            return Ok(self.settings.tenants.values().flat_map(|t| t.wal.values()).collect());
        };
        let tenant = self.tenant(&selector.tenant)?;
        match &selector.job {
            None => Ok(tenant.wal.values().collect()),
            Some(job) => match tenant.wal.get(job) {
                Some(job) => Ok(vec![job]),
                None => Err(unknown("`pg_wal` job", &selector.to_string(), tenant.wal.keys().map(|j| j.as_str()))),
            },
        }
    }

    /// The one WAL archive that is meant.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the selector names none, or several.
    pub fn wal_job(&self, selector: Option<&Selector>) -> Result<&WalJob> {
        match self.wal_jobs(selector)?.as_slice() {
            [one] => Ok(one),
            [] => Err(Error::new(Kind::Usage, "the configuration has no `pg_wal` job here")
                .hint("Add one: `strongroom config schema` tells its settings.")),
            several => {
                let names: Vec<String> = several.iter().map(|j| j.selector().to_string()).collect();
                Err(Error::new(Kind::Usage, "there are several `pg_wal` jobs")
                    .hint(format!("Name one with --job: {}.", names.join(", "))))
            }
        }
    }

    /// The tenants a selector touches: one, or all.
    ///
    /// # Errors
    /// As [`Context::tenant`].
    pub fn tenants(&self, selector: Option<&Selector>) -> Result<Vec<&Tenant>> {
        match selector {
            Some(s) => Ok(vec![self.tenant(&s.tenant)?]),
            None => Ok(self.settings.tenants.values().collect()),
        }
    }

    /// The tenant's store, rooted at its repository; retried and counted.
    ///
    /// # Errors
    /// Settings that cannot be turned into a client (an unreadable credential or certificate).
    pub async fn store(&self, tenant: &TenantName) -> Result<Arc<dyn Store>> {
        let mut open = self.open.lock().await;
        if let Some(opened) = open.get(tenant) {
            return Ok(opened.store.clone());
        }
        let store = self.open_store(tenant, false).await?;
        open.insert(tenant.clone(), Opened { store: store.clone(), repository: None });
        Ok(store)
    }

    /// The store for making a repository in: the directory of a local one is made where it is missing.
    pub(super) async fn store_for_init(&self, tenant: &TenantName) -> Result<Arc<dyn Store>> {
        let store = self.open_store(tenant, true).await?;
        self.open.lock().await.insert(tenant.clone(), Opened { store: store.clone(), repository: None });
        Ok(store)
    }

    async fn open_store(&self, tenant: &TenantName, create_root: bool) -> Result<Arc<dyn Store>> {
        let settings = &self.tenant(tenant)?.repository.store;
        store::open(settings, self.clock.clone(), create_root).await.context(|| format!("open the store of tenant {tenant}"))
    }

    /// The tenant's repository.
    ///
    /// # Errors
    /// [`Kind::NoRepository`], [`Kind::WrongPassword`], an unreadable password, the store's failures.
    pub async fn repository(&self, tenant: &TenantName) -> Result<Repository> {
        let store = self.store(tenant).await?;
        if let Some(repo) = self.open.lock().await.get(tenant).and_then(|o| o.repository.clone()) {
            return Ok(repo);
        }
        let password = self.password(tenant).await?;
        let env = self.repository_env(tenant)?;
        let repo = Repository::open(store, &password, &env).await.context(|| format!("tenant {tenant}"))?;
        self.keep(tenant, &repo).await;
        Ok(repo)
    }

    /// Keeps an opened repository for later calls.
    pub(super) async fn keep(&self, tenant: &TenantName, repo: &Repository) {
        if let Some(opened) = self.open.lock().await.get_mut(tenant) {
            opened.repository = Some(repo.clone());
        }
    }

    /// The tenant's repository password, read now.
    ///
    /// # Errors
    /// As [`crate::runtime::Secret::read`].
    pub(super) async fn password(&self, tenant: &TenantName) -> Result<crate::runtime::SecretText> {
        let secret = self.tenant(tenant)?.repository.password.clone();
        let read = super::blocking(move || secret.read()).await;
        read.context(|| format!("read the repository password of tenant {tenant}"))
    }

    pub(super) fn repository_env(&self, tenant: &TenantName) -> Result<RepoEnv> {
        let local = matches!(self.tenant(tenant)?.repository.store.url, StoreUrl::File { .. });
        // A local store is as fast as a cache would be.
        let cache_dir = if local { None } else { super::cache_dir(&self.settings) };
        Ok(RepoEnv { clock: self.clock.clone(), cache_dir })
    }

    /// The store's own time, for judging how old things are.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn store_time(&self, store: &Arc<dyn Store>) -> Result<crate::model::Time> {
        Ok(store.now().await?)
    }
}

/// Who this process is in locks: the machine (with the pod's identity where it is known), the user, the process.
#[must_use]
pub fn lock_holder() -> LockHolder {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let hostname = match std::env::var("STRONGROOM_POD_UID") {
        Ok(uid) if !uid.is_empty() => format!("{node}.{uid}"),
        _ => node,
    };
    let uid = rustix::process::getuid().as_raw();
    let username = std::env::var("USER").ok().filter(|u| !u.is_empty()).unwrap_or_else(|| uid.to_string());
    LockHolder { hostname, username, pid: std::process::id() }
}

/// Refuses jobs that run programs unless the process was started with leave to do so.
///
/// # Errors
/// [`Kind::Denied`] that names the setting.
pub fn check_commands(jobs: &[&Job], settings: &Settings) -> Result<()> {
    if secret::commands_allowed() {
        return Ok(());
    }
    for job in jobs {
        let (own, tenant) = (format!("tenants.{}.jobs.{}.", job.tenant, job.name), format!("tenants.{}.repository.", job.tenant));
        let mine =
            settings.commands.iter().find(|c| c.starts_with(&own) || c.starts_with(&tenant) || c.starts_with("repository."));
        if let Some(path) = mine {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the configuration wants to run a program ({path}), and this process was not started with leave to run any"
                ),
            )
            .hint("Start it with --allow-commands (or STRONGROOM_ALLOW_COMMANDS=true) if you trust the configuration."));
        }
    }
    Ok(())
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    let tail = name.rsplit('/').next().unwrap_or(name);
    let hint = match crate::config::nearest(tail, known.clone()) {
        Some(near) => format!("Did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = known.take(20).collect();
            if names.is_empty() {
                format!("The configuration has no {what} here.")
            } else {
                format!("There are: {}.", names.join(", "))
            }
        }
    };
    Error::new(Kind::Usage, format!("there is no {what} `{name}` in the configuration")).hint(hint)
}
