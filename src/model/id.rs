//! The 32-byte name of a blob, pack, index, snapshot, lock or key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-256 value. Text form: 64 lower-case hex characters; nothing else is accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// The first 8 hex characters: what people see in lists.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }

    /// All 64 hex characters.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

/// Values of the lower-case hexadecimal digits; 255 for everything else.
const DIGITS: [u8; 256] = {
    let mut table = [255; 256];
    let mut n = 0;
    while n < 16 {
        table[b"0123456789abcdef"[n as usize] as usize] = n;
        n += 1;
    }
    table
};

/// A text that is not 64 lower-case hex characters.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an id (64 lower-case hexadecimal characters)")]
pub struct ParseIdError(String);

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // By table and without a branch a digit: a repository's index and trees hold millions of these.
        let mut out = [0; 32];
        let mut seen = 0;
        for (to, pair) in out.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
            if let &[high, low] = pair {
                let (high, low) = (DIGITS[usize::from(high)], DIGITS[usize::from(low)]);
                seen |= high | low;
                *to = high << 4 | low & 15;
            }
        }
        if s.len() != 64 || seen > 15 {
            return Err(ParseIdError(s.chars().take(80).collect()));
        }
        Ok(Self(out))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut buf = [0; 64];
        // The buffer is exactly twice the id, so encoding cannot fail.
        hex::encode_to_slice(self.0, &mut buf).unwrap_or_default();
        s.serialize_str(std::str::from_utf8(&buf).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 lower-case hexadecimal characters")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Id, E> {
                s.parse().map_err(E::custom)
            }
        }
        d.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lower_case_digits_are_an_id() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(text.parse::<Id>().map(|id| id.to_hex()).ok(), Some(text.clone()));
        for bad in [
            text.replace('a', "A"),
            text.replace('f', "g"),
            text.replace('0', "/"),
            text.replace('9', ":"),
            format!("{text}0"),
            text[1..].to_owned(),
            String::new(),
            "é".repeat(32),
        ] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }
}
