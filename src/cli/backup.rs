//! `strongroom backup`

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;

use super::args::Place;
use super::progress::Board;
use super::session::{AdHocJob, Session};
use super::{Done, output};
use crate::app::backup::{Progress, Report};
use crate::app::job::{self, Counts};
use crate::config::AdHocSource;
use crate::config::settings::Job;
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

/// Run jobs now
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB
    selectors: Vec<Selector>,
    /// Every job of every tenant
    #[arg(long, conflicts_with = "selectors")]
    all: bool,
    /// Read every file again, whatever the last snapshot says
    #[arg(long)]
    force: bool,
    /// Record a nearly empty volume although the last snapshot was large
    #[arg(long)]
    allow_empty: bool,
    /// Try a failed run again so often. Default: the job's `retries`; 0 without a configuration file
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    what: What,
}

/// A job without a configuration file.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Without a configuration file")]
struct What {
    /// Back up this directory
    #[arg(long, value_name = "DIR", group = "source", requires = "repository")]
    volume: Option<PathBuf>,
    /// Leave out what matches this glob; may be repeated
    #[arg(long, value_name = "GLOB", requires = "volume")]
    exclude: Vec<String>,
    /// Dump databases of this server
    #[arg(long, value_name = "URL", group = "source", requires = "repository")]
    pg_dump: Option<String>,
    /// Name or pattern of a database; may be repeated. Default: the URL's
    #[arg(long, value_name = "NAME", requires = "pg_dump")]
    database: Vec<String>,
    /// Back up the standard output of the program after `--`
    #[arg(long, group = "source", requires = "repository", requires = "program")]
    command: bool,
    /// Name of the output's file in the snapshot
    #[arg(long, value_name = "NAME", requires = "command")]
    file: Option<String>,
    /// Name of the tenant. Default: default
    #[arg(long, value_name = "NAME", requires = "source")]
    tenant: Option<String>,
    /// Name of the job. Default: the kind of the source
    #[arg(long, value_name = "NAME", requires = "source")]
    job: Option<String>,
    /// The program and its arguments
    #[arg(last = true, requires = "command")]
    program: Vec<String>,
}

impl Args {
    pub(super) fn brings_its_own_program(&self) -> bool {
        self.what.command
    }
}

impl What {
    fn source(&self) -> Result<Option<AdHocSource>> {
        if let Some(dir) = &self.volume {
            let path = std::path::absolute(dir)
                .map_err(|e| Error::new(Kind::Usage, format!("--volume {}", dir.display())).because(e))?;
            return Ok(Some(AdHocSource::Volume { path, exclude: self.exclude.clone() }));
        }
        if let Some(url) = &self.pg_dump {
            return Ok(Some(AdHocSource::PgDump { url: url.clone(), databases: self.database.clone() }));
        }
        Ok(self.command.then(|| AdHocSource::Command { run: self.program.clone(), file: self.file.clone() }))
    }
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let source = a.what.source()?;
    if a.place.repository.is_some() && source.is_none() {
        return Err(Error::new(Kind::Usage, "what to back up into this repository?")
            .hint("Add --volume DIR, --pg-dump URL or --command -- PROGRAM."));
    }
    let ctx = s.context_for(&a.place, AdHocJob { tenant: a.what.tenant.clone(), job: a.what.job.clone(), source })?;
    let ad_hoc = a.place.repository.is_some();
    if a.selectors.is_empty() && !a.all && !ad_hoc {
        return Err(Error::new(Kind::Usage, "which jobs?").hint("Name TENANT or TENANT/JOB, or write --all."));
    }
    let mut jobs: Vec<&Job> = Vec::new();
    let selectors: Vec<Option<&Selector>> =
        if a.selectors.is_empty() { vec![None] } else { a.selectors.iter().map(Some).collect() };
    for selector in selectors {
        for job in ctx.jobs(selector)? {
            if !jobs.iter().any(|j| j.selector() == job.selector()) {
                jobs.push(job);
            }
        }
    }
    if jobs.is_empty() {
        return Err(Error::new(Kind::Usage, "there is no job to run").hint("Add jobs to the tenant in the configuration."));
    }
    crate::app::check_commands(&jobs, ctx.settings())?;
    let board = Board::new(s.global.quiet, s.global.log_format == super::args::LogFormat::Json);
    let at_once = ctx.settings().limits.jobs.min(jobs.len());
    let runs = jobs.into_iter().map(|j| {
        let memory = crate::app::memory_share(ctx.settings(), at_once);
        let mut options = job::Options {
            memory,
            force: a.force,
            allow_empty: a.allow_empty,
            progress: Arc::new(Progress::default()),
            ..job::Options::asked(j)
        };
        if let Some(retries) = a.retries.or(ad_hoc.then_some(0)) {
            options.patience.retries = retries;
        }
        let (ctx, board) = (&ctx, &board);
        async move {
            let follower = board.follow(j.selector().to_string(), options.progress.clone());
            let outcome = job::run(ctx, j, &options).await.and_then(|outcome| outcome.report(j));
            drop(follower);
            Ran { job: j, outcome, requests: options.requests.snapshot() }
        }
    });
    let mut done: Vec<Ran<'_>> = futures::stream::iter(runs).buffer_unordered(at_once).collect().await;
    done.sort_by_key(|r| (r.job.tenant.clone(), r.job.name.clone()));
    answer(s, done)
}

/// A job that was run.
struct Ran<'a> {
    job: &'a Job,
    outcome: Result<Report>,
    requests: Counts,
}

fn answer(s: &Session, done: Vec<Ran<'_>>) -> Result<Done> {
    let jobs: Vec<serde_json::Value> = done
        .iter()
        .map(|r| {
            let (report, error) = match &r.outcome {
                Ok(report) => (Some(report), None),
                Err(e) => (None, Some(output::error_json(e))),
            };
            serde_json::json!({
                "tenant": r.job.tenant, "job": r.job.name, "source": r.job.source.kind(),
                "ok": report.is_some(), "report": report, "error": error, "requests": r.requests,
            })
        })
        .collect();
    s.out.print(&serde_json::json!({ "jobs": jobs }), |t| {
        for r in &done {
            if let Ok(report) = &r.outcome {
                text(t, r.job, report);
            }
        }
    })?;
    let mut complete = true;
    let mut failed = Vec::new();
    for r in done {
        match r.outcome {
            Ok(report) => {
                complete &= report.complete;
                output::warn(&report.warnings);
                report.missing.iter().for_each(|m| tracing::error!("not in the snapshot: {m}"));
                let more = |count: u64, told: &[String]| Some(count.saturating_sub(told.len() as u64)).filter(|n| *n > 0);
                if let Some(n) = more(report.warning_count, &report.warnings) {
                    tracing::warn!("{n} more warnings");
                }
                if let Some(n) = more(report.missing_count, &report.missing) {
                    tracing::error!("not in the snapshot: {n} more");
                }
            }
            Err(e) => failed.push(e),
        }
    }
    failed.iter().for_each(|e| output::print_error(e, false));
    Ok(match output::worst(&failed) {
        Done::Ok if !complete => Done::Said(Kind::Incomplete),
        done => done,
    })
}

fn text(t: &mut String, j: &Job, r: &Report) {
    let took = r.ended.seconds_since(r.started);
    let whole = if r.complete { "" } else { "INCOMPLETE " };
    let rate = output::size((r.bytes_read as f64 / took.max(0.001)) as u64);
    output::say!(
        t,
        "{}: {whole}snapshot {} in {}: {} files ({} new, {} changed), {}, read {} ({rate}/s), added {}",
        j.selector(),
        r.snapshot.short(),
        output::seconds(took),
        r.files,
        r.files_new,
        r.files_changed,
        output::size(r.bytes_total),
        output::size(r.bytes_read),
        output::size(r.bytes_stored),
    );
}
