//! Puts and removals of the local store. Every function blocks.

use std::fs::{DirBuilder, File};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::{HASHED, Inner, TEMP, direct, hash_version, stat_version};
use crate::model::Time;
use crate::store::{Error, ErrorKind, Key, Payload, PutMode, Result, Version};

/// Leftovers of killed puts are removed after this many seconds; no put takes that long.
const LEFTOVER: f64 = 86_400.0;

/// What refers to other objects, which are removed after it: back after a power cut, it would refer to nothing. Everything
/// else may be back; removals are many, and syncing each would take long.
const SYNCED_REMOVALS: [&str; 2] = ["snapshots/", "index/"];

pub(super) fn put(s: &Inner, key: &Key, payload: &Payload, mode: &PutMode) -> Result<Version> {
    let target = s.path(key)?;
    let fail = |e: io::Error| match e.raw_os_error().map(Errno::from_raw_os_error) {
        // A missing directory is made on the way, so that "not found" here is the store itself or a race with its removal.
        Some(Errno::NOENT) => match s.missing("put", key) {
            e if e.kind() == ErrorKind::NotFound => {
                Error::new(ErrorKind::Other, format!("put {key} in {}: its directory vanished", s.location))
            }
            e => e,
        },
        _ => s.error("put", key, e),
    };
    let parent = target.parent().unwrap_or(&s.root);
    // Whoever is told so may rely on it as on an object of his own, and the put that made it may not have come to this yet.
    let exists = || match sync_dir(parent) {
        Ok(()) => Error::new(ErrorKind::AlreadyExists, format!("put {key} in {}: there is such an object", s.location)),
        Err(e) => fail(e),
    };
    let conflict = || Error::new(ErrorKind::Conflict, format!("put {key} in {}: it was changed by somebody else", s.location));
    // Looked at before the bytes are written; what decides is the rename below.
    if *mode == PutMode::Create && target.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let temp = Temp::write(s, payload).map_err(fail)?;
    let version =
        if payload.len() <= HASHED { hash_version(&payload.0) } else { stat_version(&temp.file.metadata().map_err(fail)?) };
    let publish = || match mode {
        PutMode::Create => rename_new(&temp.path, &target),
        PutMode::Overwrite => {
            let _lock = lock(s, FlockOperation::LockShared)?;
            std::fs::rename(&temp.path, &target)
        }
        PutMode::Update(_) => std::fs::rename(&temp.path, &target),
    };
    // Held until the rename is done: nobody else renames or removes between the comparison and it.
    let _lock = match mode {
        PutMode::Update(expected) => {
            let lock = lock(s, FlockOperation::LockExclusive).map_err(fail)?;
            match s.head(key) {
                Ok(found) if found.version.as_ref() == Some(expected) => Some(lock),
                Ok(_) => return Err(conflict()),
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(conflict()),
                Err(e) => return Err(e),
            }
        }
        PutMode::Create | PutMode::Overwrite => None,
    };
    let published = match publish() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_dirs(s, parent).and_then(|()| publish()),
        other => other,
    };
    match published {
        Ok(()) => {}
        Err(e) if *mode == PutMode::Create && e.kind() == io::ErrorKind::AlreadyExists => return Err(exists()),
        Err(e) => return Err(fail(e)),
    }
    temp.published();
    sync_dir(parent).map_err(fail)?;
    Ok(version)
}

pub(super) fn delete(s: &Inner, key: &Key) -> Result<()> {
    let target = s.path(key)?;
    let remove = || {
        let _lock = lock(s, FlockOperation::LockShared)?;
        std::fs::remove_file(&target)
    };
    match remove() {
        Ok(()) if SYNCED_REMOVALS.iter().any(|folder| key.as_str().starts_with(folder)) => {
            sync_dir(target.parent().unwrap_or(&s.root)).map_err(|e| s.error("delete", key, e))
        }
        Ok(()) => Ok(()),
        Err(e) => match s.error("delete", key, e) {
            // Gone already, or never there; a key below a file is not there either.
            e if e.kind() == ErrorKind::NotFound => Ok(()),
            e => match s.head(key) {
                Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            },
        },
    }
}

/// A file in `.tmp`, removed again unless it was published.
struct Temp {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temp {
    /// Writes and syncs it.
    fn write(s: &Inner, payload: &Payload) -> io::Result<Self> {
        let dir = s.root.join(TEMP);
        let temp = match Self::create(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_dirs(s, &dir)?;
                Self::create(&dir)?
            }
            other => other?,
        };
        if !s.swept.swap(true, Ordering::Relaxed) {
            sweep(&dir, &temp.file);
        }
        write_all(&temp.file, payload)?;
        // The data and the size; times are not worth a second journal entry.
        temp.file.sync_data()?;
        Ok(temp)
    }

    fn create(dir: &Path) -> io::Result<Self> {
        loop {
            // Random and not the process id: pods that share a volume are all process 1.
            let path = dir.join(format!("put-{:016x}", rand::random::<u64>()));
            match File::options().write(true).create_new(true).mode(0o600).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                opened => return Ok(Self { path, file: opened?, published: false }),
            }
        }
    }

    fn published(mut self) {
        self.published = true;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            tracing::debug!("a temporary file stays until it is a day old: {}: {e}", self.path.display());
        }
    }
}

fn write_all(mut file: &File, payload: &Payload) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = payload.0.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
    let direct = direct::write(file, &payload.0)?;
    let mut left = slices.as_mut_slice();
    IoSlice::advance_slices(&mut left, direct);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Renames unless the target exists, in one step. File systems without that flag (NFS) make a link instead.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

/// The lock between updates (exclusive) and whatever else replaces or removes objects (shared). Ends when dropped.
fn lock(s: &Inner, operation: FlockOperation) -> io::Result<Option<File>> {
    let dir = s.root.join(TEMP);
    let open = || File::options().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"));
    let file = match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if !s.root.is_dir() {
                return Err(e);
            }
            make_dirs(s, &dir)?;
            open()?
        }
        other => other?,
    };
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::INTR) => {}
            // Without locks only updates are impossible; everything else needs none unless somebody updates.
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) if operation == FlockOperation::LockShared => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Makes `dir` and what is missing above it, but never a base that must be there. Each new name is synced in its
/// parent before anything is put below it.
fn make_dirs(s: &Inner, dir: &Path) -> io::Result<()> {
    if s.base.as_deref() == Some(dir) || dir.is_dir() {
        return Ok(());
    }
    let Some(parent) = dir.parent() else {
        return Ok(());
    };
    make_dirs(s, parent)?;
    make_dir(dir)
}

/// Makes a store's root, durably. Blocks.
pub(in crate::store) fn create_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        create_root(parent)?;
    }
    make_dir(root)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync_dir(dir.parent().unwrap_or(dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some network file systems do not sync directories; they have nothing to sync.
        Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// Removes what killed puts left, by the file system's own clock: `fresh` was made just now. Ours may be wrong by days, and
/// would make leftovers of puts that are under way. Failing is not worth failing a put.
fn sweep(dir: &Path, fresh: &File) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let Ok(now) = fresh.metadata().and_then(|m| m.modified()).map(Time::from) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("put-")) {
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| now.seconds_since(t.into()) > LEFTOVER);
        if old && let Err(e) = std::fs::remove_file(entry.path()) {
            tracing::warn!("cannot remove the leftover of a killed put, {}: {e}", entry.path().display());
        }
    }
}
