//! `strongroom prune`: applies retention, then collects what no snapshot needs any more.
//!
//! Order: exclusive lock → snapshots are listed under it → snapshots go, oldest first → WAL that no base backup needs any more →
//! what only they needed is collected.
//! A crash between any two steps leaves data that nothing refers to, which the next prune collects.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::Serialize;

use super::expire_wal::{self, ClusterWal};
use super::retention::{self, JobPrune, Rules};
use super::{Context, collect, lock_holder};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{JobName, Selector, TenantName};
use crate::repository::{LockMode, PruneStats, RepoLock, Repository, Snapshot};
pub use crate::retention::{Action, Keep};
use crate::source::SourceSettings;

/// How to prune.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Say what would be done, and do nothing. Takes no exclusive lock.
    pub dry_run: bool,
    /// Pass the guard against removing an unusual share at once.
    pub force: bool,
    /// Instead of the configured rules; for every job that has snapshots, configured or not.
    pub keep: Option<Keep>,
    /// Leave the data of removed snapshots in place: quick, and another run collects it.
    pub forget_only: bool,
}

/// What happened to one tenant's repository.
#[derive(Debug, Clone, Serialize)]
pub struct TenantPrune {
    /// Whose.
    pub tenant: TenantName,
    /// The decisions, job by job.
    pub jobs: Vec<JobPrune>,
    /// Snapshots removed; with `dry_run` those that would be.
    pub removed: usize,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Snapshots of jobs that are not in the configuration: number by job. They stay.
    pub unconfigured: BTreeMap<String, usize>,
    /// Snapshots without a job's tag, made by other programs. They stay.
    pub foreign: usize,
    /// What happened to the WAL of its clusters; in a dry run what would.
    pub wal: Vec<ClusterWal>,
    /// What was collected. Absent in a dry run and with `forget_only`.
    pub collected: Option<PruneStats>,
}

/// Prunes one tenant, or only the snapshots of one job of it. Where a guard refused a job's plan, its error stands beside the
/// report, which shows the plan; the other jobs were pruned all the same.
///
/// # Errors
/// [`Kind::Usage`] for a job that does not exist; [`Kind::Locked`] while others use the repository; the store's failures.
pub async fn run(
    ctx: &Context,
    tenant: &TenantName,
    job: Option<&JobName>,
    options: &Options,
) -> Result<(TenantPrune, Option<Error>)> {
    let doing = || format!("prune the repository of tenant {tenant}");
    let repo = ctx.repository(tenant).await?;
    let lock = lock(ctx, &repo, options).await.context(doing)?;
    let done = under_lock(ctx, &repo, tenant, job, options, lock.as_ref()).await.context(doing);
    let released = match &lock {
        Some(lock) => lock.release().await,
        None => Ok(()),
    };
    let done = done?;
    released.context(doing)?;
    Ok(done)
}

/// Exclusive, but for a dry run, which only keeps others from removing what it looks at, and goes on without where it may
/// not lock.
async fn lock(ctx: &Context, repo: &Repository, options: &Options) -> Result<Option<RepoLock>> {
    let mode = if options.dry_run { LockMode::Shared } else { LockMode::Exclusive };
    match repo.lock(mode, &lock_holder(), ctx.cancel()).await {
        Ok(lock) => Ok(Some(lock)),
        Err(e) if options.dry_run && matches!(e.kind(), Kind::Denied | Kind::Locked) => {
            tracing::warn!("going on without a lock: {}", e.chain());
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

async fn under_lock(
    ctx: &Context,
    repo: &Repository,
    tenant: &TenantName,
    only: Option<&JobName>,
    options: &Options,
    lock: Option<&RepoLock>,
) -> Result<(TenantPrune, Option<Error>)> {
    let snapshots = repo.load_snapshots().await?;
    let all = rules(ctx, tenant, only, &snapshots, options.keep)?;
    let (mut jobs, mut refusal) = (Vec::new(), None);
    for rules in &all {
        let how = retention::Options { dry_run: options.dry_run, force: options.force };
        let (job, refused) = retention::apply(ctx, repo, rules, &snapshots, lock, how).await?;
        jobs.push(job);
        refusal = refusal.or(refused);
    }
    let wal = wal(ctx, repo, tenant, only, options, &jobs).await?;
    let collected = match lock {
        Some(lock) if !options.dry_run && !options.forget_only => Some(collect::run(ctx, repo, lock).await?),
        _ => None,
    };
    let removed =
        jobs.iter().map(|j| if options.dry_run && j.refused.is_none() { j.count(Action::Remove) } else { j.removed }).sum();
    let (unconfigured, foreign) = others(ctx, tenant, &snapshots)?;
    Ok((
        TenantPrune { tenant: tenant.clone(), jobs, removed, dry_run: options.dry_run, unconfigured, foreign, wal, collected },
        refusal,
    ))
}

/// WAL goes after the base backups that needed it, and before what collecting takes: it is the smaller loss of time if the
/// run is cut short.
async fn wal(
    ctx: &Context,
    repo: &Repository,
    tenant: &TenantName,
    only: Option<&JobName>,
    options: &Options,
    jobs: &[JobPrune],
) -> Result<Vec<ClusterWal>> {
    let tenant = ctx.tenant(tenant)?;
    let cluster = match only.map(|name| tenant.jobs.get(name).map(|j| &j.source)) {
        None => None,
        Some(Some(SourceSettings::PgBase(settings))) => Some(settings.cluster.as_str()),
        // The WAL of no cluster depends on this job.
        Some(_) => return Ok(Vec::new()),
    };
    let planned = jobs.iter().filter(|j| options.dry_run && j.refused.is_none()).flat_map(|j| &j.snapshots);
    let gone = planned.filter(|v| v.action == Action::Remove).map(|v| v.id).collect();
    let left = repo.load_snapshots().await?;
    expire_wal::run(ctx, repo, tenant, &left, &gone, cluster, options.dry_run).await
}

/// The jobs to look at, each with its rules.
fn rules(
    ctx: &Context,
    tenant: &TenantName,
    only: Option<&JobName>,
    snapshots: &[Snapshot],
    over: Option<Keep>,
) -> Result<Vec<Rules>> {
    if let Some(keep) = over {
        let jobs = snapshots.iter().filter_map(|s| s.file.tag("job")).filter(|j| only.is_none_or(|o| o.as_str() == *j));
        let jobs: std::collections::BTreeSet<&str> = jobs.collect();
        return Ok(jobs
            .into_iter()
            .map(|job| Rules { tenant: tenant.clone(), job: job.to_owned(), keep, zone: TimeZone::UTC })
            .collect());
    }
    let selector = Selector { tenant: tenant.clone(), job: only.cloned() };
    let configured = ctx.jobs(Some(&selector)).map_err(|e| match only {
        Some(_) => e.hint("Add --keep-… rules to prune the snapshots of a job that is not in the configuration any more."),
        None => e,
    })?;
    Ok(configured.into_iter().map(Rules::of).collect())
}

/// Snapshots that no rule is about: by job, and those of other programs.
fn others(ctx: &Context, tenant: &TenantName, snapshots: &[Snapshot]) -> Result<(BTreeMap<String, usize>, usize)> {
    let jobs = &ctx.tenant(tenant)?.jobs;
    let (mut unconfigured, mut foreign) = (BTreeMap::new(), 0);
    for snapshot in snapshots {
        match snapshot.file.tag("job") {
            None => foreign += 1,
            Some(job) if jobs.keys().any(|name| name.as_str() == job) => {}
            Some(job) => *unconfigured.entry(job.to_owned()).or_default() += 1,
        }
    }
    Ok((unconfigured, foreign))
}
