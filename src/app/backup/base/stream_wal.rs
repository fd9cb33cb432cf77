//! The WAL of a backup that the server sends, over a connection of its own while the files come.

use std::io::Write as _;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::line::Line;
use super::wal::WalFiles;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName};
use crate::postgres::replication::{PhysicalStream, Replication, WalEvent};
use crate::repository::{Chunking, FileWriter, Writer};
use crate::runtime::Cancel;
use crate::source::pg_base::{Facts, Server, Start};

/// How often it is looked whether the wait for the last WAL was too long.
const PAUSE: Duration = Duration::from_millis(500);

/// How the backup ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Files are still coming.
    Unknown,
    /// It is consistent here.
    At(Lsn),
    /// There is nothing to follow any more.
    Failed,
}

/// A connection that is ready to stream, with a slot that keeps the server's WAL.
pub(super) struct StreamedWal {
    line: Line,
    session: Replication,
    slot: Option<String>,
    timeout: Duration,
    writer: Writer,
}

/// The segment that is being received.
struct Segment {
    name: SegmentName,
    out: FileWriter,
    left: u64,
}

impl StreamedWal {
    /// Connects; from now on the server keeps its WAL.
    pub(super) fn open(server: &Server, timeout: Duration, writer: &Writer, cancel: &Cancel) -> Result<Self> {
        let line = Line::new(cancel)?;
        let doing = || "open a replication connection for WAL";
        // While the store is away nothing is read here, and nothing answered.
        let patient = server.connection().with_option("-c wal_sender_timeout=1h");
        let mut session = line.wait(Replication::connect(&patient)).context(doing)?;
        let name = server.slot_name()?;
        let slot = match line.wait(session.create_physical_slot(&name, true, true)) {
            Ok(()) => Some(name),
            Err(e) if matches!(e.kind(), Kind::Cancelled | Kind::Unavailable) => return Err(e),
            Err(e) => {
                tracing::info!("WAL is not held for the backup by a replication slot: {}", e.chain());
                None
            }
        };
        Ok(Self { line, session, slot, timeout, writer: writer.clone() })
    }

    /// Receives every segment from the backup's start to its end, the last one filled up with zeros as `pg_basebackup` does.
    pub(super) fn run(
        mut self,
        facts: &Facts,
        start: &Start,
        mut end: watch::Receiver<End>,
        cancel: &Cancel,
    ) -> Result<WalFiles> {
        let mut files = WalFiles::new(self.writer.clone());
        let size = facts.segment_size;
        if start.timeline.0 > 1 {
            let history = self.line.wait(self.session.timeline_history(start.timeline))?;
            let mut out = self.writer.file(Chunking::Content);
            out.write_all(&history.content).context(|| "store the timeline's history")?;
            files.add(start.timeline.history_name(), out.finish()?);
        }
        let mut position = SegmentName::at(start.timeline, start.lsn, size).start(size);
        let mut stream = self.line.wait(self.session.start_physical(self.slot.as_deref(), position, start.timeline))?;
        let mut open: Option<Segment> = None;
        let mut ended: Option<Instant> = None;
        loop {
            cancel.check()?;
            match *end.borrow_and_update() {
                End::Failed => return Ok(files),
                End::At(stop) if position >= stop => break,
                End::At(stop) => {
                    if ended.get_or_insert_with(Instant::now).elapsed() >= self.timeout {
                        return Err(late(stop, position, self.timeout));
                    }
                }
                End::Unknown => {}
            }
            let next = async {
                tokio::select! {
                    event = stream.next() => event.map(Some),
                    _ = end.changed() => Ok(None),
                    () = tokio::time::sleep(PAUSE) => Ok(None),
                }
            };
            match self.line.wait(next)? {
                None => {}
                Some(WalEvent::Data { mut bytes, .. }) => {
                    while !bytes.is_empty() {
                        let segment = open.get_or_insert_with(|| Segment {
                            name: SegmentName::at(start.timeline, position, size),
                            out: self.writer.file(Chunking::Content),
                            left: size.bytes(),
                        });
                        let fits = usize::try_from(segment.left).unwrap_or(usize::MAX).min(bytes.len());
                        let piece = bytes.split_to(fits);
                        segment.out.write_all(&piece).context(|| "store WAL")?;
                        segment.left = segment.left.saturating_sub(fits as u64);
                        position = Lsn(position.0.saturating_add(fits as u64));
                        if segment.left == 0
                            && let Some(whole) = open.take()
                        {
                            files.add(whole.name.to_string(), whole.out.finish()?);
                            confirm(&self.line, &mut stream, position)?;
                        }
                    }
                }
                Some(WalEvent::Keepalive { reply_now: true, .. }) => confirm(&self.line, &mut stream, position)?,
                Some(WalEvent::Keepalive { .. }) => {}
                Some(WalEvent::EndOfTimeline(over)) => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!("the server went from timeline {} to {} during the backup", start.timeline, over.next),
                    )
                    .hint("Run it again: the next one is made on the new timeline."));
                }
            }
        }
        if let Some(mut last) = open.take() {
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), last.left), &mut last.out).context(|| "store WAL")?;
            files.add(last.name.to_string(), last.out.finish()?);
        }
        Ok(files)
    }
}

/// What was handed to the writer need not be kept for us: if it does not come to a snapshot, nobody needs it.
fn confirm(line: &Line, stream: &mut PhysicalStream<'_>, position: Lsn) -> Result<()> {
    line.wait(stream.status(position, position, position, false))
}

fn late(stop: Lsn, position: Lsn, timeout: Duration) -> Error {
    Error::new(
        Kind::Unavailable,
        format!("WAL up to {stop}, which the backup needs, did not come within {} s: it ends at {position}", timeout.as_secs()),
    )
    .hint("Look at the server's log and the network; raise `wal_timeout` if the server is only slow.")
}
