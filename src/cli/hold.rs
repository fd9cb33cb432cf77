//! `strongroom hold` and `strongroom unhold`

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::hold;
use crate::app::select::{self, Reference};
use crate::error::Result;

/// Keep a snapshot for ever, whatever the retention says
#[derive(Debug, clap::Args)]
pub(super) struct HoldArgs {
    /// [TENANT[/JOB]:]ID or [TENANT[/JOB]:]latest
    snapshot: Reference,
    #[command(flatten)]
    place: Place,
}

/// Let a held snapshot expire again
#[derive(Debug, clap::Args)]
pub(super) struct UnholdArgs {
    /// [TENANT[/JOB]:]ID or [TENANT[/JOB]:]latest
    snapshot: Reference,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn hold(s: &Session, a: HoldArgs) -> Result<Done> {
    set(s, &a.snapshot, &a.place, true).await
}

pub(super) async fn unhold(s: &Session, a: UnholdArgs) -> Result<Done> {
    set(s, &a.snapshot, &a.place, false).await
}

async fn set(s: &Session, snapshot: &Reference, place: &Place, hold: bool) -> Result<Done> {
    let ctx = s.context(place, snapshot.selector.as_ref())?;
    let found = select::find(&ctx, snapshot).await?;
    output::warn(&found.warnings);
    let held = hold::run(&found, hold, &s.cancel).await?;
    s.out.print(&held, |t| {
        let what = if hold { "is held" } else { "may expire" };
        let now = if held.id == held.was { String::new() } else { format!(", now {}", held.id.short()) };
        *t = format!("snapshot {} {what}{now}\n", held.was.short());
    })?;
    Ok(Done::Ok)
}
