//! `strongroom restore`

mod base;
mod volume;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use super::Done;
use super::args::{LogFormat, Place};
use super::output;
use super::progress::{Board, Follower};
use super::session::Session;
use crate::app::restore::{self, Source};
use crate::app::restore_dump::Mode;
use crate::app::select::{Found, Pick, Reference};
use crate::app::{Context, restore_command, restore_dump};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Selector, TenantName, Time, moment};

/// Restore a snapshot: a volume, databases, a whole PostgreSQL cluster or a program's output
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// TENANT/JOB, or TENANT where it has one job; not needed with --repository
    selector: Option<Selector>,
    /// Where to: a directory; a database URL, or `env:NAME` for one in an environment variable; `-` for standard output
    #[arg(long, value_name = "TARGET", required_unless_present = "to_command")]
    to: Option<String>,
    /// The beginning of its id, or `latest`
    #[arg(long, value_name = "ID", default_value = "latest", conflicts_with = "at")]
    snapshot: Pick,
    /// The newest complete one that ended by then: 2026-11-21T02:00:00Z, `yesterday 14:00 Europe/Berlin`, or 6h for six hours ago
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
    #[command(flatten)]
    base: base::BaseArgs,
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
    /// Only this table
    #[arg(long, value_name = "SCHEMA.NAME")]
    table: Option<String>,
    /// Parallel jobs; needs --scratch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// A directory with room for the dump file, where pg_restore needs one
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Everything will belong to the role that restores
    #[arg(long)]
    no_owner: bool,
    /// Leave rights out
    #[arg(long)]
    no_privileges: bool,
    /// Restore roles and tablespaces first; this changes the whole server
    #[arg(long)]
    globals: bool,
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
    if let Some(tenant) = &a.r#as {
        restore::authorize(&ctx, tenant).await?;
    }
    if a.volume.if_empty {
        return volume::if_empty(s, &ctx, &a, &pick).await;
    }
    let reference = Reference { selector: a.selector.clone(), pick };
    let found = restore::choose(&ctx, &reference).await?;
    output::warn(&found.warnings);
    a.check_options(restore::source_of(&found)?)?;
    match restore::source_of(&found)? {
        Source::Volume => volume::run(s, &ctx, &a, &found).await,
        Source::PgDump => dump(s, &ctx, &a, &found).await,
        Source::PgBase => base::run(s, &ctx, &a, found).await,
        Source::Command => program_output(s, &a, &found).await,
    }
}

impl Args {
    /// An option that does not fit the source is a mistake, not something to pass over.
    fn check_options(&self, source: Source) -> Result<()> {
        let (v, d) = (&self.volume, &self.dump);
        let given = [
            ("--include", !v.include.is_empty(), Source::Volume),
            ("--exclude", !v.exclude.is_empty(), Source::Volume),
            ("--delete", v.delete, Source::Volume),
            ("--if-empty", v.if_empty, Source::Volume),
            ("--verify", v.verify && source != Source::PgBase, Source::Volume),
            ("--database", d.database.is_some(), Source::PgDump),
            ("--target-database", d.target_database.is_some(), Source::PgDump),
            ("--create", d.create, Source::PgDump),
            ("--clean", d.clean, Source::PgDump),
            ("--table", d.table.is_some(), Source::PgDump),
            ("--jobs", d.jobs.is_some(), Source::PgDump),
            ("--scratch", d.scratch.is_some(), Source::PgDump),
            ("--no-owner", d.no_owner, Source::PgDump),
            ("--no-privileges", d.no_privileges, Source::PgDump),
            ("--globals", d.globals, Source::PgDump),
            ("--to-command", !self.to_command.is_empty(), Source::Command),
        ];
        let of_base = self.base.given().into_iter().map(|name| (name, true, Source::PgBase));
        match given.into_iter().chain(of_base).find(|(_, is, of)| *is && *of != source) {
            Some((name, _, of)) => {
                let word = |s: Source| match s {
                    Source::Volume => "volumes",
                    Source::PgBase => "base backups",
                    Source::PgDump => "databases",
                    Source::Command => "the output of programs",
                };
                Err(Error::new(Kind::Usage, format!("{name} is for {}, and this snapshot holds {}", word(of), word(source))))
            }
            None => Ok(()),
        }
    }

    fn directory(&self) -> Result<PathBuf> {
        match self.to()? {
            "-" => Err(Error::new(Kind::Usage, "a volume is restored into a directory")
                .hint("`strongroom cat` writes one file to standard output.")),
            dir if dir.contains("://") => {
                Err(Error::new(Kind::Usage, format!("a volume is restored into a directory, and {dir} is a URL")))
            }
            dir => std::path::absolute(dir).map_err(|e| Error::new(Kind::Usage, format!("--to {dir}")).because(e)),
        }
    }

    fn to(&self) -> Result<&str> {
        self.to.as_deref().ok_or_else(|| Error::new(Kind::Usage, "where to?").hint("Add --to TARGET."))
    }
}

async fn dump(s: &Session, ctx: &Context, a: &Args, found: &Found) -> Result<Done> {
    let d = &a.dump;
    let to = match a.to()?.strip_prefix("env:") {
        // A URL holds a password, and arguments can be seen by every user of the machine.
        Some(name) => crate::runtime::Secret::Env(name.to_owned()).read()?.expose().to_owned(),
        None => a.to()?.to_owned(),
    };
    let mut request = restore_dump::Request::new(to.parse()?);
    request.mode = match (d.create, d.clean) {
        (true, false) => Mode::Create,
        (false, true) => Mode::Clean,
        (false, false) => Mode::Existing,
        (true, true) => {
            return Err(Error::new(Kind::Usage, "--create and --clean exclude each other")
                .hint("Drop the database first, or restore into the existing one with --clean."));
        }
    };
    request.database.clone_from(&d.database);
    request.target_database.clone_from(&d.target_database);
    request.table = d.table.as_deref().map(str::parse).transpose()?;
    request.jobs = d.jobs.unwrap_or(1);
    request.scratch.clone_from(&d.scratch);
    (request.no_owner, request.no_privileges, request.globals) = (d.no_owner, d.no_privileges, d.globals);
    let quiet = a.writes_to_stdout();
    let began = Instant::now();
    request.client_dirs = restore::client_dirs(ctx, found);
    let follower = follow(s, found, &request.progress);
    let done = restore_dump::run(found, request, &s.cancel).await?;
    drop(follower);
    output::warn(&done.warnings);
    if quiet {
        return Ok(Done::Ok);
    }
    s.out.print(&answer(found, Source::PgDump, &done), |t| {
        for d in &done.databases {
            output::say!(t, "database {} restored to {} ({})", d.dumped_from, d.restored_to, output::size(d.bytes));
        }
        for f in &done.files {
            output::say!(t, "wrote {}", f.display());
        }
        summary(t, found, done.bytes, began);
    })?;
    Ok(Done::Ok)
}

async fn program_output(s: &Session, a: &Args, found: &Found) -> Result<Done> {
    let target = match a.to.as_deref() {
        Some("-") => restore_command::Target::Output,
        Some(path) => restore_command::Target::File(path.into()),
        None => restore_command::Target::Program(a.to_command.clone()),
    };
    let quiet = target == restore_command::Target::Output;
    let began = Instant::now();
    let request = restore_command::Request::new(target);
    let follower = follow(s, found, &request.progress);
    let done = restore_command::run(found, request, &s.cancel).await?;
    drop(follower);
    if quiet {
        return Ok(Done::Ok);
    }
    s.out.print(&answer(found, Source::Command, &done), |t| {
        if let Some(to) = &done.to {
            output::say!(t, "wrote {}", to.display());
        }
        summary(t, found, done.bytes, began);
    })?;
    Ok(Done::Ok)
}

fn follow(s: &Session, found: &Found, done: &Arc<AtomicU64>) -> Follower {
    Board::new(s.global.quiet, s.global.log_format == LogFormat::Json).follow_bytes(found.label(), done.clone(), found.bytes())
}

/// `{snapshot, time, tenant, job, source, result}`.
fn answer<T: serde::Serialize>(found: &Found, source: Source, result: &T) -> serde_json::Value {
    serde_json::json!({
        "outcome": "restored", "snapshot": found.snapshot.id, "time": found.snapshot.file.time, "tenant": found.tenant, "job": found.snapshot.file.tag("job"), "source": source, "result": result,
    })
}

fn summary(t: &mut String, found: &Found, bytes: u64, began: Instant) {
    let took = began.elapsed().as_secs_f64();
    let rate = output::size((bytes as f64 / took.max(0.001)) as u64);
    output::say!(
        t,
        "restored snapshot {} of {} from {} in {}: {} ({rate}/s)",
        found.snapshot.id.short(),
        found.tenant,
        output::time(found.snapshot.file.time),
        output::seconds(took),
        output::size(bytes)
    );
}

/// A moment, or a date: the end of that day.
fn at(text: &str, now: Time) -> Result<Time> {
    match format!("{text}T23:59:59Z").parse::<Time>() {
        Ok(time) => Ok(time),
        Err(_) => moment(text, now).context(|| "--at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        let now: Time = "2026-11-21T12:00:00Z".parse().expect("a time");
        for (text, time) in [
            ("2026-11-20T02:00:00+02:00", "2026-11-20T00:00:00Z"),
            ("2026-11-20", "2026-11-20T23:59:59Z"),
            ("1d6h", "2026-11-20T06:00:00Z"),
        ] {
            assert_eq!(at(text, now).expect(text).to_string(), time);
        }
        assert_eq!(at("yesterday 14:00", now).expect("a time").to_string(), "2026-11-20T14:00:00Z");
        assert!(at("yesterday", now).is_err_and(|e| e.kind() == Kind::Usage));
    }
}
