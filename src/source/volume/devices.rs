//! Numbers for file systems that stay the same over remounts, unlike `st_dev`.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use parking_lot::RwLock;

/// The volume's own file system is 1; one mounted below is named after the place where it was met first.
#[derive(Debug)]
pub(super) struct Devices {
    root: u64,
    others: RwLock<HashMap<u64, u64>>,
    /// File systems without extended attributes, so that each is asked once.
    plain: RwLock<HashSet<u64>>,
}

impl Devices {
    pub(super) fn new(root: u64) -> Self {
        Self { root, others: RwLock::default(), plain: RwLock::default() }
    }

    pub(super) fn is_root(&self, device: u64) -> bool {
        device == self.root
    }

    /// The number of the file system `device`, of which `path` is an entry.
    pub(super) fn id(&self, device: u64, path: &Path) -> u64 {
        if device == self.root {
            return 1;
        }
        if let Some(id) = self.others.read().get(&device) {
            return *id;
        }
        *self.others.write().entry(device).or_insert_with(|| {
            let hash = blake3::hash(path.as_os_str().as_bytes());
            let mut first = [0; 8];
            first.copy_from_slice(hash.as_bytes().get(..8).unwrap_or(&[0; 8]));
            // 0 is "unknown" and 1 the volume itself. Small enough for readers that take numbers as floats.
            2 + (u64::from_le_bytes(first) >> 12)
        })
    }

    pub(super) fn has_xattrs(&self, device: u64) -> bool {
        let plain = self.plain.read();
        plain.is_empty() || !plain.contains(&device)
    }

    pub(super) fn note_no_xattrs(&self, device: u64) {
        self.plain.write().insert(device);
    }
}
