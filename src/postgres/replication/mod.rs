//! A client of PostgreSQL's streaming replication protocol: WAL as it is written, and base backups without access to files.
//!
//! A [`Replication`] is one connection for physical replication. It answers one command at a time; the two that stream
//! ([`Replication::start_physical`], [`Replication::base_backup`]) borrow it until they end, and it can be used again only
//! if they came to their end. It runs no SQL. Connecting follows the same settings, TLS rules and lists of hosts as
//! [`super::connect`]. All waiting is safe to cancel: what was received in part is kept.

mod auth;
mod base_backup;
mod channel_binding;
mod commands;
mod dial;
mod refusal;
mod stream;
mod wire;

pub use base_backup::{BackupEvent, BackupStream, BaseBackupOptions, BaseTablespace, Checkpoint, ManifestChecksums, Position};
pub use commands::{HistoryFile, Replication, Slot, SystemIdentity};
pub use refusal::{Refusal, sqlstate};
pub use stream::{EndOfTimeline, PhysicalStream, WalEvent};
