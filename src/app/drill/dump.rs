//! A dump, restored into a scratch server that was made for it.

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::checks;
use super::report::{Check, Findings};
use super::scratch::Scratch;
use super::server::{Place, RunAs, Server};
use super::{Watch, Work};
use crate::app::restore_dump::{self, Dump};
use crate::app::stored_files::{self, StoredFile};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::clients::major_of;
use crate::postgres::{Clients, Session};
use crate::repository::Reader;
use crate::restore::database::{self, Mode, globals};
use crate::source::pg_dump::GLOBALS_FILE;

/// A database takes about this much of its uncompressed dump: rows and indexes are larger than their text.
const GROWTH: u64 = 2;
/// What an empty cluster takes.
const CLUSTER: u64 = 128 << 20;
/// A script of roles and tablespaces is short.
const GLOBALS_LIMIT: u64 = 64 << 20;

/// Restores every database of the snapshot and looks at them. Blocks.
///
/// # Errors
/// What keeps it from being restored; what can be restored and is not as it should be is in the findings.
pub(super) fn run(work: &Work, reader: &Reader, scratch: &Scratch, findings: &mut Findings) -> Result<()> {
    let root = work.snapshot.file.tree;
    let manifest = stored_files::manifest(reader, root)?;
    let files = stored_files::list(reader, root)?;
    let facts = manifest.map(|m| m.facts).unwrap_or_default();
    let globals = files.iter().find(|f| f.path == GLOBALS_FILE).cloned();
    let dumps = restore_dump::dumps(files, &facts);
    if dumps.is_empty() {
        return Err(Error::new(Kind::Corrupt, "the snapshot has no dump of a database"));
    }
    let bytes: u64 = dumps.iter().map(|d| d.file.size).sum();
    scratch.check_room(bytes.saturating_mul(GROWTH).saturating_add(CLUSTER))?;

    let of_server = facts.get("server_version").and_then(|v| v.as_str()).and_then(major_of).unwrap_or_default();
    let of_tool = facts.get("tool_version").and_then(|v| v.as_str()).and_then(major_of).unwrap_or_default();
    let programs = Clients::find(&work.drill.server_dirs, &work.cancel).server(of_server.max(of_tool), false)?.clone();
    findings.checks.push(Check::passed("server", format!("PostgreSQL {} of {}", programs.version, programs.dir.display())));

    let mut watch = Watch::start(work);
    let place = Place::new(scratch, programs, RunAs::choose(work.drill.user.as_deref())?, &work.drill.settings)?;
    place.init(&work.cancel)?;
    let mut server = place.start(&[], "postgres", &work.cancel)?;
    drop(server.session(&work.cancel, &|_| Ok(true))?);
    watch.step("server", findings);
    let looked = restore(work, reader, &place, &server, globals.as_ref(), &dumps, findings).and_then(|()| {
        watch.step("restore", findings);
        look(work, &server, &dumps, findings)
    });
    watch.step("checks", findings);
    server.stop();
    looked
}

fn restore(
    work: &Work,
    reader: &Reader,
    place: &Place,
    server: &Server,
    globals: Option<&StoredFile>,
    dumps: &[Dump],
    findings: &mut Findings,
) -> Result<()> {
    let read = Arc::new(AtomicU64::new(0));
    let dirs = vec![place.programs.dir.clone()];
    if let Some(file) = globals {
        let mut script = String::new();
        let mut content = file.open(reader, &read).take(GLOBALS_LIMIT);
        content.read_to_string(&mut script).context(|| "read globals.sql")?;
        let script = with_own_tablespaces(&script, place)?;
        let done = globals::restore(&mut Cursor::new(script), &server.connection()?, &dirs, &work.cancel);
        done.context(|| "restore roles and tablespaces")?;
        findings.checks.push(Check::passed("roles and tablespaces", "restored"));
    }
    for dump in dumps {
        let settings = database::Settings {
            // One that every cluster has already is filled as it is.
            mode: if exists(server, &dump.database, work)? { Mode::Clean } else { Mode::Create },
            target_database: Some(dump.database.clone()),
            size: Some(dump.file.size),
            no_owner: globals.is_none(),
            no_privileges: globals.is_none(),
            client_dirs: dirs.clone(),
            ..database::Settings::new(server.connection()?)
        };
        let done = database::restore(&mut dump.file.open(reader, &read), &settings, &work.cancel);
        let done = done.context(|| format!("restore the dump of {}", dump.database))?;
        findings.bytes = findings.bytes.saturating_add(done.bytes);
        findings.warnings.extend(done.warnings.iter().map(|w| format!("database {}: {w}", dump.database)));
    }
    Ok(())
}

fn exists(server: &Server, database: &str, work: &Work) -> Result<bool> {
    let session = Session::open(&server.connection()?, &work.cancel)?;
    Ok(!session.query("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &[&database])?.is_empty())
}

fn look(work: &Work, server: &Server, dumps: &[Dump], findings: &mut Findings) -> Result<()> {
    let names: Vec<String> = dumps.iter().map(|d| d.database.clone()).collect();
    checks::contents(server, &names, findings, &work.cancel)?;
    let only = match names.as_slice() {
        [one] => Some(one.as_str()),
        _ => None,
    };
    checks::assertions(server, &work.drill, only, findings, &work.cancel)?;
    if work.drill.heartbeat.is_some() {
        checks::newest_beat(server, &work.name, &names, findings, &work.cancel)?;
    }
    Ok(())
}

/// The script with tablespaces inside the scratch directory: the paths in it are those of a server that may be running here.
///
/// # Errors
/// [`Kind::Failed`] for a statement about a tablespace that is not understood.
fn with_own_tablespaces(script: &str, place: &Place) -> Result<String> {
    let mut out = String::with_capacity(script.len());
    let mut count = 0;
    for line in script.lines() {
        if let Some(statement) = before_location(line)? {
            count += 1;
            let dir = place.directory(&format!("tablespace-{count}"))?.display().to_string();
            out.push_str(&format!("{statement}'{}';", dir.replace('\'', "''")));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    Ok(out)
}

/// Of a line that creates a tablespace, what comes before the path.
fn before_location(line: &str) -> Result<Option<&str>> {
    if !line.starts_with("CREATE TABLESPACE ") {
        return Ok(None);
    }
    let end = line.ends_with("';").then(|| line.rfind(" LOCATION '")).flatten();
    match end.and_then(|at| line.get(..at + " LOCATION ".len())) {
        Some(statement) => Ok(Some(statement)),
        None => Err(Error::new(Kind::Failed, "globals.sql creates a tablespace in a way that is not understood")
            .hint("Its path may belong to a server that runs on this machine, so nothing of it is run.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_never_keeps_its_path() {
        let line = "CREATE TABLESPACE \"a LOCATION 'b\" OWNER postgres LOCATION '/srv/pg''s';";
        assert_eq!(before_location(line).unwrap(), Some("CREATE TABLESPACE \"a LOCATION 'b\" OWNER postgres LOCATION "));
        assert_eq!(before_location("CREATE ROLE a;").unwrap(), None);
        for odd in ["CREATE TABLESPACE \"a", "CREATE TABLESPACE a LOCATION '/x'", "CREATE TABLESPACE a OWNER b;"] {
            assert!(before_location(odd).is_err(), "{odd}");
        }
    }
}
