//! One run of a configured job: the same for the command line and the daemon.

use std::sync::Arc;
use std::time::Duration;

use super::backup::{self, Progress, Report, Request};
use super::context::{check_commands, lock_holder};
use super::Context;
use crate::config::settings::Job;
use crate::error::{Context as _, Error, Kind, Result};
use crate::repository::WriterOptions;
use crate::runtime::memory;

/// The wait before the first repetition; doubled each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What differs from run to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Read every file, whatever the last snapshot says.
    pub force: bool,
    /// Record a nearly empty volume over a large last snapshot.
    pub allow_empty: bool,
    /// Live counters.
    pub progress: Arc<Progress>,
    /// The memory budget of this run in bytes; 0: the process's.
    pub memory: u64,
}

/// Runs the job: within its timeout, tried again as often as it may, what cannot get better not at all.
///
/// # Errors
/// The last failure. No snapshot was made then.
pub async fn run(ctx: &Context, job: &Job, options: &Options) -> Result<Report> {
    check_commands(&[job], ctx.settings())?;
    let whole = ctx.cancel().child();
    let deadline = tokio::time::sleep(job.timeout);
    tokio::pin!(deadline);
    let tries = tries(ctx.with_cancel(whole.clone()), job, options);
    tokio::pin!(tries);
    tokio::select! {
        done = &mut tries => return done,
        () = &mut deadline => {}
    }
    // Told to stop, the run releases its lock and ends its children; its own verdict no longer matters.
    whole.cancel();
    let ended = tries.await;
    match ended {
        Ok(report) => Ok(report),
        Err(_) if ctx.cancel().is_cancelled() => Err(Error::new(Kind::Cancelled, format!("back up {}: cancelled", job.selector()))),
        Err(e) => Err(Error::new(Kind::Unavailable, format!("back up {}: it took longer than its timeout of {}", job.selector(), crate::schedule::format_duration(job.timeout)))
            .because(e)
            .hint("Raise the job's `timeout`. What was uploaded is used by the next run.")),
    }
}

async fn tries(ctx: Context, job: &Job, options: &Options) -> Result<Report> {
    let (mut left, mut wait) = (job.retries, FIRST_WAIT);
    loop {
        match once(&ctx, job, options).await {
            Err(e) if left > 0 && may_pass(e.kind()) && !ctx.cancel().is_cancelled() => {
                tracing::warn!(tenant = %job.tenant, job = %job.name, "will try again in {} s, {left} times at most: {}", wait.as_secs(), e.chain());
                left -= 1;
                tokio::select! {
                    () = ctx.cancel().cancelled() => return Err(e),
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            done => return done,
        }
    }
}

/// Whether the same run may succeed a little later.
fn may_pass(kind: Kind) -> bool {
    matches!(kind, Kind::Unavailable | Kind::Locked)
}

async fn once(ctx: &Context, job: &Job, options: &Options) -> Result<Report> {
    let doing = || format!("back up {}", job.selector());
    let repo = ctx.repository(&job.tenant).await.context(doing)?;
    let tenant = ctx.tenant(&job.tenant)?;
    let budget = match options.memory {
        0 => memory::budget(ctx.settings().limits.memory.unwrap_or(memory::DEFAULT_BUDGET)),
        n => n,
    };
    let request = Request {
        environment: ctx.settings().environment.clone(),
        tenant: job.tenant.clone(),
        job: job.name.clone(),
        source: job.source.clone(),
        writer: WriterOptions::for_memory(budget, tenant.repository.compression),
        holder: lock_holder(),
        allow_empty: options.allow_empty,
        force: options.force,
        progress: options.progress.clone(),
    };
    backup::run(&repo, request, ctx.clock().clone(), ctx.cancel()).await
}
