//! A directory as a store: the embedded default, which needs no server.
//!
//! An object is a file of the same name (mode 0600, directories 0700). A put writes a temporary file in `.tmp/` below
//! the root, syncs it, renames it into place (with "do not replace" for creates) and syncs the directory: a reader sees
//! all or nothing, and what was acknowledged survives a power cut. Removals of snapshots and index files are
//! synced, too, because what they refer to is removed after them; after a power cut any other removed object may be back, whole.
//!
//! **Updates** compare and rename under an exclusive `flock` on `.tmp/lock`; overwrites and removals take it shared for
//! the moment of the rename. So they are correct between processes, also over NFS where the server does locks.
//! **Versions**: of objects up to 1 MiB the hash of their content (so an object that was changed and changed back is the
//! same version again), of larger ones inode, time and size.
//!
//! **What leaks**: a put that is killed leaves its temporary file. The first put of a later process removes those older
//! than a day. `.tmp` is never listed and cannot be part of a key.
//!
//! One more limit than the trait's: a key cannot be the directory of another one (`a` and `a/b`), and a segment has at
//! most 255 bytes.

mod direct;
mod list;
mod write;

pub(super) use write::create_root;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use rustix::io::Errno;

use super::{Error, ErrorKind, Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;
use crate::runtime::Clock;

/// Where temporary files and the lock are, below the root.
const TEMP: &str = ".tmp";
/// Objects up to this size have their content's hash as version.
const HASHED: u64 = 1 << 20;

/// A local directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Must be there for any answer, and is never made here; `None` where a missing root is an empty store.
    base: Option<PathBuf>,
    /// `base` and the prefix; made by the first put.
    root: PathBuf,
    location: String,
    clock: Arc<dyn Clock>,
    /// Whether leftovers of killed puts were looked for.
    swept: AtomicBool,
}

impl LocalStore {
    /// A directory that the first put makes; until then it is an empty store. For places where a missing directory
    /// cannot be a disk that was not mounted; else [`LocalStore::below`].
    ///
    /// # Errors
    /// A relative path.
    pub fn open(root: PathBuf, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::new(None, root, clock)
    }

    /// The place `prefix` (may be empty) below `base`. Every operation fails with [`ErrorKind::NoSuchStore`] while `base`
    /// does not exist; what is between `base` and an object is made by puts.
    ///
    /// # Errors
    /// A relative path, a prefix that is no [`Key`].
    pub fn below(base: PathBuf, prefix: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let root = if prefix.is_empty() { base.clone() } else { base.join(Key::new(prefix)?.as_str()) };
        Self::new(Some(base), root, clock)
    }

    fn new(base: Option<PathBuf>, root: PathBuf, clock: Arc<dyn Clock>) -> Result<Self> {
        if !root.is_absolute() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the store's directory {} is not an absolute path", root.display()),
            ));
        }
        let location = format!("file://{}", root.display());
        Ok(Self(Arc::new(Inner { base, root, location, clock, swept: AtomicBool::new(false) })))
    }

    /// Runs file work where it may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|e| Error::new(ErrorKind::Other, "a thread of the local store ended").because(e))?
    }
}

#[async_trait]
impl Store for LocalStore {
    fn location(&self) -> String {
        self.0.location.clone()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        let key = key.clone();
        self.blocking(move |s| write::put(s, &key, &payload, &mode)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let key = key.clone();
        self.blocking(move |s| s.read(&key, range)).await
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        let key = key.clone();
        let read = move |s: &Inner| {
            let (file, meta) = s.open(&key)?;
            let bytes = s.read_at(&key, &file, 0..meta.len())?;
            let version = if meta.len() <= HASHED { hash_version(std::slice::from_ref(&bytes)) } else { stat_version(&meta) };
            Ok((bytes, version))
        };
        self.blocking(read).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let key = key.clone();
        self.blocking(move |s| s.head(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |s| write::delete(s, &key)).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        list::list(&self.0, prefix)
    }

    async fn now(&self) -> Result<Time> {
        Ok(self.0.clock.now())
    }
}

impl Inner {
    fn path(&self, key: &Key) -> Result<PathBuf> {
        if key.as_str().split('/').any(|segment| segment == TEMP) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("`{key}` cannot be a key of {}: `{TEMP}` is reserved", self.location),
            ));
        }
        Ok(self.root.join(key.as_str()))
    }

    /// Opens an object's file; a directory is no object.
    fn open(&self, key: &Key) -> Result<(File, std::fs::Metadata)> {
        let opened = File::open(self.path(key)?).and_then(|f| f.metadata().map(|m| (f, m)));
        match opened {
            Ok((file, meta)) if meta.is_file() => Ok((file, meta)),
            Ok(_) => Err(self.missing("read", key)),
            Err(e) => Err(self.error("read", key, e)),
        }
    }

    fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let (file, meta) = self.open(key)?;
        let version = self.version(key, &file, &meta)?;
        let modified = meta.modified().map_or(Time::default(), Time::from);
        Ok(ObjectMeta { key: key.clone(), size: meta.len(), modified, version: Some(version) })
    }

    fn version(&self, key: &Key, file: &File, meta: &std::fs::Metadata) -> Result<Version> {
        if meta.len() > HASHED {
            return Ok(stat_version(meta));
        }
        Ok(hash_version(&[self.read_at(key, file, 0..meta.len())?]))
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let (file, meta) = self.open(key)?;
        let range = super::clamp_range(key, range, meta.len())?;
        self.read_at(key, &file, range)
    }

    /// Reads a range that lies inside the file; less is an error.
    fn read_at(&self, key: &Key, file: &File, range: Range<u64>) -> Result<Bytes> {
        let wanted = usize::try_from(range.end - range.start)
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("{key} is too large to be read at once")).because(e))?;
        if let Some(read) = direct::read(file, &range) {
            return Ok(read);
        }
        let mut out = Vec::with_capacity(wanted);
        while out.len() < wanted {
            // Straight into the unused capacity: no zeroing first. The capacity may be a little larger than asked for.
            let at = range.start + out.len() as u64;
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut out), at) {
                Ok(0) => return Err(self.error("read", key, io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(self.error("read", key, e.into())),
            }
        }
        out.truncate(wanted);
        Ok(Bytes::from(out))
    }

    fn missing(&self, doing: &str, key: &Key) -> Error {
        // "Not found" must mean that the store was there to be asked.
        match self.present() {
            Ok(()) => Error::new(ErrorKind::NotFound, format!("{doing} {key}: there is no such object in {}", self.location)),
            Err(e) => e,
        }
    }

    /// Fails unless there is a store at all.
    fn present(&self) -> Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let cause = match std::fs::metadata(base) {
            Ok(m) if m.is_dir() => return Ok(()),
            Ok(_) => io::ErrorKind::NotADirectory.into(),
            Err(e) => e,
        };
        let (kind, what) = match cause.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => (ErrorKind::NoSuchStore, "does not exist"),
            io::ErrorKind::PermissionDenied => (ErrorKind::Denied, "cannot be reached"),
            _ => (ErrorKind::Unavailable, "cannot be reached"),
        };
        Err(Error::new(kind, format!("the directory {} {what}", base.display()))
            .because(cause)
            .hint("Check the path, its permissions and whether its disk is mounted; `strongroom init` creates a new directory."))
    }

    /// Says what a failed system call means for a caller.
    fn error(&self, doing: &str, key: &Key, cause: io::Error) -> Error {
        let errno = cause.raw_os_error().map(Errno::from_raw_os_error);
        let what = format!("{doing} {key} in {}", self.location);
        let (kind, hint) = match errno {
            // A file where a directory would have to be: below it there is nothing.
            Some(Errno::NOENT) => return self.missing(doing, key),
            Some(Errno::NOTDIR) if doing == "read" => return self.missing(doing, key),
            Some(Errno::NOSPC) => (ErrorKind::Full, "The disk is full (space or inodes): make room, or prune with less kept."),
            Some(Errno::DQUOT) => (ErrorKind::Full, "The disk quota of this user is used up."),
            Some(Errno::FBIG) => (ErrorKind::Full, "The file size limit of this process or file system was reached (ulimit -f)."),
            Some(Errno::ACCESS | Errno::PERM) => (
                ErrorKind::Denied,
                "The user that runs this program needs read and write permission on the directory and all below.",
            ),
            Some(Errno::ROFS) => (ErrorKind::Denied, "The file system is mounted read-only."),
            Some(Errno::NAMETOOLONG | Errno::ISDIR | Errno::NOTDIR) => {
                (ErrorKind::Invalid, "A local directory cannot hold an object of this name beside those it has.")
            }
            Some(Errno::MFILE | Errno::NFILE | Errno::STALE | Errno::TIMEDOUT | Errno::NOTCONN | Errno::AGAIN | Errno::NOMEM) => {
                return Error::new(ErrorKind::Unavailable, what).because(cause);
            }
            _ => return Error::new(ErrorKind::Other, what).because(cause),
        };
        Error::new(kind, what).because(cause).hint(hint)
    }
}

fn hash_version(pieces: &[Bytes]) -> Version {
    let mut hash = blake3::Hasher::new();
    for piece in pieces {
        hash.update(piece);
    }
    Version(format!("b3-{}", hash.finalize().to_hex()))
}

/// Every put is a new file, so that its inode and time tell it from the one before. An inode can be given out again
/// within one tick of the file system's clock; therefore small objects, the ones that are updated, are hashed.
fn stat_version(meta: &std::fs::Metadata) -> Version {
    use std::os::unix::fs::MetadataExt;
    Version(format!("st-{}-{}.{:09}-{}", meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}
