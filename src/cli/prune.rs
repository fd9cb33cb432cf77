//! `strongroom prune`

use super::Done;
use super::args::Place;
use super::output::{self, Table};
use super::session::Session;
use crate::app::collect;
use crate::app::expire_wal::SystemWal;
use crate::app::prune::{self, Action, Keep, Options, TenantPrune};
use crate::config::parse_duration;
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

/// Apply retention, then remove data that nothing refers to any more
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; everybody without
    selector: Option<Selector>,
    /// Print the plan with a reason for each snapshot, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Pass the guard against removing an unusual share at once
    #[arg(long)]
    force: bool,
    /// Remove snapshots, but leave their data for another run
    #[arg(long)]
    forget_only: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    keep: KeepArgs,
}

/// Rules instead of the configured ones.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rules instead of the configured ones")]
struct KeepArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest of each of N hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// … of N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// … of N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// … of N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// … of N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep all that are younger than this: 14d
    #[arg(long, value_name = "TIME")]
    keep_within: Option<String>,
    /// Keep what recovery to any time of this long needs: 14d
    #[arg(long, value_name = "TIME")]
    keep_recovery_window: Option<String>,
}

impl KeepArgs {
    fn rules(&self) -> Result<Option<Keep>> {
        let keep = Keep {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within.as_deref().map(parse_duration).transpose().map_err(|e| e.with_kind(Kind::Usage))?,
            recovery_window: self
                .keep_recovery_window
                .as_deref()
                .map(parse_duration)
                .transpose()
                .map_err(|e| e.with_kind(Kind::Usage))?,
        };
        keep.validate().map_err(|e| e.with_kind(Kind::Usage))?;
        Ok((!keep.is_empty()).then_some(keep))
    }
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let options = Options { dry_run: a.dry_run, force: a.force, keep: a.keep.rules()?, forget_only: a.forget_only };
    let job = a.selector.as_ref().and_then(|x| x.job.as_ref());
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for tenant in ctx.tenants(a.selector.as_ref())? {
        s.cancel.check()?;
        match prune::run(&ctx, &tenant.name, job, &options).await {
            Ok((one, refused)) => {
                done.push(one);
                failed.extend(refused);
            }
            Err(e) => failed.push(e),
        }
    }
    if done.is_empty() && failed.len() == 1 {
        return Err(failed.remove(0));
    }
    let errors: Vec<_> = failed.iter().map(output::error_json).collect();
    s.out.print(&serde_json::json!({ "tenants": done, "errors": errors }), |t| done.iter().for_each(|p| text(t, p)))?;
    done.iter().flat_map(|p| &p.jobs).for_each(|j| output::warn(&j.alarms));
    failed.iter().for_each(|e: &Error| output::print_error(e, false));
    Ok(output::worst(&failed))
}

fn text(t: &mut String, p: &TenantPrune) {
    for job in &p.jobs {
        output::say!(t, "{}/{}: keep {}", p.tenant, job.job, job.keep);
        let mut table = Table::new(&["ACTION", "ID", "TIME (UTC)", "SIZE", "WHY"]);
        for v in &job.snapshots {
            let action = match v.action {
                Action::Keep => "keep",
                Action::Remove => "remove",
                Action::Ignore => "ignore",
            };
            table.row(vec![action.into(), v.id.short(), output::time(v.time), output::size(v.bytes), v.reasons.join(", ")]);
        }
        if !job.snapshots.is_empty() {
            table.write(t);
        }
    }
    for cluster in &p.wal {
        for system in &cluster.systems {
            wal(t, p, &cluster.cluster, system);
        }
    }
    for (job, count) in &p.unconfigured {
        output::say!(t, "{}: {count} snapshots of job {job} stay, which is not in the configuration", p.tenant);
    }
    if p.foreign > 0 {
        output::say!(t, "{}: {} snapshots of other programs stay", p.tenant, p.foreign);
    }
    let would = if p.dry_run { "would be removed" } else { "removed" };
    output::say!(t, "{}: {} snapshots {would}", p.tenant, p.removed);
    if let Some(c) = &p.collected {
        output::say!(t, "{}: collected {}", p.tenant, collect::describe(c));
    }
}

fn wal(t: &mut String, p: &TenantPrune, cluster: &str, s: &SystemWal) {
    let would = if p.dry_run { "would go" } else { "went" };
    output::say!(
        t,
        "{}: WAL of cluster {cluster}, system {}: {} of {} segments {would} ({})",
        p.tenant,
        s.system,
        s.removed_segments,
        s.segments,
        output::size(s.removed_bytes)
    );
    for kept in &s.needed {
        let timeline = kept.timeline.map_or_else(|| "all timelines".to_owned(), |n| format!("timeline {n}"));
        let from = kept.from.map_or_else(|| "the beginning".to_owned(), |l| l.to_string());
        let to = kept.to.map_or_else(String::new, |l| format!(" to {l}"));
        output::say!(t, "  stays: {timeline} from {from}{to}: {}", kept.reason);
    }
}
