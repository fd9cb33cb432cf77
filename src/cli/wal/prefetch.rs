//! `strongroom wal prefetch`: not for people; `wal fetch` starts it.

use std::path::PathBuf;

use super::super::Done;
use super::super::session::Session;
use crate::app::wal::helper;
use crate::error::Result;
use crate::model::Selector;

/// Read WAL ahead for the `wal fetch` calls of a recovery
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to serve
    dir: PathBuf,
    /// The `pg_wal` job
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
}

/// Always ends with 0: where the server is process 1, it inherits this one, and takes any other code for a crash of its own.
pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let work = async {
        let ctx = super::context(s)?;
        let job = ctx.wal_job(a.job.as_ref())?.clone();
        helper::run(&ctx, &job, &a.dir, helper::IDLE).await
    };
    if let Err(e) = work.await {
        tracing::warn!("{}", e.report());
    }
    Ok(Done::Ok)
}
