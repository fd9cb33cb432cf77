//! `strongroom wal adopt`

use std::path::PathBuf;

use super::super::Done;
use super::super::output::say;
use super::super::session::Session;
use crate::app::wal::adopt;
use crate::error::Result;
use crate::model::Selector;

/// Let a server archive from now on: after a restore, an upgrade or a new initdb
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The `pg_wal` job; may be left out where there is only one
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
    /// The server's data directory. Default: the one of the configuration
    #[arg(long, value_name = "DIR")]
    data_directory: Option<PathBuf>,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = super::context(s)?;
    let job = ctx.wal_job(a.job.as_ref())?.clone();
    let report = adopt::run(&ctx, &job, a.data_directory.as_deref()).await?;
    s.out.print(&report, |t| {
        let how = if report.new { "archives from now on" } else { "goes on archiving" };
        say!(t, "system {} {how} into cluster {} ({})", report.system, job.settings.cluster, job.selector());
        if !report.histories.is_empty() {
            say!(t, "archived {} and {} segments of earlier timelines", report.histories.join(", "), report.segments);
        }
        if report.marker_removed {
            say!(t, "removed the marker of the restore from {}", report.data_directory.display());
        }
        if report.new || report.marker_removed {
            say!(t, "make a base backup now: recovery of this server begins there");
        }
    })?;
    Ok(Done::Ok)
}
