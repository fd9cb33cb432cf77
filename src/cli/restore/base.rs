//! Base backups: a whole cluster, and a point in time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::{Args, answer, summary};
use crate::app::Context;
use crate::app::restore::Source;
use crate::app::restore_base::command::Fetch;
use crate::app::restore_base::{self, Action, FollowTimeline, Progress, Report, Request, Summary, Target};
use crate::app::select::{Found, Pick};
use crate::cli::args::LogFormat;
use crate::cli::progress::Board;
use crate::cli::session::Session;
use crate::cli::{Done, output};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Lsn, Timeline, moment};

/// For base backups. Without a target everything is recovered that the WAL archive has.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Base backups")]
pub(super) struct BaseArgs {
    /// Recover to this time: `2026-11-21 14:00:00+01:00`, `2026-11-21 14:00 Europe/Berlin`, `yesterday 14:00`, `5 minutes ago`; without a zone it is UTC
    #[arg(long, value_name = "TIME", group = "target")]
    target_time: Option<String>,
    /// Recover to this position: 16/B374D848
    #[arg(long, value_name = "LSN", group = "target", value_parser = |text: &str| text.parse::<Lsn>().map_err(|e| e.report()))]
    target_lsn: Option<Lsn>,
    /// Recover to the commit of this transaction. Begins with the newest base backup; name an earlier one with --snapshot
    #[arg(long, value_name = "XID", group = "target")]
    target_xid: Option<u64>,
    /// Recover to this restore point (`pg_create_restore_point`). Begins with the newest base backup, as --target-xid
    #[arg(long, value_name = "NAME", group = "target")]
    target_name: Option<String>,
    /// Recover only until the cluster is consistent: the end of the base backup
    #[arg(long, group = "target")]
    target_immediate: bool,
    /// Stop before the target's transaction or record, not behind it
    #[arg(long, conflicts_with = "target_inclusive")]
    target_exclusive: bool,
    /// Stop behind it, which is the default
    #[arg(long)]
    target_inclusive: bool,
    /// Which line of history: `latest`, `current` (that of the base backup) or a number
    #[arg(long, value_name = "latest|current|N", value_parser = timeline)]
    target_timeline: Option<FollowTimeline>,
    /// What the server does at the target: promote (default), pause (until pg_wal_replay_resume()) or shutdown
    #[arg(long, value_name = "pause|promote|shutdown", value_parser = action, requires = "target")]
    target_action: Option<Action>,
    /// Put the tablespace that was in directory OLD (or has this number) into NEW; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace_map: Vec<(String, PathBuf)>,
    /// Restore over an existing data directory: only what differs is written, what the backup does not have is removed
    #[arg(long)]
    delta: bool,
    /// Make it a standby: it goes on recovering from the archive until it is promoted
    #[arg(long, conflicts_with = "target")]
    standby: bool,
    /// `on` lets the restored server archive as the backed-up one did. Default: off, until `strongroom wal adopt`
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    archive: Option<bool>,
    /// The server's restore_command, where this program is not at the same path as here: with %f and "%p"
    #[arg(long, value_name = "COMMAND")]
    restore_command: Option<String>,
    /// Print the plan (base backup, WAL, bytes, time, where it ends) and change nothing
    #[arg(long)]
    preview: bool,
}

fn timeline(text: &str) -> Result<FollowTimeline, String> {
    match text {
        "latest" => Ok(FollowTimeline::Latest),
        "current" => Ok(FollowTimeline::Current),
        _ => match text.parse::<u32>() {
            Ok(number @ 1..) => Ok(FollowTimeline::Number(Timeline(number))),
            _ => Err("expected `latest`, `current` or a number from 1 on".to_owned()),
        },
    }
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "pause" => Ok(Action::Pause),
        "promote" => Ok(Action::Promote),
        "shutdown" => Ok(Action::Shutdown),
        _ => Err("expected `pause`, `promote` or `shutdown`".to_owned()),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected `on` or `off`".to_owned()),
    }
}

fn mapping(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            let new = std::path::absolute(new).map_err(|e| e.to_string())?;
            Ok((old.to_owned(), new))
        }
        _ => Err("expected OLD=NEW, two directories".to_owned()),
    }
}

impl BaseArgs {
    /// The options that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let all = [
            ("--target-time", self.target_time.is_some()),
            ("--target-lsn", self.target_lsn.is_some()),
            ("--target-xid", self.target_xid.is_some()),
            ("--target-name", self.target_name.is_some()),
            ("--target-immediate", self.target_immediate),
            ("--target-exclusive", self.target_exclusive),
            ("--target-inclusive", self.target_inclusive),
            ("--target-timeline", self.target_timeline.is_some()),
            ("--target-action", self.target_action.is_some()),
            ("--tablespace-map", !self.tablespace_map.is_empty()),
            ("--delta", self.delta),
            ("--standby", self.standby),
            ("--archive", self.archive.is_some()),
            ("--restore-command", self.restore_command.is_some()),
            ("--preview", self.preview),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    fn target(&self, now: crate::model::Time) -> Result<Option<Target>> {
        Ok(if let Some(text) = &self.target_time {
            Some(Target::Time(moment(text, now).context(|| "--target-time")?))
        } else if let Some(lsn) = self.target_lsn {
            Some(Target::Lsn(lsn))
        } else if let Some(xid) = self.target_xid {
            Some(Target::Xid(xid))
        } else if let Some(name) = &self.target_name {
            Some(Target::Name(name.clone()))
        } else {
            self.target_immediate.then_some(Target::Immediate)
        })
    }
}

pub(super) async fn run(s: &Session, ctx: &Context, a: &Args, found: Found) -> Result<Done> {
    let b = &a.base;
    let to = a.directory()?;
    let mut request = Request::new(to, fetch(s, a)?);
    let now = ctx.clock().now();
    let target = b.target(now)?;
    // A snapshot that was named is where recovery begins; a time without a target is one.
    request.pinned = a.snapshot != Pick::Latest || (a.at.is_some() && target.is_some());
    request.target = match (target, &a.at) {
        (Some(target), _) => target,
        (None, Some(text)) => Target::Time(super::at(text, now)?.min(now)),
        (None, None) => Target::End,
    };
    request.or_newest = a.at.is_some() && !request.pinned;
    if let Some(timeline) = b.target_timeline {
        request.timeline = timeline;
    }
    if let Some(action) = b.target_action {
        request.action = action;
    }
    request.inclusive = !b.target_exclusive;
    request.tablespaces = b.tablespace_map.iter().cloned().collect::<BTreeMap<_, _>>();
    (request.delta, request.standby, request.archive) = (b.delta, b.standby, b.archive == Some(true));
    request.verify = a.volume.verify;
    let prepared = restore_base::prepare(ctx, found, request).await?;
    if b.preview {
        return preview(s, &prepared);
    }
    output::warn(&prepared.summary.notes);
    let label = prepared.found.label();
    let shown = Found { warnings: Vec::new(), ..prepared.found.clone() };
    let progress = Arc::new(Progress::default());
    let began = Instant::now();
    let board = Board::new(s.global.quiet, s.global.log_format == LogFormat::Json);
    let follower = board.follow_restore(label, progress.clone(), prepared.summary.bytes);
    let report = restore_base::run(ctx, prepared, progress.clone(), &s.cancel).await?;
    drop(follower);
    output::warn(&report.notes);
    tell(s, &shown, &report, &progress, began)
}

/// How the restored server will call us: this program, with the same configuration.
fn fetch(s: &Session, a: &Args) -> Result<Fetch> {
    if let Some(command) = &a.base.restore_command {
        return Ok(Fetch::Given(command.clone()));
    }
    if a.place.repository.is_some() {
        // There is no `pg_wal` job without a configuration.
        return Ok(Fetch::Never);
    }
    let program = std::env::current_exe().map_err(|e| Error::new(Kind::Failed, "find the path of this program").because(e))?;
    let config = s.config_path()?;
    let config = std::path::absolute(&config).context(|| format!("find the path of {}", config.display()))?;
    let config = config
        .to_str()
        .ok_or_else(|| Error::new(Kind::Failed, format!("the path of the configuration is not UTF-8: {}", config.display())))?;
    let mut arguments = vec!["--config".to_owned(), config.to_owned()];
    arguments.extend(s.global.allow_commands.then(|| "--allow-commands".to_owned()));
    for endpoint in &s.global.trust_endpoint {
        arguments.extend(["--trust-endpoint".to_owned(), endpoint.clone()]);
    }
    Ok(Fetch::Program { program, arguments })
}

fn preview(s: &Session, prepared: &restore_base::Prepared) -> Result<Done> {
    let found = &prepared.found;
    let plan = &prepared.summary;
    let value = serde_json::json!({
        "outcome": "planned", "snapshot": found.snapshot.id, "time": found.snapshot.file.time, "tenant": found.tenant,
        "job": found.snapshot.file.tag("job"), "source": Source::PgBase, "result": plan,
    });
    s.out.print(&value, |t| describe(t, plan))?;
    Ok(Done::Ok)
}

fn describe(t: &mut String, plan: &Summary) {
    let mut row = |name: &str, text: String| output::say!(t, "{name:15}{text}");
    row("restore to", plan.to.display().to_string());
    row("base backup", format!("{} of {} UTC, at {}", plan.snapshot.short(), output::time(plan.consistent), plan.consistent_at));
    row("server", format!("PostgreSQL {}, system {}", plan.server_version, plan.system_identifier));
    row("bytes", plan.bytes.map_or_else(|| "unknown".to_owned(), output::size));
    match &plan.wal {
        None => row("WAL", "what the base backup holds".to_owned()),
        Some(wal) => {
            let bytes = output::size(wal.bytes);
            row("WAL", format!("{} to {}, {} segments ({bytes}), {} to {}", wal.from, wal.to, wal.segments, wal.first, wal.last));
        }
    }
    row("ends at", format!("{}, timeline {}", plan.ends_at, plan.timeline));
    if let Some(time) = plan.newest_commit {
        row("newest commit", format!("{time}, as far as the archive goes"));
    }
    if let Some(seconds) = plan.estimated_seconds {
        row("takes about", output::seconds(seconds as f64));
    }
    for tablespace in &plan.tablespaces {
        row("tablespace", format!("{} ({}) to {}", tablespace.was, tablespace.oid, tablespace.path.display()));
    }
    if let Some(command) = &plan.restore_command {
        row("restore_command", format!(" {command}"));
    }
    for note in &plan.notes {
        row("note", note.clone());
    }
}

fn tell(s: &Session, found: &Found, report: &Report, progress: &Progress, began: Instant) -> Result<Done> {
    let n = |c: &AtomicU64| c.load(Relaxed);
    let (written, reused) = (n(&progress.bytes_written), n(&progress.bytes_reused));
    let took = began.elapsed().as_secs_f64();
    let mut result = serde_json::to_value(report).map_err(|e| Error::new(Kind::Bug, "write the answer").because(e))?;
    if let Some(result) = result.as_object_mut() {
        let rate = (written + reused) as f64 / took.max(0.001);
        let counts = serde_json::json!({
            "files": n(&progress.files), "dirs": n(&progress.dirs), "bytes_written": written, "bytes_reused": reused,
            "deleted": n(&progress.deleted), "seconds": took, "bytes_per_second": rate as u64,
        });
        result.extend(counts.as_object().cloned().unwrap_or_default());
    }
    s.out.print(&answer(found, Source::PgBase, &result), |t| {
        output::say!(
            t,
            "{} files: {} written, {} were there already",
            n(&progress.files),
            output::size(written),
            output::size(reused)
        );
        let plan = &report.plan;
        match &plan.wal {
            Some(wal) => output::say!(
                t,
                "{} is ready to be started: it recovers with up to {} segments of WAL to {}",
                plan.to.display(),
                wal.segments,
                plan.ends_at
            ),
            None => output::say!(t, "{} is ready to be started", plan.to.display()),
        }
        summary(t, found, written + reused, began);
    })?;
    Ok(Done::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_refused() {
        assert_eq!(timeline("3"), Ok(FollowTimeline::Number(Timeline(3))));
        assert!(timeline("0").is_err() && timeline("newest").is_err());
        assert_eq!(mapping("/a=/b"), Ok(("/a".to_owned(), PathBuf::from("/b"))));
        assert!(mapping("/a").is_err() && mapping("=/b").is_err() && mapping("/a=").is_err());
        assert!(on_off("true").is_err() && action("stop").is_err());
    }
}
