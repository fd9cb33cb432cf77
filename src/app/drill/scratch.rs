//! A place to restore into, gone afterwards.
//!
//! Each drill has a directory `strongroom-drill-<random>` of its own, readable by nobody else, in which a locked file tells that the
//! drill is alive. It is removed when the drill ends, however that is; what a killed one left behind is removed by the next.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::crypto;
use crate::error::{Context, Error, Kind, Result};

const PREFIX: &str = "strongroom-drill-";
const LOCK: &str = "lock";

/// A private directory; removed when dropped. Blocks.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Closing it tells that nobody is here any more.
    _lock: File,
}

impl Scratch {
    /// Makes one below `parent`, which is made where it is missing, and removes what killed drills left there.
    ///
    /// # Errors
    /// A parent that cannot be written.
    pub(super) fn new(parent: &Path) -> Result<Self> {
        let doing = || format!("make a scratch directory in {}", parent.display());
        fs::create_dir_all(parent).context(doing)?;
        sweep(parent);
        let mut random = [0; 8];
        crypto::random(&mut random);
        let path = parent.join(format!("{PREFIX}{}", hex::encode(random)));
        fs::DirBuilder::new().mode(0o700).create(&path).context(doing)?;
        let locked = File::create(path.join(LOCK)).context(doing).and_then(|lock| {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(std::io::Error::from).context(doing)?;
            Ok(lock)
        });
        match locked {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(e) => {
                remove(&path);
                Err(e)
            }
        }
    }

    /// A path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets another user in, into what is below and belongs to it.
    ///
    /// # Errors
    /// As `chmod`.
    pub(super) fn let_others_through(&self) -> Result<()> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o711)).context(|| format!("open {}", self.path.display()))
    }

    /// Refuses to begin what cannot end.
    ///
    /// # Errors
    /// [`Kind::Failed`] if there is less room than `needed` bytes.
    pub(super) fn check_room(&self, needed: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(std::io::Error::from)
            .context(|| format!("look for room in {}", self.path.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= needed {
            return Ok(());
        }
        let parent = self.path.parent().unwrap_or(&self.path).display();
        Err(Error::new(
            Kind::Failed,
            format!("the scratch directory {parent} has room for {free} bytes, and the restore needs about {needed}"),
        )
        .hint("Name a directory with more room in the job's `drill.scratch`, or with --scratch."))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a scratch directory; what cannot be removed is said, and tried again by the next drill.
fn remove(path: &Path) {
    // A server that just ended may still be removing files of its own.
    for _ in 0..3 {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!("{} could not be removed, trying again: {e}", path.display());
                make_removable(path);
            }
            _ => return,
        }
    }
    if path.exists() {
        tracing::error!("the scratch directory {} could not be removed: it holds restored data", path.display());
    }
}

/// Restored directories may not be writable for their owner, who then cannot remove what is in them.
fn make_removable(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let open = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700));
            if open.is_ok() {
                make_removable(&entry.path());
            }
        }
    }
}

/// Removes what drills left that were killed: theirs are the ones that nobody has locked.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        // Without a lock file it is being made or removed right now.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            tracing::info!("removing {}, which a drill that was killed left behind", entry.path().display());
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parent: &Path) -> usize {
        fs::read_dir(parent).unwrap().count()
    }

    #[test]
    fn it_is_private_and_gone_afterwards_even_with_closed_directories_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        assert_eq!(fs::metadata(scratch.join(".")).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(scratch.join("a/b")).unwrap();
        fs::write(scratch.join("a/b/c"), "x").unwrap();
        fs::set_permissions(scratch.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
        assert!(scratch.check_room(1).is_ok());
        let report = scratch.check_room(u64::MAX).unwrap_err().report();
        assert!(report.contains("drill.scratch"), "{report}");
        drop(scratch);
        assert_eq!(names(parent.path()), 0);
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Scratch::new(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::create_dir(parent.path().join("other")).unwrap();
        let second = Scratch::new(parent.path()).unwrap();
        assert!(alive.join(LOCK).exists() && !dead.exists());
        assert_eq!(names(parent.path()), 3);
        drop((alive, second));
        assert_eq!(names(parent.path()), 1);
    }
}
