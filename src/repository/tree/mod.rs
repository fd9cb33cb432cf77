//! Tree blobs: the entries of a directory as canonical JSON, byte for byte what stock restic writes.
//!
//! Canonical, because restic's `rewrite` and `repair snapshots` encode every tree again and stop if its id differs.
//! Field order and omission follow restic's `Node`; names are quoted as by Go's `strconv.Quote` and then as JSON with
//! Go's HTML escapes; times are in UTC.

mod decode;
mod encode;
mod large;
mod printable;
mod quote;
#[cfg(test)]
mod tests;

pub(super) use decode::visit_tree_from;
pub use decode::{decode_tree, visit_tree};
pub use encode::encode_tree;
pub(super) use large::Joined;
pub use large::TreePart;

/// Go's `os.FileMode` bits that differ from `st_mode`.
mod go_mode {
    pub(super) const DIR: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const FIFO: u32 = 1 << 25;
    pub(super) const SOCKET: u32 = 1 << 24;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR_DEVICE: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
    pub(super) const IRREGULAR: u32 = 1 << 19;
}
