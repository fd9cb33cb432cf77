//! A server's and a driver's errors in our words.

use tokio_postgres::error::SqlState;

use crate::error::{Error, Kind};

/// A PostgreSQL error as one of ours: the kind from its code, the server's words, a hint.
pub(crate) fn explain(error: tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        let tls = std::error::Error::source(&error)
            .and_then(|s| s.downcast_ref::<std::io::Error>())
            .is_some_and(|e| e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
        let e = Error::new(if tls { Kind::Denied } else { Kind::Unavailable }, error.to_string());
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let e = match source {
            Some(source) => e.because(source),
            None => e,
        };
        return if tls {
            e.hint("Check sslmode and sslrootcert in the connection settings against the server's certificate.")
        } else {
            e.hint("Check that the server runs and that host and port are right.")
        };
    };
    from_server(db.code().code(), db.message(), db.detail(), db.hint())
}

/// The same from what a server says: the kind from the SQLSTATE, its words, its hint where we have none.
pub(super) fn from_server(code: &str, message: &str, detail: Option<&str>, own_hint: Option<&str>) -> Error {
    let code = SqlState::from_code(code);
    let (kind, hint) = match code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            (Kind::Denied, Some("Check user and password in the connection settings and the server's pg_hba.conf."))
        }
        SqlState::INVALID_CATALOG_NAME => (Kind::NotFound, None),
        SqlState::INSUFFICIENT_PRIVILEGE => (Kind::Denied, Some("Grant the role what it lacks, or use another role.")),
        SqlState::TOO_MANY_CONNECTIONS => {
            (Kind::Unavailable, Some("Raise max_connections, or try when fewer clients are connected."))
        }
        SqlState::CANNOT_CONNECT_NOW => (Kind::Unavailable, None),
        other if other.code().starts_with("57P") || other.code().starts_with("08") => (Kind::Unavailable, None),
        _ => (Kind::Failed, None),
    };
    let text = match detail {
        Some(detail) => format!("{message} ({detail})"),
        None => message.to_owned(),
    };
    let e = Error::new(kind, text);
    match hint.or(own_hint) {
        Some(hint) => e.hint(hint),
        None => e,
    }
}
