//! `strongroom coverage`

use super::args::Place;
use super::session::Session;
use super::{Done, output};
use crate::app::coverage;
use crate::error::{Kind, Result};
use crate::model::Selector;

/// Show what nobody backs up: databases without a job, jobs that never ran or have no schedule
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody without
    selector: Option<Selector>,
    /// Exit with 1 if there is a gap
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let found = coverage::run(&ctx, a.selector.as_ref()).await?;
    s.out.print(&found, |t| {
        for (word, gaps) in [("gap", &found.gaps), ("unknown", &found.unknown)] {
            for g in gaps {
                let whose = g.job.as_ref().map_or_else(|| g.tenant.clone(), |j| format!("{}/{j}", g.tenant));
                output::say!(t, "{word}: {whose}: {}", g.message);
            }
        }
        for p in &found.proven {
            let (rpo, rto) = (output::seconds(p.rpo_seconds), output::seconds(p.rto_seconds));
            output::say!(t, "proven: {}/{}: at most {rpo} lost, back within {rto}", p.tenant, p.job);
        }
        output::say!(
            t,
            "{} gaps, {} unknown; {} of {} databases are dumped",
            found.gaps.len(),
            found.unknown.len(),
            found.databases_covered,
            found.databases
        );
    })?;
    let bad = !found.unknown.is_empty() || (a.check && !found.gaps.is_empty());
    Ok(if bad { Done::Said(Kind::Failed) } else { Done::Ok })
}
