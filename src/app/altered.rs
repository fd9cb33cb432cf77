//! Snapshots that another program rewrote: is still in them what we put there?
//!
//! Every rewriting leaves the first id in the snapshot (`original`), and the manifest inside it records the tree of each
//! root. `hold` and tags change no tree; leaving files out does.

use std::collections::{BTreeMap, HashSet};
use std::io::Read as _;

use super::backup::{MANIFEST_FILE, Manifest, OWN_DIR};
use super::blocking;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};
use crate::repository::{Reader, Repository, Snapshot};

/// A manifest holds some thousand sentences at most.
const LARGEST_MANIFEST: u64 = 16 << 20;

/// Of these snapshots, those that do not hold (any more) what their manifest says. Only rewritten snapshots of ours are
/// looked into, so this mostly costs nothing.
///
/// # Errors
/// The store's failures. A snapshot whose trees are damaged counts as altered.
pub(super) async fn find(repo: &Repository, snapshots: &[Snapshot]) -> Result<HashSet<Id>> {
    let rewritten: Vec<Snapshot> = snapshots.iter().filter(|s| s.file.original.is_some() && s.file.tag("job").is_some()).cloned().collect();
    if rewritten.is_empty() {
        return Ok(HashSet::new());
    }
    let reader = repo.reader(repo.load_index().await?);
    blocking(move || {
        let mut out = HashSet::new();
        for snapshot in rewritten {
            match is_whole(&reader, &snapshot) {
                Ok(true) => {}
                Ok(false) => drop(out.insert(snapshot.id)),
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

fn is_whole(reader: &Reader, snapshot: &Snapshot) -> Result<bool> {
    let (own, roots): (Vec<Node>, Vec<Node>) = reader.tree(snapshot.file.tree)?.into_iter().partition(|n| n.name == OWN_DIR.as_bytes());
    let Some(NodeKind::Dir { subtree: Some(own) }) = own.first().map(|n| &n.kind) else { return Ok(false) };
    let file = reader.tree(*own)?.into_iter().find(|n| n.name == MANIFEST_FILE.as_bytes());
    let Some(NodeKind::File { content, .. }) = file.map(|n| n.kind) else { return Ok(false) };
    let mut text = Vec::new();
    reader.file(&content).take(LARGEST_MANIFEST).read_to_end(&mut text).map_err(|e| Error::new(Kind::Corrupt, "read its manifest").because(e))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| Error::new(Kind::Corrupt, "its manifest is damaged").because(e))?;
    let roots: BTreeMap<String, Id> = roots
        .iter()
        .filter_map(|n| match &n.kind {
            NodeKind::Dir { subtree: Some(id) } => Some((n.display_name().into_owned(), *id)),
            _ => None,
        })
        .collect();
    Ok(roots == manifest.roots)
}
