//! JSON trees of any writer to nodes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::go_mode;
use super::quote::go_unquote;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Metadata, Node, NodeKind, Time, Xattr};

#[derive(Deserialize)]
struct TreeJson<'a> {
    #[serde(borrow)]
    nodes: Vec<NodeJson<'a>>,
}

#[derive(Deserialize)]
struct NodeJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    mtime: Option<Time>,
    #[serde(default)]
    atime: Option<Time>,
    #[serde(default)]
    ctime: Option<Time>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default, borrow)]
    user: Cow<'a, str>,
    #[serde(default, borrow)]
    group: Cow<'a, str>,
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    device_id: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default, borrow)]
    linktarget: Cow<'a, str>,
    #[serde(default, borrow)]
    linktarget_raw: Option<Cow<'a, str>>,
    #[serde(default)]
    extended_attributes: Option<Vec<XattrJson<'a>>>,
    #[serde(default)]
    device: u64,
    #[serde(default)]
    content: Option<Vec<Id>>,
    #[serde(default)]
    subtree: Option<Id>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct XattrJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, borrow)]
    value: Option<Cow<'a, str>>,
}

/// The entries of a directory, in the order stored (ascending by raw name in whole repositories).
///
/// # Errors
/// [`Kind::Corrupt`] if it is not a tree, or if an entry's name could lead out of its directory.
pub fn decode_tree(bytes: &[u8]) -> Result<Vec<Node>> {
    let damaged = |what: String| Error::new(Kind::Corrupt, what);
    let tree: TreeJson = serde_json::from_slice(bytes).map_err(|e| damaged("not a directory tree".into()).because(e))?;
    let mut names = Names::default();
    tree.nodes.into_iter().map(|n| node(n, &mut names).map_err(damaged)).collect()
}

/// Owners repeat: their names are shared.
#[derive(Default)]
struct Names(HashMap<String, Arc<str>>);

impl Names {
    fn get(&mut self, name: Cow<'_, str>) -> Arc<str> {
        if let Some(known) = self.0.get(name.as_ref()) {
            return known.clone();
        }
        let new: Arc<str> = name.as_ref().into();
        self.0.insert(name.into_owned(), new.clone());
        new
    }
}

fn node(n: NodeJson<'_>, names: &mut Names) -> std::result::Result<Node, String> {
    let name = if n.name.contains('\\') {
        go_unquote(&n.name).ok_or_else(|| format!("the name `{}` is not quoted as it must be", n.name.escape_debug()))?
    } else {
        n.name.as_bytes().to_vec()
    };
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(format!("an entry has the impossible name `{}`", n.name.escape_debug()));
    }
    let base64 = |text: &str| BASE64.decode(text).map_err(|e| format!("entry `{}` has a value that is not base64: {e}", n.name.escape_debug()));
    let kind = match n.kind.as_ref() {
        "file" => NodeKind::File { size: n.size, content: n.content.unwrap_or_default() },
        "dir" => NodeKind::Dir { subtree: Some(n.subtree.ok_or_else(|| format!("directory `{}` has no tree", n.name.escape_debug()))?) },
        "symlink" => NodeKind::Symlink {
            target: match &n.linktarget_raw {
                Some(raw) => base64(raw)?,
                None => n.linktarget.as_bytes().to_vec(),
            },
        },
        "dev" => NodeKind::Device { device: n.device },
        "chardev" => NodeKind::CharDevice { device: n.device },
        "fifo" => NodeKind::Fifo,
        "socket" => NodeKind::Socket,
        _ => NodeKind::Irregular,
    };
    let mut xattrs = Vec::new();
    for x in n.extended_attributes.into_iter().flatten() {
        xattrs.push(Xattr { name: x.name.as_bytes().to_vec(), value: x.value.as_deref().map_or(Ok(Vec::new()), base64)? });
    }
    let mtime = n.mtime.unwrap_or_default();
    let bit = |from: u32, to: u32| if n.mode & from == 0 { 0 } else { to };
    let meta = Metadata {
        mode: n.mode & 0o777 | bit(go_mode::SETUID, 0o4000) | bit(go_mode::SETGID, 0o2000) | bit(go_mode::STICKY, 0o1000),
        mtime,
        atime: n.atime.unwrap_or(mtime),
        ctime: n.ctime.unwrap_or(mtime),
        uid: n.uid,
        gid: n.gid,
        user: names.get(n.user),
        group: names.get(n.group),
        inode: n.inode,
        device_id: n.device_id,
        links: n.links,
        xattrs,
    };
    Ok(Node { name, kind, meta, error: n.error.filter(|e| !e.is_empty()) })
}
