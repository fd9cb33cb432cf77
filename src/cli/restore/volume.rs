//! Volumes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::{Args, VolumeArgs, answer, summary};
use crate::app::Context;
use crate::app::restore::Source;
use crate::app::restore_volume::{self, IfEmpty};
use crate::app::select::{self, Found, Pick, Reference};
use crate::cli::args::LogFormat;
use crate::cli::progress::{Board, Follower};
use crate::cli::session::Session;
use crate::cli::{Done, output};
use crate::error::{Error, Kind, Result};
use crate::model::{JobName, Selector, TenantName};

pub(super) async fn run(s: &Session, ctx: &Context, a: &Args, found: &Found) -> Result<Done> {
    let to = a.directory()?;
    let progress = Arc::new(restore_volume::Progress::default());
    let began = Instant::now();
    let follower = follow(s, found.label(), &progress, found.bytes());
    let memory = crate::app::memory_share(ctx.settings(), 1);
    let report = restore_volume::run(found, to, a.volume.options(), progress.clone(), memory, &s.cancel).await?;
    drop(follower);
    tell(s, found, &report, &progress, began)
}

fn follow(s: &Session, name: String, progress: &Arc<restore_volume::Progress>, bytes: Option<u64>) -> Follower {
    Board::new(s.global.quiet, s.global.log_format == LogFormat::Json).follow_restore(name, progress.clone(), bytes)
}

fn tell(
    s: &Session,
    found: &Found,
    report: &restore_volume::Report,
    progress: &restore_volume::Progress,
    began: Instant,
) -> Result<Done> {
    for problem in &report.problems {
        tracing::error!("not restored: {problem}");
    }
    output::warn(&report.denied.sentences());
    let n = |c: &AtomicU64| c.load(Relaxed);
    let (written, reused) = (n(&progress.bytes_written), n(&progress.bytes_reused));
    let result = serde_json::json!({
        "dirs": n(&progress.dirs), "files": n(&progress.files), "others": n(&progress.others), "bytes_written": written, "bytes_reused": reused,
        "deleted": n(&progress.deleted), "problem_count": report.problem_count, "problems": report.problems, "denied": report.denied,
    });
    s.out.print(&answer(found, Source::Volume, &result), |t| {
        let deleted = match n(&progress.deleted) {
            0 => String::new(),
            d => format!(", {d} removed"),
        };
        output::say!(
            t,
            "{} files, {} directories, {} others: {} written, {} were there already{deleted}",
            n(&progress.files),
            n(&progress.dirs),
            n(&progress.others),
            output::size(written),
            output::size(reused)
        );
        summary(t, found, written + reused, began);
    })?;
    if report.problem_count > 0 {
        let e = Error::new(
            Kind::Incomplete,
            format!(
                "{} entries of snapshot {} were not restored, or not as they were",
                report.problem_count,
                found.snapshot.id.short()
            ),
        );
        output::print_error(&e.hint("The lines above name them. Running the same command again does the rest."), false);
        return Ok(Done::Said(Kind::Incomplete));
    }
    Ok(Done::Ok)
}

/// Three answers: restored, nothing to restore (both 0), could not find out (an error).
pub(super) async fn if_empty(s: &Session, ctx: &Context, a: &Args, pick: &Pick) -> Result<Done> {
    a.check_options(Source::Volume)?;
    let (tenant, job) = one_job(ctx, a)?;
    let to = a.directory()?;
    let progress = Arc::new(restore_volume::Progress::default());
    let began = Instant::now();
    let follower = follow(s, format!("{tenant}/{job}"), &progress, None);
    let done = restore_volume::if_empty(ctx, &tenant, &job, pick, to.clone(), a.volume.options(), progress.clone()).await?;
    drop(follower);
    let nothing = |outcome: &str, text: &str| {
        let answer = serde_json::json!({ "outcome": outcome, "snapshot": null, "time": null, "tenant": tenant, "job": job, "source": "volume", "result": null });
        s.out.print(&answer, |t| *t = format!("{}: {text}\n", to.display()))
    };
    match done {
        IfEmpty::NothingToRestore => nothing("fresh", "nothing to restore: the repository has no snapshot of this job")?,
        IfEmpty::LeftAlone => nothing("left_alone", "left alone: it is in use, or was settled before")?,
        IfEmpty::Restored(id, report) => {
            let found = select::find(
                ctx,
                &Reference { selector: Some(Selector { tenant, job: Some(job) }), pick: Pick::Id(id.to_hex()) },
            )
            .await?;
            return tell(s, &found, &report, &progress, began);
        }
    }
    Ok(Done::Ok)
}

/// `--if-empty` must know whose absence it would take for "there is no backup yet".
fn one_job(ctx: &Context, a: &Args) -> Result<(TenantName, JobName)> {
    let ambiguous = || Error::new(Kind::Usage, "--if-empty of which job?").hint("Write TENANT/JOB.");
    if let Some(Selector { tenant, job: Some(job) }) = &a.selector {
        ctx.tenant(tenant)?;
        return Ok((tenant.clone(), job.clone()));
    }
    let jobs = ctx.jobs(a.selector.as_ref())?;
    match jobs.as_slice() {
        [job] => Ok((job.tenant.clone(), job.name.clone())),
        _ => Err(ambiguous()),
    }
}

impl VolumeArgs {
    fn options(&self) -> restore_volume::Options {
        restore_volume::Options {
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            delete: self.delete,
            verify: self.verify,
            ..restore_volume::Options::default()
        }
    }
}
