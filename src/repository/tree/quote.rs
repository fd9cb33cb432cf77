//! Go's string quoting and Go's JSON string escapes.

use std::io::Write as _;

use super::printable::is_printable;

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex_digit(n: u8) -> u8 {
    HEX.get(usize::from(n & 15)).copied().unwrap_or(b'0')
}

/// `strconv.Quote` without the outer quotes. Valid UTF-8 whatever the input.
pub(super) fn go_quote(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 16);
    for piece in name.utf8_chunks() {
        for c in piece.valid().chars() {
            quote_char(c, &mut out);
        }
        for &b in piece.invalid() {
            out.extend_from_slice(&[b'\\', b'x', hex_digit(b >> 4), hex_digit(b)]);
        }
    }
    out
}

fn quote_char(c: char, out: &mut Vec<u8>) {
    let short = match c {
        '"' => b'"',
        '\\' => b'\\',
        '\x07' => b'a',
        '\x08' => b'b',
        '\x0c' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        '\x0b' => b'v',
        _ if is_printable(c) => {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
        _ => {
            let code = u32::from(c);
            // Writing to memory cannot fail.
            let written = if code < 0x80 {
                write!(out, "\\x{code:02x}")
            } else if code < 0x1_0000 {
                write!(out, "\\u{code:04x}")
            } else {
                write!(out, "\\U{code:08x}")
            };
            written.unwrap_or_default();
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// `strconv.Unquote` of the text between double quotes. `None` for what Go rejects.
pub(super) fn go_unquote(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        match b {
            b'"' | b'\n' => return None,
            b'\\' => rest = unescape(rest, &mut out)?,
            _ => out.push(b),
        }
    }
    Some(out)
}

/// What follows a backslash; returns what follows that.
fn unescape<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&kind, rest) = rest.split_first()?;
    let plain = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'"' => kind,
        b'x' => {
            let (code, rest) = number(rest, 2, 16)?;
            out.push(u8::try_from(code).ok()?);
            return Some(rest);
        }
        b'u' | b'U' => {
            let (code, rest) = number(rest, if kind == b'u' { 4 } else { 8 }, 16)?;
            out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        b'0'..=b'7' => {
            let (code, rest) = number(rest, 2, 8)?;
            out.push(u8::try_from(u32::from(kind - b'0') * 64 + code).ok()?);
            return Some(rest);
        }
        _ => return None,
    };
    out.push(plain);
    Some(rest)
}

fn number(text: &[u8], digits: usize, radix: u32) -> Option<(u32, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let value = number.iter().try_fold(0u32, |n, &b| char::from(b).to_digit(radix).map(|d| n * radix + d))?;
    Some((value, rest))
}

/// A JSON string as Go's `encoding/json` writes it, quotes included. Bytes that are not UTF-8 become `\ufffd`.
pub(super) fn json_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for piece in text.utf8_chunks() {
        let valid = piece.valid().as_bytes();
        let mut from = 0;
        let mut at = 0;
        while let Some(&b) = valid.get(at) {
            let len = escape_len(b, valid.get(at + 1..).unwrap_or(&[]));
            if len > 0 {
                out.extend_from_slice(valid.get(from..at).unwrap_or(&[]));
                escape(b, valid.get(at + 2), out);
                from = at + len;
                at = from;
            } else {
                at += 1;
            }
        }
        out.extend_from_slice(valid.get(from..).unwrap_or(&[]));
        for _ in piece.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

/// How many bytes from here are one escaped character; 0: written as it is.
fn escape_len(b: u8, after: &[u8]) -> usize {
    match b {
        0..=0x1f | b'"' | b'\\' | b'<' | b'>' | b'&' => 1,
        // U+2028 and U+2029.
        0xe2 if matches!(after, [0x80, 0xa8 | 0xa9, ..]) => 3,
        _ => 0,
    }
}

fn escape(b: u8, third: Option<&u8>, out: &mut Vec<u8>) {
    let short = match b {
        b'"' | b'\\' => b,
        8 => b'b',
        12 => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0xe2 => {
            out.extend_from_slice(if third == Some(&0xa8) { b"\\u2028" } else { b"\\u2029" });
            return;
        }
        _ => {
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex_digit(b >> 4), hex_digit(b)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
