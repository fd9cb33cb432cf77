//! JSON trees of any writer to nodes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::go_mode;
use super::quote::go_unquote;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Metadata, Node, NodeKind, Time, Xattr};

#[derive(Deserialize)]
struct NodeJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    mtime: TimeJson,
    #[serde(default)]
    atime: TimeJson,
    #[serde(default)]
    ctime: TimeJson,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default, borrow)]
    user: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    group: Option<Cow<'a, str>>,
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    device_id: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default, borrow)]
    linktarget: Option<Cow<'a, str>>,
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
    let mut nodes = Vec::new();
    visit_tree(bytes, &mut |node| {
        nodes.push(node);
        Ok(())
    })?;
    Ok(nodes)
}

/// Hands the entries over one by one, in the order stored, so that a huge directory is never held as nodes.
///
/// # Errors
/// As [`decode_tree`], possibly after entries were handed over; the first error of `visit`.
pub fn visit_tree(bytes: &[u8], visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
    visit_json(serde_json::Deserializer::from_slice(bytes), visit)
}

/// [`visit_tree`] of a tree that is not in memory as a whole. Slower, entry by entry.
pub(in crate::repository) fn visit_tree_from(from: impl std::io::Read, visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
    visit_json(serde_json::Deserializer::from_reader(from), visit)
}

fn visit_json<'de>(
    mut json: serde_json::Deserializer<impl serde_json::de::Read<'de>>,
    visit: &mut dyn FnMut(Node) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    let parsed = json.deserialize_map(Tree { visit, outcome: &mut outcome }).and_then(|()| json.end());
    outcome?;
    parsed.map_err(|e| Error::new(Kind::Corrupt, "not a directory tree").because(e))
}

/// Reads `{"nodes":[…]}`. `outcome` is why reading was broken off, where the reason is not JSON.
struct Tree<'a> {
    visit: &'a mut dyn FnMut(Node) -> Result<()>,
    outcome: &'a mut Result<()>,
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a directory tree")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "nodes" && !std::mem::replace(&mut found, true) {
                map.next_value_seed(Nodes { visit: &mut *self.visit, outcome: &mut *self.outcome })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::missing_field("nodes")) }
    }
}

struct Nodes<'a> {
    visit: &'a mut dyn FnMut(Node) -> Result<()>,
    outcome: &'a mut Result<()>,
}

impl<'de> DeserializeSeed<'de> for Nodes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nodes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of directory entries")
    }

    /// `null`: how Go writes a list that was never filled.
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        let mut names = Names::default();
        while let Some(json) = seq.next_element::<NodeJson<'de>>()? {
            let visited = node(json, &mut names).map_err(|what| Error::new(Kind::Corrupt, what)).and_then(|n| (self.visit)(n));
            if visited.is_err() {
                *self.outcome = visited;
                return Err(A::Error::custom("broken off"));
            }
        }
        Ok(())
    }
}

/// A time that is read without copying its text; `null` is none.
#[derive(Default)]
struct TimeJson(Option<Time>);

impl<'de> Deserialize<'de> for TimeJson {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = TimeJson;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> std::result::Result<TimeJson, E> {
                s.parse().map(|t| TimeJson(Some(t))).map_err(E::custom)
            }
            fn visit_unit<E>(self) -> std::result::Result<TimeJson, E> {
                Ok(TimeJson(None))
            }
        }
        d.deserialize_any(Text)
    }
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
    let base64 = |text: &str| {
        BASE64.decode(text).map_err(|e| format!("entry `{}` has a value that is not base64: {e}", n.name.escape_debug()))
    };
    let kind = match n.kind.as_ref() {
        "file" if n.content.is_none() && n.size > 0 => return Err(format!("file `{}` has no content", n.name.escape_debug())),
        "file" => NodeKind::File { size: n.size, content: n.content.unwrap_or_default() },
        "dir" => NodeKind::Dir {
            subtree: Some(n.subtree.ok_or_else(|| format!("directory `{}` has no tree", n.name.escape_debug()))?),
        },
        "symlink" => NodeKind::Symlink {
            target: match &n.linktarget_raw {
                Some(raw) => base64(raw)?,
                None => n.linktarget.as_deref().unwrap_or_default().as_bytes().to_vec(),
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
    let mtime = n.mtime.0.unwrap_or_default();
    let bit = |from: u32, to: u32| if n.mode & from == 0 { 0 } else { to };
    let meta = Metadata {
        mode: n.mode & 0o777 | bit(go_mode::SETUID, 0o4000) | bit(go_mode::SETGID, 0o2000) | bit(go_mode::STICKY, 0o1000),
        mtime,
        atime: n.atime.0.unwrap_or(mtime),
        ctime: n.ctime.0.unwrap_or(mtime),
        uid: n.uid,
        gid: n.gid,
        user: names.get(n.user.unwrap_or_default()),
        group: names.get(n.group.unwrap_or_default()),
        inode: n.inode,
        device_id: n.device_id,
        links: n.links,
        xattrs,
    };
    Ok(Node { name, kind, meta, error: n.error.filter(|e| !e.is_empty()) })
}
