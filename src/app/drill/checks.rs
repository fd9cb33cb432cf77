//! What is looked at in a restored PostgreSQL server.

use std::time::Duration;

use super::report::{Check, Findings};
use super::server::Server;
use crate::app::heartbeat;
use crate::config::settings::{Assertion, Drill};
use crate::error::{Error, Kind, Result};
use crate::model::Time;
use crate::postgres::catalog::{self, Database};
use crate::postgres::{Session, get};
use crate::runtime::Cancel;

/// How long one assertion may take.
const ASSERTION: Duration = Duration::from_secs(3600);

/// The databases that were restored, and can be looked into.
pub(super) fn databases(server: &Server, cancel: &Cancel) -> Result<Vec<String>> {
    let session = Session::open(&server.connection()?, cancel)?;
    let real = |d: &Database| !d.template && d.connectable && !d.invalid;
    Ok(catalog::databases(&session)?.into_iter().filter(real).map(|d| d.name).collect())
}

/// Counts what is in each database: it can be read, and how much there is.
pub(super) fn contents(server: &Server, databases: &[String], findings: &mut Findings, cancel: &Cancel) -> Result<()> {
    for name in databases {
        let check = format!("database {name}");
        match content(server, name, cancel) {
            Ok((tables, bytes)) => findings.checks.push(Check::passed(check, format!("{tables} tables, {bytes} bytes"))),
            Err(e) if e.kind() == Kind::Cancelled => return Err(e),
            Err(e) => findings.checks.push(Check::failed(check, e.chain())),
        }
    }
    Ok(())
}

fn content(server: &Server, database: &str, cancel: &Cancel) -> Result<(i64, i64)> {
    let session = Session::open(&server.connection()?.with_database(database), cancel)?;
    let row = session.one(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'),
                pg_catalog.pg_database_size(pg_catalog.current_database())",
        &[],
    )?;
    Ok((get(&row, 0)?, get(&row, 1)?))
}

/// The user's own questions. `fallback` is where they are asked that name no database.
pub(super) fn assertions(
    server: &Server,
    drill: &Drill,
    fallback: Option<&str>,
    findings: &mut Findings,
    cancel: &Cancel,
) -> Result<()> {
    for (i, assertion) in drill.assertions.iter().enumerate() {
        let name = format!("assertion {}", i + 1);
        let check = match ask(server, assertion, fallback, cancel) {
            Ok(()) => Check::passed(name, assertion.sql.clone()),
            Err(e) if e.kind() == Kind::Cancelled => return Err(e),
            Err(e) => Check::failed(name, format!("{}: {}", assertion.sql, e.chain())),
        };
        findings.checks.push(check);
    }
    Ok(())
}

fn ask(server: &Server, assertion: &Assertion, fallback: Option<&str>, cancel: &Cancel) -> Result<()> {
    let Some(database) = assertion.database.as_deref().or(fallback) else {
        return Err(Error::new(Kind::Config, "it names no database, and the backup has several"));
    };
    let session = Session::open(&server.connection()?.with_database(database), cancel)?;
    match session.texts(&assertion.sql, ASSERTION)?.as_slice() {
        [row] => match row.as_slice() {
            [Some(value)] if value == "t" => Ok(()),
            [Some(value)] => Err(Error::new(Kind::Failed, format!("it returned {value:?} and not true"))),
            [None] => Err(Error::new(Kind::Failed, "it returned NULL and not true")),
            columns => Err(Error::new(Kind::Failed, format!("it returned {} columns and not one", columns.len()))),
        },
        rows => Err(Error::new(Kind::Failed, format!("it returned {} rows and not one", rows.len()))),
    }
}

/// The newest heartbeat row of this job in any of the databases.
pub(super) fn newest_beat(
    server: &Server,
    name: &str,
    databases: &[String],
    findings: &mut Findings,
    cancel: &Cancel,
) -> Result<()> {
    let mut newest: Option<Time> = None;
    for database in databases {
        let session = Session::open(&server.connection()?.with_database(database), cancel)?;
        newest = newest.max(heartbeat::read(&session, name)?);
    }
    if newest.is_none() {
        findings.warnings.push("a heartbeat is configured, and the restored databases hold no row of it".to_owned());
    }
    findings.heartbeat = newest;
    Ok(())
}
