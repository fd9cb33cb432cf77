//! `strongroom restore`

use std::path::PathBuf;

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::select::{self, Pick, Reference};
use crate::error::{Error, Kind, Result};
use crate::model::{Selector, TenantName, Time};

/// Restore a snapshot: a volume, databases or a program's output
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT/JOB, or TENANT where it has one job; not needed with --repository
    selector: Option<Selector>,
    /// Where to: a directory; a database URL; `-` for standard output
    #[arg(long, value_name = "TARGET", required_unless_present = "to_command")]
    to: Option<String>,
    /// The beginning of its id, or `latest`
    #[arg(long, value_name = "ID", default_value = "latest", conflicts_with = "at")]
    snapshot: Pick,
    /// The newest complete one that ended by then: 2026-11-21T02:00:00Z, or 6h for six hours ago
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Restore for another tenant; both tenants' repositories must open
    #[arg(long, value_name = "TENANT")]
    r#as: Option<TenantName>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    volume: VolumeArgs,
    #[command(flatten)]
    dump: DumpArgs,
    /// Give the output to this program's standard input; the program and its arguments follow
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true, conflicts_with = "to", help_heading = "Output of programs")]
    to_command: Vec<String>,
}

/// For volumes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Volumes")]
struct VolumeArgs {
    /// Only what matches this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Not what matches this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Remove what is in the directory and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// Do nothing if the directory has entries, or if there is no backup yet; fail if that cannot be found out
    #[arg(long, conflicts_with = "delete")]
    if_empty: bool,
    /// Read everything back and compare
    #[arg(long)]
    verify: bool,
}

/// For databases.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Databases")]
struct DumpArgs {
    /// Which database of the snapshot; not needed where it holds one
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Restore into a database of this name
    #[arg(long, value_name = "NAME")]
    target_database: Option<String>,
    /// Create the database
    #[arg(long)]
    create: bool,
    /// Drop what is there before
    #[arg(long)]
    clean: bool,
    /// Only this table; may be repeated
    #[arg(long, value_name = "SCHEMA.NAME")]
    table: Vec<String>,
    /// Parallel jobs; needs --scratch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// A directory with room for the dump file, where pg_restore needs one
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Args {
    pub(super) fn brings_its_own_program(&self) -> bool {
        !self.to_command.is_empty()
    }

    pub(super) fn writes_to_stdout(&self) -> bool {
        self.to.as_deref() == Some("-")
    }
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let ctx = s.context(&a.place, a.selector.as_ref())?;
    let pick = match &a.at {
        Some(text) => Pick::At(at(text, ctx.clock().now())?),
        None => a.snapshot.clone(),
    };
    let found = select::find(&ctx, &Reference { selector: a.selector.clone(), pick }).await?;
    output::warn(&found.warnings);
    if let Some(tenant) = &a.r#as {
        // Proof that whoever asks may act for both.
        ctx.repository(tenant).await?;
    }
    let _ = (&a.volume, &a.dump);
    Err(Error::new(Kind::Failed, "`restore` is not available yet"))
}

/// An RFC 3339 time, a date, or how long ago.
fn at(text: &str, now: Time) -> Result<Time> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    if let Ok(time) = format!("{text}T23:59:59Z").parse::<Time>() {
        return Ok(time);
    }
    let ago = crate::config::parse_duration(text).map_err(|e| {
        Error::new(Kind::Usage, format!("--at {text}: neither a time nor a length of time")).because(e).hint("Write 2026-11-21T02:00:00Z, 2026-11-21T04:00:00+02:00, 2026-11-21 (the end of that day in UTC) or 6h (six hours ago).")
    })?;
    let secs = i64::try_from(ago.as_secs()).unwrap_or(i64::MAX);
    Ok(Time { secs: now.secs.saturating_sub(secs), ..now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        let now: Time = "2026-11-21T12:00:00Z".parse().expect("a time");
        for (text, time) in [("2026-11-20T02:00:00+02:00", "2026-11-20T00:00:00Z"), ("2026-11-20", "2026-11-20T23:59:59Z"), ("1d6h", "2026-11-20T06:00:00Z")] {
            assert_eq!(at(text, now).expect(text).to_string(), time);
        }
        assert!(at("yesterday", now).is_err_and(|e| e.kind() == Kind::Usage));
    }
}
