//! Index files and tree packs on local disk, so that a remote repository is not read again for every run.
//!
//! Rebuildable: anything missing or damaged is read from the store. Entries keep the encryption they have in the
//! store, are named by their SHA-256 and checked when read. Bounded: when it is opened, the files longest unused are
//! removed until [`LIMIT`] holds. Several processes may share it; entries appear by rename.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use crate::crypto::sha256;
use crate::model::Id;

/// Bytes kept over all repositories of one cache directory.
const LIMIT: u64 = 1 << 30;

/// A directory of cached objects of one repository.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens (and trims) the cache below `base`. `None` if the directory cannot be used: the run goes on without.
    pub(crate) fn open(base: &Path, repository: &Id) -> Option<Self> {
        let dir = base.join(repository.to_hex());
        if let Err(e) = std::fs::create_dir_all(&dir) {
            tracing::warn!("no cache: create {}: {e}", dir.display());
            return None;
        }
        trim(base);
        Some(Self { dir })
    }

    /// An object, if it is there and whole.
    pub(crate) fn get(&self, id: &Id) -> Option<Bytes> {
        let path = self.dir.join(id.to_hex());
        let bytes = std::fs::read(&path).ok()?;
        if sha256(&bytes) == *id {
            return Some(bytes.into());
        }
        // Damaged: the next put writes it anew.
        let _removed = std::fs::remove_file(&path).is_ok();
        None
    }

    /// Keeps an object. Failing to is not an error: it will be read from the store again.
    pub(crate) fn put(&self, id: &Id, bytes: &[u8]) {
        let path = self.dir.join(id.to_hex());
        let temporary = self.dir.join(format!("{}.{}.tmp", id.to_hex(), std::process::id()));
        let kept = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, &path));
        if let Err(e) = kept {
            tracing::debug!("not cached: {}: {e}", path.display());
            let _removed = std::fs::remove_file(&temporary).is_ok();
        }
    }
}

fn trim(base: &Path) {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for repository in std::fs::read_dir(base).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(repository.path()).into_iter().flatten().flatten() {
            let Ok(meta) = file.metadata() else { continue };
            let used = meta.accessed().or_else(|_| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            files.push((used, meta.len(), file.path()));
        }
    }
    let mut total: u64 = files.iter().map(|f| f.1).sum();
    files.sort();
    for (_, len, path) in files {
        if total <= LIMIT {
            return;
        }
        if std::fs::remove_file(&path).is_ok() {
            total -= len;
        }
    }
}
