//! Plain types for everybody: names, ids, times, nodes, snapshot facts. No I/O.

mod base;
mod globs;
mod id;
mod moment;
mod names;
mod node;
mod system;
mod time;
mod wal;

pub use base::{BadPage, BaseBackup, TABLESPACES, Tablespace};
pub use globs::Globs;
pub use id::Id;
pub use moment::moment;
pub use names::{Environment, JobName, Selector, TenantName};
pub use node::{Metadata, Node, NodeKind, Xattr};
pub use system::SystemId;
pub use time::Time;
pub(crate) use time::civil_from_days;
pub use wal::{Ancestor, Lsn, SegmentName, SegmentSize, Timeline, TimelineHistory, WalFile};
