//! Sessions for looking at a server: connect as libpq would, ask, get errors that say what to do.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, Config, SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::endpoint::{Endpoint, Host, TargetAttrs};
use super::explain::explain;
use super::settings::{ConnectionSettings, KEEPALIVE};
use super::tls;
use crate::error::{Error, Kind, Result};
use crate::runtime::Cancel;

/// How long one question may take. They are all about catalogs.
const QUESTION: Duration = Duration::from_secs(120);

/// A server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerVersion {
    /// As the server writes it, e.g. `17.5 (Debian 17.5-1)`.
    pub text: String,
    /// As a number: major × 10000 + minor.
    pub number: u32,
}

impl ServerVersion {
    /// E.g. 17.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.number / 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Connects to the first host that lets us in and has the wanted role. The connection runs as a task of the current
/// tokio runtime until the client is dropped. Without a database in the settings it uses `postgres`, else `template1`.
///
/// # Errors
/// [`Kind::Denied`] for a refused login or certificate, [`Kind::NotFound`] for a missing database,
/// [`Kind::Unavailable`] if no host answers or none has the wanted role.
pub async fn connect(settings: &ConnectionSettings) -> Result<(Client, Endpoint)> {
    let mut passes = vec![settings.target];
    if settings.target == TargetAttrs::PreferStandby {
        passes.push(TargetAttrs::Any);
    }
    let mut last = None;
    for target in passes {
        for endpoint in &settings.endpoints {
            match connect_one(settings, endpoint, target).await {
                Ok(client) => return Ok((client, endpoint.clone())),
                Err(e) => last = Some(e.context(format!("connect to PostgreSQL at {endpoint}"))),
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Bug, "the connection settings name no host")))
}

async fn connect_one(settings: &ConnectionSettings, endpoint: &Endpoint, target: TargetAttrs) -> Result<Client> {
    let client = match settings.database() {
        Some(name) => connect_database(settings, endpoint, name).await?,
        None => match connect_database(settings, endpoint, "postgres").await {
            Err(e) if e.kind() == Kind::NotFound => connect_database(settings, endpoint, "template1").await?,
            other => other?,
        },
    };
    if target != TargetAttrs::Any {
        let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'";
        let row = client.query_one(sql, &[]).await.map_err(explain)?;
        if !target.accepts(row.get(0), row.get(1)) {
            return Err(Error::new(Kind::Unavailable, format!("the server is not {}", target.as_str()))
                .hint("Name all hosts of the cluster in the URL, or change target_session_attrs."));
        }
    }
    Ok(client)
}

async fn connect_database(settings: &ConnectionSettings, endpoint: &Endpoint, database: &str) -> Result<Client> {
    let mut config = Config::new();
    match &endpoint.host {
        Host::Tcp(name) => config.host(name),
        Host::Unix(dir) => config.host_path(dir),
    };
    if let Some(address) = endpoint.address {
        config.hostaddr(address);
    }
    config.port(endpoint.port).dbname(database).application_name(settings.application_name());
    config.connect_timeout(settings.connect_timeout());
    if let Some(user) = settings.user() {
        config.user(user);
    }
    if let Some(options) = settings.get("options") {
        config.options(options);
    }
    if let Some(password) = settings.password_for(endpoint)? {
        config.password(password.expose());
    }
    if settings.get("keepalives") == Some("0") {
        config.keepalives(false);
    }
    // During a backup nothing is said here for hours, and what stands between drops a connection that is silent for minutes.
    config.keepalives_idle(settings.seconds("keepalives_idle").unwrap_or(KEEPALIVE));
    if let Some(interval) = settings.seconds("keepalives_interval") {
        config.keepalives_interval(interval);
    }
    if let Some(count) = settings.get("keepalives_count").and_then(|count| count.parse().ok()) {
        config.keepalives_retries(count);
    }
    if let Some(milliseconds) = settings.get("tcp_user_timeout").and_then(|time| time.parse().ok()).filter(|time| *time > 0) {
        config.tcp_user_timeout(Duration::from_millis(milliseconds));
    }
    match settings.get("channel_binding") {
        Some("require") => drop(config.channel_binding(ChannelBinding::Require)),
        Some("disable") => drop(config.channel_binding(ChannelBinding::Disable)),
        _ => {}
    }
    if settings.get("sslnegotiation") == Some("direct") {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    let (first, second) = match (settings.ssl_mode(), &endpoint.host) {
        ("disable", _) | (_, Host::Unix(_)) => (SslMode::Disable, None),
        ("allow", _) => (SslMode::Disable, Some(SslMode::Require)),
        ("prefer", _) => (SslMode::Prefer, Some(SslMode::Disable)),
        _ => (SslMode::Require, None),
    };
    let client = match attempt(&config, first, settings).await {
        // The server's access rules may let us in only with, or only without, encryption.
        Err(e) => match second.filter(|_| wants_other_encryption(&e)) {
            Some(mode) => attempt(&config, mode, settings).await.map_err(explain_attempt)?,
            None => return Err(explain_attempt(e)),
        },
        Ok(client) => client,
    };
    Ok(client)
}

enum Attempt {
    Settings(Error),
    Server(tokio_postgres::Error),
    Slow,
}

async fn attempt(config: &Config, mode: SslMode, settings: &ConnectionSettings) -> Result<Client, Attempt> {
    let mut config = config.clone();
    config.ssl_mode(mode);
    let tls = MakeRustlsConnect::new(tls::config(settings).map_err(Attempt::Settings)?);
    // The library's own limit ends with the TCP connection; a server that accepts and is silent must not hold us.
    let connected = tokio::time::timeout(settings.connect_timeout(), config.connect(tls)).await;
    let (client, connection) = connected.map_err(|_| Attempt::Slow)?.map_err(Attempt::Server)?;
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %e, "a PostgreSQL connection ended");
        }
    });
    Ok(client)
}

fn wants_other_encryption(attempt: &Attempt) -> bool {
    match attempt {
        Attempt::Server(e) => match e.code() {
            Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            None => true,
        },
        Attempt::Settings(_) | Attempt::Slow => false,
    }
}

fn explain_attempt(attempt: Attempt) -> Error {
    match attempt {
        Attempt::Settings(e) => e,
        Attempt::Server(e) => explain(e),
        Attempt::Slow => Error::new(Kind::Unavailable, "the server did not answer in time")
            .hint("Check the host, the port and the network, or raise connect_timeout."),
    }
}

/// A session for blocking code: its own small runtime, nothing shared. Ended when dropped.
pub struct Session {
    client: Client,
    endpoint: Endpoint,
    version: ServerVersion,
    in_recovery: bool,
    cancel: Cancel,
    // Last: the client must go before the runtime that moves its bytes.
    runtime: tokio::runtime::Runtime,
}

impl Session {
    /// Connects. Call it from a thread that may block, not from async code.
    ///
    /// # Errors
    /// As [`connect`]; [`Kind::Cancelled`].
    pub fn open(settings: &ConnectionSettings, cancel: &Cancel) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Failed, "start a runtime for a PostgreSQL session").because(e))?;
        let (client, endpoint) = wait(&runtime, cancel, settings.connect_timeout().saturating_mul(8), connect(settings))?;
        let mut session = Self {
            client,
            endpoint,
            version: ServerVersion { text: String::new(), number: 0 },
            in_recovery: false,
            cancel: cancel.clone(),
            runtime,
        };
        let sql = "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int4, pg_catalog.pg_is_in_recovery()";
        let row = session.one(sql, &[])?;
        let number: i32 = get(&row, 1)?;
        session.version = ServerVersion { text: get(&row, 0)?, number: u32::try_from(number).unwrap_or_default() };
        session.in_recovery = get(&row, 2)?;
        Ok(session)
    }

    /// The host that answered.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> &ServerVersion {
        &self.version
    }

    /// Whether the server is a standby (or recovering).
    #[must_use]
    pub fn in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Runs a query.
    ///
    /// # Errors
    /// The server's error; [`Kind::Unavailable`] after two minutes; [`Kind::Cancelled`].
    pub fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        wait(&self.runtime, &self.cancel, QUESTION, async { self.client.query(sql, params).await.map_err(explain) })
    }

    /// Runs a query that has exactly one row.
    ///
    /// # Errors
    /// As [`Session::query`]; another number of rows.
    pub fn one(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        wait(&self.runtime, &self.cancel, QUESTION, async { self.client.query_one(sql, params).await.map_err(explain) })
    }

    /// Runs a query of somebody else's, for at most `limit`, and tells the values of its rows as text: one list a row.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn texts(&self, sql: &str, limit: Duration) -> Result<Vec<Vec<Option<String>>>> {
        let rows = wait(&self.runtime, &self.cancel, limit, async { self.client.simple_query(sql).await.map_err(explain) })?;
        let mut out = Vec::new();
        for message in rows {
            if let SimpleQueryMessage::Row(row) = message {
                out.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
            }
        }
        Ok(out)
    }

    /// [`Session::one`] for questions that take their time, such as a checkpoint: at most `limit`.
    ///
    /// # Errors
    /// As [`Session::one`]; [`Kind::Unavailable`] after `limit`.
    pub fn one_within(&self, limit: Duration, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        wait(&self.runtime, &self.cancel, limit, async { self.client.query_one(sql, params).await.map_err(explain) })
    }

    /// Runs statements without results, such as `CREATE DATABASE`, for at most `limit`.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn run(&self, sql: &str, limit: Duration) -> Result<()> {
        wait(&self.runtime, &self.cancel, limit, async { self.client.batch_execute(sql).await.map_err(explain) })
    }
}

fn wait<T>(
    runtime: &tokio::runtime::Runtime,
    cancel: &Cancel,
    limit: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    runtime.block_on(async {
        tokio::select! {
            () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "cancelled")),
            done = tokio::time::timeout(limit, work) => match done {
                Ok(result) => result,
                Err(_) => Err(Error::new(Kind::Unavailable, format!("the server did not answer within {limit:?}"))),
            },
        }
    })
}

/// A column's value.
///
/// # Errors
/// [`Kind::Bug`] if query and type do not fit.
pub fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(|e| Error::new(Kind::Bug, "a catalog query returned an unexpected type").because(e))
}

/// An SQL identifier, always quoted.
#[must_use]
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
