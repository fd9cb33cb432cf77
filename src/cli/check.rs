//! `strongroom check`

use super::args::Place;
use super::session::Session;
use super::{Done, output};
use crate::app::check::{self, Checked, ReadData};
use crate::error::{Error, Result};
use crate::model::Selector;

/// Check repositories: is everything that snapshots refer to there, and does it read back
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody without
    selector: Option<Selector>,
    /// Read all data
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a share of the data: 5% (others each time) or 1/10 (the first of ten parts)
    #[arg(long, value_name = "SHARE")]
    read_data_subset: Option<ReadData>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let read_data = if a.read_data { ReadData::All } else { a.read_data_subset.unwrap_or(ReadData::None) };
    let (mut checked, mut failed): (Vec<Checked>, Vec<Error>) = (Vec::new(), Vec::new());
    for one in check::run(&ctx, a.selector.as_ref(), read_data).await? {
        match one {
            Ok(one) => checked.push(one),
            Err(e) => failed.push(e),
        }
    }
    if checked.is_empty() && failed.len() == 1 {
        return Err(failed.remove(0));
    }
    failed.extend(checked.iter().filter_map(check::damage));
    let errors: Vec<_> = failed.iter().map(output::error_json).collect();
    s.out
        .print(&serde_json::json!({ "repositories": checked, "errors": errors }), |t| checked.iter().for_each(|c| text(t, c)))?;
    failed.iter().for_each(|e| output::print_error(e, false));
    Ok(output::worst(&failed))
}

fn text(t: &mut String, c: &Checked) {
    let r = &c.report;
    for f in &r.findings.list {
        let word = if f.is_error { "error" } else { "note" };
        output::say!(t, "{word}: {}: {}", c.tenant, f.what);
    }
    let word = if c.ok { "ok" } else { "DAMAGED" };
    output::say!(
        t,
        "{}: {word}: {} snapshots, {} files, {} packs, {} blobs ({} unused)",
        c.tenant,
        r.snapshots,
        r.files,
        r.packs,
        r.blobs,
        r.unused_blobs
    );
    if r.packs_read > 0 {
        output::say!(t, "{}: read {} packs, {}", c.tenant, r.packs_read, output::size(r.bytes_read));
    }
}
