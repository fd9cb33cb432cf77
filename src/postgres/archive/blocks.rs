//! The data blocks behind the table of contents: skipped chunk by chunk, as fast as they come.

use crate::error::{Error, Kind, Result};

use super::token::{Collector, Token, Want};

/// The kinds of blocks, by their first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// One stream of chunks: a table's rows.
    Data,
    /// Large objects: each its number, then a stream of chunks; number 0 ends the block.
    LargeObjects,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Kind,
    Id(BlockKind),
    ObjectNumber,
    Chunk(BlockKind),
    Body(BlockKind, u64),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The input is used up.
    NeedMore,
    /// A block began: its kind, its entry, and how many bytes of `input` are left behind its head.
    Begin(BlockKind, i64, usize),
    /// The block that was begun last is complete.
    End,
}

/// Reads blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    state: State,
    int_size: usize,
    collector: Collector,
    /// Bytes of chunk bodies seen.
    pub(super) bytes: u64,
}

impl Blocks {
    pub(super) fn new(int_size: usize) -> Self {
        let mut collector = Collector::new();
        collector.set_int_size(int_size);
        Self { state: State::Kind, int_size, collector, bytes: 0 }
    }

    /// Whether the input may end here.
    pub(super) fn between_blocks(&self) -> bool {
        self.state == State::Kind && self.collector.is_empty()
    }

    /// The length of a block's head: its kind and its entry's number.
    pub(super) fn head_len(&self) -> u64 {
        (self.int_size as u64).saturating_add(2)
    }

    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<Event> {
        loop {
            match self.state {
                State::Kind => {
                    let Some((kind, rest)) = input.split_first() else { return Ok(Event::NeedMore) };
                    *input = rest;
                    self.state = State::Id(match kind {
                        1 => BlockKind::Data,
                        3 => BlockKind::LargeObjects,
                        other => return Err(Error::new(Kind::Corrupt, format!("a block of the unknown kind {other} begins"))),
                    });
                }
                State::Id(kind) => {
                    let Some(id) = self.int(input)? else { return Ok(Event::NeedMore) };
                    self.state = match kind {
                        BlockKind::Data => State::Chunk(kind),
                        BlockKind::LargeObjects => State::ObjectNumber,
                    };
                    return Ok(Event::Begin(kind, id, input.len()));
                }
                State::ObjectNumber => match self.int(input)? {
                    None => return Ok(Event::NeedMore),
                    Some(0) => {
                        self.state = State::Kind;
                        return Ok(Event::End);
                    }
                    // Numbers above 2^31 are written as negative ones.
                    Some(_) => self.state = State::Chunk(BlockKind::LargeObjects),
                },
                State::Chunk(kind) => {
                    if self.collector.is_empty() && self.int_size == 4 {
                        self.skip_whole_chunks(input);
                    }
                    match self.int(input)? {
                        None => return Ok(Event::NeedMore),
                        Some(0) if kind == BlockKind::Data => {
                            self.state = State::Kind;
                            return Ok(Event::End);
                        }
                        Some(0) => self.state = State::ObjectNumber,
                        Some(n) if n > 0 => {
                            self.bytes = self.bytes.saturating_add(n.cast_unsigned());
                            self.state = State::Body(kind, n.cast_unsigned());
                        }
                        Some(n) => return Err(Error::new(Kind::Corrupt, format!("a chunk of {n} bytes is announced"))),
                    }
                }
                State::Body(kind, left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    *input = input.get(take..).unwrap_or_default();
                    let left = left.saturating_sub(take as u64);
                    if left > 0 {
                        self.state = State::Body(kind, left);
                        return Ok(Event::NeedMore);
                    }
                    self.state = State::Chunk(kind);
                }
            }
        }
    }

    /// The fast way: positive chunks that lie in `input` with head and body. Before PostgreSQL 17 every row is one.
    fn skip_whole_chunks(&mut self, input: &mut &[u8]) {
        while let Some(([0, l0, l1, l2, l3], rest)) = input.split_first_chunk::<5>() {
            let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
            // Zero ends the stream, and what does not fit i32 is an error: both are for the careful way.
            if length == 0 || length > i32::MAX.cast_unsigned() {
                return;
            }
            let Some(after) = rest.get(length as usize..) else { return };
            self.bytes = self.bytes.saturating_add(u64::from(length));
            *input = after;
        }
    }

    fn int(&mut self, input: &mut &[u8]) -> Result<Option<i64>> {
        Ok(match self.collector.collect(Want::Int, input)? {
            Some(Token::Int(n)) => Some(n),
            _ => None,
        })
    }
}
