//! What a walk meets that keeps it from reading everything as it was asked to.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{Dir, Found, OnChange};

/// What a problem means for the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// It was listed and is gone: what a backup a moment later would not have seen. A note.
    Gone,
    /// It changed while it was read, twice. [`OnChange`] decides.
    Changed,
    /// It may not be read, reading failed, or it is something else by now. The snapshot is incomplete.
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
            Errno::NOENT => Self::new(ProblemKind::Gone, path, "vanished before it was read"),
            // Opened for what it was listed as, and it is that no longer.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::replaced(path),
            // A network file system lost it, or all of itself.
            Errno::STALE if !is_there(&path) => Self::new(ProblemKind::Gone, path, "vanished before it was read"),
            e => Self::new(ProblemKind::Unreadable, path, format!("{doing}: {}", std::io::Error::from(e))),
        }
    }

    /// Something that is not what was listed under its name. What is there now is missing from the snapshot, if anything is.
    pub(super) fn replaced(path: PathBuf) -> Self {
        let kind = if is_there(&path) { ProblemKind::Unreadable } else { ProblemKind::Gone };
        Self::new(kind, path, "was replaced by something else before it was read")
    }

    /// What it means.
    #[must_use]
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What it is about: an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
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

/// Whether a name is there once more, as something that is backed up. Only a clear "no" counts.
fn is_there(path: &Path) -> bool {
    match rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) != FileType::Socket,
        Err(e) => e != Errno::NOENT,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_no_longer_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (there, gone) = (dir.path().join("there"), dir.path().join("gone"));
        std::fs::write(&there, "x").unwrap();
        let socket = dir.path().join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let kind = |path: &Path, errno| Problem::at(path.to_owned(), "open", errno).kind();
        // A network file system that is stale as a whole has everything, and shows nothing.
        for errno in [Errno::STALE, Errno::LOOP, Errno::NOTDIR, Errno::NXIO] {
            assert_eq!(kind(&there, errno), ProblemKind::Unreadable, "{errno:?}");
            assert_eq!(kind(&gone, errno), ProblemKind::Gone, "{errno:?}");
        }
        assert_eq!(kind(&socket, Errno::NXIO), ProblemKind::Gone, "sockets are not backed up");
        assert_eq!(kind(&there, Errno::NOENT), ProblemKind::Gone);
        assert_eq!(kind(&gone, Errno::IO), ProblemKind::Unreadable);
    }
}
