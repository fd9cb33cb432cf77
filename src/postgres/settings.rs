//! Where a server is and how to log in: read once, used both by our own sessions and by PostgreSQL's client tools.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::conninfo::{self, quote};
use super::endpoint::{self, Endpoint, TargetAttrs};
use super::passfile;
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::SecretText;
use crate::runtime::process::Program;

/// A server that vanished without a goodbye is noticed by the network after this silence, if not before by the protocol.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);

/// The parameters that client tools take from their environment.
const IN_ENVIRONMENT: &[(&str, &str)] = &[
    ("user", "PGUSER"),
    ("require_auth", "PGREQUIREAUTH"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("options", "PGOPTIONS"),
    ("sslmode", "PGSSLMODE"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslsni", "PGSSLSNI"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("requirepeer", "PGREQUIREPEER"),
    ("gssencmode", "PGGSSENCMODE"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("gsslib", "PGGSSLIB"),
    ("gssdelegation", "PGGSSDELEGATION"),
];

/// Those that have no variable and go into the tools' `--dbname` string. None of them is secret.
const IN_ARGUMENT: &[&str] = &["keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"];

/// Those we act on ourselves. `client_encoding` is left out on purpose: a dump is in its database's own encoding.
const OURS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "password",
    "passfile",
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "target_session_attrs",
    "load_balance_hosts",
    "client_encoding",
];

const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Connection settings of one server (or of several hosts of one cluster), as libpq defines them. The environment
/// (`PGHOST`, `PGPASSWORD`, …) is *not* consulted: in a process that serves several tenants it would belong to all.
/// Never prints the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    pub(super) params: BTreeMap<String, String>,
    password: Option<SecretText>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) target: TargetAttrs,
}

impl ConnectionSettings {
    /// Reads a libpq URL or key=value string.
    ///
    /// # Errors
    /// [`Kind::Config`] for bad syntax, unknown or unsupported keywords, bad values. No message repeats a value that could be secret.
    pub fn parse(text: &SecretText) -> Result<Self> {
        let mut params = conninfo::parse(text.expose().trim())?;
        for key in params.keys() {
            check_keyword(key)?;
        }
        if let Some(mode) = params.get("sslmode")
            && !SSL_MODES.contains(&mode.as_str())
        {
            return Err(
                Error::new(Kind::Config, "sslmode has an unknown value").hint(format!("Use one of {}.", SSL_MODES.join(", ")))
            );
        }
        let password = params.remove("password").filter(|p| !p.is_empty()).map(SecretText::new);
        let endpoints = endpoint::list(&params)?;
        let target = TargetAttrs::parse(params.get("target_session_attrs").map_or("any", String::as_str))?;
        if let Some(t) = params.get("connect_timeout")
            && t.parse::<u32>().is_err()
        {
            return Err(Error::new(Kind::Config, "connect_timeout is not a whole number of seconds"));
        }
        Ok(Self { params, password, endpoints, target })
    }

    /// A setting that is a number of seconds. Nothing for 0, which means the system's own.
    pub(super) fn seconds(&self, key: &str) -> Option<Duration> {
        self.get(key)?.parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// The same, with one more setting for the sessions there, as in `-c name=value`.
    #[must_use]
    pub fn with_option(&self, option: &str) -> Self {
        let mut other = self.clone();
        let options = other.params.entry("options".to_owned()).or_default();
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str(option);
        other
    }

    /// The database named in the settings, if any.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        self.get("dbname")
    }

    /// The same server and user, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.params.insert("dbname".to_owned(), name.to_owned());
        other
    }

    /// The same server and user, the database to be chosen ([`super::connect`]).
    #[must_use]
    pub fn without_database(&self) -> Self {
        let mut other = self.clone();
        other.params.remove("dbname");
        other
    }

    /// With this password, unless the settings hold one already.
    #[must_use]
    pub fn with_password(mut self, password: SecretText) -> Self {
        self.password.get_or_insert(password);
        self
    }

    /// Only this one of the hosts, whatever its role: what comes next talks to the server that was looked at before.
    #[must_use]
    pub fn pinned(&self, endpoint: &Endpoint) -> Self {
        Self { endpoints: vec![endpoint.clone()], target: TargetAttrs::Any, ..self.clone() }
    }

    /// Each of the hosts alone, in the order in which they are to be tried, with the role its server must have.
    #[must_use]
    pub fn hosts(&self) -> Vec<Self> {
        let passes = match self.target {
            TargetAttrs::PreferStandby => vec![TargetAttrs::Standby, TargetAttrs::Any],
            target => vec![target],
        };
        let with = |target| self.endpoints.iter().map(move |e| Self { target, ..self.pinned(e) });
        passes.into_iter().flat_map(with).collect()
    }

    /// Each of the hosts that those settings do not have, whatever its role.
    #[must_use]
    pub fn others(&self, than: &Self) -> Vec<Self> {
        self.endpoints.iter().filter(|e| !than.endpoints.contains(e)).map(|e| self.pinned(e)).collect()
    }

    /// The same hosts, of which one with this role is wanted.
    #[must_use]
    pub fn with_target(&self, target: TargetAttrs) -> Self {
        Self { target, ..self.clone() }
    }

    /// The role to log in as; without one, the name of the operating system's user.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.get("user")
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.params.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    pub(super) fn ssl_mode(&self) -> &str {
        self.get("sslmode").unwrap_or("prefer")
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        let given = self.get("connect_timeout").and_then(|t| t.parse().ok()).filter(|t| *t > 0);
        Duration::from_secs(given.unwrap_or(30))
    }

    /// The password for a host: as given, else from the password file (`passfile`, else `~/.pgpass`).
    pub(super) fn password_for(&self, endpoint: &Endpoint) -> Result<Option<SecretText>> {
        if self.password.is_some() {
            return Ok(self.password.clone());
        }
        let (path, explicit) = match (self.get("passfile"), std::env::var_os("HOME")) {
            (Some(path), _) => (PathBuf::from(path), true),
            (None, Some(home)) => (PathBuf::from(home).join(".pgpass"), false),
            (None, None) => return Ok(None),
        };
        let user = self.get("user").unwrap_or_default();
        let database = self.get("dbname").unwrap_or_default();
        passfile::look_up(&path, explicit, endpoint, database, user)
            .context(|| format!("read the password file {}", path.display()))
    }

    /// Gives a client tool everything but the database: host, user, TLS, and the password by its environment only.
    /// Its messages are made English, since some of them are recognised.
    ///
    /// # Errors
    /// An unreadable password file.
    pub fn configure(&self, mut program: Program) -> Result<Program> {
        program = program.inherit(&["PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"]).env("LC_ALL", "C");
        let joined = |part: &dyn Fn(&Endpoint) -> String| self.endpoints.iter().map(part).collect::<Vec<_>>().join(",");
        program = program.env("PGHOST", joined(&|e| e.host_text())).env("PGPORT", joined(&|e| e.port.to_string()));
        if self.endpoints.iter().any(|e| e.address.is_some()) {
            program = program.env("PGHOSTADDR", joined(&|e| e.address.map(|a| a.to_string()).unwrap_or_default()));
        }
        if self.target != TargetAttrs::Any {
            program = program.env("PGTARGETSESSIONATTRS", self.target.as_str());
        }
        program = program.env("PGAPPNAME", self.application_name());
        program = program.env("PGCONNECT_TIMEOUT", self.connect_timeout().as_secs().to_string());
        for (key, variable) in IN_ENVIRONMENT {
            if let Some(value) = self.get(key) {
                program = program.env(variable, value);
            }
        }
        let password = match self.endpoints.first() {
            Some(endpoint) => self.password_for(endpoint)?,
            None => None,
        };
        Ok(match password {
            Some(password) => program.env("PGPASSWORD", password.expose()),
            // The file was looked at already. libpq warns of one that is no plain file, not of one that cannot exist.
            None => program.env("PGPASSFILE", "/dev/null/none"),
        })
    }

    /// The argument for a tool's `--dbname`: the database, and the parameters that no variable carries. No secrets.
    #[must_use]
    pub fn dbname_argument(&self, database: &str) -> String {
        let mut text = quote("dbname", database);
        for key in IN_ARGUMENT {
            if let Some(value) = self.get(key) {
                text.push(' ');
                text.push_str(&quote(key, value));
            }
        }
        text
    }

    pub(super) fn application_name(&self) -> &str {
        self.get("application_name").or_else(|| self.get("fallback_application_name")).unwrap_or("strongroom")
    }
}

fn check_keyword(key: &str) -> Result<()> {
    let known = IN_ENVIRONMENT.iter().map(|(k, _)| *k).chain(IN_ARGUMENT.iter().copied()).chain(OURS.iter().copied());
    if known.clone().any(|k| k == key) {
        return Ok(());
    }
    let error = |what: &str| Error::new(Kind::Config, format!("the connection parameter {key} {what}"));
    Err(match key {
        "service" | "servicefile" => error("is not supported").hint("Write host, user and so on into the URL itself."),
        "sslpassword" => {
            error("is not supported").hint("Use a client key without a passphrase, in a file only this user can read.")
        }
        "replication" => error("is not supported").hint("Leave it out; it is set where it is needed."),
        _ => {
            let near = known.map(|k| (strsim::damerau_levenshtein(k, key), k)).min().filter(|(d, _)| *d <= 3);
            // A wrong key may be part of a badly encoded password, so only short plain ones are repeated.
            let plain = key.len() <= 30 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            let error = if plain { error("is unknown") } else { Error::new(Kind::Config, "a connection parameter is unknown") };
            error.hint(match near {
                Some((_, near)) => format!("Did you mean {near}?"),
                None => "See the parameter key words in PostgreSQL's documentation of libpq.".to_owned(),
            })
        }
    })
}

/// `user@host:port/database`, for messages.
impl fmt::Display for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = self.user() {
            write!(f, "{user}@")?;
        }
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if i == 0 { "" } else { "," })?;
        }
        match self.database() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConnectionSettings> {
        ConnectionSettings::parse(&SecretText::new(text.to_owned()))
    }

    #[test]
    fn passwords_never_print() {
        let s = parse("postgresql://me:hunter2@h1,h2:5433/shop?sslmode=require").unwrap();
        assert_eq!(format!("{s} {s:?}"), "me@h1:5432,h2:5433/shop me@h1:5432,h2:5433/shop");
        let tool = format!("{:?}", s.configure(Program::new("pg_dump").arg(s.dbname_argument("a'b"))).unwrap());
        assert!(!tool.contains("hunter2") && tool.contains("PGPASSWORD") && tool.contains("a\\\\'b"), "{tool}");
    }

    #[test]
    fn unknown_keywords_name_the_nearest() {
        let report = parse("host=h sslmod=require").unwrap_err().report();
        assert_eq!(report, "the connection parameter sslmod is unknown\nhint: Did you mean sslmode?");
        assert!(parse("postgresql://h/x?sslmode=sure").unwrap_err().report().contains("verify-full"));
        assert!(parse("service=x").unwrap_err().report().contains("not supported"));
        assert!(parse("host=h port=x").is_err());
        assert!(parse("host=a,b,c port=1,2").is_err());
    }

    #[test]
    fn an_option_is_added_to_those_there_are() {
        let s = parse("host=h").unwrap().with_option("-c a=1");
        assert_eq!(s.with_option("-c b=2").get("options"), Some("-c a=1 -c b=2"));
        let s = parse("host=h keepalives_idle=0 keepalives_interval=7").unwrap();
        assert_eq!((s.seconds("keepalives_idle"), s.seconds("keepalives_interval")), (None, Some(Duration::from_secs(7))));
    }

    #[test]
    fn pinning_keeps_one_host() {
        let s = parse("host=a,b port=1,2 target_session_attrs=primary").unwrap();
        let endpoint = s.endpoints.get(1).unwrap().clone();
        assert_eq!(s.pinned(&endpoint).to_string(), "b:2");
        assert_eq!(s.pinned(&endpoint).with_database("x").database(), Some("x"));
        let shown = |l: Vec<ConnectionSettings>| l.iter().map(|s| format!("{s} {}", s.target.as_str())).collect::<Vec<_>>();
        assert_eq!(shown(s.hosts()), ["a:1 primary", "b:2 primary"]);
        assert_eq!(shown(s.others(&s.pinned(&endpoint))), ["a:1 any"]);
        let prefer = parse("host=a,b target_session_attrs=prefer-standby").unwrap();
        assert_eq!(shown(prefer.hosts()), ["a:5432 standby", "b:5432 standby", "a:5432 any", "b:5432 any"]);
    }
}
