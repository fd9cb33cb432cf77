//! One timeline over one connection: receive, store, confirm.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::assembly::Assembly;
use super::begin::Connected;
use super::keep::Keeper;
use super::resume::{Place, floor};
use super::upload::{Uploads, Work};
use super::{Progress, ReceiveEvent, Receiver};
use crate::error::Result;
use crate::model::{Lsn, SegmentName, SegmentSize};
use crate::postgres::replication::{EndOfTimeline, PhysicalStream, WalEvent};
use crate::runtime::Cancel;
use crate::wal::folder::Folder;

/// The server hears of us at least this often; its patience (`wal_sender_timeout`) is usually a minute.
const TICK: Duration = Duration::from_secs(1);
/// So long a stop waits for the store.
const GRACE: Duration = Duration::from_secs(10);
/// Segments up to a third of the memory are put together there: one grows while two are stored.
const SHARES: u64 = 3;

/// Why a stream ended well.
#[derive(Debug)]
pub(super) enum Ended {
    /// It was cancelled.
    Stopped,
    /// The timeline ended; the next one follows.
    Timeline,
    /// The server keeps more for us than it should.
    TooMuch {
        /// Bytes.
        kept: u64,
    },
}

/// What is going on.
struct Flow<'a> {
    receiver: &'a Receiver,
    folder: Folder,
    size: SegmentSize,
    assembly: Assembly,
    uploads: Uploads,
    /// When the first byte was received that is in no object yet.
    since: Option<Instant>,
    /// The server waits for all of it to be stored: it shuts down, or a commit waits.
    hurry: bool,
    stored: Lsn,
    server: Lsn,
}

/// Streams from `place` on until the timeline ends, it is cancelled, or something fails.
pub(super) async fn stream(
    receiver: &Receiver,
    connected: &mut Connected,
    place: Place,
    keeper: &Keeper,
    cancel: &Cancel,
) -> Result<Ended> {
    let (folder, size) = (connected.folder.clone(), connected.size);
    let name = SegmentName::at(place.timeline, place.start, size);
    let mut flow = Flow {
        receiver,
        size,
        assembly: begin_segment(receiver, &folder, name, size, true).await?,
        uploads: Uploads::new(folder.clone(), receiver.watcher.clone()),
        folder,
        since: None,
        hurry: false,
        stored: place.start,
        server: place.start,
    };
    let slot = Some(receiver.options.slot.as_str());
    let mut stream = connected.replication.start_physical(slot, place.start, place.timeline).await?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        let room = flow.uploads.segments() < receiver.options.parallel.max(1);
        if !room {
            stream.did_not_listen();
        }
        let due = flow.due();
        tokio::select! {
            () = cancel.cancelled() => {
                flow.drain(Some(GRACE)).await?;
                flow.confirm(&mut stream, keeper).await?;
                stream.stop().await?;
                return Ok(Ended::Stopped);
            }
            done = flow.uploads.next(), if !flow.uploads.is_empty() => {
                flow.stored = flow.stored.max(done?);
                flow.confirm(&mut stream, keeper).await?;
            }
            event = stream.next(), if room => match event? {
                WalEvent::Data { server_end, bytes, .. } => {
                    flow.server = server_end;
                    flow.receive(bytes).await?;
                }
                WalEvent::Keepalive { server_end, reply_now } => {
                    flow.server = flow.server.max(server_end);
                    flow.hurry = reply_now && flow.received() >= server_end && flow.stored < flow.received();
                    if reply_now {
                        flow.confirm(&mut stream, keeper).await?;
                    }
                }
                WalEvent::EndOfTimeline(end) => break end,
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => flow.send_tip().await?,
            _ = tick.tick() => flow.confirm(&mut stream, keeper).await?,
        }
        if let Some(most) = receiver.options.max_slot_size
            && flow.progress().kept() > most
        {
            return Ok(Ended::TooMuch { kept: flow.progress().kept() });
        }
    };
    let next = flow.end_timeline(end, cancel).await?;
    connected.next = next;
    Ok(if next.is_some() { Ended::Timeline } else { Ended::Stopped })
}

async fn begin_segment(
    receiver: &Receiver,
    folder: &Folder,
    name: SegmentName,
    size: SegmentSize,
    known: bool,
) -> Result<Assembly> {
    let options = &receiver.options;
    let in_memory = size.bytes().saturating_mul(SHARES) <= options.memory;
    let before = if known { Some(folder.tip_content(name).await?) } else { None };
    Assembly::new(name, size, in_memory, &options.spool, before).await
}

impl Flow<'_> {
    fn received(&self) -> Lsn {
        self.assembly.received()
    }

    fn progress(&self) -> Progress {
        let oldest = self.uploads.oldest().or(self.since);
        Progress {
            timeline: self.assembly.name.timeline,
            received: self.received(),
            stored: self.stored,
            server: self.server.max(self.received()),
            waiting: oldest.map_or(Duration::ZERO, |since| since.elapsed()),
            split: self.uploads.folder().split().is_some(),
        }
    }

    /// Tells server, watcher and the other hosts how far we are.
    async fn confirm(&mut self, stream: &mut PhysicalStream<'_>, keeper: &Keeper) -> Result<()> {
        self.receiver.watcher.event(ReceiveEvent::Progress(self.progress()));
        keeper.stored(self.stored);
        stream.status(self.received(), self.stored, self.stored, false).await
    }

    async fn receive(&mut self, mut bytes: bytes::Bytes) -> Result<()> {
        while !bytes.is_empty() {
            self.since.get_or_insert_with(Instant::now);
            if let Some(known) = self.assembly.add(&mut bytes).await? {
                self.stored = self.stored.max(known);
                if known == self.received() {
                    self.since = None;
                }
            }
            if self.assembly.is_full() {
                self.finish_segment().await?;
            }
        }
        Ok(())
    }

    async fn finish_segment(&mut self) -> Result<()> {
        let name = self.assembly.name;
        let next = begin_segment(self.receiver, &self.folder, name.next(self.size), self.size, false).await?;
        let full = std::mem::replace(&mut self.assembly, next);
        let since = self.since.take().unwrap_or_else(Instant::now);
        self.uploads.start(Work::Segment(name, full.finish().await?), name.end(self.size), since);
        Ok(())
    }

    /// When a tip must go. One at a time: what comes meanwhile goes with the next.
    fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| !self.uploads.has_tip() && self.assembly.has_new())?;
        if self.hurry { Some(since) } else { since.checked_add(self.receiver.options.max_lag) }
    }

    async fn send_tip(&mut self) -> Result<()> {
        let Some((offset, bytes)) = self.assembly.tip().await? else { return Ok(()) };
        let name = self.assembly.name;
        let end = Lsn(name.start(self.size).0.saturating_add(offset).saturating_add(bytes.len() as u64));
        let since = self.since.unwrap_or_else(Instant::now);
        if !self.assembly.has_new() {
            (self.since, self.hurry) = (None, false);
        }
        self.uploads.start(Work::Tip(name, offset, bytes), end, since);
        Ok(())
    }

    /// Stores everything that was received, within this time if there is one.
    async fn drain(&mut self, limit: Option<Duration>) -> Result<()> {
        let all = async {
            loop {
                while !self.uploads.is_empty() {
                    self.stored = self.stored.max(self.uploads.next().await?);
                }
                if !self.assembly.has_new() {
                    return Ok(());
                }
                self.send_tip().await?;
            }
        };
        match limit {
            None => all.await,
            Some(limit) => tokio::time::timeout(limit, all).await.unwrap_or(Ok(())),
        }
    }

    /// The rest of the old timeline is stored before the next one begins, in the segment that it shares with it.
    async fn end_timeline(&mut self, end: EndOfTimeline, cancel: &Cancel) -> Result<Option<Place>> {
        tokio::select! {
            done = self.drain(None) => done?,
            () = cancel.cancelled() => {
                self.drain(Some(GRACE)).await?;
                return Ok(None);
            }
        }
        self.receiver.watcher.event(ReceiveEvent::Progress(self.progress()));
        tracing::info!("timeline {} ended at {}; timeline {} follows", self.assembly.name.timeline, end.switch, end.next);
        Ok(Some(Place { timeline: end.next, start: floor(end.switch, self.size) }))
    }
}
