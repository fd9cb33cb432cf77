//! Listing a local store: a depth-first walk in the byte order of keys, a batch at a time on a thread that may block.
//!
//! An object that vanishes while its directory is read may have been replaced by one of another name, which was put
//! before the old one was deleted and was not there yet when the names were read. A repository's locks are refreshed like
//! that, and one must be seen: so a directory is read again until nothing vanished meanwhile.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use super::{Inner, TEMP};
use crate::model::Time;
use crate::store::{Error, ErrorKind, Key, ObjectMeta, Result};

/// Objects of one hand-over.
const BATCH: usize = 1000;
/// A directory is read at most so often, and larger ones than a batch once: there is no lock among so many.
const READS: usize = 100;

pub(super) fn list<'a>(store: &'a Arc<Inner>, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
    let walk = Walk { store: store.clone(), prefix: prefix.to_owned(), levels: Vec::new(), started: false };
    let batches = stream::unfold(Some(walk), |walk| async move {
        let mut walk = walk?;
        let batch = tokio::task::spawn_blocking(move || walk.batch().map(|b| (b, walk))).await;
        match batch {
            Ok(Ok((batch, _))) if batch.is_empty() => None,
            Ok(Ok((batch, walk))) => Some((batch.into_iter().map(Ok).collect(), Some(walk))),
            Ok(Err(e)) => Some((vec![Err(e)], None)),
            Err(e) => Some((vec![Err(Error::new(ErrorKind::Other, "a thread of the local store ended").because(e))], None)),
        }
    });
    batches.flat_map(stream::iter).boxed()
}

struct Walk {
    store: Arc<Inner>,
    prefix: String,
    /// The directories being walked, outermost first; each with what is still to come, last first.
    levels: Vec<Vec<Entry>>,
    started: bool,
}

enum Entry {
    /// Its key with a `/` at its end: then the byte order of these is the byte order of the keys below them.
    Directory(String),
    Object(ObjectMeta),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::Directory(key) => key,
            Self::Object(meta) => meta.key.as_str(),
        }
    }
}

/// What is behind a name.
enum Found {
    Object(ObjectMeta),
    /// No object, nor a directory: a pipe, say.
    Other,
    Gone,
}

impl Walk {
    /// The next objects, at most [`BATCH`]; none at the end.
    fn batch(&mut self) -> Result<Vec<ObjectMeta>> {
        if !self.started {
            self.started = true;
            self.start()?;
        }
        let mut out = Vec::new();
        while out.len() < BATCH {
            match self.levels.last_mut().map(Vec::pop) {
                None => break,
                Some(None) => drop(self.levels.pop()),
                Some(Some(Entry::Directory(key))) => self.enter(&key)?,
                Some(Some(Entry::Object(meta))) => out.push(meta),
            }
        }
        Ok(out)
    }

    /// Opens the deepest directory that the prefix names whole.
    fn start(&mut self) -> Result<()> {
        let dir = self.prefix.rfind('/').map_or("", |slash| self.prefix.get(..=slash).unwrap_or_default()).to_owned();
        // No key begins like this, and `..` must not lead out of the root.
        if !crate::store::can_start_a_key(&self.prefix) {
            return Ok(());
        }
        self.store.present()?;
        self.enter(&dir)
    }

    fn enter(&mut self, dir: &str) -> Result<()> {
        let mut reads = 0;
        loop {
            reads += 1;
            let (mut entries, vanished) = self.read(dir)?;
            if !vanished || reads == READS || entries.len() > BATCH {
                entries.sort_unstable_by(|a, b| b.name().cmp(a.name()));
                self.levels.push(entries);
                return Ok(());
            }
        }
    }

    /// What is in a directory, and whether something was that is gone.
    fn read(&self, dir: &str) -> Result<(Vec<Entry>, bool)> {
        let entries = match std::fs::read_dir(self.path(dir)) {
            Ok(entries) => entries,
            // Removed meanwhile, or the prefix names nothing.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok((Vec::new(), false));
            }
            Err(e) => return Err(self.error(dir, e)),
        };
        let mut directories = Vec::new();
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.error(dir, e))?;
            // What is no text was not written by us and cannot be a key.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name == TEMP {
                continue;
            }
            let kind = entry.file_type().map_err(|e| self.error(dir, e))?;
            let key = format!("{dir}{name}");
            // Either may be longer: `data/0` selects `data/00/…`, and the walk into `data/00/` has passed the prefix.
            if kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()) {
                let key = format!("{key}/");
                if key.starts_with(&self.prefix) || self.prefix.starts_with(&key) {
                    directories.push(Entry::Directory(key));
                }
            } else if key.starts_with(&self.prefix) {
                names.push(key);
            }
        }
        // After all names: what is seen was there when they had been read.
        let (mut out, mut vanished) = (directories, false);
        for key in names {
            match self.object(&key)? {
                Found::Object(meta) => out.push(Entry::Object(meta)),
                Found::Other => {}
                Found::Gone => vanished = true,
            }
        }
        Ok((out, vanished))
    }

    fn object(&self, key: &str) -> Result<Found> {
        let Ok(key) = Key::new(key) else { return Ok(Found::Other) };
        match std::fs::metadata(self.path(key.as_str())) {
            Ok(m) if m.is_file() => {
                let modified = m.modified().map_or(Time::default(), Time::from);
                Ok(Found::Object(ObjectMeta { key, size: m.len(), modified, version: None }))
            }
            Ok(_) => Ok(Found::Other),
            // A link to nothing is there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok(if self.path(key.as_str()).is_symlink() { Found::Other } else { Found::Gone })
            }
            Err(e) => Err(self.error(key.as_str(), e)),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.store.root.join(key)
    }

    fn error(&self, below: &str, cause: io::Error) -> Error {
        // The text of a key is only for the message; one that is none is replaced by the whole store.
        match Key::new(below.trim_end_matches('/')) {
            Ok(key) => self.store.error("list", &key, cause),
            Err(_) => {
                let denied = cause.kind() == io::ErrorKind::PermissionDenied;
                let kind = if denied { ErrorKind::Denied } else { ErrorKind::Other };
                Error::new(kind, format!("list {}", self.store.location)).because(cause)
            }
        }
    }
}
