//! Live counters of a backup's source.

use std::sync::atomic::AtomicU64;

/// What was met on the way, live.
#[derive(Debug, Default)]
pub struct ArchiveStats {
    /// Files that the parent did not have.
    pub files_new: AtomicU64,
    /// Files that differ from the parent's.
    pub files_changed: AtomicU64,
    /// Files that are as the parent's: of a volume taken over unread, of a base backup read and found to add nothing.
    pub files_unmodified: AtomicU64,
    /// Directories that the parent did not have.
    pub dirs_new: AtomicU64,
    /// Directories that differ from the parent's.
    pub dirs_changed: AtomicU64,
    /// Directories equal to the parent's.
    pub dirs_unmodified: AtomicU64,
    /// Bytes of all files, read or not.
    pub bytes_total: AtomicU64,
    /// Bytes read from files.
    pub bytes_read: AtomicU64,
}
