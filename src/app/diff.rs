//! What changed from one snapshot to another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ls::kind;
use super::read_lock::with_read_lock;
use super::select::Found;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};
use crate::repository::Reader;
use crate::runtime::Cancel;

/// How an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Content differs.
    Modified,
    /// Content is the same, the rest (mode, owner, times, attributes) differs.
    Metadata,
    /// A file became a directory, or the like.
    Type,
}

/// One entry that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Path inside the snapshots.
    pub path: String,
    /// How it differs.
    pub change: Change,
    /// What it is in the second, or was in the first.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Bytes in the second less bytes in the first.
    pub bytes: i64,
}

/// How much differs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Entries only in the second.
    pub added: u64,
    /// Entries only in the first.
    pub removed: u64,
    /// Entries whose content or type differs.
    pub modified: u64,
    /// Entries of which only the rest differs.
    pub metadata: u64,
    /// Bytes of files only in the second, or grown by.
    pub bytes_added: u64,
    /// Bytes of files only in the first, or shrunk by.
    pub bytes_removed: u64,
}

/// Hands every difference to `each`, in the order of paths, and sums them up. Directories that are the same are not read.
///
/// # Errors
/// [`Kind::Usage`] for snapshots of two tenants; trees that cannot be read; what `each` says.
pub async fn run(
    a: &Found,
    b: &Found,
    cancel: Cancel,
    each: impl FnMut(Difference) -> Result<()> + Send + 'static,
) -> Result<Summary> {
    if a.repository.id() != b.repository.id() {
        return Err(Error::new(Kind::Usage, "the two snapshots are in different repositories"));
    }
    with_read_lock(&a.repository, &cancel.clone(), async {
        let reader = a.repository.reader(a.repository.load_index().await?);
        let (from, to) = (a.snapshot.file.tree, b.snapshot.file.tree);
        super::blocking(move || {
            let mut walk = Walk { reader, cancel, each: Box::new(each), sum: Summary::default() };
            walk.trees(Some(from), Some(to), Path::new("/"))?;
            Ok(walk.sum)
        })
        .await
    })
    .await
}

struct Walk {
    reader: Reader,
    cancel: Cancel,
    each: Box<dyn FnMut(Difference) -> Result<()> + Send>,
    sum: Summary,
}

impl Walk {
    fn trees(&mut self, a: Option<Id>, b: Option<Id>, path: &Path) -> Result<()> {
        self.cancel.check()?;
        if a == b {
            return Ok(());
        }
        let read = |id: Option<Id>| id.map_or(Ok(Vec::new()), |id| self.reader.tree(id));
        let mut pairs: BTreeMap<Vec<u8>, (Option<Node>, Option<Node>)> = BTreeMap::new();
        for node in read(a)? {
            let name = node.name.clone();
            pairs.entry(name).or_default().0 = Some(node);
        }
        for node in read(b)? {
            let name = node.name.clone();
            pairs.entry(name).or_default().1 = Some(node);
        }
        for (name, (a, b)) in pairs {
            let path = path.join(&*String::from_utf8_lossy(&name));
            self.entry(a.as_ref(), b.as_ref(), path)?;
        }
        Ok(())
    }

    fn entry(&mut self, a: Option<&Node>, b: Option<&Node>, path: PathBuf) -> Result<()> {
        let change = match (a, b) {
            (None, _) => Some(Change::Added),
            (_, None) => Some(Change::Removed),
            (Some(a), Some(b)) if kind(&a.kind) != kind(&b.kind) => Some(Change::Type),
            // Its entries tell whether a directory's content differs.
            (Some(Node { kind: NodeKind::Dir { .. }, meta: x, .. }), Some(Node { kind: NodeKind::Dir { .. }, meta: y, .. })) => {
                (x != y).then_some(Change::Metadata)
            }
            (Some(a), Some(b)) if a.kind != b.kind => Some(Change::Modified),
            (Some(a), Some(b)) => (a.meta != b.meta).then_some(Change::Metadata),
        };
        if let Some(change) = change {
            self.report(a, b, &path, change)?;
        }
        self.trees(a.and_then(subtree), b.and_then(subtree), &path)
    }

    fn report(&mut self, a: Option<&Node>, b: Option<&Node>, path: &Path, change: Change) -> Result<()> {
        let (before, after) = (a.map_or(0, Node::size), b.map_or(0, Node::size));
        match change {
            Change::Added => self.sum.added += 1,
            Change::Removed => self.sum.removed += 1,
            Change::Modified | Change::Type => self.sum.modified += 1,
            Change::Metadata => self.sum.metadata += 1,
        }
        self.sum.bytes_added += after.saturating_sub(before);
        self.sum.bytes_removed += before.saturating_sub(after);
        let bytes = i64::try_from(i128::from(after) - i128::from(before)).unwrap_or(i64::MAX);
        let kind = b.or(a).map_or("", |n| kind(&n.kind));
        (self.each)(Difference { path: path.to_string_lossy().into_owned(), change, kind, bytes })
    }
}

fn subtree(node: &Node) -> Option<Id> {
    match node.kind {
        NodeKind::Dir { subtree } => subtree,
        _ => None,
    }
}
