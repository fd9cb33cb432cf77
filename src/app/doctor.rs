//! Tries everything a backup will need, one probe at a time, without backing anything up.

use serde::Serialize;

use super::context::check_commands;
use super::{Context, backup, server};
use crate::config::settings::{Job, Tenant};
use crate::error::{Error, Kind, Result};
use crate::model::Selector;
use crate::runtime::process;
use crate::source::SourceSettings;
use crate::store::{self, Key, Payload, PutMode, Store};

/// A clock this far from the store's is worth a warning, in seconds.
const SKEW_WARN: f64 = 30.0;
/// And this far an error: retention refuses to work.
const SKEW_FAIL: f64 = 300.0;

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Works, with something to know.
    Warn,
    /// A backup or restore would fail.
    Fail,
    /// Not tried, because something before it failed.
    Skip,
}

/// One probe.
#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    /// Whose.
    pub tenant: String,
    /// Which job, where it is about one.
    pub job: Option<String>,
    /// What was tried: `reach`, `write`, `read`, `list`, `conditional_put`, `delete`, `clock`, `repository`, `commands`,
    /// `source`, `tools`.
    pub probe: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Runs every probe of the tenants and jobs a selector names. With `read_only` nothing is written to the stores.
///
/// # Errors
/// Only for a selector that names nothing; what fails is in the probes.
pub async fn run(ctx: &Context, selector: Option<&Selector>, read_only: bool) -> Result<Vec<Probe>> {
    let mut out = Vec::new();
    for tenant in ctx.tenants(selector)? {
        let mut log = Log { tenant: tenant.name.to_string(), job: None, probes: &mut out };
        one_store(ctx, tenant, read_only, &mut log).await;
    }
    for job in ctx.jobs(selector)? {
        let mut log = Log { tenant: job.tenant.to_string(), job: Some(job.name.to_string()), probes: &mut out };
        one_job(ctx, job, &mut log).await;
    }
    Ok(out)
}

struct Log<'a> {
    tenant: String,
    job: Option<String>,
    probes: &'a mut Vec<Probe>,
}

impl Log<'_> {
    fn add(&mut self, probe: &'static str, outcome: Outcome, message: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.probes.push(Probe {
            tenant: self.tenant.clone(),
            job: self.job.clone(),
            probe,
            outcome,
            message: message.into(),
            hint,
        });
    }

    fn pass(&mut self, probe: &'static str, message: impl Into<String>) {
        self.add(probe, Outcome::Pass, message, None);
    }

    fn fail(&mut self, probe: &'static str, e: &Error) {
        self.add(probe, Outcome::Fail, e.chain(), e.hint_text());
    }
}

async fn one_store(ctx: &Context, tenant: &Tenant, read_only: bool, log: &mut Log<'_>) {
    let store = match ctx.store(&tenant.name).await {
        Ok(store) => store,
        Err(e) => return log.fail("reach", &e),
    };
    match reach(store.as_ref()).await {
        Ok(()) => log.pass("reach", format!("{} answers", store.location())),
        Err(e) => return log.fail("reach", &e),
    }
    clock(ctx, store.as_ref(), log).await;
    if read_only {
        log.add("write", Outcome::Skip, "nothing is written with --read-only", None);
    } else {
        write(store.as_ref(), log).await;
    }
    match ctx.repository(&tenant.name).await {
        Ok(repo) => log.pass("repository", format!("repository {} opens with its password", repo.id().short())),
        Err(e) if e.kind() == Kind::NoRepository => {
            log.add("repository", Outcome::Warn, "there is no repository yet", Some("`strongroom init` creates it."))
        }
        Err(e) => log.fail("repository", &e),
    }
}

async fn reach(store: &dyn Store) -> Result<()> {
    match store.head(&Key::new("config")?).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == store::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
    }
}

async fn clock(ctx: &Context, store: &dyn Store, log: &mut Log<'_>) {
    let skew = match store.now().await {
        Ok(now) => ctx.clock().now().seconds_since(now),
        Err(e) => return log.fail("clock", &e.into()),
    };
    let message = format!("this machine's clock is {skew:+.1} s from the store's");
    let hint = Some("Set the clock by NTP.");
    match skew.abs() {
        s if s > SKEW_FAIL => log.add("clock", Outcome::Fail, message, hint),
        s if s > SKEW_WARN => log.add("clock", Outcome::Warn, message, hint),
        _ => log.pass("clock", message),
    }
}

/// Writes an object, reads, lists, overwrites under conditions, deletes.
async fn write(store: &dyn Store, log: &mut Log<'_>) {
    let name = format!("strongroom/doctor-{:016x}", rand::random::<u64>());
    let Ok(key) = Key::new(name) else { return };
    let content = b"strongroom doctor".as_slice();
    let version = match store.put(&key, Payload::from(content), PutMode::Create).await {
        Ok(version) => version,
        Err(e) => return log.fail("write", &e.into()),
    };
    log.pass("write", "an object can be written");
    match store.get(&key, None).await {
        Ok(bytes) if bytes == content => log.pass("read", "it reads back the same"),
        Ok(_) => log.add("read", Outcome::Fail, "it does not read back the same", None),
        Err(e) => log.fail("read", &e.into()),
    }
    match listed(store, &key).await {
        Ok(true) => log.pass("list", "a listing shows it at once"),
        Ok(false) => log.add(
            "list",
            Outcome::Fail,
            "a listing does not show it",
            Some("A store that is not consistent cannot hold a repository."),
        ),
        Err(e) => log.fail("list", &e),
    }
    let again = store.put(&key, Payload::from(b"another".as_slice()), PutMode::Create).await;
    let stale =
        store.put(&key, Payload::from(b"another".as_slice()), PutMode::Update(store::Version(format!("{}x", version.0)))).await;
    let refused = |r: &store::Result<store::Version>| matches!(r, Err(e) if matches!(e.kind(), store::ErrorKind::AlreadyExists | store::ErrorKind::Conflict));
    match (refused(&again), refused(&stale)) {
        (true, true) => log.pass("conditional_put", "conditional writes are honoured"),
        (created, updated) => {
            let what = if !created { "creating an object that exists" } else { "updating an object that changed" };
            let _ = updated;
            let hint = "Two processes can then overwrite each other's leases: run jobs of one repository from one place only, and turn `conditional_puts` off.";
            log.add("conditional_put", Outcome::Warn, format!("the store does not refuse {what}"), Some(hint));
        }
    }
    match store.delete(&key).await {
        Ok(()) => log.pass("delete", "it can be deleted"),
        Err(e) => log.add(
            "delete",
            Outcome::Warn,
            Error::from(e).chain(),
            Some("Backups work, but locks stay behind and prune cannot work without the right to delete."),
        ),
    }
}

async fn listed(store: &dyn Store, key: &Key) -> Result<bool> {
    use futures::TryStreamExt;
    let all: Vec<_> = store.list("strongroom/").try_collect().await?;
    Ok(all.iter().any(|m| m.key == *key))
}

async fn one_job(ctx: &Context, job: &Job, log: &mut Log<'_>) {
    if let Err(e) = check_commands(&[job], ctx.settings()) {
        log.fail("commands", &e);
    }
    match &job.source {
        SourceSettings::Volume(v) => match tokio::fs::read_dir(&v.path).await {
            Ok(_) => log.pass("source", format!("{} can be listed", v.path.display())),
            Err(e) => log.fail("source", &Error::new(Kind::Failed, format!("list {}", v.path.display())).because(e)),
        },
        SourceSettings::Command(c) => {
            let program = c.run.first().cloned().unwrap_or_default();
            match process::find(std::path::Path::new(&program)) {
                Some(path) => log.pass("tools", format!("{program} is {}", path.display())),
                None => log.add(
                    "tools",
                    Outcome::Fail,
                    format!("{program} is not installed"),
                    Some("Install it, or write its whole path."),
                ),
            }
        }
        SourceSettings::PgBase(settings) => {
            let (settings, cancel) = (settings.clone(), ctx.cancel().clone());
            match super::blocking(move || backup::base_source(&settings, &cancel)).await {
                Ok(text) => log.pass("source", text),
                Err(e) => log.fail("source", &e),
            }
        }
        SourceSettings::PgDump(settings) => {
            let (settings, cancel) = (settings.clone(), ctx.cancel().clone());
            match super::blocking(move || server::look(&settings, &cancel)).await {
                Ok(seen) => {
                    match &seen.chosen {
                        Ok(names) => log.pass(
                            "source",
                            format!(
                                "PostgreSQL {} answers; {} of its databases will be dumped: {}",
                                seen.version,
                                names.len(),
                                names.join(", ")
                            ),
                        ),
                        Err(e) => log.fail("source", e),
                    }
                    match &seen.tools {
                        Ok(tools) => log.pass("tools", format!("pg_dump {tools}")),
                        Err(e) => log.fail("tools", e),
                    }
                }
                Err(e) => log.fail("source", &e),
            }
        }
    }
}
