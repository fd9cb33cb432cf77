//! Nodes to canonical JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::go_mode;
use super::quote::{go_quote, json_string};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind, Time, civil_from_days};

/// The first and last second that Go writes: years 0000 to 9999.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

/// What comes before and after the entries.
pub(super) const HEAD: &[u8] = b"{\"nodes\":[";
pub(super) const TAIL: &[u8] = b"]}\n";

/// The tree blob of a directory with these entries.
///
/// Times outside years 0000 to 9999 are stored as the nearest year: stock clients could not read the tree otherwise.
///
/// # Errors
/// [`Kind::Bug`] if entries are not in ascending order of name, a name is impossible, or a directory has no subtree.
pub fn encode_tree(nodes: &[Node]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(32 + nodes.len() * 480);
    out.extend_from_slice(HEAD);
    encode_into(nodes, &mut out)?;
    out.extend_from_slice(TAIL);
    Ok(out)
}

/// Only the entries, with commas between them.
pub(super) fn encode_list(nodes: &[Node]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(nodes.len() * 480);
    encode_into(nodes, &mut out)?;
    Ok(out)
}

fn encode_into(nodes: &[Node], out: &mut Vec<u8>) -> Result<()> {
    let mut last: Option<&[u8]> = None;
    for node in nodes {
        let impossible = node.name.is_empty()
            || node.name == b"."
            || node.name == b".."
            || node.name.contains(&b'/')
            || node.name.contains(&0);
        if impossible || last.is_some_and(|l| l >= node.name.as_slice()) {
            return Err(Error::new(
                Kind::Bug,
                format!("`{}` cannot follow as an entry of a directory", node.display_name().escape_debug()),
            ));
        }
        if last.is_some() {
            out.push(b',');
        }
        last = Some(&node.name);
        encode_node(node, out)?;
    }
    Ok(())
}

fn encode_node(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    let meta = &node.meta;
    out.extend_from_slice(b"{\"name\":");
    let plain = |b: &u8| (0x20..0x7f).contains(b) && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&');
    if node.name.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(&node.name);
        out.push(b'"');
    } else {
        json_string(&go_quote(&node.name), out);
    }
    let (kind, type_bits) = match &node.kind {
        NodeKind::File { .. } => ("file", 0),
        NodeKind::Dir { .. } => ("dir", go_mode::DIR),
        NodeKind::Symlink { .. } => ("symlink", go_mode::SYMLINK),
        NodeKind::Device { .. } => ("dev", go_mode::DEVICE),
        NodeKind::CharDevice { .. } => ("chardev", go_mode::DEVICE | go_mode::CHAR_DEVICE),
        NodeKind::Fifo => ("fifo", go_mode::FIFO),
        NodeKind::Socket => ("socket", go_mode::SOCKET),
        NodeKind::Irregular => ("irregular", go_mode::IRREGULAR),
    };
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    number(out, ",\"mode\":", u64::from(type_bits | go_permissions(meta.mode)));
    time(out, ",\"mtime\":\"", meta.mtime);
    time(out, ",\"atime\":\"", meta.atime);
    time(out, ",\"ctime\":\"", meta.ctime);
    always(out, ",\"uid\":", u64::from(meta.uid));
    always(out, ",\"gid\":", u64::from(meta.gid));
    text(out, ",\"user\":", meta.user.as_bytes());
    text(out, ",\"group\":", meta.group.as_bytes());
    number(out, ",\"inode\":", meta.inode);
    number(out, ",\"device_id\":", meta.device_id);
    if let NodeKind::File { size, .. } = &node.kind {
        number(out, ",\"size\":", *size);
    }
    number(out, ",\"links\":", meta.links);
    if let NodeKind::Symlink { target } = &node.kind {
        text(out, ",\"linktarget\":", target);
        if std::str::from_utf8(target).is_err() {
            out.extend_from_slice(b",\"linktarget_raw\":\"");
            out.extend_from_slice(BASE64.encode(target).as_bytes());
            out.push(b'"');
        }
    }
    for (i, x) in meta.xattrs.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b",\"extended_attributes\":[{\"name\":" } else { b",{\"name\":" });
        json_string(&x.name, out);
        out.extend_from_slice(b",\"value\":\"");
        out.extend_from_slice(BASE64.encode(&x.value).as_bytes());
        out.extend_from_slice(b"\"}");
    }
    if !meta.xattrs.is_empty() {
        out.push(b']');
    }
    if let NodeKind::Device { device } | NodeKind::CharDevice { device } = &node.kind {
        number(out, ",\"device\":", *device);
    }
    out.extend_from_slice(b",\"content\":");
    match &node.kind {
        NodeKind::File { content, .. } => ids(out, content),
        _ => out.extend_from_slice(b"null"),
    }
    if let NodeKind::Dir { subtree } = &node.kind {
        let Some(id) = subtree else {
            return Err(Error::new(Kind::Bug, format!("directory `{}` has no tree", node.display_name())));
        };
        out.extend_from_slice(b",\"subtree\":");
        one_id(out, id);
    }
    if let Some(error) = &node.error {
        text(out, ",\"error\":", error.as_bytes());
    }
    out.push(b'}');
    Ok(())
}

fn go_permissions(mode: u32) -> u32 {
    let bit = |from: u32, to: u32| if mode & from == 0 { 0 } else { to };
    mode & 0o777 | bit(0o4000, go_mode::SETUID) | bit(0o2000, go_mode::SETGID) | bit(0o1000, go_mode::STICKY)
}

fn always(out: &mut Vec<u8>, label: &str, n: u64) {
    out.extend_from_slice(label.as_bytes());
    decimal(out, n, 1);
}

/// Left out when zero.
fn number(out: &mut Vec<u8>, label: &str, n: u64) {
    if n != 0 {
        always(out, label, n);
    }
}

fn decimal(out: &mut Vec<u8>, mut n: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while n > 0 || digits.len() - at < width {
        at -= 1;
        if let Some(d) = digits.get_mut(at) {
            *d = b'0' + (n % 10) as u8;
        }
        n /= 10;
    }
    out.extend_from_slice(digits.get(at..).unwrap_or(&[]));
}

/// Left out when empty.
fn text(out: &mut Vec<u8>, label: &str, value: &[u8]) {
    if !value.is_empty() {
        out.extend_from_slice(label.as_bytes());
        json_string(value, out);
    }
}

fn time(out: &mut Vec<u8>, label: &str, t: Time) {
    out.extend_from_slice(label.as_bytes());
    let t = if t.secs < FIRST {
        Time { secs: FIRST, nanos: 0 }
    } else if t.secs > LAST {
        Time { secs: LAST, nanos: 999_999_999 }
    } else {
        t
    };
    // Not by way of formatting: a node has three times, and they were most of the work.
    let (year, month, day) = civil_from_days(t.secs.div_euclid(86_400));
    let second = t.secs.rem_euclid(86_400);
    decimal(out, year.unsigned_abs(), 4);
    for (before, n) in [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)] {
        let n = n.unsigned_abs() as u8;
        out.extend_from_slice(&[before, b'0' + n / 10, b'0' + n % 10]);
    }
    if t.nanos != 0 {
        out.push(b'.');
        decimal(out, u64::from(t.nanos), 9);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.extend_from_slice(b"Z\"");
}

fn ids(out: &mut Vec<u8>, content: &[Id]) {
    out.push(b'[');
    for (i, id) in content.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        one_id(out, id);
    }
    out.push(b']');
}

fn one_id(out: &mut Vec<u8>, id: &Id) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'"'; 66];
    let (_, digits) = text.split_at_mut(1);
    for (pair, byte) in digits.chunks_exact_mut(2).zip(id.0) {
        for (slot, n) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *slot = DIGITS.get(usize::from(n)).copied().unwrap_or(b'0');
        }
    }
    out.extend_from_slice(&text);
}
