//! Plain types for everybody: names, ids, times, nodes, snapshot facts. No I/O.

mod globs;
mod id;
mod names;
mod node;
mod time;

pub use globs::Globs;
pub use id::Id;
pub use names::{Environment, JobName, Selector, TenantName};
pub use node::{Metadata, Node, NodeKind, Xattr};
pub use time::Time;
pub(crate) use time::civil_from_days;
