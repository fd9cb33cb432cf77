//! The database to restore into: found or created before, completed or removed after.

use std::time::Duration;

use super::{Mode, Opened, Outcome, Settings};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::clients::major_of;
use crate::postgres::{ConnectionSettings, Session, quote_ident};
use crate::runtime::Cancel;

/// Copying a template can take a while on a busy disk.
const CREATE: Duration = Duration::from_secs(600);
/// A text of this length may have been cut; see `TocEntry`.
const MAY_BE_CUT: usize = 64 << 10;

/// A database that is there and can be logged into.
pub(super) struct Prepared {
    connection: ConnectionSettings,
    database: String,
    session: Session,
    created: Option<Created>,
}

struct Created {
    /// A session in another database of the server.
    maintenance: Session,
    /// Statements that complete it: settings, comment, rights, owner.
    after: Vec<String>,
}

impl Prepared {
    /// To the server that answered, and that database.
    pub(super) fn connection(&self) -> &ConnectionSettings {
        &self.connection
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// A session in it.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }
}

pub(super) fn prepare(
    dump: &Opened<'_>,
    database: &str,
    settings: &Settings,
    outcome: &mut Outcome,
    cancel: &Cancel,
) -> Result<Prepared> {
    let (server, created) = if settings.mode == Mode::Create {
        let (server, created) = create(dump, database, settings, outcome, cancel)?;
        (server, Some(created))
    } else {
        (settings.server.clone(), None)
    };
    let target = server.with_database(database);
    let session = Session::open(&target, cancel).map_err(|e| {
        if e.kind() == Kind::NotFound {
            e.hint(format!("Create the database {database} first, or restore with --create."))
        } else {
            e
        }
    })?;
    let connection = target.pinned(session.endpoint());
    if session.in_recovery() {
        return Err(Error::new(Kind::Failed, format!("the server at {} is a standby", session.endpoint()))
            .hint("Restore into the primary."));
    }
    let from = major_of(&dump.header.server_version).unwrap_or_default();
    if session.version().major() < from {
        outcome.warnings.push(format!(
            "the server (PostgreSQL {}) is older than the dump's ({}): it may not understand everything",
            session.version(),
            dump.header.server_version
        ));
    }
    outcome.restored_to = session.version().text.clone();
    Ok(Prepared { connection, database: database.to_owned(), session, created })
}

fn create(
    dump: &Opened<'_>,
    database: &str,
    settings: &Settings,
    outcome: &mut Outcome,
    cancel: &Cancel,
) -> Result<(ConnectionSettings, Created)> {
    let maintenance = Session::open(&settings.server.without_database(), cancel)?;
    let doing = || format!("create database {database}");
    if !maintenance.query("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &[&database])?.is_empty() {
        return Err(Error::new(Kind::Failed, format!("database {database} exists already"))
            .hint("Restore into it with --clean, or into another with --target-database NAME, or drop it first."));
    }
    let old = dump.header.database.as_str();
    let mut create = None;
    let mut after = Vec::new();
    for entry in &dump.entries {
        if entry.sql.is_empty() {
            continue;
        }
        if entry.sql.len() >= MAY_BE_CUT {
            outcome.warnings.push(format!("the {} of the database is too long and was left out", entry.kind));
            continue;
        }
        match entry.kind.as_str() {
            "DATABASE" => {
                create = Some(renamed(&entry.sql, old, database));
                if !settings.no_owner && !entry.owner.is_empty() {
                    after.push(format!("ALTER DATABASE {} OWNER TO {}", quote_ident(database), quote_ident(&entry.owner)));
                }
            }
            "ACL" if settings.no_privileges => {}
            "DATABASE PROPERTIES" | "COMMENT" | "SECURITY LABEL" | "ACL" => after.push(renamed(&entry.sql, old, database)),
            _ => {}
        }
    }
    let create = create.unwrap_or_else(|| format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(database)));
    maintenance.run(&create, CREATE).context(doing).map_err(|e| match e.kind() {
        Kind::Denied => e.hint("Give the role CREATEDB, or create the database yourself and restore without --create."),
        _ => e.hint(
            "Create the database yourself, with a locale and tablespace that this server has, and restore without --create.",
        ),
    })?;
    let server = settings.server.pinned(maintenance.endpoint());
    Ok((server, Created { maintenance, after }))
}

/// The statements with the database's new name. Only the first name of a line is replaced, and only where the line is a
/// statement about a database, so that values are left alone.
fn renamed(sql: &str, old: &str, new: &str) -> String {
    if old == new {
        return sql.to_owned();
    }
    let quoted = quote_ident(old);
    let plain = old.to_owned();
    let starts = ["CREATE DATABASE ", "ALTER DATABASE ", "COMMENT ON DATABASE ", "GRANT ", "REVOKE ", "SECURITY LABEL "];
    let rename = |line: &str| -> Option<String> {
        starts.iter().find(|s| line.starts_with(**s))?;
        let (before, after) = line.split_once(" DATABASE ").or_else(|| line.split_once("DATABASE "))?;
        let name =
            [&quoted, &plain].into_iter().find(|n| after.strip_prefix(n.as_str()).is_some_and(|r| r.starts_with([' ', ';'])))?;
        let rest = after.strip_prefix(name.as_str())?;
        let gap = if before.is_empty() { "" } else { " " };
        Some(format!("{before}{gap}DATABASE {}{rest}", quote_ident(new)))
    };
    sql.lines().map(|line| rename(line).unwrap_or_else(|| line.to_owned())).collect::<Vec<_>>().join("\n")
}

impl Prepared {
    /// Completes a created database, or says what state a failure leaves it in.
    pub(super) fn finish(self, result: Result<()>, settings: &Settings, outcome: &mut Outcome) -> Result<()> {
        let Self { database, session, created, .. } = self;
        // A session in it would keep it from being dropped.
        drop(session);
        let Some(created) = created else {
            return result.map_err(|e| {
                let state = match (settings.jobs > 1, e.kind()) {
                    (true, _) => "it holds a part of the dump now: drop it, or restore again with --clean",
                    (false, Kind::Cancelled) => "nothing was changed in it, unless it was just being completed",
                    (false, _) => "nothing was changed in it",
                };
                e.context(format!("restore into database {database} ({state})"))
            });
        };
        match result {
            Ok(()) => {
                for statement in created.after {
                    if let Err(e) = created.maintenance.run(&statement, CREATE) {
                        outcome
                            .warnings
                            .push(format!("the data is restored, but not all settings of database {database}: {}", e.chain()));
                    }
                }
                Ok(())
            }
            Err(e) => {
                let state = match created.maintenance.run(&format!("DROP DATABASE {}", quote_ident(&database)), CREATE) {
                    Ok(()) => "it was removed again".to_owned(),
                    Err(why) => format!("it is incomplete and could not be removed: {}", why.chain()),
                };
                Err(e.context(format!("restore into the new database {database} ({state})")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_databases_name_is_replaced() {
        let sql = "CREATE DATABASE shop WITH TEMPLATE = template0 ENCODING = 'UTF8';\n";
        assert_eq!(renamed(sql, "shop", "a\"b"), "CREATE DATABASE \"a\"\"b\" WITH TEMPLATE = template0 ENCODING = 'UTF8';");
        let sql = "ALTER DATABASE \"my shop\" SET search_path TO 'shop', 'ALTER DATABASE \"my shop\" ';\nREVOKE CONNECT ON DATABASE \"my shop\" FROM PUBLIC;";
        assert_eq!(
            renamed(sql, "my shop", "new"),
            "ALTER DATABASE \"new\" SET search_path TO 'shop', 'ALTER DATABASE \"my shop\" ';\nREVOKE CONNECT ON DATABASE \"new\" FROM PUBLIC;"
        );
        assert_eq!(
            renamed("COMMENT ON DATABASE shop IS 'the\nCREATE DATABASE shops';", "shop", "x"),
            "COMMENT ON DATABASE \"x\" IS 'the\nCREATE DATABASE shops';"
        );
    }
}
