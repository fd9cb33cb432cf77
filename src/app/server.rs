//! A look at the server behind a `pg_dump` job, without dumping anything.

use crate::error::Result;
use crate::postgres::catalog::{self, Database};
use crate::postgres::{Clients, ConnectionSettings, Session};
use crate::runtime::Cancel;
use crate::source::pg_dump::{Databases, Settings};

/// What a server told.
pub(super) struct Server {
    /// What tells it from others: the system identifier, or host and port where this role may not know it.
    pub(super) identity: String,
    /// E.g. `17.5`.
    pub(super) version: String,
    /// All databases.
    pub(super) databases: Vec<Database>,
    /// Names of those the job dumps, or why it cannot.
    pub(super) chosen: Result<Vec<String>>,
    /// The client tools that fit, or why none do.
    pub(super) tools: Result<String>,
}

/// Connects and asks. Blocks.
///
/// # Errors
/// A secret that cannot be read, a connection that cannot be made.
pub(super) fn look(settings: &Settings, cancel: &Cancel) -> Result<Server> {
    let mut connection = ConnectionSettings::parse(&settings.url.read()?)?;
    if let Some(password) = &settings.password {
        connection = connection.with_password(password.read()?);
    }
    let session = Session::open(&connection, cancel)?;
    let databases = catalog::databases(&session)?;
    let of_url = connection.database().map(|d| vec![d.to_owned()]);
    let wanted = match &settings.databases {
        Databases::OfUrl => of_url,
        Databases::All => None,
        Databases::Patterns(p) => Some(p.clone()),
    };
    let chosen =
        catalog::choose(&databases, wanted.as_deref(), &settings.exclude).map(|c| c.iter().map(|d| d.name.clone()).collect());
    let (major, what) = (session.version().major(), format!("the server (PostgreSQL {})", session.version().text));
    let clients = Clients::find(&settings.client_dirs, cancel);
    let tools = clients.at_least(major, &what).map(|i| format!("{} in {}", i.version, i.dir.display()));
    let identity = match catalog::system_identifier(&session)? {
        Some(id) => id.to_string(),
        None => format!("{:?}", session.endpoint()),
    };
    Ok(Server { identity, version: session.version().text.clone(), databases, chosen, tools })
}
