//! Reading trees: tolerant of field order, unknown fields, offsets in times and rustic's partial quoting.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;

use super::{is_file_name, mode, name};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Metadata, Node, NodeKind, Time, Xattr};

/// A tree as it was read.
#[derive(Debug)]
pub struct Decoded {
    /// The entries, in the order in which they were stored.
    pub nodes: Vec<Node>,
    /// Whether that order is strictly ascending, as the format demands.
    pub ordered: bool,
}

/// The entries of a tree blob in ascending order of raw name.
///
/// # Errors
/// [`Kind::Corrupt`] for anything that is not a tree: bad JSON, names that no file system has, wrong types.
pub fn decode_tree(bytes: &[u8]) -> Result<Vec<Node>> {
    let Decoded { mut nodes, ordered } = decode(bytes)?;
    if !ordered {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(nodes)
}

/// [`decode_tree`] without sorting, for checks.
///
/// # Errors
/// As [`decode_tree`].
pub fn decode(bytes: &[u8]) -> Result<Decoded> {
    let corrupt = |e: serde_json::Error| Error::new(Kind::Corrupt, "a directory tree is not readable").because(e);
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let nodes = de.deserialize_map(TreeVisitor).map_err(corrupt)?;
    de.end().map_err(corrupt)?;
    let ordered = nodes.is_sorted_by(|a, b| a.name < b.name);
    Ok(Decoded { nodes, ordered })
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tree")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vec<Node>, A::Error> {
        let mut nodes = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "nodes" {
                nodes = Some(map.next_value_seed(NodesSeed)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        nodes.ok_or_else(|| A::Error::missing_field("nodes"))
    }
}

struct NodesSeed;

impl<'de> DeserializeSeed<'de> for NodesSeed {
    type Value = Vec<Node>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<Node>, D::Error> {
        // restic writes `null` for a directory without entries in very old repositories.
        d.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for NodesSeed {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_none<E>(self) -> std::result::Result<Vec<Node>, E> {
        Ok(Vec::new())
    }

    fn visit_unit<E>(self) -> std::result::Result<Vec<Node>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<Node>, D::Error> {
        d.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<Node>, A::Error> {
        let mut nodes = Vec::new();
        let (mut user, mut group) = (Arc::<str>::default(), Arc::<str>::default());
        while let Some(raw) = seq.next_element::<RawNode<'de>>()? {
            nodes.push(raw.into_node(&mut user, &mut group).map_err(A::Error::custom)?);
        }
        Ok(nodes)
    }
}

/// A node as JSON has it. Text borrows from the blob where nothing in it is escaped.
#[derive(Deserialize)]
struct RawNode<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    mtime: RawTime,
    #[serde(default)]
    atime: RawTime,
    #[serde(default)]
    ctime: RawTime,
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
    #[serde(default)]
    linktarget_raw: Option<Base64>,
    #[serde(default, borrow)]
    extended_attributes: Option<Vec<RawXattr<'a>>>,
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
struct RawXattr<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    value: Option<Base64>,
}

impl RawNode<'_> {
    fn into_node(self, last_user: &mut Arc<str>, last_group: &mut Arc<str>) -> std::result::Result<Node, String> {
        let name = name::unquote(&self.name).ok_or_else(|| format!("the name `{}` is not quoted as the format demands", self.name))?;
        if !is_file_name(&name) {
            return Err(format!("`{}` cannot be the name of a directory's entry", self.name));
        }
        let kind = match &*self.kind {
            "file" => match self.content {
                Some(content) => NodeKind::File { size: self.size, content },
                None if self.size == 0 => NodeKind::File { size: 0, content: Vec::new() },
                None => return Err(format!("the file `{}` has no content", self.name)),
            },
            "dir" => NodeKind::Dir { subtree: self.subtree },
            "symlink" => NodeKind::Symlink {
                target: match self.linktarget_raw {
                    Some(raw) => raw.0,
                    None => self.linktarget.unwrap_or_default().into_owned().into_bytes(),
                },
            },
            "dev" => NodeKind::Device { device: self.device },
            "chardev" => NodeKind::CharDevice { device: self.device },
            "fifo" => NodeKind::Fifo,
            "socket" => NodeKind::Socket,
            _ => NodeKind::Irregular,
        };
        let xattrs = self.extended_attributes.unwrap_or_default().into_iter();
        let meta = Metadata {
            mode: mode::from_go(self.mode),
            mtime: self.mtime.0,
            atime: self.atime.0,
            ctime: self.ctime.0,
            uid: self.uid,
            gid: self.gid,
            user: shared(self.user.as_deref(), last_user),
            group: shared(self.group.as_deref(), last_group),
            inode: self.inode,
            device_id: self.device_id,
            links: self.links,
            xattrs: xattrs.map(|x| Xattr { name: x.name.into_owned().into_bytes(), value: x.value.map(|v| v.0).unwrap_or_default() }).collect(),
        };
        Ok(Node { name, kind, meta, error: self.error.filter(|e| !e.is_empty()) })
    }
}

/// The text as a shared string; most entries of a directory have the same owner as the one before.
fn shared(text: Option<&str>, last: &mut Arc<str>) -> Arc<str> {
    let text = text.unwrap_or_default();
    if text.is_empty() {
        return Arc::default();
    }
    if &**last != text {
        *last = Arc::from(text);
    }
    last.clone()
}

/// A time that is parsed without copying its text.
#[derive(Default)]
struct RawTime(Time);

impl<'de> Deserialize<'de> for RawTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = RawTime;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> std::result::Result<RawTime, E> {
                s.parse().map(RawTime).map_err(E::custom)
            }
            fn visit_unit<E>(self) -> std::result::Result<RawTime, E> {
                Ok(RawTime::default())
            }
        }
        d.deserialize_any(TimeVisitor)
    }
}

struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Base64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> std::result::Result<Base64, E> {
                base64::engine::general_purpose::STANDARD.decode(s).map(Base64).map_err(E::custom)
            }
        }
        d.deserialize_str(BytesVisitor)
    }
}
