//! `strongroom wal …`

mod adopt;
mod exit;
mod fetch;
mod prefetch;
mod push;
mod receive;
mod status;

use clap::Subcommand;

use super::Done;
use super::args::Place;
use super::session::Session;
use crate::app::Context;
use crate::error::Result;

pub(super) use exit::{Codes, MISSING};

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
    Prefetch(prefetch::Args),
}

impl Args {
    /// Whether a server calls it for every file.
    pub(super) fn is_called_all_the_time(&self) -> bool {
        matches!(self.command, Command::Push(_) | Command::Fetch(_))
    }
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    match a.command {
        Command::Push(a) => push::run(s, a).await,
        Command::Fetch(a) => fetch::run(s, a).await,
        Command::Receive(a) => receive::run(s, a).await,
        Command::Status(a) => status::run(s, a).await,
        Command::Adopt(a) => adopt::run(s, a).await,
        Command::Prefetch(a) => prefetch::run(s, a).await,
    }
}

/// The configuration: a `pg_wal` job has more settings than fit on a command line.
fn context(s: &Session) -> Result<Context> {
    s.context(&Place::default(), None)
}
