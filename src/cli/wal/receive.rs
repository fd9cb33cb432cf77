//! `strongroom wal receive`

use super::super::Done;
use super::super::session::Session;
use crate::app::wal::receive;
use crate::error::Result;
use crate::model::Selector;

/// Stream the WAL of a server into the archive until told to end. `strongroom run` does the same for jobs with `mode: receive`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Uses the physical replication slot of the job and makes it where it is missing. The role needs the REPLICATION\n\
attribute, and pg_hba.conf a line for the database `replication`. SIGTERM ends it when what was received is stored."
)]
pub(super) struct Args {
    /// The `pg_wal` job; may be left out where there is only one
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = super::context(s)?;
    let job = ctx.wal_job(a.job.as_ref())?.clone();
    receive::run(&ctx, &job, None, None, &s.cancel).await?;
    Ok(Done::Ok)
}
