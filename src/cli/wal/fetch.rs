//! `strongroom wal fetch`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::super::Done;
use super::super::session::Session;
use crate::app::wal::Delivery;
use crate::app::wal::Mode;
use crate::app::wal::fetch::{self, Request};
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

/// Fetch one file of the archive: what `restore_command` calls
#[derive(Debug, clap::Args)]
#[command(
    after_help = "restore_command = 'strongroom --config /etc/strongroom/strongroom.yaml wal fetch %f %p --job acme/wal'\n\
Exit codes: 0 delivered, 1 proven not to be in the archive, 255 everything else (with --mode standby: 1)."
)]
pub(super) struct Args {
    /// Name of the file: %f
    name: String,
    /// Where to put it: %p
    #[arg(value_name = "DEST")]
    to: PathBuf,
    /// The `pg_wal` job; may be left out where there is only one
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
    /// Who asks
    #[arg(long, value_enum, default_value_t = Asking::Recovery)]
    mode: Asking,
    /// The server's data directory, where DEST does not lie in its pg_wal
    #[arg(long, value_name = "DIR")]
    data_directory: Option<PathBuf>,
    /// Leave no process behind that reads ahead
    #[arg(long)]
    no_prefetch: bool,
}

/// Who asks for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Asking {
    /// A recovery that ends where the archive ends
    Recovery,
    /// A standby, which asks again and again
    Standby,
    /// pg_rewind: no reading ahead
    Rewind,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = super::context(s)?;
    let job = ctx.wal_job(a.job.as_ref())?.clone();
    let mode = match a.mode {
        Asking::Recovery => Mode::Recovery,
        Asking::Standby => Mode::Standby,
        Asking::Rewind => Mode::Rewind,
    };
    let helper = (!a.no_prefetch).then(|| super::program(s, &job.selector())).transpose()?;
    let request = Request { name: a.name, to: a.to, mode, data_directory: a.data_directory, helper };
    let delivery = tokio::select! {
        delivery = fetch::run(&ctx, &job, &request) => delivery?,
        () = s.cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "ended before the file was delivered")),
    };
    match delivery {
        Delivery::Delivered { bytes, until } => {
            if s.out.json {
                s.out.print(&json!({ "file": request.name, "result": "delivered", "bytes": bytes, "until": until }), |_| {})?;
            }
            Ok(Done::Ok)
        }
        Delivery::Missing(why) => {
            tracing::info!("{why}");
            if s.out.json {
                s.out.print(&json!({ "file": request.name, "result": "missing", "why": why }), |_| {})?;
            }
            Ok(Done::Missing)
        }
    }
}
