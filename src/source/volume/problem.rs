//! What a walk meets that keeps it from reading everything as it was asked to.

use std::fmt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::{Dir, Found, OnChange};

/// What a problem means for the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// It was listed and is gone: what a backup a moment later would not have seen. A note.
    Gone,
    /// It changed while it was read, twice. [`OnChange`] decides.
    Changed,
    /// It may not be read, or reading failed. The snapshot is incomplete.
    Unreadable,
}

/// One of them, with the path it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: ProblemKind,
    path: PathBuf,
    text: String,
}

impl Problem {
    pub(super) fn new(kind: ProblemKind, path: PathBuf, text: impl Into<String>) -> Self {
        Self { kind, path, text: text.into() }
    }

    /// A file that changed while it was read.
    #[must_use]
    pub fn changed(dir: &Dir, found: &Found) -> Self {
        Self::new(
            ProblemKind::Changed,
            dir.path().join(found.path_name()),
            "changed while it was read; what was read last is in the snapshot",
        )
    }

    /// A file that could not be read to its end.
    #[must_use]
    pub fn unreadable(dir: &Dir, found: &Found, why: &dyn fmt::Display) -> Self {
        Self::new(ProblemKind::Unreadable, dir.path().join(found.path_name()), format!("read: {why}"))
    }

    /// A failed system call on an entry.
    pub(super) fn from_errno(dir: &Dir, found: &Found, doing: &str, errno: Errno) -> Self {
        Self::at(dir.path().join(found.path_name()), doing, errno)
    }

    pub(super) fn at(path: PathBuf, doing: &str, errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::STALE => Self::new(ProblemKind::Gone, path, "vanished before it was read"),
            // Opened for what it was listed as, and it is that no longer.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => {
                Self::new(ProblemKind::Gone, path, "was replaced by something else before it was read")
            }
            e => Self::new(ProblemKind::Unreadable, path, format!("{doing}: {}", std::io::Error::from(e))),
        }
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What it is about: an absolute path.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Whether the entry no longer exists and so does not belong in the snapshot.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.kind == ProblemKind::Gone
    }

    /// Whether the snapshot misses something it was asked for.
    #[must_use]
    pub fn makes_incomplete(&self, on_change: OnChange) -> bool {
        match self.kind {
            ProblemKind::Gone => false,
            ProblemKind::Changed => on_change == OnChange::Incomplete,
            ProblemKind::Unreadable => true,
        }
    }
}

/// `/path: what happened`, invalid UTF-8 replaced and control characters escaped.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.path.to_string_lossy().chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        write!(f, ": {}", self.text)
    }
}

impl std::error::Error for Problem {}
