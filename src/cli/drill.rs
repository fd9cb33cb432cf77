//! `strongroom drill`

use std::path::PathBuf;

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::drill::{self, Options, Outcome, Report};
use crate::config::settings::Job;
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

/// Restore the newest backup of each job into a scratch place, check it, and measure what a recovery would take and lose
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; every job without
    selectors: Vec<Selector>,
    /// Directory with room for a whole restore, instead of the configured one
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&Place::default(), a.selectors.first())?;
    let selectors: Vec<Option<&Selector>> =
        if a.selectors.is_empty() { vec![None] } else { a.selectors.iter().map(Some).collect() };
    let mut jobs: Vec<&Job> = Vec::new();
    for selector in selectors {
        for job in ctx.jobs(selector)? {
            if !jobs.iter().any(|j| j.selector() == job.selector()) {
                jobs.push(job);
            }
        }
    }
    if jobs.is_empty() {
        return Err(Error::new(Kind::Usage, "there is no job to drill").hint("Add jobs to the tenant in the configuration."));
    }
    let scratch = a.scratch.map(|dir| {
        std::path::absolute(&dir).map_err(|e| Error::new(Kind::Usage, format!("--scratch {}", dir.display())).because(e))
    });
    let options = Options { scratch: scratch.transpose()?, ..Options::default() };
    let (mut done, mut failed): (Vec<Report>, Vec<Error>) = (Vec::new(), Vec::new());
    // One after the other: two at a time would measure each other.
    for job in jobs {
        match drill::run(&ctx, job, &options).await {
            Ok(Outcome::Drilled(report)) => done.push(*report),
            Ok(Outcome::Elsewhere(who)) => {
                failed.push(Error::new(Kind::Locked, format!("{} is being drilled already: {who}", job.selector())));
            }
            Ok(Outcome::Already(_)) => {}
            Err(e) if e.kind() == Kind::Cancelled => return Err(e),
            Err(e) => failed.push(e),
        }
    }
    if done.is_empty() && failed.len() == 1 {
        return Err(failed.remove(0));
    }
    let errors: Vec<_> = failed.iter().map(output::error_json).collect();
    s.out.print(&serde_json::json!({ "drills": done, "errors": errors }), |t| done.iter().for_each(|r| text(t, r)))?;
    for report in &done {
        output::warn(&report.warnings);
        failed.extend(report.error());
    }
    failed.iter().for_each(|e| output::print_error(e, false));
    Ok(output::worst(&failed))
}

fn text(t: &mut String, r: &Report) {
    let snapshot = r.snapshot.map_or_else(|| "no snapshot".to_owned(), |id| format!("snapshot {}", id.short()));
    let word = if r.ok { "passed" } else { "FAILED" };
    output::say!(t, "{}/{}: {word}: {snapshot}, {} restored", r.tenant, r.job, output::size(r.bytes));
    for check in &r.checks {
        output::say!(t, "  {}: {}: {}", if check.ok { "ok" } else { "FAILED" }, check.name, check.detail);
    }
    for step in &r.steps {
        output::say!(t, "  {}: {}", step.name, output::seconds(step.seconds));
    }
    let basis = match r.rpo_basis.as_deref() {
        Some("heartbeat") => "the newest heartbeat",
        Some("commit") => "the newest transaction",
        _ => "the time of the backup",
    };
    if let Some(rpo) = r.rpo_seconds {
        output::say!(t, "  RPO: {} would be lost, by {basis}", output::seconds(rpo));
    }
    if let Some(rto) = r.rto_seconds {
        output::say!(t, "  RTO: back after {}", output::seconds(rto));
    }
}
