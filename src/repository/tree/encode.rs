//! Writing trees: what Go's `encoding/json` writes for restic's node type, without going through a JSON library.

use base64::Engine as _;

use super::{is_file_name, mode, name};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind, Time, civil_from_days};

/// The bytes of a tree blob. Entries must be in strictly ascending order of their raw names.
///
/// # Errors
/// [`Kind::Failed`] for a name that no file system has, [`Kind::Bug`] for entries out of order.
pub fn encode_tree(nodes: &[Node]) -> Result<Vec<u8>> {
    let mut out = Writer { out: Vec::with_capacity(nodes.len() * 480 + 16), quoted: String::new(), last_time: None };
    out.raw(b"{\"nodes\":[");
    let mut last: Option<&Node> = None;
    for node in nodes {
        if !is_file_name(&node.name) {
            return Err(Error::new(Kind::Failed, format!("`{}` cannot be the name of a directory's entry", node.name.escape_ascii())));
        }
        if let Some(last) = last {
            if last.name >= node.name {
                let (a, b) = (last.name.escape_ascii(), node.name.escape_ascii());
                return Err(Error::new(Kind::Bug, format!("directory entries are not in order: `{b}` after `{a}`")));
            }
            out.raw(b",");
        }
        out.node(node);
        last = Some(node);
    }
    out.raw(b"]}\n");
    Ok(out.out)
}

struct Writer {
    out: Vec<u8>,
    quoted: String,
    /// The time written last and where its text is: the three times of a node are often equal.
    last_time: Option<(Time, std::ops::Range<usize>)>,
}

impl Writer {
    fn node(&mut self, node: &Node) {
        let meta = &node.meta;
        self.raw(b"{\"name\":");
        self.name(&node.name);
        self.raw(b",\"type\":\"");
        self.raw(type_name(&node.kind).as_bytes());
        self.raw(b"\"");
        self.number_unless_zero(b",\"mode\":", u64::from(mode::to_go(&node.kind, meta.mode)));
        self.raw(b",\"mtime\":\"");
        self.time(meta.mtime);
        self.raw(b"\",\"atime\":\"");
        self.time(meta.atime);
        self.raw(b"\",\"ctime\":\"");
        self.time(meta.ctime);
        self.raw(b"\",\"uid\":");
        self.number(u64::from(meta.uid));
        self.raw(b",\"gid\":");
        self.number(u64::from(meta.gid));
        self.text_unless_empty(b",\"user\":", meta.user.as_bytes());
        self.text_unless_empty(b",\"group\":", meta.group.as_bytes());
        self.number_unless_zero(b",\"inode\":", meta.inode);
        self.number_unless_zero(b",\"device_id\":", meta.device_id);
        self.number_unless_zero(b",\"size\":", node.size());
        self.number_unless_zero(b",\"links\":", meta.links);
        if let NodeKind::Symlink { target } = &node.kind {
            self.text_unless_empty(b",\"linktarget\":", target);
            if std::str::from_utf8(target).is_err() {
                self.raw(b",\"linktarget_raw\":");
                self.base64(target);
            }
        }
        self.xattrs(node);
        if let NodeKind::Device { device } | NodeKind::CharDevice { device } = node.kind {
            self.number_unless_zero(b",\"device\":", device);
        }
        match &node.kind {
            NodeKind::File { content, .. } => self.ids(b",\"content\":", content),
            _ => self.raw(b",\"content\":null"),
        }
        if let NodeKind::Dir { subtree: Some(id) } = &node.kind {
            self.raw(b",\"subtree\":\"");
            self.hex(id);
            self.raw(b"\"");
        }
        self.text_unless_empty(b",\"error\":", node.error.as_deref().unwrap_or_default().as_bytes());
        self.raw(b"}");
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn xattrs(&mut self, node: &Node) {
        if node.meta.xattrs.is_empty() {
            return;
        }
        self.raw(b",\"extended_attributes\":[");
        for (i, x) in node.meta.xattrs.iter().enumerate() {
            self.raw(if i == 0 { b"{\"name\":" } else { b",{\"name\":" });
            self.text(&x.name);
            self.raw(b",\"value\":");
            self.base64(&x.value);
            self.raw(b"}");
        }
        self.raw(b"]");
    }

    fn ids(&mut self, key: &[u8], ids: &[Id]) {
        self.raw(key);
        self.out.reserve(ids.len() * 67 + 2);
        self.raw(b"[");
        for (i, id) in ids.iter().enumerate() {
            self.raw(if i == 0 { b"\"" } else { b",\"" });
            self.hex(id);
            self.raw(b"\"");
        }
        self.raw(b"]");
    }

    fn hex(&mut self, id: &Id) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |n: u8| DIGITS.get(usize::from(n & 15)).copied().unwrap_or(b'0');
        self.out.extend(id.0.iter().flat_map(|b| [digit(b >> 4), digit(*b)]));
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.raw(b"\"");
        self.raw(base64::engine::general_purpose::STANDARD.encode(bytes).as_bytes());
        self.raw(b"\"");
    }

    fn number(&mut self, mut n: u64) {
        let mut digits = [0u8; 20];
        let mut used = 0;
        for slot in digits.iter_mut().rev() {
            *slot = b'0' + (n % 10) as u8;
            n /= 10;
            used += 1;
            if n == 0 {
                break;
            }
        }
        self.raw(digits.split_at(digits.len() - used).1);
    }

    fn number_unless_zero(&mut self, key: &[u8], n: u64) {
        if n != 0 {
            self.raw(key);
            self.number(n);
        }
    }

    /// RFC 3339 in UTC without trailing zeros, years outside 0..=9999 moved to the nearest of these.
    fn time(&mut self, time: Time) {
        if let Some((last, range)) = &self.last_time
            && *last == time
        {
            let range = range.clone();
            self.out.extend_from_within(range);
            return;
        }
        let start = self.out.len();
        let (year, month, day) = civil_from_days(time.secs.div_euclid(86_400));
        let second = time.secs.rem_euclid(86_400);
        self.padded(year.clamp(0, 9999).unsigned_abs(), 4);
        let parts = [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)];
        for (before, n) in parts {
            self.out.push(before);
            self.padded(n.unsigned_abs(), 2);
        }
        if time.nanos != 0 {
            self.out.push(b'.');
            self.padded(u64::from(time.nanos), 9);
            while self.out.last() == Some(&b'0') {
                self.out.pop();
            }
        }
        self.out.push(b'Z');
        self.last_time = Some((time, start..self.out.len()));
    }

    fn padded(&mut self, n: u64, digits: u32) {
        for i in (0..digits).rev() {
            self.out.push(b'0' + (n / 10u64.pow(i) % 10) as u8);
        }
    }

    fn name(&mut self, raw: &[u8]) {
        // Nearly every name is plain and means itself under both kinds of quoting.
        if raw.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'&')) {
            self.raw(b"\"");
            self.raw(raw);
            self.raw(b"\"");
            return;
        }
        let mut quoted = std::mem::take(&mut self.quoted);
        quoted.clear();
        name::quote(raw, &mut quoted);
        self.text(quoted.as_bytes());
        self.quoted = quoted;
    }

    fn text_unless_empty(&mut self, key: &[u8], text: &[u8]) {
        if !text.is_empty() {
            self.raw(key);
            self.text(text);
        }
    }

    /// A JSON string as Go's `json.Marshal` writes it, HTML escapes and one `\ufffd` per invalid byte included.
    fn text(&mut self, text: &[u8]) {
        self.raw(b"\"");
        for chunk in text.utf8_chunks() {
            let valid = chunk.valid().as_bytes();
            let mut written = 0;
            for (i, b) in valid.iter().enumerate() {
                let (escape, skip): (&[u8], usize) = match b {
                    b'"' => (b"\\\"", 1),
                    b'\\' => (b"\\\\", 1),
                    0x08 => (b"\\b", 1),
                    0x0c => (b"\\f", 1),
                    b'\n' => (b"\\n", 1),
                    b'\r' => (b"\\r", 1),
                    b'\t' => (b"\\t", 1),
                    b'<' => (b"\\u003c", 1),
                    b'>' => (b"\\u003e", 1),
                    b'&' => (b"\\u0026", 1),
                    0..0x20 => (b"\\u00", 1),
                    0xe2 if valid.get(i..i + 3) == Some(b"\xe2\x80\xa8") => (b"\\u2028", 3),
                    0xe2 if valid.get(i..i + 3) == Some(b"\xe2\x80\xa9") => (b"\\u2029", 3),
                    _ => continue,
                };
                self.raw(valid.get(written..i).unwrap_or_default());
                self.raw(escape);
                if escape == b"\\u00" {
                    self.raw(format!("{b:02x}").as_bytes());
                }
                written = i + skip;
            }
            self.raw(valid.get(written..).unwrap_or_default());
            for _ in chunk.invalid() {
                self.raw(b"\\ufffd");
            }
        }
        self.raw(b"\"");
    }
}

fn type_name(kind: &NodeKind) -> &'static str {
    match kind {
        NodeKind::File { .. } => "file",
        NodeKind::Dir { .. } => "dir",
        NodeKind::Symlink { .. } => "symlink",
        NodeKind::Device { .. } => "dev",
        NodeKind::CharDevice { .. } => "chardev",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::Irregular => "irregular",
    }
}
