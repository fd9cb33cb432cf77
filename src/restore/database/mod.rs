//! A dump back into a server, by `pg_restore`.
//!
//! - **Streaming**: the dump flows from the repository into `pg_restore`'s standard input. Only `--jobs` above 1 needs a
//!   file; it is spooled to a scratch folder, where it has no name and vanishes with the process.
//! - **All or nothing**: without parallel jobs everything happens in one transaction. A database that was created for the
//!   restore is removed again if it fails. Where neither can be had, the error says what state the database is in.
//! - **A broken stream never looks like a short one**: if reading the snapshot fails, `pg_restore` is killed before its
//!   input ends, so it cannot commit.
//! - **Roles** are not part of a dump: [`globals`] restores `globals.sql`, on request only, since it changes the whole server.

pub mod globals;
mod prepare;
mod select;
mod spool;
mod table;

use std::io::{self, Cursor, Read, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

pub use table::Table;

use super::file::read_some;
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::archive::{ArchiveCheck, Header, TocEntry};
use crate::postgres::clients::{Installed, major_of};
use crate::postgres::{Clients, ConnectionSettings};
use crate::runtime::Cancel;
use crate::runtime::process::{Child, Exit, Input};

const BUFFER: usize = 1 << 20;
/// How much of a dump is held in memory while its table of contents is read. Only `--table` needs all of it.
const LOOKAHEAD: usize = 1 << 20;
const LARGEST_TOC: usize = 64 << 20;

/// What happens to the database that is restored into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It exists; objects of the dump must not.
    Existing,
    /// It exists; objects of the dump are dropped first. Objects the dump does not know stay.
    Clean,
    /// It does not exist and is created as it was, settings and rights included.
    Create,
}

/// Where a dump goes and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server. A database named here is restored into.
    pub server: ConnectionSettings,
    /// What happens to the database.
    pub mode: Mode,
    /// The database's name, if it is neither the one in `server` nor the dump's own.
    pub target_database: Option<String>,
    /// Only this table: its rows, indexes, constraints, triggers, rights; its partitions, too. The schema is created if missing.
    pub table: Option<Table>,
    /// How many connections restore at once. Above 1 needs `scratch`.
    pub jobs: u32,
    /// A folder with room for the dump.
    pub scratch: Option<PathBuf>,
    /// The dump's length in bytes, for the check of free space.
    pub size: Option<u64>,
    /// Everything will belong to the role that restores.
    pub no_owner: bool,
    /// Rights are not restored.
    pub no_privileges: bool,
    /// Where to look for client tools; if empty, in the usual places ([`Clients::find`]).
    pub client_dirs: Vec<PathBuf>,
}

impl Settings {
    /// The whole dump into an existing database, by one connection.
    #[must_use]
    pub fn new(server: ConnectionSettings) -> Self {
        Self {
            server,
            mode: Mode::Existing,
            target_database: None,
            table: None,
            jobs: 1,
            scratch: None,
            size: None,
            no_owner: false,
            no_privileges: false,
            client_dirs: Vec::new(),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Outcome {
    /// The database that holds it now.
    pub database: String,
    /// The version of the server the dump came from.
    pub dumped_from: String,
    /// The version of the server it is on now.
    pub restored_to: String,
    /// The version of `pg_restore`.
    pub tool_version: String,
    /// Bytes of the dump that were read.
    pub bytes: u64,
    /// Whether the dump was spooled.
    pub spooled: bool,
    /// What deserves a look. Each is one sentence.
    pub warnings: Vec<String>,
}

/// A dump whose beginning was read: the header, the entries of interest, and the bytes to hand on first.
struct Opened<'a> {
    head: Vec<u8>,
    rest: &'a mut dyn Read,
    header: Header,
    entries: Vec<TocEntry>,
}

/// Restores a custom-format dump. Blocks; children end when `cancel` fires.
///
/// # Errors
/// [`Kind::Corrupt`] for what is no whole dump; [`Kind::NotFound`] for a missing database, table or program;
/// [`Kind::Usage`] for `jobs` without `scratch`; the server's and `pg_restore`'s errors. The message ends with the state
/// of the database.
pub fn restore(dump: &mut dyn Read, settings: &Settings, cancel: &Cancel) -> Result<Outcome> {
    let scratch = match (&settings.scratch, settings.jobs > 1) {
        (Some(dir), true) => Some(dir),
        (None, true) => {
            return Err(Error::new(Kind::Usage, format!("{} parallel jobs need the dump as a file", settings.jobs))
                .hint("Name a folder with room for it (--scratch DIR), or restore with one job."));
        }
        (_, false) => None,
    };
    let mut dump = open(dump, settings.table.is_some())?;
    let database = settings.target_database.as_deref().or(settings.server.database()).unwrap_or(&dump.header.database).to_owned();
    let tools = tools(&dump.header, settings, cancel)?;

    let mut outcome = Outcome {
        tool_version: tools.version.clone(),
        dumped_from: dump.header.server_version.clone(),
        database: database.clone(),
        ..Outcome::default()
    };
    let prepared = prepare::prepare(&dump, &database, settings, &mut outcome, cancel)?;
    let result = fill(&mut dump, &tools, &prepared, settings, scratch, &mut outcome, cancel);
    prepared.finish(result, settings, &mut outcome)?;
    Ok(outcome)
}

/// Reads enough of the dump to know its header and its first entries, or all entries.
fn open(rest: &mut dyn Read, all: bool) -> Result<Opened<'_>> {
    let seen: Arc<Mutex<Vec<TocEntry>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let mut check = ArchiveCheck::new().on_entry(move |e| {
        if all || !e.sql.is_empty() {
            sink.lock().push(e.clone());
        }
    });
    let mut head = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    while !check.toc_complete() && (all || head.len() < LOOKAHEAD) {
        let Some(part) = read_some(rest, &mut buffer)? else { break };
        check.feed(part)?;
        head.extend_from_slice(part);
        if head.len() > LARGEST_TOC {
            return Err(Error::new(Kind::Failed, "the dump's table of contents is too large to pick a table from")
                .hint("Restore the whole database under another name and copy the table from there."));
        }
    }
    let Some(header) = check.header().cloned() else {
        return Err(match check.finish() {
            Err(e) => e,
            Ok(_) => Error::new(Kind::Bug, "a whole archive has no header"),
        });
    };
    let entries = std::mem::take(&mut *seen.lock());
    Ok(Opened { head, rest, header, entries })
}

/// The lowest `pg_restore` that reads this dump.
fn tools(header: &Header, settings: &Settings, cancel: &Cancel) -> Result<Installed> {
    let major = major_of(&header.tool_version).unwrap_or_default();
    let clients = Clients::find(&settings.client_dirs, cancel);
    clients.at_least(major, &format!("a dump made by pg_dump {}", header.tool_version)).cloned()
}

/// Runs `pg_restore` over the dump.
fn fill(
    dump: &mut Opened<'_>,
    tools: &Installed,
    prepared: &prepare::Prepared,
    settings: &Settings,
    scratch: Option<&PathBuf>,
    outcome: &mut Outcome,
    cancel: &Cancel,
) -> Result<()> {
    let connection = prepared.connection();
    let mut program = tools.tool("pg_restore")?.args(["--no-password", "--exit-on-error"]).without_output();
    program = program.arg(format!("--dbname={}", connection.dbname_argument(prepared.database())));
    if settings.mode == Mode::Clean {
        program = program.args(["--clean", "--if-exists"]);
    }
    if settings.no_owner {
        program = program.arg("--no-owner");
    }
    if settings.no_privileges {
        program = program.arg("--no-privileges");
    }
    let list = match &settings.table {
        Some(table) => Some(select::list(&dump.entries, table, prepared.session())?),
        None => None,
    };
    if let Some(list) = &list {
        program = program.arg(format!("--use-list={}", list.path()));
    }
    program = connection.configure(program)?;
    let exit = match scratch {
        Some(dir) => {
            let file = spool::spool(dump, dir, settings.size, cancel)?;
            outcome.bytes = file.bytes;
            outcome.spooled = true;
            program.arg(format!("--jobs={}", settings.jobs)).arg(file.path()).start(cancel)?.wait()
        }
        None => {
            let child = program.arg("--single-transaction").with_input().start(cancel)?;
            stream(dump, child, outcome)?
        }
    };
    let words = exit.stderr().to_owned();
    outcome.warnings.extend(words.lines().filter_map(|l| l.split_once("warning: ")).map(|(_, w)| w.to_owned()));
    exit.into_result().map_err(|e| explain(e, &words, settings))
}

/// Feeds `pg_restore`. Its last byte is held back until the dump has proved whole: without it nothing is committed.
/// A single table may be complete before that; then the rest of the dump does not matter.
fn stream(dump: &mut Opened<'_>, mut child: Child, outcome: &mut Outcome) -> Result<Exit> {
    let Some(mut input) = child.take_input() else { return Err(Error::new(Kind::Bug, "pg_restore has no input")) };
    let fed = feed(dump, &mut input, outcome);
    if let Err(e) = fed {
        // Killed before its input ends, so that the end is not taken for the dump's.
        child.stop();
        let exit = child.wait();
        return if exit.success() { Ok(exit) } else { Err(e) };
    }
    drop(input);
    Ok(child.wait())
}

fn feed(dump: &mut Opened<'_>, input: &mut Input, outcome: &mut Outcome) -> Result<()> {
    let mut from = Cursor::new(std::mem::take(&mut dump.head)).chain(&mut *dump.rest);
    let mut check = ArchiveCheck::new();
    let mut buffer = vec![0u8; BUFFER];
    let mut held: Option<u8> = None;
    while let Some(part) = read_some(&mut from, &mut buffer)? {
        outcome.bytes = outcome.bytes.saturating_add(part.len() as u64);
        check.feed(part)?;
        let before = held.take();
        let Some((last, most)) = part.split_last() else { continue };
        held = Some(*last);
        if !(hand_on(input, before.as_slice())? && hand_on(input, most)?) {
            return Ok(());
        }
    }
    check.finish()?;
    hand_on(input, held.as_slice()).map(|_| ())
}

/// `false` if the program does not read any more: it has all it wants, or failed; its exit status tells.
fn hand_on(input: &mut Input, bytes: &[u8]) -> Result<bool> {
    match input.write_all(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context(|| "feed pg_restore"),
    }
}

/// Hints for what `pg_restore` says most often.
fn explain(e: Error, words: &str, settings: &Settings) -> Error {
    let has = |text: &str| words.contains(text);
    if has("role \"") && has("does not exist") {
        return e.hint(
            "Create the roles first (globals.sql of the same snapshot has them), or restore with --no-owner and --no-privileges.",
        );
    }
    if has("already exists") && settings.mode == Mode::Existing {
        return e.hint(
            "Restore with --clean to replace what is there, or into a new database with --create and --target-database NAME.",
        );
    }
    if has("extension") && (has("is not available") || has("could not open extension control file")) {
        return e.hint("Install the extension's files on the server, then restore again.");
    }
    if has("permission denied") || has("must be owner") || has("must be superuser") {
        return e.hint("Restore as a superuser or the owner; --no-owner and --no-privileges leave out what others may not do.");
    }
    if has("unrecognized configuration parameter") {
        return e.hint("The server is older than the dump: restore into the same major version or a newer one.");
    }
    if settings.table.is_some() && has("does not exist") {
        return e.hint("The table needs something that is not in this database (a type, a function, another table): create it first, or restore the whole dump.");
    }
    e
}

/// A file without a name, for programs that want a path.
struct Unnamed(std::fs::File);

impl Unnamed {
    /// Works as long as this value lives, for processes of the same user.
    fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
