//! PostgreSQL from a client's side: connection settings, sessions, versions, the installed client tools, and the
//! format of its dump archives. No room above it talks to a server in any other way.

pub mod archive;
pub mod catalog;
pub mod clients;
mod conninfo;
mod endpoint;
mod explain;
mod passfile;
mod session;
mod settings;
mod tls;

pub use clients::Clients;
pub(crate) use explain::explain;
pub use endpoint::{Endpoint, TargetAttrs};
pub use session::{ServerVersion, Session, connect, get, quote_ident};
pub use settings::ConnectionSettings;
