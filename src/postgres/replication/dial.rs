//! From settings to a connection that is logged in: sockets, TLS and start-up, for one host.

use std::collections::BTreeMap;
use std::sync::Arc;

use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::auth::Login;
use super::channel_binding;
use super::refusal::Refusal;
use super::wire::{Carrier, Wire, unexpected};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::endpoint::{Endpoint, Host};
use crate::postgres::settings::{ConnectionSettings, KEEPALIVE};
use crate::postgres::tls;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

/// A connection that waits for its first command, and what the server said about itself (`server_version`, …).
pub(super) struct Dialled {
    pub(super) wire: Wire,
    pub(super) parameters: BTreeMap<String, String>,
}

/// Connects to this host for physical replication.
pub(super) async fn dial(settings: &ConnectionSettings, endpoint: &Endpoint) -> Result<Dialled> {
    let (first, second) = match (settings.ssl_mode(), &endpoint.host) {
        ("disable", _) | (_, Host::Unix(_)) => (Encryption::Never, None),
        ("allow", _) => (Encryption::Never, Some(Encryption::Always)),
        ("prefer", _) => (Encryption::IfOffered, Some(Encryption::Never)),
        _ => (Encryption::Always, None),
    };
    match attempt(settings, endpoint, first).await {
        // The server's access rules may let us in only with, or only without, encryption.
        Err(e) => match second.filter(|_| wants_other_encryption(&e)) {
            Some(other) => attempt(settings, endpoint, other).await,
            None => Err(e),
        },
        done => done,
    }
}

fn wants_other_encryption(error: &Error) -> bool {
    match super::sqlstate(error) {
        Some(code) => code == "28000",
        None => Refusal::of(error).is_none() && matches!(error.kind(), Kind::Denied | Kind::Failed),
    }
}

async fn attempt(settings: &ConnectionSettings, endpoint: &Endpoint, encryption: Encryption) -> Result<Dialled> {
    match tokio::time::timeout(settings.connect_timeout(), log_in(settings, endpoint, encryption)).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(Kind::Unavailable, "the server did not answer in time")
            .hint("Check the host, the port and the network, or raise connect_timeout.")),
    }
}

async fn log_in(settings: &ConnectionSettings, endpoint: &Endpoint, encryption: Encryption) -> Result<Dialled> {
    let unreachable = |e: std::io::Error| {
        Error::new(Kind::Unavailable, "cannot connect")
            .because(e)
            .hint("Check that the server runs and that host and port are right.")
    };
    let (carrier, private, binding): (Box<dyn Carrier>, bool, Option<Vec<u8>>) = match &endpoint.host {
        Host::Unix(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", endpoint.port));
            (Box::new(UnixStream::connect(path).await.map_err(unreachable)?), true, None)
        }
        Host::Tcp(name) => {
            let socket = match endpoint.address {
                Some(address) => TcpStream::connect((address, endpoint.port)).await,
                None => TcpStream::connect((name.as_str(), endpoint.port)).await,
            };
            let mut socket = socket.map_err(unreachable)?;
            prepare(&socket, settings);
            match encryption {
                Encryption::Never => (Box::new(socket), false, None),
                _ if encrypts(&mut socket, settings, encryption).await? => {
                    let (carrier, binding) = encrypt(socket, name, settings).await?;
                    (carrier, true, binding)
                }
                _ => (Box::new(socket), false, None),
            }
        }
    };
    let user = match settings.user() {
        Some(user) => user.to_owned(),
        None => whoami::username()
            .map_err(|e| Error::new(Kind::Config, "the connection settings name no user").because(e.to_string()))?,
    };
    let mut wire = Wire::new(carrier);
    let mut parameters = vec![
        ("user", user.as_str()),
        ("replication", "true"),
        ("application_name", settings.application_name()),
        ("client_encoding", "UTF8"),
    ];
    if let Some(options) = settings.get("options") {
        parameters.push(("options", options));
    }
    frontend::startup_message(parameters, &mut wire.output)
        .map_err(|e| Error::new(Kind::Config, "the connection settings cannot be sent").because(e))?;
    wire.flush().await?;
    // A password file names replication connections by the database `replication`, as in pg_hba.conf.
    let password = match settings.with_database("replication").password_for(endpoint)? {
        Some(password) => Some(password),
        None => settings.password_for(endpoint)?,
    };
    Login { settings, user: &user, password, private, binding }.run(&mut wire).await?;
    let parameters = until_ready(&mut wire).await?;
    Ok(Dialled { wire, parameters })
}

fn prepare(socket: &TcpStream, settings: &ConnectionSettings) {
    use rustix::net::sockopt;
    let set = || -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        if settings.get("keepalives") != Some("0") {
            sockopt::set_socket_keepalive(socket, true)?;
            sockopt::set_tcp_keepidle(socket, settings.seconds("keepalives_idle").unwrap_or(KEEPALIVE))?;
            if let Some(interval) = settings.seconds("keepalives_interval") {
                sockopt::set_tcp_keepintvl(socket, interval)?;
            }
        }
        Ok(())
    };
    if let Err(e) = set() {
        tracing::debug!(error = %e, "a socket's options could not be set");
    }
}

/// Asks whether the server encrypts. Exactly one byte is read, so that nothing slipped in before encryption is believed after it.
async fn encrypts(socket: &mut TcpStream, settings: &ConnectionSettings, encryption: Encryption) -> Result<bool> {
    if settings.get("sslnegotiation") == Some("direct") {
        return Ok(true);
    }
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    let lost = |e: std::io::Error| Error::new(Kind::Unavailable, "the connection to the server was lost").because(e);
    socket.write_all(&request).await.map_err(lost)?;
    match socket.read_u8().await.map_err(lost)? {
        b'S' => Ok(true),
        b'N' if encryption == Encryption::IfOffered => Ok(false),
        b'N' => {
            Err(Error::new(Kind::Denied, format!("the server does not encrypt, and sslmode={} wants it", settings.ssl_mode()))
                .hint("Turn TLS on in the server (ssl = on), or change sslmode."))
        }
        other => Err(unexpected(other, "came in place of an answer to the request for TLS")),
    }
}

async fn encrypt(socket: TcpStream, host: &str, settings: &ConnectionSettings) -> Result<(Box<dyn Carrier>, Option<Vec<u8>>)> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|e| Error::new(Kind::Config, format!("`{host}` cannot be the name of a TLS server")).because(e))?;
    let connector = TlsConnector::from(Arc::new(tls::config(settings)?));
    let stream = connector.connect(name, socket).await.map_err(|e| {
        if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            Error::new(Kind::Denied, "error performing TLS handshake")
                .because(e)
                .hint("Check sslmode and sslrootcert in the connection settings against the server's certificate.")
        } else {
            Error::new(Kind::Unavailable, "the connection to the server was lost").because(e)
        }
    })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let binding = certificate.and_then(|c| channel_binding::of_certificate(c));
    Ok((Box::new(stream), binding))
}

async fn until_ready(wire: &mut Wire) -> Result<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    loop {
        let message = wire.receive().await?;
        match message.tag {
            b'Z' => return Ok(parameters),
            b'S' => {
                let mut parts = message.body.split(|b| *b == 0).map(|p| String::from_utf8_lossy(p).into_owned());
                if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                    parameters.insert(name, value);
                }
            }
            b'E' => return Err(super::refusal::Words::parse(&message.body).into_error()),
            b'K' | b'N' | b'v' => {}
            other => return Err(unexpected(other, "came before the server was ready")).context(|| "log in"),
        }
    }
}
