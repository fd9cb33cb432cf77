//! PostgreSQL from a client's side: connection settings, sessions, replication, versions, the installed client tools, and
//! the formats of its dump archives and of the files of its data directory. No room above it talks to a server in any
//! other way.

pub mod archive;
mod bytes;
pub mod catalog;
pub mod clients;
pub mod commits;
mod conninfo;
pub mod control;
mod crc32c;
mod endpoint;
mod explain;
pub mod page;
mod passfile;
pub mod recovery;
pub mod replication;
mod session;
mod settings;
mod slots;
mod tls;
pub mod wal_header;

pub use clients::Clients;
pub use control::Control;
pub use crc32c::{Crc32c, crc32c};
pub use endpoint::{Endpoint, TargetAttrs};
pub(crate) use explain::explain;
pub use replication::Replication;
pub use session::{ServerVersion, Session, connect, get, quote_ident};
pub use settings::ConnectionSettings;
pub use slots::{SlotCare, keep_physical_slot};
pub use wal_header::WalHeader;
