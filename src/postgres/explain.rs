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
    let (kind, hint) = match db.code() {
        c if *c == SqlState::INVALID_PASSWORD || *c == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            (Kind::Denied, Some("Check user and password in the connection settings and the server's pg_hba.conf."))
        }
        c if *c == SqlState::INVALID_CATALOG_NAME => (Kind::NotFound, None),
        c if *c == SqlState::INSUFFICIENT_PRIVILEGE => (Kind::Denied, Some("Grant the role what it lacks, or use another role.")),
        c if *c == SqlState::TOO_MANY_CONNECTIONS => {
            (Kind::Unavailable, Some("Raise max_connections, or try when fewer clients are connected."))
        }
        c if *c == SqlState::CANNOT_CONNECT_NOW || c.code().starts_with("57P") || c.code().starts_with("08") => {
            (Kind::Unavailable, None)
        }
        _ => (Kind::Failed, None),
    };
    let mut text = db.message().to_owned();
    if let Some(detail) = db.detail() {
        text = format!("{text} ({detail})");
    }
    let e = Error::new(kind, text);
    match hint.or(db.hint()) {
        Some(hint) => e.hint(hint),
        None => e,
    }
}
