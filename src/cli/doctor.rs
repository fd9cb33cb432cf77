//! `strongroom doctor`

use super::args::Place;
use super::session::Session;
use super::{Done, output};
use crate::app::doctor::{self, Outcome};
use crate::error::{Kind, Result};
use crate::model::Selector;

/// Try everything a backup needs: stores, passwords, clocks, servers, tools
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody without
    selector: Option<Selector>,
    /// Write nothing to the stores
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let probes = doctor::run(&ctx, a.selector.as_ref(), a.read_only).await?;
    let ok = probes.iter().all(|p| p.outcome != Outcome::Fail);
    s.out.print(&serde_json::json!({ "ok": ok, "probes": probes }), |t| {
        for p in &probes {
            let word = match p.outcome {
                Outcome::Pass => "ok  ",
                Outcome::Warn => "warn",
                Outcome::Fail => "FAIL",
                Outcome::Skip => "skip",
            };
            let whose = p.job.as_ref().map_or_else(|| p.tenant.clone(), |j| format!("{}/{j}", p.tenant));
            output::say!(t, "{word}  {whose}: {}: {}", p.probe, p.message);
            if let Some(hint) = &p.hint {
                output::say!(t, "      hint: {hint}");
            }
        }
    })?;
    Ok(if ok { Done::Ok } else { Done::Said(Kind::Failed) })
}
