//! What a volume job is told.

use std::path::PathBuf;

use super::hooks::Hooks;

/// What a file that changed while it was read, twice in a row, makes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnChange {
    /// A counted warning.
    #[default]
    Warn,
    /// The snapshot is incomplete.
    Incomplete,
}

/// Settings of a volume source. Globs are described at [`crate::model::Globs`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The directory to back up: absolute, without `..`.
    pub path: PathBuf,
    /// What is left out, with everything below it.
    pub exclude: Vec<String>,
    /// If not empty, only what matches (with everything below it) is kept, and the directories on the way there.
    pub include: Vec<String>,
    /// Of a directory with a valid `CACHEDIR.TAG`, keep the tag only.
    pub exclude_caches: bool,
    /// Leave out what is mounted below; the mount point itself is kept, empty.
    pub one_file_system: bool,
    /// Record access times. Each read of a file then makes its directory's tree new.
    pub with_atime: bool,
    /// See [`OnChange`].
    pub on_change: OnChange,
    /// Record a near-empty volume although the last snapshot was large.
    pub allow_empty: bool,
    /// Commands before and after.
    pub hooks: Hooks,
}
