//! The smallest parts of an archive, collected over any cut of the input: bytes, numbers, texts.

use crate::error::{Error, Kind, Result};

/// A text longer than this is taken for damage: PostgreSQL's own limit for a value is 1 GiB.
const MAX_TEXT: i64 = 1 << 30;
/// What is kept of a text that was asked for.
const MAX_KEPT: usize = 64 << 10;

/// What must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// This many bytes (at most 16) as they are.
    Bytes(usize),
    /// A signed number: a sign byte, then the archive's integer size in little-endian order.
    Int,
    /// A length, then as many bytes. Kept or passed over.
    Text { keep: bool },
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Bytes([u8; 16]),
    Int(i64),
    /// `None` for the absent text (length −1). Empty if it was not to be kept. At most 64 KiB.
    Text(Option<String>),
}

/// Collects one token at a time.
#[derive(Debug)]
pub(super) struct Collector {
    int_size: usize,
    small: [u8; 16],
    have: usize,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    left: u64,
    kept: Vec<u8>,
}

impl Collector {
    pub(super) fn new() -> Self {
        Self { int_size: 4, small: [0; 16], have: 0, body: None }
    }

    pub(super) fn set_int_size(&mut self, size: usize) {
        self.int_size = size;
    }

    /// Whether the input may end here: no token was begun.
    pub(super) fn is_empty(&self) -> bool {
        self.have == 0 && self.body.is_none()
    }

    /// Takes what it needs from the front of `input`. `None`: all of it was taken and the token is not complete.
    pub(super) fn collect(&mut self, want: Want, input: &mut &[u8]) -> Result<Option<Token>> {
        match want {
            Want::Bytes(n) => {
                if !self.fill(n.min(16), input) {
                    return Ok(None);
                }
                Ok(Some(Token::Bytes(self.small)))
            }
            Want::Int => Ok(self.int(input).map(Token::Int)),
            Want::Text { keep } => self.text(keep, input),
        }
    }

    fn fill(&mut self, n: usize, input: &mut &[u8]) -> bool {
        if self.have == 0 {
            self.small = [0; 16];
        }
        let take = n.saturating_sub(self.have).min(input.len());
        let (head, tail) = input.split_at(take);
        *input = tail;
        for (to, from) in self.small.iter_mut().skip(self.have).zip(head) {
            *to = *from;
        }
        self.have = self.have.saturating_add(take);
        let full = self.have == n;
        if full {
            self.have = 0;
        }
        full
    }

    fn int(&mut self, input: &mut &[u8]) -> Option<i64> {
        let size = self.int_size;
        if !self.fill(size.saturating_add(1), input) {
            return None;
        }
        Some(number(&self.small, size))
    }

    fn text(&mut self, keep: bool, input: &mut &[u8]) -> Result<Option<Token>> {
        if self.body.is_none() {
            let Some(length) = self.int(input) else { return Ok(None) };
            match length {
                -1 => return Ok(Some(Token::Text(None))),
                0..=MAX_TEXT => self.body = Some(Body { left: length.cast_unsigned(), kept: Vec::new() }),
                _ => return Err(Error::new(Kind::Corrupt, format!("a text of {length} bytes is announced"))),
            }
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        let take = usize::try_from(body.left).unwrap_or(usize::MAX).min(input.len());
        let (head, tail) = input.split_at(take);
        *input = tail;
        if keep {
            let room = MAX_KEPT.saturating_sub(body.kept.len()).min(head.len());
            body.kept.extend(head.iter().take(room));
        }
        body.left = body.left.saturating_sub(take as u64);
        if body.left > 0 {
            return Ok(None);
        }
        let kept = self.body.take().map(|b| b.kept).unwrap_or_default();
        Ok(Some(Token::Text(Some(String::from_utf8_lossy(&kept).into_owned()))))
    }
}

/// A sign byte and `size` little-endian bytes.
pub(super) fn number(bytes: &[u8; 16], size: usize) -> i64 {
    let magnitude = bytes.iter().skip(1).take(size.min(8)).rev().fold(0u64, |n, b| (n << 8) | u64::from(*b));
    let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
    if bytes.first() == Some(&0) { magnitude } else { magnitude.saturating_neg() }
}
