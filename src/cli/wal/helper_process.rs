//! `strongroom wal helper`: not for people; `wal fetch` and `wal push` start it.

use std::path::PathBuf;

use super::super::Done;
use super::super::session::Session;
use crate::app::wal::helper;
use crate::error::Result;
use crate::model::Selector;

/// Read WAL ahead for a recovery, or store what waits behind a backlog
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to serve
    dir: PathBuf,
    /// The `pg_wal` job
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
    /// Whom to answer
    #[arg(long)]
    key: String,
}

/// Always ends with 0: see [`super::exit`].
pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let work = async {
        let ctx = super::context(s)?;
        let job = ctx.wal_job(a.job.as_ref())?.clone();
        let selector = job.selector().to_string();
        helper::run(&ctx, &job, &a.dir, &a.key, || super::key(s, &selector)).await
    };
    if let Err(e) = work.await {
        tracing::warn!("{}", e.report());
    }
    Ok(Done::Ok)
}
