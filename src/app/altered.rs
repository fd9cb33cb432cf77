//! Snapshots that another program rewrote: is still in them what we put there?
//!
//! Every rewriting leaves the first id in the snapshot (`original`), and the manifest inside it records the tree of each
//! root. `hold` and tags change no tree; leaving files out does.

use std::collections::HashSet;

use super::{blocking, stored_files};
use crate::error::{Kind, Result};
use crate::model::{Id, NodeKind};
use crate::repository::{Reader, Repository, Snapshot};

/// Of these snapshots, those that do not hold (any more) what their manifest says. Only rewritten snapshots of ours are
/// looked into, so this mostly costs nothing.
///
/// # Errors
/// The store's failures. A snapshot whose trees are damaged counts as altered.
pub(super) async fn find(repo: &Repository, snapshots: &[Snapshot]) -> Result<HashSet<Id>> {
    let rewritten: Vec<Snapshot> =
        snapshots.iter().filter(|s| s.file.original.is_some() && s.file.tag("job").is_some()).cloned().collect();
    if rewritten.is_empty() {
        return Ok(HashSet::new());
    }
    let reader = repo.reader(repo.load_index().await?);
    blocking(move || {
        let mut out = HashSet::new();
        for snapshot in rewritten {
            match difference(&reader, snapshot.file.tree) {
                Ok(None) => {}
                Ok(Some(how)) => {
                    tracing::warn!("snapshot {} counts for nothing, since it {how}", snapshot.id.short());
                    out.insert(snapshot.id);
                }
                Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => {
                    tracing::warn!("snapshot {} counts for nothing: {}", snapshot.id.short(), e.chain());
                    out.insert(snapshot.id);
                }
                Err(e) => return Err(e.context(format!("look into snapshot {}", snapshot.id.short()))),
            }
        }
        Ok(out)
    })
    .await
}

/// In what a snapshot of ours differs from its manifest, if it does. Blocks.
///
/// # Errors
/// Trees or a manifest that cannot be read.
pub(super) fn difference(reader: &Reader, root: Id) -> Result<Option<String>> {
    let Some(manifest) = stored_files::manifest(reader, root)? else {
        return Ok(Some("has lost its manifest: another program rewrote it".into()));
    };
    let nodes = reader.tree(root)?;
    for (name, tree) in &manifest.roots {
        let same = nodes
            .iter()
            .any(|n| n.display_name() == name.as_str() && matches!(n.kind, NodeKind::Dir { subtree: Some(id) } if id == *tree));
        if !same {
            return Ok(Some(format!("was altered since it was made: `/{name}` is not what its manifest says")));
        }
    }
    Ok(None)
}
