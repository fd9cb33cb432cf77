//! `strongroom wal …`

mod adopt;
mod exit;
mod fetch;
mod helper_process;
mod push;
mod quick;
mod receive;
mod status;

use std::ffi::OsString;

use clap::Subcommand;

use super::Done;
use super::args::Place;
use super::session::Session;
use crate::app::Context;
use crate::app::wal::helper;
use crate::error::{Error, Kind, Result};
use crate::model::Selector;

pub(super) use exit::{Codes, MISSING};
pub(super) use quick::answered;

/// Archive PostgreSQL's write-ahead log, and give it back
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Push(push::Args),
    Fetch(fetch::Args),
    Receive(receive::Args),
    Status(status::Args),
    Adopt(adopt::Args),
    #[command(hide = true)]
    Helper(helper_process::Args),
}

impl Args {
    /// Whether a server calls it for every file.
    pub(super) fn is_called_all_the_time(&self) -> bool {
        matches!(self.command, Command::Push(_) | Command::Fetch(_))
    }

    /// Whether it must end with 0, whatever happens.
    pub(super) fn is_helper(&self) -> bool {
        matches!(self.command, Command::Helper(_))
    }
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    match a.command {
        Command::Push(a) => push::run(s, a).await,
        Command::Fetch(a) => fetch::run(s, a).await,
        Command::Receive(a) => receive::run(s, a).await,
        Command::Status(a) => status::run(s, a).await,
        Command::Adopt(a) => adopt::run(s, a).await,
        Command::Helper(a) => helper_process::run(s, a).await,
    }
}

/// The configuration: a `pg_wal` job has more settings than fit on a command line.
fn context(s: &Session) -> Result<Context> {
    s.context(&Place::default(), None)
}

/// Which helper answers calls like this one.
fn key(s: &Session, job: &str) -> Option<String> {
    let more = if s.global.allow_commands || !s.global.trust_endpoint.is_empty() {
        format!("{} {}", s.global.allow_commands, s.global.trust_endpoint.join(" "))
    } else {
        String::new()
    };
    crate::app::wal::quick::key(&s.config_path().ok()?, job, &more)
}

/// This program once more, with the same configuration.
fn program(s: &Session, job: &Selector) -> Result<helper::Program> {
    let path = std::env::current_exe().map_err(|e| Error::new(Kind::Failed, "find this program").because(e))?;
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(config) = &s.global.config {
        arguments.extend(["--config".into(), config.clone().into_os_string()]);
    }
    if s.global.allow_commands {
        arguments.push("--allow-commands".into());
    }
    for endpoint in &s.global.trust_endpoint {
        arguments.extend(["--trust-endpoint".into(), endpoint.into()]);
    }
    arguments.extend(["wal".into(), "helper".into(), "--job".into(), job.to_string().into()]);
    let key = key(s, &job.to_string()).ok_or_else(|| Error::new(Kind::Failed, "look at the configuration"))?;
    arguments.extend(["--key".into(), key.clone().into()]);
    Ok(helper::Program { path, arguments, key })
}
