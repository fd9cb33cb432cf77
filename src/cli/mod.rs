//! The command line: arguments in, text or JSON and an exit code out. Everything else is in [`crate::app`].
//!
//! Standard output is for results: text, or with `--json` exactly one JSON document, a failure included
//! (`{"error": …}`); the shapes are described in `docs/json.md`. Standard error is for logs, progress and the
//! `error:` and `hint:` lines. Exit codes are those of [`crate::error::Kind::exit_code`].

mod args;
mod backup;
mod cat;
mod check;
mod completions;
mod config;
mod coverage;
mod diff;
mod doctor;
mod drill;
mod hold;
mod init;
mod install;
mod key;
mod logging;
mod ls;
mod output;
mod progress;
mod prune;
mod restore;
mod run;
mod session;
mod signals;
mod snapshots;
mod status;
mod unlock;
mod version;
mod wal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::runtime::{Cancel, secret};
use args::Global;
use session::Session;

/// Backs up PostgreSQL databases, volumes and program output of many tenants to S3, Azure Blob or a local directory,
/// and restores them.
#[derive(Debug, Parser)]
#[command(
    name = "strongroom",
    version,
    max_term_width = 110,
    after_help = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 incomplete, 10 no repository, 11 locked, 12 wrong password, 78 bad config, 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
enum Command {
    Init(init::Args),
    Backup(backup::Args),
    Run(run::Args),
    Snapshots(snapshots::Args),
    Restore(restore::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Diff(diff::Args),
    Check(check::Args),
    Prune(prune::Args),
    Hold(hold::HoldArgs),
    Unhold(hold::UnholdArgs),
    Unlock(unlock::Args),
    Key(key::Args),
    Drill(drill::Args),
    Status(status::Args),
    Coverage(coverage::Args),
    Doctor(doctor::Args),
    Wal(wal::Args),
    Install(install::Args),
    Config(config::Args),
    Completions(completions::Args),
    Version(version::Args),
}

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// Exit code 0.
    Ok,
    /// The exit code of this kind; everything was said already.
    Said(Kind),
    /// `wal fetch`: proven not to be in the archive. Exit code 1.
    Missing,
}

/// Parses the process's arguments, runs the command and tells the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // PostgreSQL reads more out of some exit codes than "failed", whatever the failure.
    let codes = wal::Codes::of(&arguments);
    ExitCode::from(codes.exit_code(|| if wal::answered(&arguments) { 0 } else { answer(&arguments) }))
}

/// As [`main`], with the documented exit codes.
fn answer(arguments: &[std::ffi::OsString]) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output with code 0, mistakes to standard error with code 2.
            let code = if e.use_stderr() { Kind::Usage.exit_code() } else { 0 };
            // Nothing can be told to somebody who has closed both.
            drop(e.print());
            return code;
        }
    };
    let mut global = cli.global.clone();
    global.quiet |= cli.command.is_called_all_the_time() && global.verbose == 0;
    logging::start(&global, matches!(cli.command, Command::Run(_)));
    secret::allow_commands(cli.global.allow_commands || cli.command.brings_its_own_program());
    crate::app::trust_endpoints(cli.global.trust_endpoint.clone());
    let json = cli.global.json && !cli.command.streams_data();
    match run(cli) {
        Ok(Done::Ok) => 0,
        Ok(Done::Said(kind)) => kind.exit_code(),
        Ok(Done::Missing) => wal::MISSING,
        Err(e) => {
            output::print_error(&e, json);
            e.kind().exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<Done> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Kind::Failed, "start the runtime").because(e))?;
    let done = runtime.block_on(async {
        let cancel = Cancel::new();
        signals::watch(cancel.clone(), cli.command.code_when_aborted())?;
        let session = Session::new(cli.global, cancel);
        cli.command.run(&session).await
    });
    // What still blocks (a read of a dead server) must not keep a finished process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

impl Command {
    /// Ad-hoc commands are given by whoever starts the process, so they are allowed.
    fn brings_its_own_program(&self) -> bool {
        match self {
            Command::Backup(a) => a.brings_its_own_program(),
            Command::Restore(a) => a.brings_its_own_program(),
            _ => false,
        }
    }

    /// Whether a server calls it for every file, and keeps what it says: then success says nothing.
    fn is_called_all_the_time(&self) -> bool {
        matches!(self, Command::Wal(a) if a.is_called_all_the_time())
    }

    /// What it ends with on the second signal.
    fn code_when_aborted(&self) -> u8 {
        match self {
            Command::Wal(a) if a.is_helper() => 0,
            _ => Kind::Cancelled.exit_code(),
        }
    }

    /// Whether standard output is data and not a report.
    fn streams_data(&self) -> bool {
        match self {
            Command::Cat(_) | Command::Completions(_) => true,
            Command::Restore(a) => a.writes_to_stdout(),
            _ => false,
        }
    }

    async fn run(self, s: &Session) -> Result<Done> {
        match self {
            Command::Init(a) => init::run(s, a).await,
            Command::Backup(a) => backup::run(s, a).await,
            Command::Run(a) => run::run(s, a).await,
            Command::Snapshots(a) => snapshots::run(s, a).await,
            Command::Restore(a) => restore::run(s, a).await,
            Command::Ls(a) => ls::run(s, a).await,
            Command::Cat(a) => cat::run(s, a).await,
            Command::Diff(a) => diff::run(s, a).await,
            Command::Check(a) => check::run(s, a).await,
            Command::Prune(a) => prune::run(s, a).await,
            Command::Hold(a) => hold::hold(s, a).await,
            Command::Unhold(a) => hold::unhold(s, a).await,
            Command::Unlock(a) => unlock::run(s, a).await,
            Command::Key(a) => key::run(s, a).await,
            Command::Drill(a) => drill::run(s, a).await,
            Command::Status(a) => status::run(s, a).await,
            Command::Coverage(a) => coverage::run(s, a).await,
            Command::Doctor(a) => doctor::run(s, a).await,
            Command::Wal(a) => wal::run(s, a).await,
            Command::Install(a) => install::run(s, &a),
            Command::Config(a) => config::run(s, a),
            Command::Completions(a) => completions::run(&a, &mut Cli::command()),
            Command::Version(a) => version::run(s, &a),
        }
    }
}
