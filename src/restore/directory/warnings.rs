//! What this process was not allowed to set, counted instead of told file by file.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of what could not be set because this process may not, or the file system cannot. The content is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Denied {
    /// Entries that belong to the restoring user instead.
    pub owners: u64,
    /// Entries that lost setuid or setgid because they could not get their owner.
    pub setuid: u64,
    /// Entries whose mode could not be set.
    pub modes: u64,
    /// Entries whose times could not be set.
    pub times: u64,
    /// Extended attributes, ACLs and capabilities.
    pub xattrs: u64,
    /// Device files that could not be made.
    pub devices: u64,
}

impl Denied {
    /// One sentence for each kind that was met.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        [
            (self.owners, "entries belong to the restoring user, because it may not give files away"),
            (self.setuid, "entries lost their setuid or setgid bit, because they could not get their owner"),
            (self.modes, "entries kept another mode, because it may not be changed"),
            (self.times, "entries kept other times, because they may not be changed"),
            (self.xattrs, "extended attributes could not be set (not allowed, or not supported by the file system)"),
            (self.devices, "device files could not be made, because that needs more rights"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect()
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentences().join("; "))
    }
}

/// The same while it is counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) owners: AtomicU64,
    pub(super) setuid: AtomicU64,
    pub(super) modes: AtomicU64,
    pub(super) times: AtomicU64,
    pub(super) xattrs: AtomicU64,
    pub(super) devices: AtomicU64,
}

impl Counts {
    pub(super) fn sum(&self) -> Denied {
        let get = |n: &AtomicU64| n.load(Relaxed);
        Denied {
            owners: get(&self.owners),
            setuid: get(&self.setuid),
            modes: get(&self.modes),
            times: get(&self.times),
            xattrs: get(&self.xattrs),
            devices: get(&self.devices),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}
