//! The run itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::super::expire_wal::{self, ClusterWal};
use super::super::facts::{is_complete, is_future, is_of_job};
use super::super::retention::Rules;
use super::super::{Context, backup, check_commands, collect, lock_holder, retention};
use super::attempts::{self, Patience};
use super::leased::{self, Asked};
use crate::config::settings::Job;
use crate::error::{Error, Kind, Result};
use crate::http::{JobMetrics, Run};
use crate::model::Time;
use crate::repository::{LockMode, Repository, Snapshot, WriterOptions};
use crate::retention::Action;
use crate::runtime::{Cancel, memory};
use crate::source::SourceSettings;
use crate::store::{Counted, Counter};

/// Jobs wait this long for a prune to let them remove snapshots.
const RETENTION_LOCK_WAIT: Duration = Duration::from_secs(300);

/// Who wants the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The schedule named this time: done only if no complete backup began at or after it.
    Due(Time),
    /// Somebody asked for it: done in any case.
    Asked,
}

/// How a job is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who wants it.
    pub why: Why,
    /// How much is tried.
    pub patience: Patience,
    /// Apply the job's retention after a complete backup, and collect about once a day.
    pub retain: bool,
    /// Record a nearly empty volume over a large last snapshot.
    pub allow_empty: bool,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Live counters.
    pub progress: Arc<backup::Progress>,
    /// The memory budget of this run in bytes; 0: the process's.
    pub memory: u64,
    /// Where results are counted.
    pub metrics: Option<JobMetrics>,
    /// What the run asks of the store is added up here.
    pub requests: Arc<Counter>,
}

impl Options {
    /// A run that somebody asked for: no retention, and the attempts that the job allows.
    #[must_use]
    pub fn asked(job: &Job) -> Self {
        let patience = Patience { retries: job.retries, unattended: false };
        Self {
            why: Why::Asked,
            patience,
            retain: false,
            allow_empty: false,
            force: false,
            progress: Arc::default(),
            metrics: None,
            memory: 0,
            requests: Arc::default(),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// There is a new snapshot, complete or not.
    Backed(Box<backup::Report>),
    /// Another process made the backup that was due; it began at that time.
    Already(Time),
    /// Another process is at it, by that name.
    Elsewhere(String),
}

impl Outcome {
    /// For who asked for a run: the report of the new snapshot.
    ///
    /// # Errors
    /// [`Kind::Locked`] while another process runs the job.
    pub fn report(self, job: &Job) -> Result<backup::Report> {
        let name = job.selector();
        match self {
            Outcome::Backed(report) => Ok(*report),
            Outcome::Elsewhere(who) => Err(Error::new(Kind::Locked, format!("job {name} is running already: {who}"))
                .hint("Wait for it to end. If that process is dead, the job can be run about a minute after its end.")),
            Outcome::Already(begun) => Err(Error::new(Kind::Locked, format!("job {name} was done already, begun at {begun}"))),
        }
    }
}

/// Begin of the newest complete backup of a job; `None` if every snapshot was read and there is none. One that is dated ahead of the
/// store's clock does not count: it would stand for every run until that date.
///
/// # Errors
/// When that could not be found out.
pub async fn last_success(ctx: &Context, job: &Job) -> Result<Option<Time>> {
    newest(ctx, job, &ctx.repository(&job.tenant).await?).await
}

async fn newest(ctx: &Context, job: &Job, repo: &Repository) -> Result<Option<Time>> {
    let snapshots = repo.load_snapshots().await?;
    let now = ctx.store_time(repo.store()).await?;
    let counts = |s: &&Snapshot| is_of_job(&s.file, &job.name) && is_complete(&s.file) && !is_future(&s.file, now);
    Ok(snapshots.iter().filter(counts).map(|s| s.file.time).max())
}

/// Runs a job. Results are counted in the metrics; the caller logs the failure it gets.
///
/// # Errors
/// Why there is no new snapshot. A job that took longer than its timeout is [`Kind::Failed`].
pub async fn run(ctx: &Context, job: &Job, options: &Options) -> Result<Outcome> {
    let name = job.selector().to_string();
    let cancel = ctx.cancel().child();
    let ctx = &ctx.with_cancel(cancel.clone());
    let began = ctx.clock().now();
    let late = Arc::new(AtomicBool::new(false));
    let timer = tokio::spawn(end_after(job.timeout, cancel.clone(), late.clone()));
    let counter = &options.requests;
    let (outcome, retries) = leased(ctx, job, &name, options, counter).await;
    timer.abort();
    let outcome = match outcome {
        Err(e) if late.load(Relaxed) => {
            Err(Error::new(Kind::Failed, format!("job {name} did not end within {} s and was stopped", job.timeout.as_secs()))
                .because(e)
                .hint("Raise the job's `timeout` if it needs longer; what was uploaded is used by the next run."))
        }
        outcome => outcome,
    };
    if let Some(metrics) = &options.metrics {
        let ended = ctx.clock().now();
        let failure = match &outcome {
            Ok(Outcome::Backed(report)) => (!report.complete).then_some(Kind::Incomplete),
            Ok(Outcome::Already(_) | Outcome::Elsewhere(_)) => return outcome,
            Err(e) => Some(e.kind()),
        };
        let mut run = Run { retries, requests: requests(counter), ..Run::new("backup", began, ended, failure) };
        if let Ok(Outcome::Backed(report)) = &outcome {
            (run.snapshot, run.end) = (Some(report.started), report.ended);
            (run.read_bytes, run.added_bytes, run.stored_bytes) = (report.bytes_read, report.bytes_added, report.bytes_stored);
            (run.missing, run.warnings) = (report.missing_count, report.warning_count);
            run.bad_pages = report.bad_pages;
        }
        metrics.finished(&run);
    }
    outcome
}

/// What a run asked of the store, by kind.
fn requests(counter: &Counter) -> Vec<(&'static str, u64)> {
    let counts = counter.snapshot();
    vec![("put", counts.put), ("get", counts.get), ("head", counts.head), ("list", counts.list), ("delete", counts.delete)]
}

/// The repository, with its requests counted apart from those of other jobs.
fn counted(repo: &Repository, counter: &Arc<Counter>) -> Repository {
    repo.with_store(Arc::new(Counted::new(Arc::clone(repo.store()), Arc::clone(counter))))
}

async fn end_after(timeout: Duration, cancel: Cancel, late: Arc<AtomicBool>) {
    tokio::time::sleep(timeout).await;
    late.store(true, Relaxed);
    cancel.cancel();
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        tracing::error!("the run was told to stop when its timeout passed, and has not ended yet");
    }
}

/// Takes the lease, runs, gives it back. Returns the number of attempts beyond the first too.
async fn leased(ctx: &Context, job: &Job, name: &str, options: &Options, counter: &Arc<Counter>) -> (Result<Outcome>, u64) {
    if let Err(e) = check_commands(&[job], ctx.settings()) {
        return (Err(e), 0);
    }
    let (asked, opening) = attempts::run(name, options.patience, ctx.cancel(), || async {
        let repo = counted(&ctx.repository(&job.tenant).await?, counter);
        let asked = leased::acquire(repo.store(), leased::key(&job.name)?, ctx.cancel()).await?;
        Ok((repo, asked))
    })
    .await;
    let (repo, held) = match asked {
        Ok((repo, Asked::Taken(held))) => (repo, held),
        Ok((_, Asked::Elsewhere(who))) => return (Ok(Outcome::Elsewhere(who)), opening),
        Err(e) => return (Err(e), opening),
    };
    let left = options.patience.retries.saturating_sub(u32::try_from(opening).unwrap_or(u32::MAX));
    let left = Patience { retries: left, ..options.patience };
    let (outcome, retries) = attempts::run(name, left, ctx.cancel(), || attempt(ctx, job, options, &repo)).await;
    if let Ok(Outcome::Backed(report)) = &outcome
        && report.complete
        && options.retain
    {
        retain(ctx, job, options, &repo).await;
    }
    held.release().await;
    (outcome, opening + retries)
}

async fn attempt(ctx: &Context, job: &Job, options: &Options, repo: &Repository) -> Result<Outcome> {
    if let Why::Due(due) = options.why
        && let Some(begun) = newest(ctx, job, repo).await?.filter(|begun| *begun >= due)
    {
        return Ok(Outcome::Already(begun));
    }
    let settings = ctx.settings();
    let budget = match options.memory {
        0 => memory::budget(settings.limits.memory.unwrap_or(memory::DEFAULT_BUDGET)),
        own => own,
    };
    let request = backup::Request {
        environment: settings.environment.clone(),
        tenant: job.tenant.clone(),
        job: job.name.clone(),
        source: job.source.clone(),
        writer: WriterOptions::for_memory(budget, ctx.tenant(&job.tenant)?.repository.compression),
        holder: lock_holder(),
        allow_empty: options.allow_empty,
        force: options.force,
        progress: options.progress.clone(),
    };
    let report = backup::run(repo, request, ctx.clock().clone(), ctx.cancel()).await?;
    Ok(Outcome::Backed(Box::new(report)))
}

/// Retention after a complete backup: a result of its own, which leaves the backup a success.
async fn retain(ctx: &Context, job: &Job, options: &Options, repo: &Repository) {
    if job.keep.is_none() {
        return;
    }
    let began = ctx.clock().now();
    let done = retain_locked(ctx, job, options, repo).await;
    let failure = match &done {
        Ok(()) => None,
        Err(e) if e.kind() == Kind::Locked => {
            // The next run does it.
            tracing::info!("retention is put off: {}", e.chain());
            return;
        }
        Err(e) => {
            tracing::error!("the backup is safe, but retention failed: {}", e.report());
            Some(e.kind())
        }
    };
    if let Some(metrics) = &options.metrics {
        // Its requests are counted with those of the run it belongs to.
        metrics.finished(&Run::new("prune", began, ctx.clock().now(), failure));
    }
}

async fn retain_locked(ctx: &Context, job: &Job, options: &Options, repo: &Repository) -> Result<()> {
    // Shared: nothing but snapshots goes, and what a reader needs of them stays as long as it holds its lock.
    // WAL that nobody needs goes under the same lock: a restore that reads a base backup holds one, too.
    let lock = repo.lock_within(LockMode::Shared, &lock_holder(), RETENTION_LOCK_WAIT, ctx.cancel()).await?;
    let applied = async {
        let snapshots = repo.load_snapshots().await?;
        let applied =
            retention::apply(ctx, repo, &Rules::of(job), &snapshots, Some(&lock), retention::Options::default()).await?;
        Ok::<_, Error>((applied, expire_wal(ctx, job, repo).await?))
    }
    .await;
    let released = lock.release().await;
    let ((retained, refusal), wal) = applied?;
    released?;
    if let Some(metrics) = &options.metrics {
        let counted = retained.snapshots.iter().filter(|f| f.action == Action::Keep).count();
        metrics.retained(counted, retained.removed);
        metrics.retention_alarms(retained.alarms.len() + wal.iter().map(|c| c.alarms.len()).sum::<usize>());
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    if retained.removed > 0 {
        collect::when_due(ctx, repo).await?;
    }
    Ok(())
}

/// Of a job that makes base backups: removes the WAL of its cluster that nothing needs any more.
async fn expire_wal(ctx: &Context, job: &Job, repo: &Repository) -> Result<Vec<ClusterWal>> {
    let SourceSettings::PgBase(settings) = &job.source else { return Ok(Vec::new()) };
    let left = repo.load_snapshots().await?;
    let tenant = ctx.tenant(&job.tenant)?;
    let done = expire_wal::run(ctx, repo, tenant, &left, &HashSet::new(), Some(&settings.cluster), false).await?;
    for system in done.iter().flat_map(|c| &c.systems).filter(|s| s.removed_objects > 0) {
        tracing::info!(
            "removed {} segments of WAL of system {} ({} bytes) that nothing needs",
            system.removed_segments,
            system.system,
            system.removed_bytes
        );
    }
    Ok(done)
}
