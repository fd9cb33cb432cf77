//! Paths inside a snapshot.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};
use crate::repository::Reader;

/// What a path leads to.
pub(super) enum At {
    /// The root of the snapshot, or a directory: its tree.
    Dir(Id),
    /// Anything else.
    Entry(Box<Node>),
}

/// Follows `path` from `root`. A leading `/` is optional; symbolic links are not followed. Blocks.
///
/// # Errors
/// [`Kind::NotFound`] that names the part that is missing; what the engine says.
pub(super) fn resolve(reader: &Reader, root: Id, path: &Path) -> Result<At> {
    let mut at = At::Dir(root);
    let mut gone = Vec::new();
    for name in path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".") {
        let here = || format!("/{}", OsStr::from_bytes(&gone).to_string_lossy());
        let At::Dir(tree) = at else {
            return Err(Error::new(Kind::NotFound, format!("{} is not a directory in this snapshot", here())));
        };
        let node = reader.entry(tree, name)?;
        let Some(node) = node else {
            return Err(Error::new(
                Kind::NotFound,
                format!("there is no `{}` in {} of this snapshot", OsStr::from_bytes(name).to_string_lossy(), here()),
            ));
        };
        if !gone.is_empty() {
            gone.push(b'/');
        }
        gone.extend_from_slice(name);
        at = match node.kind {
            NodeKind::Dir { subtree: Some(tree) } => At::Dir(tree),
            _ => At::Entry(Box::new(node)),
        };
    }
    Ok(at)
}
