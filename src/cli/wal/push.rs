//! `strongroom wal push`

use std::path::PathBuf;

use super::super::Done;
use super::super::session::Session;
use crate::app::wal::push::{self, Request};
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

/// Archive one file of pg_wal: what `archive_command` calls. Ends with 0 only when the store has it
#[derive(Debug, clap::Args)]
#[command(after_help = "archive_command = 'strongroom --config /etc/strongroom/strongroom.yaml wal push %p --job acme/wal'\n\
Exit codes: 0 stored, else PostgreSQL tries again; never above 125.")]
pub(super) struct Args {
    /// The file, as PostgreSQL names it: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The `pg_wal` job; may be left out where there is only one
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
    /// The server's data directory, where PATH does not lie in its pg_wal
    #[arg(long, value_name = "DIR")]
    data_directory: Option<PathBuf>,
    /// Leave no process behind that stores what waits behind it
    #[arg(long)]
    no_helper: bool,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    // Before anything else: a wrong name is a mistake in archive_command, whatever else is wrong.
    push::check_name(&a.path)?;
    let ctx = super::context(s)?;
    let job = ctx.wal_job(a.job.as_ref())?.clone();
    let helper = (!a.no_helper).then(|| super::program(s, &job.selector())).transpose()?;
    let request = Request { path: a.path, data_directory: a.data_directory, helper };
    let report = tokio::select! {
        report = push::run(&ctx, &job, &request) => report?,
        // A store that does not answer must not keep a server from shutting down.
        () = s.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "ended before the file was stored")),
    };
    if s.out.json {
        s.out.print(&report, |_| {})?;
    }
    Ok(Done::Ok)
}
