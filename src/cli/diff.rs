//! `strongroom diff`

use std::sync::Arc;

use parking_lot::Mutex;

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::diff::{self, Change, Difference};
use crate::app::select::{self, Reference};
use crate::error::Result;

/// Tell what changed from one snapshot to another
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// [TENANT[/JOB]:]ID or [TENANT[/JOB]:]latest
    a: Reference,
    /// The newer one
    b: Reference,
    /// Tell differences of mode, owner and times too
    #[arg(long)]
    metadata: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.a.selector.as_ref())?;
    let (from, to) = (select::find(&ctx, &a.a).await?, select::find(&ctx, &a.b).await?);
    let (all, json, metadata) = (Arc::new(Mutex::new(Vec::new())), s.out.json, a.metadata);
    let into = all.clone();
    let each = move |d: Difference| {
        if d.change == Change::Metadata && !metadata {
            return Ok(());
        }
        if json {
            into.lock().push(d);
            return Ok(());
        }
        output::write_stdout(line(&d).as_bytes())
    };
    let sum = diff::run(&from, &to, s.cancel.clone(), each).await?;
    let differences = std::mem::take(&mut *all.lock());
    let answer = serde_json::json!({ "a": from.snapshot.id, "b": to.snapshot.id, "differences": differences, "summary": sum });
    s.out.print(&answer, |t| {
        let (more, less) = (output::size(sum.bytes_added), output::size(sum.bytes_removed));
        *t = format!(
            "{} added, {} removed, {} modified, {} with other metadata; {more} more, {less} less\n",
            sum.added, sum.removed, sum.modified, sum.metadata
        );
    })?;
    Ok(Done::Ok)
}

fn line(d: &Difference) -> String {
    let sign = match d.change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Modified => 'M',
        Change::Metadata => 'U',
        Change::Type => 'T',
    };
    let slash = if d.kind == "dir" { "/" } else { "" };
    format!("{sign} {}{slash}\n", d.path.escape_debug())
}
