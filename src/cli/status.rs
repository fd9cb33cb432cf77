//! `strongroom status`

use super::Done;
use super::args::Place;
use super::output::{self, Table};
use super::session::Session;
use crate::app::drill::{DrillState, DrillStatus};
use crate::app::status::{self, JobStatus, State};
use crate::error::{Kind, Result};
use crate::model::Selector;

/// Show how old each job's last good backup is and when the next one is due
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody without
    selector: Option<Selector>,
    /// Exit with 1 unless every job and every drill is ok
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let jobs = status::run(&ctx, a.selector.as_ref()).await?;
    s.out.print(&serde_json::json!({ "jobs": jobs }), |t| {
        let mut table =
            Table::new(&["JOB", "STATE", "LAST (UTC)", "AGE", "SIZE", "SNAPSHOTS", "NEXT (UTC)", "DRILL", "SCHEDULE"]);
        let dash = || "-".to_owned();
        for j in &jobs {
            let last = j.last.as_ref();
            table.row(vec![
                format!("{}/{}", j.tenant, j.job),
                format!("{:?}", j.state).to_lowercase(),
                last.map_or_else(dash, |l| output::time(l.time)),
                last.map_or_else(dash, |l| crate::app::format_age(l.age_seconds)),
                last.and_then(|l| l.bytes).map_or_else(dash, output::size),
                j.snapshots.to_string(),
                j.next.map_or_else(dash, output::time),
                j.drill.as_ref().map_or_else(dash, drill),
                j.schedule.clone(),
            ]);
        }
        table.write(t);
    })?;
    for j in &jobs {
        if let Some(e) = &j.error {
            tracing::error!("{}/{}: {e}", j.tenant, j.job);
        }
        if let Some(problem) = j.drill.as_ref().and_then(|d| d.problem.as_ref()) {
            tracing::warn!("{}/{}: {problem}", j.tenant, j.job);
        }
    }
    let drilled = |j: &JobStatus| j.drill.as_ref().is_none_or(|d| d.state == DrillState::Ok);
    let bad = jobs.iter().any(|j| j.state != State::Ok || !drilled(j));
    // What could not be found out is a failure of this command; an old backup is an answer.
    let unknown = jobs.iter().any(|j| j.state == State::Unknown);
    Ok(if unknown || (a.check && bad) { Done::Said(Kind::Failed) } else { Done::Ok })
}

/// `ok 3d2h, RPO 5m, RTO 12m`.
fn drill(d: &DrillStatus) -> String {
    let mut text = format!("{:?}", d.state).to_lowercase();
    let age = |seconds: f64| crate::app::format_age(seconds);
    if let Some(seconds) = d.age_seconds {
        text.push_str(&format!(" {} ago", age(seconds)));
    }
    for (name, seconds) in [("RPO", d.rpo_seconds), ("RTO", d.rto_seconds)] {
        if let Some(seconds) = seconds.filter(|_| d.state != DrillState::Failed) {
            text.push_str(&format!(", {name} {}", age(seconds)));
        }
    }
    text
}
