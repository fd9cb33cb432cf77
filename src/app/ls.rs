//! Lists what is inside a snapshot.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::read_lock::with_read_lock;
use super::select::Found;
use super::tree_path::{At, resolve};
use crate::error::Result;
use crate::model::{Id, Node, NodeKind, Time};
use crate::repository::Reader;
use crate::runtime::Cancel;

/// One entry of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Path inside the snapshot, from its root; invalid UTF-8 replaced.
    pub path: String,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `dev`, `chardev` or `irregular`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Bytes of a file, else 0.
    pub size: u64,
    /// Permission bits, setuid, setgid and sticky.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Hands every entry below `path` to `each`, parents first, in the order of names; with `recursive` all the way down.
/// A path to a file gives that one entry.
///
/// # Errors
/// A path that is not there; trees that cannot be read; what `each` says.
pub async fn run(
    found: &Found,
    path: PathBuf,
    recursive: bool,
    cancel: Cancel,
    mut each: impl FnMut(Entry) -> Result<()> + Send + 'static,
) -> Result<()> {
    with_read_lock(&found.repository, &cancel.clone(), async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let root = found.snapshot.file.tree;
        super::blocking(move || {
            let clean: PathBuf = Path::new("/").join(&path).components().collect();
            match resolve(&reader, root, &path)? {
                At::Entry(node) => each(entry(&clean, &node)),
                At::Dir(tree) => walk(&reader, tree, &clean, recursive, &cancel, &mut each),
            }
        })
        .await
    })
    .await
}

fn walk(
    reader: &Reader,
    tree: Id,
    path: &Path,
    recursive: bool,
    cancel: &Cancel,
    each: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    cancel.check()?;
    for node in reader.nodes(tree)? {
        let node = node?;
        let path = path.join(std::ffi::OsStr::new(&*node.display_name()));
        each(entry(&path, &node))?;
        if let (true, NodeKind::Dir { subtree: Some(sub) }) = (recursive, &node.kind) {
            walk(reader, *sub, &path, recursive, cancel, each)?;
        }
    }
    Ok(())
}

fn entry(path: &Path, node: &Node) -> Entry {
    Entry {
        path: path.to_string_lossy().into_owned(),
        kind: kind(&node.kind),
        size: node.size(),
        mode: node.meta.mode,
        uid: node.meta.uid,
        gid: node.meta.gid,
        mtime: node.meta.mtime,
        target: match &node.kind {
            NodeKind::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
            _ => None,
        },
    }
}

/// The word for a kind of entry.
pub(super) fn kind(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::File { .. } => "file",
        NodeKind::Dir { .. } => "dir",
        NodeKind::Symlink { .. } => "symlink",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::Device { .. } => "dev",
        NodeKind::CharDevice { .. } => "chardev",
        NodeKind::Irregular => "irregular",
    }
}
