//! `strongroom drill`: a real restore of a job's newest backup into a scratch place, with checks, and what it proves.
//!
//! Lease → newest complete snapshot → scratch directory with enough room → restore → checks → report in the repository → the
//! scratch directory is gone, however it ended.
//!
//! - A **volume** is restored and every file read back and compared; a program's **output** is restored whole.
//! - A **base backup** is restored into a server of its major version, recovers to the end of its WAL ([`feed`]), is checked
//!   with `pg_amcheck`, and the user's assertions are asked.
//! - A **dump** goes into a server made for it ([`server`]), roles and tablespaces included, and the user's assertions are asked.
//!
//! **A drill touches nothing but its scratch directory** and the objects `strongroom/reports/…` and its lease. It reads the
//! repository as any restore does. It fails if anything is missing or any check does not pass, and its report says so; only a
//! drill that was told to stop leaves no report.

mod base;
mod checks;
mod dump;
mod feed;
mod files;
mod ledger;
mod report;
mod scratch;
mod server;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use self::report::Findings;
use self::scratch::Scratch;
use super::facts::FUTURE_SECS;
use super::job::leased::{self, Asked, Held};
use super::read_lock::with_read_lock;
use super::restore::{self, Source};
use super::select::{Found, Pick, Reference};
use super::{Context, blocking, lock_holder, memory_share};
use crate::config::settings::{Drill, Job};
use crate::error::{Context as _, Error, Kind, Result};
use crate::http::DrillMetrics;
use crate::model::Time;
use crate::repository::{Repository, Snapshot};
use crate::runtime::Cancel;
use crate::source::SourceSettings;

pub use ledger::{newest, newest_good};
pub use report::{Check, Failure, Report, Step};
pub use state::{DrillState, DrillStatus, is_expected, learn, status};

/// Stores tell whole seconds, and an answer takes a while: how far one comparison of two clocks may be from the next.
const MOMENT_SECS: f64 = 5.0;

/// How to drill.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instead of the configured directory.
    pub scratch: Option<PathBuf>,
    /// The schedule named this time: not done if somebody drilled since.
    pub due: Option<Time>,
    /// Where results are shown.
    pub metrics: Option<DrillMetrics>,
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// It was drilled; whether it passed is in the report, which is in the repository, too.
    Drilled(Box<Report>),
    /// Somebody drilled since it was due, beginning at that time.
    Already(Time),
    /// Another process is at it, by that name.
    Elsewhere(String),
}

/// Drills one job.
///
/// # Errors
/// What keeps a drill from beginning or its report from being written; [`Kind::Cancelled`]. A restore that fails is a report.
pub async fn run(ctx: &Context, job: &Job, options: &Options) -> Result<Outcome> {
    let cancel = ctx.cancel().child();
    let ctx = &ctx.with_cancel(cancel.clone());
    let late = Arc::new(AtomicBool::new(false));
    let limit = job.drill.timeout.unwrap_or(job.timeout);
    let timer = tokio::spawn({
        let late = late.clone();
        async move {
            tokio::time::sleep(limit).await;
            late.store(true, Relaxed);
            cancel.cancel();
        }
    });
    let outcome = leased(ctx, job, options, &late, limit).await.context(|| format!("drill {}", job.selector()));
    timer.abort();
    if let Some(metrics) = &options.metrics {
        match &outcome {
            Ok(Outcome::Drilled(report)) => metrics.drilled(&state::figures(report)),
            Err(e) if e.kind() != Kind::Cancelled => metrics.failed(ctx.clock().now()),
            _ => {}
        }
    }
    outcome
}

async fn leased(ctx: &Context, job: &Job, options: &Options, late: &AtomicBool, limit: Duration) -> Result<Outcome> {
    let repo = ctx.repository(&job.tenant).await?;
    let held: Option<Held> = match leased::acquire(repo.store(), leased::drill_key(&job.name)?, ctx.cancel()).await {
        Ok(Asked::Taken(held)) => Some(held),
        Ok(Asked::Elsewhere(who)) => return Ok(Outcome::Elsewhere(who)),
        Err(e) if e.kind() == Kind::Denied => {
            tracing::warn!("these credentials may not write: the drill goes on without a lease, and leaves no report");
            None
        }
        Err(e) => return Err(e),
    };
    let outcome = begin(ctx, job, options, &repo, held.is_some(), late, limit).await;
    if let Some(held) = held {
        held.release().await;
    }
    outcome
}

async fn begin(
    ctx: &Context,
    job: &Job,
    options: &Options,
    repo: &Repository,
    may_write: bool,
    late: &AtomicBool,
    limit: Duration,
) -> Result<Outcome> {
    let (started, clock) = (ctx.store_time(repo.store()).await?, Instant::now());
    let here = ctx.clock().now();
    if let Some(due) = options.due
        && let Some(Ok(last)) = newest(repo, Some(job.name.as_str())).await?.remove(job.name.as_str())
        && is_since(last.started, due, here, started)
    {
        return Ok(Outcome::Already(last.started));
    }
    let mut report = blank(job, started);
    let mut findings = Findings::default();
    let drilled = drill(ctx, job, options, &mut report, &mut findings).await;
    report.take(findings);
    if let Err(e) = drilled {
        let e = match e.kind() {
            Kind::Cancelled if late.load(Relaxed) => {
                Error::new(Kind::Failed, format!("the drill did not end within {} s and was stopped", limit.as_secs()))
                    .because(e)
                    .hint("Raise `drill.timeout` if it needs longer.")
            }
            Kind::Cancelled => return Err(e),
            _ => e,
        };
        report.failure = Some(Failure::of(&e));
    }
    let took = clock.elapsed();
    report.conclude(Time::new(started.secs.saturating_add(took.as_secs().cast_signed()), started.nanos + took.subsec_nanos()));
    if may_write {
        ledger::write(repo, &report).await?;
    }
    Ok(Outcome::Drilled(Box::new(report)))
}

/// Whether a drill begun at `started`, by the store's clock, began no earlier than `due`, by the clock here; `here` and `store` are
/// the same moment by both. One that is dated ahead of the store's clock did not.
fn is_since(started: Time, due: Time, here: Time, store: Time) -> bool {
    started.seconds_since(store) <= FUTURE_SECS && started.seconds_since(store) - due.seconds_since(here) >= -MOMENT_SECS
}

fn blank(job: &Job, started: Time) -> Report {
    Report {
        version: report::VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        host: lock_holder().hostname,
        tenant: job.tenant.to_string(),
        job: job.name.to_string(),
        source: job.source.kind().to_owned(),
        started,
        ended: started,
        ok: false,
        failure: None,
        snapshot: None,
        backup_time: None,
        rpo_seconds: None,
        rpo_basis: None,
        rto_seconds: None,
        newest_commit: None,
        heartbeat: None,
        bytes: 0,
        steps: Vec::new(),
        checks: Vec::new(),
        warnings: Vec::new(),
    }
}

/// What the restores of all sources need to know. Cheap enough to clone into threads.
#[derive(Clone)]
struct Work {
    /// `tenant/job`.
    name: String,
    drill: Drill,
    snapshot: Snapshot,
    /// Its memory budget, in bytes.
    memory: u64,
    cancel: Cancel,
}

/// Times the steps of a drill.
struct Watch {
    since: Instant,
    job: String,
}

impl Watch {
    fn start(work: &Work) -> Self {
        Self { since: Instant::now(), job: work.name.clone() }
    }

    /// What was done since the last call was this step.
    fn step(&mut self, name: &str, findings: &mut Findings) {
        let seconds = self.since.elapsed().as_secs_f64();
        tracing::info!("drill of {}: {name} took {seconds:.1} s", self.job);
        findings.steps.push(Step { name: name.to_owned(), seconds });
        self.since = Instant::now();
    }
}

/// Chooses the snapshot, restores and checks it. What was found until a failure is in `findings`.
async fn drill(ctx: &Context, job: &Job, options: &Options, report: &mut Report, findings: &mut Findings) -> Result<()> {
    let found = restore::choose(ctx, &Reference { selector: Some(job.selector()), pick: Pick::Latest }).await?;
    report.snapshot = Some(found.snapshot.id);
    report.backup_time = Some(match restore::source_of(&found)? {
        Source::PgBase => base::consistent(&found).await?,
        _ => found.snapshot.file.time,
    });
    report.warnings.extend(found.warnings.iter().cloned());
    let parent = options.scratch.clone().or_else(|| job.drill.scratch.clone()).unwrap_or_else(std::env::temp_dir);
    let scratch = blocking(move || Scratch::new(&parent)).await?;
    let work = Work {
        name: job.selector().to_string(),
        drill: job.drill.clone(),
        snapshot: found.snapshot.clone(),
        // In the daemon others may be at work, too.
        memory: memory_share(ctx.settings(), if options.due.is_some() { ctx.settings().limits.jobs } else { 1 }),
        cancel: ctx.cancel().clone(),
    };
    let source = restore::source_of(&found)?;
    let (scratch, drilled) = match source {
        Source::Volume => {
            let drilled = files::volume(&work, &found, &scratch, findings).await;
            (scratch, drilled)
        }
        Source::Command => {
            let drilled = files::output(&work, &found, &scratch, findings).await;
            (scratch, drilled)
        }
        Source::PgBase => {
            let drilled = base::run(ctx, &work, found, base_roles(job), &scratch, findings).await;
            (scratch, drilled)
        }
        Source::PgDump => {
            let (scratch, own, drilled) = dumped(&work, &found, scratch).await?;
            *findings = own;
            (scratch, drilled)
        }
    };
    // Removing a large restore takes a while.
    blocking(move || {
        drop(scratch);
        Ok(())
    })
    .await?;
    drilled
}

/// Who may be able to log into a restored cluster: `postgres`, and the role that the backup was made by.
fn base_roles(job: &Job) -> Vec<String> {
    let mut roles = vec!["postgres".to_owned()];
    if let SourceSettings::PgBase(settings) = &job.source {
        // A secret that cannot be read here only leaves one role less to try.
        let connection = settings.connection().ok();
        roles.extend(connection.and_then(|c| c.user().map(str::to_owned)).filter(|user| user != "postgres"));
    }
    roles
}

/// On a thread that may block, under a lock that keeps a prune away.
async fn dumped(work: &Work, found: &Found, scratch: Scratch) -> Result<(Scratch, Findings, Result<()>)> {
    with_read_lock(&found.repository, &work.cancel, async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let work = work.clone();
        blocking(move || {
            let mut findings = Findings::default();
            let drilled = dump::run(&work, &reader, &scratch, &mut findings);
            Ok((scratch, findings, drilled))
        })
        .await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::is_since;
    use crate::model::Time;

    #[test]
    fn a_drill_is_the_one_that_was_due_whatever_the_clocks_say() {
        let t = |secs: i64| Time::new(1_000_000 + secs, 0);
        // How far the clock here is ahead of the store's; a drill was due at 0 and began at once, by the clock here.
        for ahead in [-86_400, -600, -7, 0, 7, 600, 86_400] {
            let is = |started, here| is_since(t(started - ahead), t(0), t(here), t(here - ahead));
            assert!(is(0, 60) && is(0, 0) && is(30, 31), "{ahead}");
            // Whole seconds are told.
            assert!(is_since(t(-ahead - 1), t(0), t(60), t(60 - ahead)), "{ahead}");
            // The drill before that one, and one dated tomorrow.
            assert!(!is(-60, 60) && !is(86_400, 60), "{ahead}");
        }
    }
}
