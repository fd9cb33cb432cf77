//! Logical backups: `pg_dump`'s custom format, one file a database, straight from the program into the repository.
//!
//! - **Order**: look at the server, choose a `pg_dump` that is not older, find out what the role may not read in *any* of
//!   the databases, and only then dump the first: globals, then the databases by name.
//! - **Truth**: a file is committed when the program ended with status 0 *and* the archive it wrote is whole
//!   ([`crate::postgres::archive`]). One failure fails the run, which leaves no snapshot.
//! - **Consistency**: each database is dumped in one transaction of its own; databases are not consistent with each other.
//! - **Files**: `globals.sql` and `databases/<name>.dump`; `%`, `/` and control characters of a name are written as `%25`, `%2F`, ….
//!   Uncompressed inside, so that the dumps of two days share their unchanged parts.

mod dump;
mod globals;
mod preflight;

pub use globals::FILE as GLOBALS_FILE;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Report, Sink, Streams};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::catalog::{self, Database};
use crate::postgres::clients::Installed;
use crate::postgres::{Clients, ConnectionSettings, Session};
use crate::runtime::{Cancel, Clock, Secret};

/// What to dump, from where, how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A libpq URL or key=value string. Read at each run.
    pub url: Secret,
    /// The password, where the URL holds none.
    pub password: Option<Secret>,
    /// Which databases.
    pub databases: Databases,
    /// Names and patterns of databases to leave out.
    pub exclude: Vec<String>,
    /// Whether roles and tablespaces are dumped too, into `globals.sql`.
    pub globals: bool,
    /// How long `pg_dump` waits for a table's lock before the attempt fails.
    pub lock_timeout: Duration,
    /// How often a database is tried again after a lock timeout or a conflict with a standby's recovery.
    pub retries: u32,
    /// How long to wait before the first retry; doubled each time, at most 5 minutes.
    pub retry_wait: Duration,
    /// Further arguments for `pg_dump`, such as `--exclude-table-data=public.log`. See [`check_arguments`].
    pub arguments: Vec<String>,
    /// Where to look for client tools; if empty, in the usual places ([`Clients::find`]).
    pub client_dirs: Vec<PathBuf>,
}

/// Which databases of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Databases {
    /// The one the URL names; all, if it names none.
    OfUrl,
    /// All that can be connected to, but for templates.
    All,
    /// These names and patterns (`*`, `?`). Each must fit at least one database.
    Patterns(Vec<String>),
}

impl Settings {
    /// The database of this URL with its globals; one minute for locks, three retries.
    #[must_use]
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            password: None,
            databases: Databases::OfUrl,
            exclude: Vec::new(),
            globals: true,
            lock_timeout: Duration::from_secs(60),
            retries: 3,
            retry_wait: Duration::from_secs(10),
            arguments: Vec::new(),
            client_dirs: Vec::new(),
        }
    }
}

/// Refuses arguments that would take the dump out of our hands: where it goes, its format, whom it talks to.
///
/// # Errors
/// [`Kind::Config`], naming the argument.
pub fn check_arguments(arguments: &[String]) -> Result<()> {
    const LONG: &[&str] = &[
        "file",
        "format",
        "jobs",
        "dbname",
        "host",
        "port",
        "username",
        "password",
        "no-password",
        "role-password",
        "lock-wait-timeout",
        "help",
        "version",
        "compress",
        "verbose",
    ];
    const SHORT: &[char] = &['f', 'F', 'j', 'd', 'h', 'p', 'U', 'W', 'w', 'V', '?', 'Z', 'v'];
    for argument in arguments {
        let name = argument.split('=').next().unwrap_or_default();
        let refused = match (name.strip_prefix("--"), argument.strip_prefix('-')) {
            // pg_dump accepts abbreviations, which would slip by.
            (Some(long), _) => long.is_empty() || LONG.iter().any(|l| l.starts_with(long)),
            (None, Some(short)) => short.chars().next().is_none_or(|c| SHORT.contains(&c)),
            (None, None) => true,
        };
        if refused {
            return Err(Error::new(Kind::Config, format!("the pg_dump argument {name} is not allowed"))
                .hint("Write options in one piece, such as --exclude-table=public.log; connection, format and output are set by the job."));
        }
    }
    Ok(())
}

/// The file a database is dumped to.
#[must_use]
pub fn file_name(database: &str) -> String {
    let mut name = String::from("databases/");
    for c in database.chars() {
        if c == '/' || c == '%' || c.is_ascii_control() {
            name.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            name.push(c);
        }
    }
    name.push_str(".dump");
    name
}

/// The source.
pub struct PgDump {
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl PgDump {
    /// Not connected yet.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock }
    }
}

/// A server that was looked at, and the tools that fit it.
struct Server {
    connection: ConnectionSettings,
    session: Session,
    tools: Installed,
    databases: Vec<Database>,
    /// A database to log into for what concerns the whole server.
    maintenance: String,
}

impl Streams for PgDump {
    fn run(&mut self, sink: &mut dyn Sink, cancel: &Cancel) -> Result<Report> {
        check_arguments(&self.settings.arguments)?;
        let server = self.look(cancel)?;
        let mut report = Report::default();
        preflight::check(&server, &self.settings, &mut report, cancel)?;
        let mut facts = server_facts(&server)?;
        if self.settings.globals {
            facts.insert("globals".to_owned(), globals::dump(&server, sink, &mut report, cancel)?);
        }
        let Server { connection, session, tools, databases, .. } = server;
        let in_recovery = session.in_recovery();
        // A dump may take hours; no session of ours should sit idle through it.
        drop(session);
        let dumper =
            dump::Dumper { connection: &connection, tools: &tools, settings: &self.settings, clock: &*self.clock, in_recovery };
        let mut dumped = Vec::with_capacity(databases.len());
        for database in &databases {
            dumped.push(dumper.dump(database, sink, &mut report, cancel).context(|| format!("dump database {}", database.name))?);
        }
        facts.insert("databases".to_owned(), Value::Array(dumped));
        report.facts = facts;
        Ok(report)
    }
}

impl PgDump {
    /// Connects, chooses databases and tools.
    fn look(&self, cancel: &Cancel) -> Result<Server> {
        let s = &self.settings;
        let mut connection = ConnectionSettings::parse(&s.url.read()?)?;
        if let Some(password) = &s.password {
            connection = connection.with_password(password.read()?);
        }
        let session = Session::open(&connection, cancel)?;
        let tools = Clients::find(&s.client_dirs, cancel)
            .at_least(session.version().major(), &format!("the server (PostgreSQL {})", session.version()))?
            .clone();
        let all = catalog::databases(&session)?;
        let of_url = connection.database().map(|d| vec![d.to_owned()]);
        let wanted = match &s.databases {
            Databases::All => None,
            Databases::OfUrl => of_url,
            Databases::Patterns(patterns) => Some(patterns.clone()),
        };
        let mut databases: Vec<Database> = catalog::choose(&all, wanted.as_deref(), &s.exclude)?.into_iter().cloned().collect();
        if let (Databases::OfUrl, Some(name)) = (&s.databases, connection.database()) {
            // It is taken by its name alone, even if that looks like a pattern.
            databases.retain(|d| d.name == name);
        }
        // pg_dumpall would read a name with = in it as a connection string.
        let usable = |d: &&Database| d.permitted && d.connectable && !d.name.contains('=') && !d.name.contains("://");
        let maintenance = all.iter().filter(usable).find(|d| d.name == "postgres").or_else(|| all.iter().find(usable));
        let maintenance = maintenance.map_or_else(|| "postgres".to_owned(), |d| d.name.clone());
        let connection = connection.pinned(session.endpoint());
        Ok(Server { connection, session, tools, databases, maintenance })
    }
}

fn server_facts(server: &Server) -> Result<Map<String, Value>> {
    let version = server.session.version();
    let identifier = catalog::system_identifier(&server.session)?;
    let mut facts = Map::new();
    facts.insert("server".to_owned(), json!(server.session.endpoint().to_string()));
    facts.insert("server_version".to_owned(), json!(version.text));
    facts.insert("server_version_num".to_owned(), json!(version.number));
    // As text: it does not fit the numbers of JavaScript.
    facts.insert("system_identifier".to_owned(), json!(identifier.map(|i| i.to_string())));
    facts.insert("standby".to_owned(), json!(server.session.in_recovery()));
    facts.insert("tool_version".to_owned(), json!(server.tools.version));
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_become_file_names() {
        assert_eq!(file_name("shop"), "databases/shop.dump");
        assert_eq!(file_name("a/b%c\nd \"é"), "databases/a%2Fb%25c%0Ad \"é.dump");
        assert_eq!(file_name(".."), "databases/...dump");
    }

    #[test]
    fn arguments_that_redirect_the_dump_are_refused() {
        let check = |a: &str| check_arguments(&[a.to_owned()]);
        for bad in ["--file=x", "-fx", "--fil=x", "--host=h", "-Z9", "--", "-", "public.t", "--dbname=postgresql://h"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for good in ["--exclude-table=public.log", "--no-comments", "-Tpublic.log", "--no-publications"] {
            check(good).unwrap();
        }
    }
}
