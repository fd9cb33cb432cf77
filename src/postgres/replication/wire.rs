//! Messages of the frontend/backend protocol, version 3, over whatever carries bytes.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::refusal::Words;
use crate::error::{Error, Kind, Result};

/// What carries the bytes: a socket, or TLS on one.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Carrier for T {}

/// Longer messages than this are not believed. Real ones have at most 128 KiB of WAL or of a backup, or are a history file.
const MAX_MESSAGE: usize = 16 << 20;

/// How much is asked for at once. Messages are handed on as parts of what was read, without a copy.
const READ: usize = 256 << 10;

/// One message of the server.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// The connection, with what was read and not yet taken, and what is to be written.
pub(super) struct Wire {
    carrier: Box<dyn Carrier>,
    input: BytesMut,
    pub(super) output: BytesMut,
}

impl Wire {
    pub(super) fn new(carrier: Box<dyn Carrier>) -> Self {
        Self { carrier, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Writes what is in `output`.
    pub(super) async fn flush(&mut self) -> Result<()> {
        while self.output.has_remaining() {
            if self.carrier.write_buf(&mut self.output).await.map_err(lost)? == 0 {
                return Err(closed());
            }
        }
        self.carrier.flush().await.map_err(lost)
    }

    /// The next message, whatever it is. Safe to cancel.
    pub(super) async fn receive(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.input.reserve(READ);
            if self.carrier.read_buf(&mut self.input).await.map_err(lost)? == 0 {
                return Err(closed());
            }
        }
    }

    /// The next message that is not a notice or another thing that may come at any time. An error of the server is an error here.
    pub(super) async fn expect(&mut self) -> Result<Message> {
        loop {
            let message = self.receive().await?;
            match message.tag {
                b'E' => return Err(Words::parse(&message.body).into_error()),
                b'N' => {
                    let words = Words::parse(&message.body);
                    if words.severity == "WARNING" {
                        tracing::warn!(sqlstate = words.code, "PostgreSQL warns: {}", words.message);
                    } else {
                        tracing::debug!(sqlstate = words.code, "PostgreSQL notes: {}", words.message);
                    }
                }
                b'S' | b'A' => {}
                _ => return Ok(message),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Message>> {
        let (Some(tag), Some(length)) = (self.input.first().copied(), self.input.get(1..5)) else { return Ok(None) };
        let length = length.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
        if !(4..=MAX_MESSAGE).contains(&length) {
            return Err(unexpected(tag, "has an impossible length"));
        }
        if self.input.len() <= length {
            self.input.reserve((length + 1).saturating_sub(self.input.len()));
            return Ok(None);
        }
        let mut message = self.input.split_to(length + 1);
        message.advance(5);
        Ok(Some(Message { tag, body: message.freeze() }))
    }
}

/// Rows of one answer; all values as text.
#[derive(Debug, Default)]
pub(super) struct Rows(pub(super) Vec<Vec<Option<Bytes>>>);

/// The values of one row.
pub(super) fn row(body: &Bytes) -> Result<Vec<Option<Bytes>>> {
    let mut rest = body.clone();
    let cut = || unexpected(b'D', "is cut off");
    let count = rest.try_get_u16().map_err(|_| cut())?;
    let mut values = Vec::new();
    for _ in 0..count {
        let length = rest.try_get_i32().map_err(|_| cut())?;
        values.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= rest.len() => Some(rest.split_to(length)),
            Ok(_) => return Err(cut()),
        });
    }
    Ok(values)
}

/// A protocol violation: by the server, or by something that only looks like one.
pub(super) fn unexpected(tag: u8, what: &str) -> Error {
    Error::new(Kind::Failed, format!("the server's message `{}` {what}", char::from(tag).escape_default()))
        .hint("Check that host and port are those of a PostgreSQL server, not of a pooler without replication.")
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Unavailable, "the server closed the connection")
}

fn lost(error: std::io::Error) -> Error {
    Error::new(Kind::Unavailable, "the connection to the server was lost").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_cut_from_the_stream() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut wire = Wire::new(Box::new(ours));
        let writer = tokio::spawn(async move {
            for piece in [&b"N\0\0\0\x05"[..], b"\0d\0\0", b"\0\x07ab", b"cZ\0\0\0\x05I", b"d\xFF\0\0\0"] {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let first = wire.expect().await.unwrap();
        assert_eq!((first.tag, &first.body[..]), (b'd', &b"abc"[..]));
        assert_eq!(wire.expect().await.unwrap().tag, b'Z');
        assert!(wire.expect().await.unwrap_err().report().contains("impossible length"));
        writer.await.unwrap();
        let mut ended = Wire::new(Box::new(tokio::io::duplex(1).0));
        assert_eq!(ended.expect().await.unwrap_err().kind(), Kind::Unavailable);
    }

    #[test]
    fn rows_are_read_with_their_nulls() {
        let body = Bytes::from_static(b"\0\x03\0\0\0\x01x\xFF\xFF\xFF\xFF\0\0\0\0");
        assert_eq!(row(&body).unwrap(), [Some(Bytes::from_static(b"x")), None, Some(Bytes::new())]);
        for cut in [0, 1, 4, 6, 9, 14] {
            assert!(row(&body.slice(..cut)).is_err(), "{cut}");
        }
    }
}
