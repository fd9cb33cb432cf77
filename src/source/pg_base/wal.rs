//! The WAL of a backup, taken from `pg_wal` while the backup runs: each segment as soon as it is complete, so that the server
//! need not keep all of it until the end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::DataDirectory;
use super::server::{Facts, Server, Start};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName, Timeline};
use crate::postgres::{Session, get, wal_header};
use crate::runtime::Cancel;

/// How often the server is asked how far it is, while files are read and once they are.
const PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_millis(50);

/// A segment or history file that belongs to the backup.
#[derive(Debug)]
pub struct WalSegment {
    /// Name of the file.
    pub name: String,
    /// Open, at its beginning.
    pub file: File,
    /// Length in bytes.
    pub size: u64,
}

/// Takes the files of `pg_wal` that belong to the backup, in order.
pub trait WalSink: Send {
    /// Stores one.
    ///
    /// # Errors
    /// Whatever keeps it from being stored: ends the backup.
    fn take(&mut self, segment: WalSegment) -> Result<()>;
}

/// Follows the server's WAL during a backup over a session of its own.
pub struct Follower {
    session: Session,
    /// Keeps WAL from being removed before it was taken; ends with the session.
    slot: Option<String>,
    end: Mutex<End>,
    changed: Condvar,
}

#[derive(Default)]
struct End {
    /// Where the backup is consistent.
    stop: Option<Lsn>,
    /// The backup failed: there is nothing to follow any more.
    over: bool,
}

impl Follower {
    /// Connects and asks the server to keep its WAL from now on. Must happen before the backup begins.
    ///
    /// # Errors
    /// Those of connecting.
    pub fn open(server: &Server, cancel: &Cancel) -> Result<Self> {
        let session = Session::open(server.connection(), cancel).context(|| "open a second session, for WAL")?;
        let name = server.slot_name()?;
        let sql = "SELECT pg_catalog.pg_create_physical_replication_slot($1, true, true)::text";
        let slot = match session.one(sql, &[&name]) {
            Ok(_) => Some(name),
            // Without one a busy server may remove WAL too early, which then is an error.
            Err(e) if matches!(e.kind(), Kind::Cancelled | Kind::Unavailable) => return Err(e),
            Err(e) => {
                tracing::info!("WAL is not held for the backup by a replication slot: {}", e.chain());
                None
            }
        };
        Ok(Self { session, slot, end: Mutex::default(), changed: Condvar::new() })
    }

    /// The backup's files were read and the server said where it is consistent: [`Follower::run`] ends there.
    pub fn stop_at(&self, stop: Lsn) {
        self.end.lock().stop = Some(stop);
        self.changed.notify_all();
    }

    /// The backup failed: [`Follower::run`] ends now.
    pub fn give_up(&self) {
        self.end.lock().over = true;
        self.changed.notify_all();
    }

    /// Hands over every segment from the backup's start to its end, and the history of its timeline. Blocks until
    /// [`Follower::stop_at`] was called and its WAL was taken.
    ///
    /// # Errors
    /// WAL that the server removed already, or that is not there `timeout` after the backup's end; the sink's.
    pub fn run(
        &self,
        directory: &DataDirectory,
        facts: &Facts,
        start: &Start,
        timeout: Duration,
        sink: &mut dyn WalSink,
        cancel: &Cancel,
    ) -> Result<()> {
        self.history(directory, start.timeline, sink)?;
        let mut next = SegmentName::at(start.timeline, start.lsn, facts.segment_size);
        let mut ended: Option<Instant> = None;
        loop {
            cancel.check()?;
            let stop = {
                let end = self.end.lock();
                if end.over {
                    return Ok(());
                }
                end.stop
            };
            let position = self.position(facts.in_recovery)?;
            // A standby's last segment is not complete and need not be: what is needed of it is there.
            let last = stop.map(|stop| SegmentName::before(start.timeline, stop, facts.segment_size));
            let is_there = |name: SegmentName| {
                name.end(facts.segment_size) <= position || (facts.in_recovery && last == Some(name) && stop <= Some(position))
            };
            let mut moved = false;
            while is_there(next) && last.is_none_or(|last| next <= last) {
                let Some(segment) = open(directory, next, facts)? else { break };
                sink.take(segment)?;
                next = next.next(facts.segment_size);
                moved = true;
                cancel.check()?;
            }
            if last.is_some_and(|last| next > last) {
                return Ok(());
            }
            if moved {
                self.release(next.start(facts.segment_size), facts)?;
            }
            if stop.is_some() && ended.get_or_insert_with(Instant::now).elapsed() >= timeout {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("WAL segment {next}, which the backup needs, did not come within {} s", timeout.as_secs()),
                )
                .hint("Check that `data_directory` shows the server's files as they are now; raise `wal_timeout` if the server is only slow."));
            }
            let mut end = self.end.lock();
            if end.stop == stop && !end.over {
                self.changed.wait_for(&mut end, if stop.is_some() { LAST_PAUSE } else { PAUSE });
            }
        }
    }

    /// Up to where the server's WAL is on its disk.
    fn position(&self, in_recovery: bool) -> Result<Lsn> {
        let sql = if in_recovery {
            "SELECT greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())::text"
        } else {
            "SELECT pg_catalog.pg_current_wal_flush_lsn()::text"
        };
        let row = self.session.one(sql, &[]).context(|| "ask the server for its WAL position")?;
        get::<Option<String>>(&row, 0)?.unwrap_or_else(|| "0/0".to_owned()).parse()
    }

    /// Lets the server remove what was taken.
    fn release(&self, up_to: Lsn, facts: &Facts) -> Result<()> {
        let Some(slot) = &self.slot else { return Ok(()) };
        // A standby's position may be behind the segment's end.
        let position = self.position(facts.in_recovery)?.min(up_to);
        let sql = "SELECT pg_catalog.pg_replication_slot_advance($1, $2::text::pg_lsn)::text";
        if let Err(e) = self.session.one(sql, &[slot, &position.to_string()]) {
            match e.kind() {
                Kind::Cancelled | Kind::Unavailable => return Err(e),
                // It keeps more than it must.
                _ => tracing::debug!("the backup's replication slot stays where it is: {}", e.chain()),
            }
        }
        Ok(())
    }

    /// Where the timeline came from. Without the file the restored server takes the timeline for the first.
    fn history(&self, directory: &DataDirectory, timeline: Timeline, sink: &mut dyn WalSink) -> Result<()> {
        if timeline.0 <= 1 {
            return Ok(());
        }
        let name = timeline.history_name();
        let path = directory.wal_path(&name);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata().context(|| format!("read {}", path.display()))?.len();
                sink.take(WalSegment { name, file, size })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).context(|| format!("open {}", path.display())),
        }
    }
}

/// Opens a segment whose WAL is on the server's disk, and looks into it. `None` if it is not to be seen here yet.
fn open(directory: &DataDirectory, name: SegmentName, facts: &Facts) -> Result<Option<WalSegment>> {
    let path = directory.wal_path(&name.to_string());
    let what = || format!("read WAL segment {}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            if directory.wal_path(&name.next(facts.segment_size).to_string()).exists() {
                return Err(Error::new(Kind::Failed, format!("the server removed WAL segment {name} before it was stored"))
                    .hint("Let the backup hold it: give the role REPLICATION and leave a replication slot free (max_replication_slots); or raise wal_keep_size."));
            }
            return Ok(None);
        }
        Err(e) => return Err(e).context(what),
    };
    let size = file.metadata().context(what)?.len();
    let mut header = [0; wal_header::SIZE];
    file.read_exact_at(&mut header, 0).context(what)?;
    let header = wal_header::parse(&header).context(what)?;
    let same = header.system_identifier == facts.system_identifier
        && header.address == name.start(facts.segment_size)
        && header.segment_size == facts.segment_size
        && size == facts.segment_size.bytes();
    if !same {
        return Err(Error::new(Kind::Corrupt, format!("{} is not what its name says", path.display()))
            .hint("Check that `data_directory` is the server's own and that nothing else writes to its pg_wal."));
    }
    Ok(Some(WalSegment { name: name.to_string(), file, size }))
}
