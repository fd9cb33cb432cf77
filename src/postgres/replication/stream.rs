//! Physical streaming: WAL as the server writes it.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use postgres_protocol::message::frontend::{self, CopyData};
use tokio::time::Instant;

use super::commands::{Replication, cell, value};
use super::wire::{Rows, unexpected};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, Timeline};
use crate::postgres::session::quote_ident;

/// After this silence the server is asked for a sign of life, and after twice this the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(20);

/// What a stream brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEvent {
    /// The next bytes, at most 128 KiB. They follow the ones before without a hole, and may cross the end of a segment.
    Data {
        /// Position of the first byte.
        start: Lsn,
        /// How far the server itself is.
        server_end: Lsn,
        /// The WAL.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// How far the server itself is.
        server_end: Lsn,
        /// The server wants [`PhysicalStream::status`] now, or it may end the connection.
        reply_now: bool,
    },
    /// The timeline ended here, since a newer one was begun. The connection can be used again.
    EndOfTimeline(EndOfTimeline),
}

/// Where a stream goes on after its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfTimeline {
    /// The timeline that follows. Read its history before its WAL.
    pub next: Timeline,
    /// One behind the last byte of the old timeline that counts: where the next one begins.
    pub switch: Lsn,
}

/// A running stream. Call [`PhysicalStream::next`] all the time, for it also notices silence (else see
/// [`PhysicalStream::did_not_listen`]).
#[derive(Debug)]
pub struct PhysicalStream<'a> {
    session: &'a mut Replication,
    /// The timeline had already ended where the stream was to begin.
    over: Option<EndOfTimeline>,
    expected: Lsn,
    confirmed: (Lsn, Lsn, Lsn),
    heard: Instant,
    asked: bool,
    /// The server's clock in microseconds since 2000, and when it showed that.
    server_clock: (i64, Instant),
}

impl Replication {
    /// Streams WAL of `timeline` from `start` on, which should be the beginning of a segment. With a slot, the server keeps what
    /// was not confirmed as flushed.
    ///
    /// # Errors
    /// The server's, with [`super::Refusal::WalRemoved`], [`super::Refusal::SlotMissing`], [`super::Refusal::SlotInUse`] and
    /// [`super::Refusal::SlotUnusable`]. A removed segment may also be told only by the first [`PhysicalStream::next`].
    pub async fn start_physical(&mut self, slot: Option<&str>, start: Lsn, timeline: Timeline) -> Result<PhysicalStream<'_>> {
        let slot = slot.map(|s| format!(" SLOT {}", quote_ident(s))).unwrap_or_default();
        let doing = || format!("stream WAL from {start} on timeline {timeline}");
        self.send(&format!("START_REPLICATION{slot} PHYSICAL {start} TIMELINE {timeline}")).await.context(doing)?;
        let over = self.begin().await.context(doing)?;
        let nothing = Lsn(0);
        Ok(PhysicalStream {
            session: self,
            over,
            expected: start,
            confirmed: (nothing, nothing, nothing),
            heard: Instant::now(),
            asked: false,
            server_clock: (0, Instant::now()),
        })
    }

    /// Waits until the stream is open. `Some` if there is nothing to stream, since the timeline ends at the start.
    async fn begin(&mut self) -> Result<Option<EndOfTimeline>> {
        let mut rows = Rows::default();
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'W' => return Ok(None),
                b'E' => return Err(self.refused(&message.body).await),
                b'D' => rows.0.push(super::wire::row(&message.body)?),
                b'Z' => {
                    self.streaming = false;
                    return end(&rows)?.map(Some).ok_or_else(|| unexpected(b'Z', "came in place of WAL"));
                }
                b'T' | b'C' | b'N' | b'S' | b'A' => {}
                other => return Err(unexpected(other, "came in place of WAL")),
            }
        }
    }
}

impl PhysicalStream<'_> {
    /// The next thing that happens. Safe to cancel. After [`WalEvent::EndOfTimeline`] there is nothing more.
    ///
    /// # Errors
    /// The server's (see [`super::Refusal`]); [`Kind::Unavailable`] if the connection is lost, the server shuts down, or is
    /// silent for 40 seconds although asked.
    pub async fn next(&mut self) -> Result<WalEvent> {
        if let Some(over) = self.over {
            return Ok(WalEvent::EndOfTimeline(over));
        }
        loop {
            let limit = if self.asked { SILENCE.saturating_mul(2) } else { SILENCE };
            let until = self.heard.checked_add(limit).unwrap_or(self.heard);
            match tokio::time::timeout_at(until, self.session.wire.expect()).await {
                Ok(message) => {
                    let message = message?;
                    self.heard = Instant::now();
                    self.asked = false;
                    match message.tag {
                        b'd' => return self.copied(message.body),
                        b'c' => return self.finish().await,
                        // A server that shuts down ends the command, not the copy.
                        b'C' => return Err(Error::new(Kind::Unavailable, "the server is shutting down")),
                        other => return Err(unexpected(other, "came in the middle of WAL")),
                    }
                }
                Err(_) if self.asked => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("the server was silent for {limit:?} although asked for a sign of life"),
                    ));
                }
                Err(_) => {
                    let (write, flush, apply) = self.confirmed;
                    self.status(write, flush, apply, true).await?;
                    self.asked = true;
                }
            }
        }
    }

    /// Tells the server how far we are: `write` is received, `flush` is safe (the slot lets go of what is before it), `apply`
    /// is visible. Each is the position behind the last byte, and 0 says nothing. With `reply` the server answers with a
    /// keepalive.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if the connection is lost.
    pub async fn status(&mut self, write: Lsn, flush: Lsn, apply: Lsn, reply: bool) -> Result<()> {
        self.confirmed = (write, flush, apply);
        if self.over.is_some() {
            return Ok(());
        }
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(write.0);
        body.put_u64(flush.0);
        body.put_u64(apply.0);
        // By the server's own clock: it shows the age of this message to people.
        let since = i64::try_from(self.server_clock.1.elapsed().as_micros()).unwrap_or(0);
        body.put_i64(self.server_clock.0.saturating_add(since));
        body.put_u8(u8::from(reply));
        let message = CopyData::new(body.freeze()).map_err(|e| Error::new(Kind::Bug, "a status cannot be sent").because(e))?;
        message.write(&mut self.session.wire.output);
        self.session.wire.flush().await
    }

    /// Says that nobody called [`PhysicalStream::next`] for a while on purpose: the silence is ours, not the server's. Send a
    /// status now and then meanwhile, or the server ends the connection after its `wal_sender_timeout`.
    pub fn did_not_listen(&mut self) {
        self.heard = Instant::now();
        self.asked = false;
    }

    /// Ends the stream before the timeline ends. What is still on its way is dropped. The connection can be used again.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if the connection is lost.
    pub async fn stop(self) -> Result<()> {
        if self.over.is_some() {
            return Ok(());
        }
        frontend::copy_done(&mut self.session.wire.output);
        self.session.wire.flush().await?;
        let wait = async {
            loop {
                match self.session.wire.expect().await?.tag {
                    b'Z' => return Ok(()),
                    b'd' | b'c' | b'C' | b'T' | b'D' => {}
                    other => return Err(unexpected(other, "came at the end of WAL")),
                }
            }
        };
        tokio::time::timeout(SILENCE, wait)
            .await
            .map_err(|_| Error::new(Kind::Unavailable, "the server did not end the stream"))??;
        self.session.streaming = false;
        Ok(())
    }

    fn copied(&mut self, mut body: Bytes) -> Result<WalEvent> {
        let cut = || unexpected(b'd', "is cut off");
        match body.try_get_u8().map_err(|_| cut())? {
            b'w' => {
                let start = Lsn(body.try_get_u64().map_err(|_| cut())?);
                let server_end = Lsn(body.try_get_u64().map_err(|_| cut())?);
                self.server_clock = (body.try_get_i64().map_err(|_| cut())?, self.heard);
                if start != self.expected {
                    return Err(Error::new(
                        Kind::Failed,
                        format!("the server sent WAL of {start} where {} was expected", self.expected),
                    ));
                }
                self.expected = Lsn(start.0.saturating_add(body.len() as u64));
                Ok(WalEvent::Data { start, server_end, bytes: body })
            }
            b'k' => {
                let server_end = Lsn(body.try_get_u64().map_err(|_| cut())?);
                self.server_clock = (body.try_get_i64().map_err(|_| cut())?, self.heard);
                Ok(WalEvent::Keepalive { server_end, reply_now: body.try_get_u8().map_err(|_| cut())? != 0 })
            }
            other => Err(unexpected(other, "is not known in a stream of WAL")),
        }
    }

    /// The server ended the copy: so do we, and it says where to go on.
    async fn finish(&mut self) -> Result<WalEvent> {
        frontend::copy_done(&mut self.session.wire.output);
        self.session.wire.flush().await?;
        let rows = self.session.rows().await?;
        match end(&rows)? {
            Some(over) => {
                self.over = Some(over);
                Ok(WalEvent::EndOfTimeline(over))
            }
            None => Err(Error::new(Kind::Unavailable, "the server ended the stream")),
        }
    }
}

/// The row with the next timeline.
fn end(rows: &Rows) -> Result<Option<EndOfTimeline>> {
    if value(rows, 0, 0).is_none() {
        return Ok(None);
    }
    Ok(Some(EndOfTimeline { next: Timeline(cell(rows, 0, 0)?), switch: cell(rows, 0, 1)? }))
}
