//! `strongroom check`

use super::Done;
use super::args::Place;
use super::session::Session;
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

/// Check repositories: is everything that snapshots refer to there, and does it read back
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody without
    selector: Option<Selector>,
    /// Read all data
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a share of the data, other packs each time: 5%
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    read_data_subset: Option<f64>,
    #[command(flatten)]
    place: Place,
}

fn percent(text: &str) -> Result<f64, String> {
    let number: f64 = text.trim().trim_end_matches('%').trim().parse().map_err(|_| format!("`{text}` is not a share: write it like 5%"))?;
    if number > 0.0 && number <= 100.0 { Ok(number / 100.0) } else { Err("a share is more than 0% and at most 100%".into()) }
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let _ctx = s.context(&a.place, a.selector.as_ref())?;
    let _ = (a.read_data, a.read_data_subset);
    Err(Error::new(Kind::Failed, "`check` is not available yet"))
}
