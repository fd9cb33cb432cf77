//! What S3 and Azure share: the server's clock as its answers tell it, bodies made of pieces, and causes that hide in chains.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Error, ErrorKind, Key, Payload, Result};
use crate::model::Time;

/// An answer's date is good for this long, carried on by this machine's monotonic clock.
const FRESH: Duration = Duration::from_secs(5);

/// The server's clock, from the `Date` of its last answer.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<(Time, Instant)>>);

impl ServerClock {
    /// Takes note of an answer's `Date`; one that is none is ignored.
    pub(super) fn saw(&self, date: &str) {
        if let Ok(at) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date) {
            *self.0.lock() = Some((at.into(), Instant::now()));
        }
    }

    /// The server's time, if it answered within the last seconds.
    pub(super) fn now(&self) -> Option<Time> {
        let (at, seen) = (*self.0.lock())?;
        let passed = seen.elapsed();
        let secs = at.secs.saturating_add(i64::try_from(passed.as_secs()).unwrap_or(i64::MAX));
        (passed < FRESH).then(|| Time::new(secs, at.nanos + passed.subsec_nanos()))
    }
}

/// Bytes handed to the transport at once: small enough that a slow connection shows progress, large enough to be cheap.
const FRAME: usize = 128 << 10;

/// A request's body: the payload's pieces one after another, none of them copied.
#[derive(Debug, Clone)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl Pieces {
    pub(super) fn of(payload: &Payload) -> Self {
        Self { pieces: payload.0.iter().filter(|b| !b.is_empty()).cloned().collect(), left: payload.len() }
    }

    /// The next bytes, at most a frame.
    pub(super) fn take_frame(&mut self) -> Option<Bytes> {
        let mut piece = self.pieces.pop_front()?;
        if piece.len() > FRAME {
            let frame = piece.split_to(FRAME);
            self.pieces.push_front(piece);
            piece = frame;
        }
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.get_mut().take_frame().map(|frame| Ok(http_body::Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

/// Cuts a payload into parts of `size` bytes, the last one shorter, without copying.
pub(super) fn parts(payload: &Payload, size: u64) -> Vec<Payload> {
    let mut parts = Vec::new();
    let (mut part, mut room) = (Vec::new(), size);
    for piece in &payload.0 {
        let mut piece = piece.clone();
        while !piece.is_empty() {
            let taken = piece.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(piece.len()));
            room -= taken.len() as u64;
            part.push(taken);
            if room == 0 {
                parts.push(Payload(std::mem::take(&mut part)));
                room = size;
            }
        }
    }
    if !part.is_empty() {
        parts.push(Payload(part));
    }
    parts
}

/// The size of parts so that there are at most `most` of them.
pub(super) fn part_size(total: u64, wanted: u64, most: u64) -> u64 {
    wanted.max(total.div_ceil(most))
}

/// `bytes=a-b` for a range that is not empty.
pub(super) fn range_header(range: &Range<u64>) -> String {
    // Some servers cannot read the largest numbers, and no object reaches them.
    if range.end > i64::MAX as u64 {
        format!("bytes={}-", range.start)
    } else {
        format!("bytes={}-{}", range.start, range.end - 1)
    }
}

/// First byte and total size from `bytes a-b/total`.
pub(super) fn content_range(header: &str) -> Option<(u64, u64)> {
    let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

/// Calls `look` with an error and all its causes, those inside of I/O errors included, until it finds something.
pub(super) fn find_cause<T>(
    error: &(dyn StdError + 'static),
    look: &dyn Fn(&(dyn StdError + 'static)) -> Option<T>,
) -> Option<T> {
    if let Some(found) = look(error) {
        return Some(found);
    }
    // `source()` of an I/O error skips the error it holds.
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
        && let Some(found) = find_cause(inner, look)
    {
        return Some(found);
    }
    find_cause(error.source()?, look)
}

/// What a failure to exchange anything means: no TLS, or no connection.
pub(super) fn transport_error(what: String, ca_setting: &str, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let cause = cause.into();
    let tls = find_cause(cause.as_ref(), &|e| e.downcast_ref::<rustls::Error>().map(ToString::to_string));
    let Some(tls) = tls else {
        return Error::new(ErrorKind::Unavailable, what).because(Innermost::of(cause));
    };
    Error::new(ErrorKind::Tls, what).because(format!("the TLS connection was refused: {tls}")).hint(format!(
        "Check that the endpoint is the right one and speaks TLS. If its certificate comes from an authority of your own, name it in `{ca_setting}`."
    ))
}

/// Prints the whole chain of an error in one line: the libraries' own first sentences say only "dispatch failure".
#[derive(Debug)]
pub(super) struct Innermost(String);

impl Innermost {
    pub(super) fn of(error: Box<dyn StdError + Send + Sync>) -> Self {
        let mut texts: Vec<String> = Vec::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(error.as_ref());
        while let Some(e) = next {
            let text = e.to_string();
            if !text.is_empty() && !texts.last().is_some_and(|last| last.ends_with(&text)) {
                texts.push(text);
            }
            next = e.source();
        }
        Self(texts.join(": "))
    }
}

impl std::fmt::Display for Innermost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Innermost {}

/// The hint for a clock that is off, with both times where they are known.
pub(super) fn clock_skew(what: String, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::new(ErrorKind::ClockSkew, what)
        .because(cause)
        .hint("This machine's clock differs from the store's by more than it accepts (about 15 minutes). Set it, e.g. with NTP, and try again.")
}

/// A key below a prefix, as the server knows it.
pub(super) fn full_key(prefix: &str, key: &Key) -> String {
    if prefix.is_empty() { key.as_str().to_owned() } else { format!("{prefix}/{key}") }
}

/// A server's name of an object as a key below the prefix; `None` for what we cannot have put there.
pub(super) fn short_key(prefix: &str, name: &str) -> Option<Key> {
    let below = if prefix.is_empty() { name } else { name.strip_prefix(prefix)?.strip_prefix('/')? };
    Key::new(below).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_cut_into_parts_and_frames() {
        let payload =
            Payload(vec![Bytes::from(vec![1; 10]), Bytes::new(), Bytes::from(vec![2; 5]), Bytes::from(vec![3; 300_000])]);
        let cut: Vec<u64> = parts(&payload, 12).iter().map(Payload::len).collect();
        assert_eq!(cut.iter().sum::<u64>(), payload.len());
        assert!(cut.split_last().is_some_and(|(last, rest)| *last <= 12 && rest.iter().all(|l| *l == 12)));
        assert_eq!(parts(&payload, 1 << 40).len(), 1);
        assert!(parts(&Payload::default(), 5).is_empty());
        let mut body = Pieces::of(&payload);
        let mut joined = Vec::new();
        while let Some(frame) = body.take_frame() {
            assert!(frame.len() <= FRAME);
            joined.extend_from_slice(&frame);
        }
        assert!(payload.is(&joined) && body.left == 0);
        assert_eq!(part_size(100 << 30, 16 << 20, 10_000), 16 << 20);
        assert_eq!(part_size(1 << 40, 16 << 20, 10_000), (1u64 << 40).div_ceil(10_000));
    }

    #[test]
    fn ranges_are_written_and_read() {
        assert_eq!(range_header(&(0..10)), "bytes=0-9");
        assert_eq!(range_header(&(7..u64::MAX)), "bytes=7-");
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 100)));
        assert_eq!(content_range("bytes */100"), None);
    }

    #[test]
    fn dates_of_answers_are_read() {
        let clock = ServerClock::default();
        assert_eq!(clock.now(), None);
        clock.saw("Sat, 21 Nov 2026 05:11:16 GMT");
        assert_eq!(clock.now().map(|t| t.secs), Some(1_795_237_876));
        clock.saw("nonsense");
        assert!(clock.now().is_some());
    }
}
