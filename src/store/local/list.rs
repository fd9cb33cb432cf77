//! Listing a local store: a depth-first walk in the byte order of keys, a batch at a time on a thread that may block.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use super::{Inner, TEMP};
use crate::model::Time;
use crate::store::{Error, ErrorKind, Key, ObjectMeta, Result};

/// Objects of one hand-over.
const BATCH: usize = 1000;

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
    /// The directories being walked, outermost first; each with its key (empty or with a `/` at its end) and the names
    /// still to come, last first.
    levels: Vec<(String, Vec<Name>)>,
    started: bool,
}

/// A directory's name ends with `/`: then the byte order of names is the byte order of the keys below them.
type Name = String;

impl Walk {
    /// The next objects, at most [`BATCH`]; none at the end.
    fn batch(&mut self) -> Result<Vec<ObjectMeta>> {
        if !self.started {
            self.started = true;
            self.start()?;
        }
        let mut out = Vec::new();
        while out.len() < BATCH {
            let Some((dir, names)) = self.levels.last_mut() else { break };
            let Some(name) = names.pop() else {
                self.levels.pop();
                continue;
            };
            let key = format!("{dir}{name}");
            if key.ends_with('/') {
                self.enter(key)?;
            } else if let Some(meta) = self.object(&key)? {
                out.push(meta);
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
        self.enter(dir)
    }

    fn enter(&mut self, dir: String) -> Result<()> {
        let entries = match std::fs::read_dir(self.path(&dir)) {
            Ok(entries) => entries,
            // Removed meanwhile, or the prefix names nothing.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
            Err(e) => return Err(self.error(&dir, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.error(&dir, e))?;
            // What is no text was not written by us and cannot be a key.
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            if name == TEMP {
                continue;
            }
            let kind = entry.file_type().map_err(|e| self.error(&dir, e))?;
            let is_dir = kind.is_dir() || (kind.is_symlink() && entry.path().is_dir());
            if is_dir {
                name.push('/');
            }
            // Either may be longer: `data/0` selects `data/00/…`, and the walk into `data/00/` has passed the prefix.
            let matches = |key: &str| key.starts_with(&self.prefix) || (is_dir && self.prefix.starts_with(key));
            if matches(&format!("{dir}{name}")) {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push((dir, names));
        Ok(())
    }

    fn object(&self, key: &str) -> Result<Option<ObjectMeta>> {
        let Ok(key) = Key::new(key) else { return Ok(None) };
        match std::fs::metadata(self.path(key.as_str())) {
            Ok(m) if m.is_file() => {
                let modified = m.modified().map_or(Time::default(), Time::from);
                Ok(Some(ObjectMeta { key, size: m.len(), modified, version: None }))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
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
