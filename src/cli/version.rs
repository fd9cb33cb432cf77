//! `strongroom version`

use super::Done;
use super::session::Session;
use crate::error::Result;

/// Print the version
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(s: &Session, _: &Args) -> Result<Done> {
    let version = env!("CARGO_PKG_VERSION");
    let answer = serde_json::json!({ "version": version, "repository_format": 2, "target": std::env::consts::ARCH });
    s.out.print(&answer, |t| *t = format!("strongroom {version}\n"))?;
    Ok(Done::Ok)
}
