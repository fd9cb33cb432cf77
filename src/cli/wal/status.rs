//! `strongroom wal status`

use serde_json::json;

use super::super::Done;
use super::super::output::{self, say};
use super::super::session::Session;
use crate::app::wal::status::{self, State, SystemStatus, WalStatus};
use crate::error::{Kind, Result};
use crate::model::Selector;

/// Show how far the archive is, what it lacks, and to which points it can lead a recovery
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT or TENANT/JOB; all `pg_wal` jobs without
    #[arg(long, value_name = "TENANT/JOB")]
    job: Option<Selector>,
    /// Exit with 1 unless every archive is ok
    #[arg(long)]
    check: bool,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = super::context(s)?;
    let archives = status::run(&ctx, a.job.as_ref()).await?;
    s.out.print(&json!({ "archives": archives }), |t| {
        for (i, archive) in archives.iter().enumerate() {
            if i > 0 {
                t.push('\n');
            }
            text(t, archive);
        }
        if archives.is_empty() {
            say!(t, "the configuration has no `pg_wal` job here");
        }
    })?;
    for archive in &archives {
        for e in &archive.errors {
            tracing::error!("{}/{}: {e}", archive.tenant, archive.job);
        }
    }
    let bad = archives.iter().any(|a| a.state != State::Ok);
    let unknown = archives.iter().any(|a| a.state == State::Unknown);
    Ok(if unknown || (a.check && bad) { Done::Said(Kind::Failed) } else { Done::Ok })
}

fn text(t: &mut String, a: &WalStatus) {
    let state = match a.state {
        State::Ok => "ok",
        State::Behind => "behind",
        State::Gap => "WAL is missing",
        State::Split => "two servers archive",
        State::Never => "nothing was ever archived",
        State::Unknown => "could not be read",
    };
    say!(t, "{}/{} (cluster {}, {}): {state}", a.tenant, a.job, a.cluster, a.mode);
    if let Some(lag) = &a.lag {
        let bytes = lag.bytes.map_or_else(|| "?".into(), output::size);
        let seconds = lag.seconds.map_or_else(|| "?".into(), output::seconds);
        say!(t, "  behind the server: {bytes}, {seconds}");
    }
    if let Some(w) = a.waiting.as_ref().filter(|w| w.files > 0) {
        say!(t, "  waiting: {} files, the oldest for {}", w.files, output::seconds(w.oldest_seconds));
    }
    if let Some(server) = &a.server {
        say!(t, "  server: PostgreSQL {} at {} on timeline {}", server.version, server.position, server.timeline);
        if let Some(file) = &server.failing {
            say!(t, "  archive_command fails for {file} ({} failures so far)", server.failed);
        }
    }
    for system in &a.systems {
        one(t, system);
    }
}

fn one(t: &mut String, s: &SystemStatus) {
    let current = if s.current { "" } else { " (an earlier one)" };
    say!(t, "  system {}{current}: {} stored", s.system, output::size(s.stored_bytes));
    if let Some(last) = &s.last {
        let ago = crate::app::format_age(last.age_seconds);
        say!(t, "    last archived: {} at {} UTC, {ago} ago", last.segment, output::time(last.time));
    }
    for timeline in &s.timelines {
        let from = timeline.parent.map_or_else(String::new, |(parent, lsn)| format!(" (left {parent} at {lsn})"));
        say!(t, "    timeline {}{from}", timeline.timeline);
        for range in &timeline.ranges {
            say!(t, "      {} to {}: {} segments", range.first, range.last, range.segments);
        }
        for (from, to) in &timeline.gaps {
            say!(t, "      missing: {from} to {to}");
        }
        if let Some(tip) = timeline.unfinished {
            say!(t, "      {tip} is not finished");
        }
    }
    for seen in &s.splits {
        let s = seen.split;
        say!(
            t,
            "    split: timeline {} went on for {} segments after timeline {} left it at {}, the last one stored at {} UTC",
            s.timeline,
            seen.segments,
            s.child,
            s.switch,
            output::time(seen.last_stored)
        );
    }
    for gap in &s.lost {
        say!(t, "    lost: {} to {} on timeline {}: {}", gap.from, gap.to, gap.timeline, gap.reason);
    }
    for w in &s.windows {
        let to = w.to_time.map_or_else(|| "the end of the base backup".to_owned(), |at| format!("{} UTC", output::time(at)));
        let end = if w.open { "" } else { ", where WAL is missing" };
        say!(
            t,
            "    can recover: {} UTC to {to} on timeline {} (base {}, {} to {}{end})",
            output::time(w.from_time),
            w.timeline,
            w.base.short(),
            w.from,
            w.to
        );
    }
    if s.current && s.windows.is_empty() {
        say!(t, "    no base backup: nothing can be recovered yet");
    }
}
