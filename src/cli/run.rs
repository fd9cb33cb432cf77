//! `strongroom run`

use super::Done;
use super::session::Session;
use crate::error::{Error, Kind, Result};

/// Run the daemon: jobs by schedule, metrics, health
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[allow(clippy::unused_async, reason = "the daemon is async")]
pub(super) async fn run(_s: &Session, _: Args) -> Result<Done> {
    Err(Error::new(Kind::Failed, "`run` is not available yet"))
}
