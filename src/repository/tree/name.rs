//! Names in trees: raw bytes ↔ Go-quoted text (`strconv.Quote` without the outer quotes). JSON escaping comes on top.

use super::printable::is_print;

/// Appends `name` quoted as Go would. Every byte string has exactly one quoted form.
pub(super) fn quote(name: &[u8], out: &mut String) {
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                c if is_print(c) => out.push(c),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                c if c < ' ' || c == '\x7f' => hex(out, 'x', u32::from(c), 2),
                c if u32::from(c) < 0x10000 => hex(out, 'u', u32::from(c), 4),
                c => hex(out, 'U', u32::from(c), 8),
            }
        }
        for &byte in chunk.invalid() {
            hex(out, 'x', u32::from(byte), 2);
        }
    }
}

fn hex(out: &mut String, letter: char, value: u32, digits: u32) {
    out.push('\\');
    out.push(letter);
    for i in (0..digits).rev() {
        out.push(char::from_digit(value >> (4 * i) & 15, 16).unwrap_or('0'));
    }
}

/// The raw bytes of a quoted name; `None` where Go's `strconv.Unquote` refuses it: a raw line feed or quote, an unknown
/// escape, a code point that is none.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\\' | b'"' | b'\n')) {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain);
        let (letter, after) = from.strip_prefix(b"\\")?.split_first()?;
        rest = after;
        let mut number = |digits: usize, radix: u32| -> Option<u32> {
            let (text, after) = rest.split_at_checked(digits)?;
            rest = after;
            text.iter().try_fold(0u32, |n, b| Some(n.wrapping_mul(radix).wrapping_add(char::from(*b).to_digit(radix)?)))
        };
        let byte = match letter {
            b'a' => 0x07,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'\\' | b'"' => *letter,
            b'x' => u8::try_from(number(2, 16)?).ok()?,
            b'0'..=b'7' => {
                let low = number(2, 8)?;
                u8::try_from(u32::from(letter - b'0') * 64 + low).ok()?
            }
            b'u' | b'U' => {
                let c = char::from_u32(number(if *letter == b'u' { 4 } else { 8 }, 16)?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return None,
        };
        out.push(byte);
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(name: &[u8]) -> String {
        let mut out = String::new();
        quote(name, &mut out);
        out
    }

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quoted(br#"a"b\c"#), r#"a\"b\\c"#);
        assert_eq!(quoted(b"\x07\x08\x0c\n\r\t\x0b\x00\x1f\x7f"), r"\a\b\f\n\r\t\v\x00\x1f\x7f");
        assert_eq!(quoted(b"\xff\xe0\xa0A\xed\xa0\x80"), r"\xff\xe0\xa0A\xed\xa0\x80");
        assert_eq!(quoted("ä\u{a0}\u{200b}\u{feff}😀\u{e0001}\u{fffd}'<&>".as_bytes()), "ä\\u00a0\\u200b\\ufeff😀\\U000e0001\u{fffd}'<&>");
    }

    #[test]
    fn refuses_what_go_refuses() {
        for bad in ["a\"", "a\nb", r"\'", r"\q", r"\", r"\x1", r"\xg0", r"\ud800", r"\U00110000", r"\400", r"\8"] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
        assert_eq!(unquote(r"\377\101\x00'").as_deref(), Some(&b"\xffA\x00'"[..]));
        assert_eq!(unquote("NBSP\u{a0}raw").as_deref(), Some("NBSP\u{a0}raw".as_bytes()));
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(name in proptest::collection::vec(any::<u8>(), 0..80), text in "\\PC*|.*") {
            prop_assert_eq!(unquote(&quoted(&name)), Some(name));
            prop_assert_eq!(unquote(&quoted(text.as_bytes())), Some(text.into_bytes()));
        }
    }
}
