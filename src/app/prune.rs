//! `strongroom prune`: applies retention, then collects what no snapshot needs any more.
//!
//! Order: exclusive lock → snapshots are listed under it → snapshots go, oldest first → what only they needed is collected.
//! A crash between any two steps leaves data that nothing refers to, which the next prune collects.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::retention::{self, Retained, Subject};
use super::{Context, collect, lock_holder};
use crate::config::settings::Tenant;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{JobName, Selector};
use crate::repository::{LockMode, PruneStats, RepoLock, Repository, Snapshot};
pub use crate::retention::{Action, Keep};

/// How to prune.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Only the plan: takes no exclusive lock and changes nothing.
    pub dry_run: bool,
    /// Remove even an unusual share of a job's snapshots (`--force`).
    pub force: bool,
    /// How long to wait for a lock.
    pub lock_wait: Duration,
    /// Rules instead of the configured ones, for every job that the selector names and the repository knows, whether it is
    /// configured or not.
    pub keep: Option<Keep>,
}

/// What happened to one tenant's repository. The `--json` output of `prune` is a list of these.
#[derive(Debug, Serialize)]
pub struct Pruned {
    /// Whose.
    pub tenant: String,
    /// Whether this is only a plan.
    pub dry_run: bool,
    /// The plan of each job, and how far it was followed.
    pub jobs: Vec<Retained>,
    /// Snapshots of jobs that are neither in the configuration nor what this prune is about: number by job. They stay.
    pub unconfigured: BTreeMap<String, usize>,
    /// Snapshots without a job's tag, made by other programs. They stay.
    pub foreign: usize,
    /// What was collected: numbers of packs, bytes. Absent for a dry run, and where something failed before.
    pub collected: Option<PruneStats>,
}

/// Prunes the tenants or the job that a selector names. Each tenant is pruned even if another one failed.
///
/// # Errors
/// [`Kind::Usage`] for a name that does not exist. Beside each report, what went wrong with that tenant: a guard's refusal
/// ([`Kind::Failed`]; the plan is in the report), [`Kind::Locked`], the store's failures.
pub async fn run(ctx: &Context, selector: Option<&Selector>, options: Options) -> Result<Vec<(Pruned, Option<Error>)>> {
    let mut out = Vec::new();
    // A mistyped job is found before anything is touched; with rules of its own a run may be about a job that is gone.
    if options.keep.is_none() {
        ctx.jobs(selector)?;
    }
    for tenant in ctx.tenants(selector)? {
        ctx.cancel().check()?;
        let job = selector.and_then(|s| s.job.as_ref());
        let mut pruned = Pruned { tenant: tenant.name.to_string(), dry_run: options.dry_run, jobs: Vec::new(), unconfigured: BTreeMap::new(), foreign: 0, collected: None };
        let done = tenant_repository(ctx, tenant, job, options, &mut pruned).await;
        out.push((pruned, done.context(|| format!("prune the repository of tenant {}", tenant.name)).err()));
    }
    Ok(out)
}

async fn tenant_repository(ctx: &Context, tenant: &Tenant, job: Option<&JobName>, options: Options, pruned: &mut Pruned) -> Result<()> {
    let repo = ctx.repository(&tenant.name).await?;
    let lock = lock(ctx, &repo, options).await?;
    let done = under_lock(ctx, &repo, tenant, job, options, lock.as_ref(), pruned).await;
    let released = match &lock {
        Some(lock) => lock.release().await,
        None => Ok(()),
    };
    done?;
    released
}

/// Exclusive, but for a dry run, which only keeps others from removing what it looks at, and goes on without where it may not lock.
async fn lock(ctx: &Context, repo: &Repository, options: Options) -> Result<Option<RepoLock>> {
    let mode = if options.dry_run { LockMode::Shared } else { LockMode::Exclusive };
    match repo.lock_within(mode, &lock_holder(), options.lock_wait, ctx.cancel()).await {
        Ok(lock) => Ok(Some(lock)),
        Err(e) if options.dry_run && e.kind() == Kind::Denied => {
            tracing::warn!("going on without a lock: {}", e.chain());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

async fn under_lock(ctx: &Context, repo: &Repository, tenant: &Tenant, job: Option<&JobName>, options: Options, lock: Option<&RepoLock>, pruned: &mut Pruned) -> Result<()> {
    let snapshots = repo.load_snapshots().await?;
    let subjects = subjects(tenant, job, options.keep, &snapshots);
    count_others(tenant, &subjects, &snapshots, pruned);
    let mut refused = None;
    for subject in subjects {
        let rules = retention::Options { dry_run: options.dry_run, force: options.force };
        let (retained, refusal) = retention::apply(ctx, repo, subject, &snapshots, lock, rules).await?;
        pruned.jobs.push(retained);
        refused = refused.or(refusal);
    }
    if let (false, Some(lock)) = (options.dry_run, lock) {
        pruned.collected = Some(collect::run(ctx, repo, lock).await?);
    }
    match refused {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

/// The jobs it is about: the configured ones or, with rules of the caller's own, those the repository knows.
fn subjects<'a>(tenant: &'a Tenant, only: Option<&JobName>, keep: Option<Keep>, snapshots: &'a [Snapshot]) -> Vec<Subject<'a>> {
    let wanted = |job: &str| only.is_none_or(|name| name.as_str() == job);
    match keep {
        None => tenant.jobs.values().filter(|j| wanted(j.name.as_str())).map(Subject::from).collect(),
        Some(keep) => {
            let jobs: BTreeSet<&str> = snapshots.iter().filter_map(|s| s.file.tag("job")).filter(|j| wanted(j)).collect();
            jobs.into_iter().map(|job| Subject { tenant: tenant.name.as_str(), job, keep, timezone: "UTC" }).collect()
        }
    }
}

fn count_others(tenant: &Tenant, subjects: &[Subject<'_>], snapshots: &[Snapshot], pruned: &mut Pruned) {
    for snapshot in snapshots {
        match snapshot.file.tag("job") {
            None => pruned.foreign += 1,
            Some(job) if subjects.iter().any(|s| s.job == job) || tenant.jobs.keys().any(|name| name.as_str() == job) => {}
            Some(job) => *pruned.unconfigured.entry(job.to_owned()).or_default() += 1,
        }
    }
}
