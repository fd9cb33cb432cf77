//! `strongroom run`

use std::sync::Arc;
use std::time::Duration;

use super::Done;
use super::session::Session;
use crate::app::daemon;
use crate::error::Result;
use crate::runtime::SystemClock;

/// Run the daemon: jobs by schedule, metrics, health. SIGHUP or a changed file loads the configuration anew
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long running jobs have to end after SIGTERM, in seconds; a few less than the pod's own grace period
    #[arg(long, env = "STRONGROOM_GRACE", value_name = "SECONDS", default_value_t = 25)]
    grace: u64,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let path = s.config_path()?;
    let settings = s.load(&path)?;
    let options = daemon::Options { grace: Duration::from_secs(a.grace), ..daemon::Options::new(Some(path)) };
    daemon::run(settings, options, Arc::new(SystemClock), s.cancel.clone()).await?;
    Ok(Done::Ok)
}
