//! A payload as the SDK sends it: piece by piece, never copied together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use azure_core::http::{Body, RequestContent};
use azure_core::stream::SeekableStream;
use bytes::{Buf as _, Bytes};
use futures::io::AsyncRead;

use crate::store::Payload;

/// The content of a put.
pub(super) fn content<F>(payload: Payload) -> RequestContent<Bytes, F> {
    let mut pieces = payload.0;
    pieces.retain(|p| !p.is_empty());
    let body = match pieces.len() {
        0 | 1 => Body::Bytes(pieces.pop().unwrap_or_default()),
        _ => Body::SeekableStream(Box::new(Pieces { left: pieces.clone(), all: pieces, at: 0 })),
    };
    body.into()
}

#[derive(Debug, Clone)]
struct Pieces {
    all: Vec<Bytes>,
    left: Vec<Bytes>,
    at: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let at = self.at;
        let Some(piece) = self.left.get_mut(at) else { return Poll::Ready(Ok(0)) };
        let n = piece.len().min(out.len());
        piece.split_to(n).copy_to_slice(out.get_mut(..n).unwrap_or_default());
        if piece.is_empty() {
            self.at += 1;
        }
        Poll::Ready(Ok(n))
    }
}

#[async_trait]
impl SeekableStream for Pieces {
    async fn reset(&mut self) -> azure_core::Result<()> {
        self.left = self.all.clone();
        self.at = 0;
        Ok(())
    }

    fn len(&self) -> Option<u64> {
        Some(self.all.iter().map(|p| p.len() as u64).sum())
    }

    fn buffer_size(&self) -> usize {
        256 << 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    #[tokio::test]
    async fn pieces_are_sent_in_order() {
        let payload = Payload(vec![Bytes::from("abc"), Bytes::new(), Bytes::from("defgh"), Bytes::from("i")]);
        let sent: RequestContent<Bytes, azure_core::http::NoFormat> = content(payload);
        let Body::SeekableStream(mut stream) = Body::from(sent) else { panic!("several pieces") };
        assert_eq!(stream.len(), Some(9));
        let mut got = Vec::new();
        while let Some(piece) = stream.next().await {
            got.extend_from_slice(&piece.expect("piece"));
        }
        assert_eq!(got, b"abcdefghi");
    }
}
