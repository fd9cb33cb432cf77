//! Nodes of a base backup's tree.

use std::io::Write as _;

use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Metadata, Node, NodeKind, TABLESPACES};
use crate::repository::{Chunking, Done, FileContent, TreePart, Writer};

/// From so many chunks on a directory's text, 67 bytes each, is not held as a whole.
const MANY_CHUNKS: usize = 20_000;

/// A file.
pub(super) fn file(name: &[u8], meta: Metadata, content: FileContent) -> Node {
    Node { name: name.to_vec(), kind: NodeKind::File { size: content.size, content: content.content }, meta, error: None }
}

/// A directory whose tree is stored.
pub(super) fn directory(name: &[u8], meta: Metadata, subtree: Id) -> Node {
    Node { name: name.to_vec(), kind: NodeKind::Dir { subtree: Some(subtree) }, meta: Metadata { links: 0, ..meta }, error: None }
}

/// The link to a tablespace that the snapshot has beside the data directory. `meta` is that of its directory.
pub(super) fn tablespace_link(oid: &[u8], meta: &Metadata) -> Node {
    let target = [format!("../../{TABLESPACES}/").as_bytes(), oid].concat();
    let meta = Metadata { mode: 0o777, links: 1, ..meta.clone() };
    Node { name: oid.to_vec(), kind: NodeKind::Symlink { target }, meta, error: None }
}

/// Stores a directory's entries, in whatever order they are.
pub(super) fn tree(writer: &Writer, nodes: &mut [Node]) -> Result<Id> {
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let chunks = |node: &Node| if let NodeKind::File { content, .. } = &node.kind { content.len() } else { 0 };
    let chunks: usize = nodes.iter().map(chunks).sum();
    if chunks < MANY_CHUNKS {
        return writer.tree(nodes);
    }
    let mut large = writer.large_tree(chunks / 2)?;
    for node in nodes.iter() {
        if let Some(part) = TreePart::encode(std::slice::from_ref(node))? {
            large.add(part)?;
        }
    }
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let done: Done = Box::new(move |_, saved| {
        // The receiver waits below; it goes away only with its thread.
        let _gone = sender.send(saved).is_err();
    });
    writer.submit_large_tree(large, done);
    match receiver.recv() {
        Ok(Some(saved)) => Ok(saved.id),
        _ => Err(writer.check().err().unwrap_or_else(|| Error::new(Kind::Bug, "a tree was not stored"))),
    }
}

/// Stores a few bytes.
pub(super) fn bytes(writer: &Writer, name: &str, meta: Metadata, content: &[u8]) -> Result<Node> {
    let mut out = writer.file(Chunking::Content);
    out.write_all(content).context(|| format!("store {name}"))?;
    Ok(file(name.as_bytes(), meta, out.finish()?))
}
