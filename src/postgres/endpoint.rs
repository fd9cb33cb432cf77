//! One address of a server, and which role the server there must have.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Where sockets lie by default, in this order: Debian and Red Hat, then PostgreSQL's own default.
const SOCKET_DIRS: &[&str] = &["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: u16 = 5432;

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host name or the directory of the Unix socket.
    pub host: Host,
    /// The IP address to use instead of looking the name up.
    pub address: Option<IpAddr>,
    /// The TCP port, or the number in the socket's name.
    pub port: u16,
}

/// How to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    pub(super) fn host_text(&self) -> String {
        match &self.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(dir) => dir.to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(dir) => write!(f, "{}/.s.PGSQL.{}", dir.display(), self.port),
        }
    }
}

/// All addresses in the order they are tried.
pub(super) fn list(params: &BTreeMap<String, String>) -> Result<Vec<Endpoint>> {
    let parts = |key: &str| params.get(key).filter(|v| !v.is_empty()).map(|v| v.split(',').collect::<Vec<_>>());
    let (hosts, addresses) = (parts("host"), parts("hostaddr"));
    let count = hosts.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if let (Some(h), Some(a)) = (&hosts, &addresses)
        && h.len() != a.len()
    {
        return Err(Error::new(Kind::Config, "host and hostaddr list a different number of hosts"));
    }
    let ports = parts("port").unwrap_or_default();
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::new(Kind::Config, "host and port list a different number of entries"));
    }
    (0..count)
        .map(|i| {
            let address = match addresses.as_ref().and_then(|a| a.get(i)).filter(|a| !a.is_empty()) {
                Some(text) => Some(
                    text.parse::<IpAddr>().map_err(|e| Error::new(Kind::Config, "hostaddr is not an IP address").because(e))?,
                ),
                None => None,
            };
            let host = match (hosts.as_ref().and_then(|h| h.get(i)).filter(|h| !h.is_empty()), address) {
                // A leading @ is Linux's abstract socket namespace, which libpq knows as well; we do not.
                (Some(h), _) if h.starts_with('/') => Host::Unix(PathBuf::from(h)),
                (Some(h), _) => Host::Tcp((*h).to_owned()),
                (None, Some(a)) => Host::Tcp(a.to_string()),
                (None, None) => default_host(),
            };
            let port = match ports.get(i).or(if ports.len() == 1 { ports.first() } else { None }).copied().unwrap_or_default() {
                "" => DEFAULT_PORT,
                text => text
                    .parse()
                    .ok()
                    .filter(|p| *p > 0)
                    .ok_or_else(|| Error::new(Kind::Config, "port is not a number from 1 to 65535"))?,
            };
            Ok(Endpoint { host, address, port })
        })
        .collect()
}

fn default_host() -> Host {
    match SOCKET_DIRS.iter().map(Path::new).find(|d| d.is_dir()) {
        Some(dir) => Host::Unix(dir.to_owned()),
        None => Host::Tcp("localhost".to_owned()),
    }
}

/// Which servers of a list will do (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAttrs {
    /// Any that lets us in.
    Any,
    /// One whose sessions can write.
    ReadWrite,
    /// One whose sessions cannot.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

impl TargetAttrs {
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "any" => Self::Any,
            "read-write" => Self::ReadWrite,
            "read-only" => Self::ReadOnly,
            "primary" => Self::Primary,
            "standby" => Self::Standby,
            "prefer-standby" => Self::PreferStandby,
            _ => {
                return Err(Error::new(Kind::Config, "target_session_attrs has an unknown value")
                    .hint("Use any, read-write, read-only, primary, standby or prefer-standby."));
            }
        })
    }

    /// As libpq writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }

    /// Whether a server in this state will do.
    pub(super) fn accepts(self, in_recovery: bool, read_only: bool) -> bool {
        match self {
            Self::Any => true,
            Self::ReadWrite => !read_only,
            Self::ReadOnly => read_only,
            Self::Primary => !in_recovery,
            Self::Standby | Self::PreferStandby => in_recovery,
        }
    }
}
