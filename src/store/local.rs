//! A local directory as a store: keys are relative paths.
//!
//! A put writes a temporary file beside its place, syncs it, links or renames it there and syncs the directory: after a
//! crash the object is there whole or not at all. Temporary files start with [`TEMPORARY`] and are never listed.

use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::{Error, ErrorKind, Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;
use crate::runtime::Clock;

const TEMPORARY: &str = ".strongroom-tmp-";
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Objects as files below a root directory. Cloning shares it.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: Arc<PathBuf>,
    clock: Arc<dyn Clock>,
}

impl LocalStore {
    /// The root is created by the first put, not here.
    ///
    /// # Errors
    /// A relative path.
    pub fn open(root: PathBuf, clock: Arc<dyn Clock>) -> Result<Self> {
        if !root.is_absolute() {
            return Err(Error::new(ErrorKind::Invalid, format!("the store's directory {} is not an absolute path", root.display())));
        }
        Ok(Self { root: Arc::new(root), clock })
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Runs file work where it may block.
    async fn blocking<T: Send + 'static>(&self, what: String, f: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
        match tokio::task::spawn_blocking(f).await {
            Ok(done) => done.map_err(|e| classify(what, e)),
            Err(e) => Err(Error::new(ErrorKind::Other, what).because(e)),
        }
    }
}

fn classify(what: String, e: io::Error) -> Error {
    let (kind, hint) = match e.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, None),
        io::ErrorKind::AlreadyExists => (ErrorKind::AlreadyExists, None),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Denied, Some("Check the owner and mode of the store's directory.")),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (ErrorKind::Full, Some("Free space in the store, or run `strongroom prune`, then run it again: what was uploaded is used."))
        }
        _ => (ErrorKind::Other, None),
    };
    let error = Error::new(kind, what).because(e);
    match hint {
        Some(h) => error.hint(h),
        None => error,
    }
}

fn version_of(meta: &std::fs::Metadata) -> Version {
    Version(format!("{:x}-{:x}-{:x}-{:x}", meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

/// Creates a directory and syncs those above it that are new.
fn make_dirs(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dirs(parent)?;
    }
    match std::fs::DirBuilder::new().create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    dir.parent().map_or(Ok(()), sync_dir)
}

fn put(root: &Path, path: &Path, payload: &Payload, mode: &PutMode) -> io::Result<Version> {
    let dir = path.parent().unwrap_or(root);
    make_dirs(dir)?;
    let temporary = dir.join(format!("{TEMPORARY}{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let placed = write_and_place(root, &temporary, path, payload, mode);
    if placed.is_err() {
        let _removed = std::fs::remove_file(&temporary).is_ok();
    }
    let version = placed?;
    sync_dir(dir)?;
    Ok(version)
}

fn write_and_place(root: &Path, temporary: &Path, path: &Path, payload: &Payload, mode: &PutMode) -> io::Result<Version> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    for piece in &payload.0 {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    let version = version_of(&file.metadata()?);
    match mode {
        PutMode::Overwrite => std::fs::rename(temporary, path)?,
        PutMode::Create => {
            std::fs::hard_link(temporary, path)?;
            std::fs::remove_file(temporary)?;
        }
        PutMode::Update(expected) => {
            // One update at a time over all processes; the kernel drops the lock with the file.
            let guard = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(root.join(format!("{TEMPORARY}update")))?;
            guard.lock()?;
            let now = std::fs::metadata(path).map(|m| version_of(&m));
            if now.is_err() || now.is_ok_and(|v| v != *expected) {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the object is in another state"));
            }
            std::fs::rename(temporary, path)?;
        }
    }
    Ok(version)
}

fn read(path: &Path, range: Option<Range<u64>>) -> io::Result<(Vec<u8>, Version)> {
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let (from, to) = range.map_or((0, meta.len()), |r| (r.start, r.end.min(meta.len())));
    if from > to {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the range starts past the end"));
    }
    let mut bytes = vec![0; (to - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok((bytes, version_of(&meta)))
}

fn object_meta(key: Key, meta: &std::fs::Metadata) -> ObjectMeta {
    let modified = Time::new(meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0));
    ObjectMeta { key, size: meta.len(), modified, version: Some(version_of(meta)) }
}

/// Every object below `dir` whose key starts with `prefix`.
fn walk(root: &Path, dir: &Path, prefix: &str, out: &mut Vec<ObjectMeta>) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let Some(key) = path.strip_prefix(root).ok().and_then(Path::to_str) else { continue };
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if key.starts_with(prefix) || prefix.starts_with(&format!("{key}/")) {
                walk(root, &path, prefix, out)?;
            }
        } else if kind.is_file() && key.starts_with(prefix) {
            let meta = match entry.metadata() {
                // Deleted since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            if let Ok(key) = Key::new(key) {
                out.push(object_meta(key, &meta));
            }
        }
    }
    Ok(())
}

#[async_trait]
impl Store for LocalStore {
    fn location(&self) -> String {
        format!("file://{}", self.root.display())
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        let (root, path) = (self.root.clone(), self.path(key));
        let what = format!("write {}", path.display());
        let update = matches!(mode, PutMode::Update(_));
        let done = self.blocking(what.clone(), move || put(&root, &path, &payload, &mode)).await;
        done.map_err(|e| if update && e.kind() == ErrorKind::Other { Error::new(ErrorKind::Conflict, what).because(e) } else { e })
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let path = self.path(key);
        self.blocking(format!("read {}", path.display()), move || read(&path, range)).await.map(|(bytes, _)| bytes.into())
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        let path = self.path(key);
        self.blocking(format!("read {}", path.display()), move || read(&path, None)).await.map(|(bytes, v)| (bytes.into(), v))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let (path, key) = (self.path(key), key.clone());
        self.blocking(format!("look at {}", path.display()), move || std::fs::metadata(path)).await.map(|m| object_meta(key, &m))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        let remove = move || match std::fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        };
        self.blocking(format!("delete {}", self.path(key).display()), remove).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        let all = async move {
            let (root, wanted) = (self.root.clone(), prefix.to_owned());
            let list = move || {
                let start = wanted.rsplit_once('/').map_or_else(|| root.to_path_buf(), |(dir, _)| root.join(dir));
                let mut out = Vec::new();
                walk(&root, &start, &wanted, &mut out)?;
                out.sort_by(|a, b| a.key.cmp(&b.key));
                Ok(out)
            };
            let found = self.blocking(format!("list {}/{prefix}*", self.root.display()), list).await?;
            Ok(futures::stream::iter(found.into_iter().map(Ok)))
        };
        futures::stream::once(all).try_flatten().boxed()
    }

    async fn now(&self) -> Result<Time> {
        Ok(self.clock.now())
    }
}
