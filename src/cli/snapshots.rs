//! `strongroom snapshots`

use super::Done;
use super::args::Place;
use super::output::{self, Table};
use super::session::Session;
use crate::app::snapshots;
use crate::error::Result;
use crate::model::Selector;

/// List snapshots
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody's without
    selector: Option<Selector>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let listing = snapshots::run(&ctx, a.selector.as_ref()).await?;
    output::warn(&listing.warnings);
    s.out.print(&listing, |t| {
        let mut table = Table::new(&["ID", "TIME (UTC)", "TENANT", "JOB", "SOURCE", "FILES", "SIZE", "ADDED", "NOTES"]);
        let dash = || "-".to_owned();
        for x in &listing.snapshots {
            let mut notes = Vec::new();
            if !x.complete {
                notes.push("incomplete".to_owned());
            }
            if x.hold {
                notes.push("held".to_owned());
            }
            if x.job.is_none() {
                notes.push(format!("by another program: {} {}", x.hostname, x.paths.join(" ")));
            }
            table.row(vec![
                x.id.short(),
                output::time(x.time),
                x.tenant.clone().unwrap_or_else(dash),
                x.job.clone().unwrap_or_else(dash),
                x.source.clone().unwrap_or_else(dash),
                x.files.map_or_else(dash, |n| n.to_string()),
                x.bytes.map_or_else(dash, output::size),
                x.added.map_or_else(dash, output::size),
                notes.join(", "),
            ]);
        }
        if listing.snapshots.is_empty() {
            output::say!(t, "no snapshots");
        } else {
            table.write(t);
        }
    })?;
    Ok(Done::Ok)
}
