//! `strongroom cat`

use std::path::PathBuf;

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::cat;
use crate::app::select::{self, Reference};
use crate::error::Result;

/// Write one file of a snapshot to standard output
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// [TENANT[/JOB]:]ID or [TENANT[/JOB]:]latest
    snapshot: Reference,
    /// The file inside the snapshot
    path: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.snapshot.selector.as_ref())?;
    let found = select::find(&ctx, &a.snapshot).await?;
    output::warn(&found.warnings);
    cat::run(&found, a.path, std::io::stdout(), s.cancel.clone()).await?;
    Ok(Done::Ok)
}
