//! Applies retention, then collects what nothing refers to any more.

use jiff::tz::TimeZone;
use serde::Serialize;

use super::Context;
use super::context::lock_holder;
use super::facts::{HOLD, is_complete};
use crate::config::settings::Job;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Id, JobName, Selector, TenantName, Time};
use crate::repository::{LockMode, RepoLock, Repository, Snapshot};
use crate::retention::{self, Action, Candidate, Guards, Keep};
use crate::schedule::Spec;

/// How to prune.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Pass the guard against removing an unusual share at once.
    pub force: bool,
    /// Instead of the configured rules.
    pub keep: Option<Keep>,
    /// Leave the data of removed snapshots in place: quick, and another run collects it.
    pub forget_only: bool,
}

/// One tenant's outcome.
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
    /// What was collected. Absent in a dry run.
    pub collected: Option<serde_json::Value>,
}

/// One job's decisions.
#[derive(Debug, Clone, Serialize)]
pub struct JobPrune {
    /// The job.
    pub job: String,
    /// The rules, in English.
    pub keep: String,
    /// One for each of its snapshots, newest first.
    pub snapshots: Vec<Verdict>,
    /// What a person should look at.
    pub alarms: Vec<String>,
    /// Why nothing of it is removed although the rules say so.
    pub refused: Option<String>,
}

/// What happens to one snapshot, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Its id.
    pub id: Id,
    /// When it was begun.
    pub time: Time,
    /// Bytes of its files.
    pub bytes: u64,
    /// `keep` or `remove`.
    pub action: Action,
    /// Why.
    pub reasons: Vec<String>,
}

/// Prunes one tenant, or only the snapshots of one job of it.
///
/// # Errors
/// [`Kind::Locked`] while others use the repository; [`Kind::Failed`] where a guard refused a job's plan (the other
/// jobs were pruned all the same); the store's failures.
pub async fn run(ctx: &Context, tenant: &TenantName, job: Option<&JobName>, options: &Options) -> Result<(TenantPrune, Option<Error>)> {
    let repo = ctx.repository(tenant).await?;
    if options.dry_run {
        return Ok(in_lock(ctx, &repo, tenant, job, options, None).await?.0).map(|p| (p, None));
    }
    let lock = repo.lock(LockMode::Exclusive, &lock_holder(), ctx.cancel()).await.context(|| format!("prune tenant {tenant}"))?;
    let outcome = in_lock(ctx, &repo, tenant, job, options, Some(&lock)).await.context(|| format!("prune tenant {tenant}"));
    let released = lock.release().await;
    let outcome = outcome?;
    released?;
    Ok(outcome)
}

async fn in_lock(ctx: &Context, repo: &Repository, tenant: &TenantName, job: Option<&JobName>, options: &Options, lock: Option<&RepoLock>) -> Result<(TenantPrune, Option<Error>)> {
    let snapshots = repo.load_snapshots().await?;
    let candidates: Vec<Candidate> = snapshots.iter().map(candidate).collect();
    let guards = Guards { force: options.force, ..Guards::new(ctx.clock().now(), ctx.store_time(repo.store()).await?) };
    let (mut jobs, mut removals, mut refusal) = (Vec::new(), Vec::new(), None);
    for (name, keep, zone) in rules(ctx, tenant, job, &candidates, options.keep)? {
        let plan = retention::plan(&name, &candidates, &keep, &Guards { zone, ..guards.clone() });
        let mine = plan.decisions.iter().filter(|d| d.action != Action::Ignore || d.snapshot.job.as_deref() == Some(name.as_str()));
        let verdict = |d: &retention::Decision| Verdict { id: d.snapshot.id, time: d.snapshot.time, bytes: d.snapshot.size, action: d.action, reasons: d.reasons.clone() };
        jobs.push(JobPrune {
            keep: keep.describe(),
            snapshots: mine.map(verdict).collect(),
            alarms: plan.alarms.clone(),
            refused: plan.refusal().map(Error::chain),
            job: name.clone(),
        });
        match plan.removals() {
            Ok(ids) => removals.extend(ids),
            Err(e) => refusal = Some(e.context(format!("retention of {tenant}/{name}"))),
        }
    }
    let mut collected = None;
    if let Some(lock) = lock {
        for id in &removals {
            ctx.cancel().check()?;
            lock.verify().await?;
            repo.remove_snapshot(*id).await.context(|| format!("remove snapshot {}", id.short()))?;
        }
        if !options.forget_only {
            collected = super::collect::run(ctx, repo, lock).await?;
        }
    }
    Ok((TenantPrune { tenant: tenant.clone(), jobs, removed: removals.len(), dry_run: options.dry_run, collected }, refusal))
}

/// The jobs to look at, each with its rules and the calendar they are counted in.
fn rules(ctx: &Context, tenant: &TenantName, only: Option<&JobName>, candidates: &[Candidate], over: Option<Keep>) -> Result<Vec<(String, Keep, TimeZone)>> {
    let selector = Selector { tenant: tenant.clone(), job: None };
    let configured: Vec<&Job> = ctx.jobs(Some(&selector))?;
    if let Some(keep) = over {
        // Rules of the command line hold for every job there is, configured or not.
        let mut names: Vec<String> = candidates.iter().filter_map(|c| c.job.clone()).filter(|j| only.is_none_or(|o| o.as_str() == j)).collect();
        names.sort();
        names.dedup();
        return Ok(names.into_iter().map(|n| (n, keep, TimeZone::UTC)).collect());
    }
    let all = configured.into_iter().filter(|j| only.is_none_or(|o| *o == j.name));
    let rules: Vec<_> = all.map(|j| (j.name.to_string(), j.keep.unwrap_or_default(), zone(&j.schedule))).collect();
    match only {
        Some(job) if rules.is_empty() => Err(Error::new(Kind::Usage, format!("there is no job `{tenant}/{job}` in the configuration")).hint("Add --keep-… rules to prune the snapshots of a job that is gone.")),
        _ => Ok(rules),
    }
}

fn zone(spec: &Spec) -> TimeZone {
    match spec {
        Spec::Cron { timezone, .. } => TimeZone::get(timezone).unwrap_or(TimeZone::UTC),
        _ => TimeZone::UTC,
    }
}

fn candidate(s: &Snapshot) -> Candidate {
    Candidate {
        id: s.id,
        time: s.file.time,
        end: s.file.summary.as_ref().map(|m| m.backup_end),
        job: s.file.tag("job").map(str::to_owned),
        complete: is_complete(&s.file),
        hold: s.file.has_tag(HOLD),
        size: s.file.summary.as_ref().map_or(0, |m| m.total_bytes_processed),
    }
}
