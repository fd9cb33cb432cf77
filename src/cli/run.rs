//! `strongroom run`

use std::sync::Arc;

use super::Done;
use super::session::Session;
use crate::app::daemon::{self, Options};
use crate::config::{Settings, parse_duration};
use crate::error::{Error, Kind, Result};
use crate::runtime::SystemClock;

/// Run the daemon: jobs by schedule, metrics, health. SIGHUP or a changed file loads the configuration anew
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long running jobs have to end after SIGTERM; keep it below the pod's own grace period
    #[arg(long, value_name = "TIME", default_value = "25s")]
    grace: String,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let grace = parse_duration(&a.grace).map_err(|e| e.with_kind(Kind::Usage).context("--grace"))?;
    let file = s.config_path()?;
    // First, so that a change of the file while it is loaded is seen.
    let options = Options { grace, ..Options::new(Some(file.clone())) };
    let settings: Settings = s.load(&file).map_err(Error::from)?;
    daemon::run(settings, options, Arc::new(SystemClock), s.cancel.clone()).await?;
    Ok(Done::Ok)
}
