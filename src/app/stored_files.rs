//! The files of a stream source's snapshot, and its manifest.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::backup::{MANIFEST_FILE, Manifest, OWN_DIR};
use super::tree_path::{At, resolve};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};
use crate::repository::Reader;

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredFile {
    /// Relative, `/`-separated, without `.` and `..`.
    pub(super) path: String,
    /// Length in bytes.
    pub(super) size: u64,
    content: Vec<Id>,
}

impl StoredFile {
    /// Its bytes, in order; counted in `progress`.
    pub(super) fn open(&self, reader: &Reader, progress: &Arc<AtomicU64>) -> impl Read + Send + use<> {
        Counted { inner: reader.file(&self.content), progress: Arc::clone(progress), left: self.size }
    }
}

/// All files but our own (`.strongroom/`), in the order of their paths. Blocks.
///
/// # Errors
/// Trees that cannot be read; names that could lead outside a folder they are restored to.
pub(super) fn list(reader: &Reader, root: Id) -> Result<Vec<StoredFile>> {
    let mut files = Vec::new();
    walk(reader, root, "", &mut files)?;
    Ok(files)
}

fn walk(reader: &Reader, tree: Id, above: &str, files: &mut Vec<StoredFile>) -> Result<()> {
    for node in reader.tree(tree)? {
        let name = String::from_utf8_lossy(&node.name).into_owned();
        if above.is_empty() && name == OWN_DIR {
            continue;
        }
        if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(Error::new(Kind::Corrupt, format!("the snapshot has an entry named {name:?}")));
        }
        let path = format!("{above}{name}");
        match node.kind {
            NodeKind::File { size, content } => files.push(StoredFile { path, size, content }),
            NodeKind::Dir { subtree: Some(tree) } => walk(reader, tree, &format!("{path}/"), files)?,
            _ => {}
        }
    }
    Ok(())
}

/// The snapshot's manifest; `None` if it has none (another program made it). Blocks.
///
/// # Errors
/// One that is there and cannot be read.
pub(super) fn manifest(reader: &Reader, root: Id) -> Result<Option<Manifest>> {
    let path = Path::new(OWN_DIR).join(MANIFEST_FILE);
    let node = match resolve(reader, root, &path) {
        Ok(At::Entry(node)) => *node,
        Ok(At::Dir(_)) => return Ok(None),
        Err(e) if e.kind() == Kind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let Node { kind: NodeKind::File { content, .. }, .. } = node else { return Ok(None) };
    let mut text = Vec::new();
    reader.file(&content).take(64 << 20).read_to_end(&mut text).context(|| "read the snapshot's manifest")?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::new(Kind::Corrupt, "the snapshot's manifest is damaged").because(e))
}

/// Counts, and makes sure that the end is the end.
struct Counted<R> {
    inner: R,
    progress: Arc<AtomicU64>,
    left: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let wrong = || io::Error::other(Error::new(Kind::Corrupt, "the file's content and its length in the snapshot differ"));
        self.left = self.left.checked_sub(n as u64).ok_or_else(wrong)?;
        if n == 0 && !buf.is_empty() && self.left > 0 {
            return Err(wrong());
        }
        self.progress.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
