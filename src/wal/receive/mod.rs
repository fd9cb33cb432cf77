//! Streaming: a server's WAL goes into the archive while it is written, seconds behind.
//!
//! One [`Receiver`] is one replication slot's client. It streams segment by segment from the first one that is not stored, stores
//! each when it is full, and stores the beginning of the current one ("tips") whenever it has grown for `max_lag`. What the
//! store has acknowledged, and nothing more, is confirmed to the server as flushed, to the byte; what was received is
//! confirmed as written. So the slot keeps on the server exactly what is not safe here, and `synchronous_standby_names` may
//! name us.
//!
//! **Order**: timeline listed and its history stored → its segments and tips, in order of position. **After a crash or a lost
//! connection** everything from the first segment on that is not whole is streamed again; what is stored is compared, never
//! replaced.
//! **Outages** of the store stop the confirmation and, when a few segments wait in memory, the stream: the server keeps the
//! WAL. With
//! `max_slot_size` the slot is let go when that becomes too much. **Holes**, where the server has no longer what is missing
//! here, are recorded in the identity object, told with [`ReceiveEvent::Gap`], and left behind: a new base backup is needed
//! after each.
//!
//! **Hosts**: of all hosts in the URL the first suitable one is streamed from; one that is behind the archive's timeline is
//! not. The slot is made on the others as well and moved along ([`keep`]), so that after a failover the next one still has what
//! is missing. What a host says about its WAL and slot counts for that host alone: one that has not what is missing is passed over
//! as long as another one is there that has not said so, and only then is the stretch lost.

mod assembly;
mod begin;
mod keep;
mod resume;
mod session;
mod upload;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::archive::Archive;
use super::folder::Folder;
use crate::error::{Error, Kind, Result};
use crate::model::{Lsn, SystemId, Timeline};
use crate::postgres::ConnectionSettings;
use crate::postgres::replication::Refusal;
use crate::runtime::Cancel;

/// Between two connections after a failure: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A connection that lasted this long was a good one: the next failure is a new one.
const GOOD: Duration = Duration::from_secs(60);

/// How a [`Receiver`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// The physical slot; made where it is missing.
    pub slot: String,
    /// A commit is in the store after this time and one request, at most.
    pub max_lag: Duration,
    /// The slot is dropped when the server keeps more bytes than this for us. `None`: never.
    pub max_slot_size: Option<u64>,
    /// Objects on their way to the store at the same time, at least 1.
    pub parallel: usize,
    /// Bytes of memory for WAL that is not stored yet. Segments that do not fit are put together in a file.
    pub memory: u64,
    /// Where that file is made; it has no name and is gone with the process.
    pub spool: PathBuf,
}

impl ReceiveOptions {
    /// 5 s, no limit of the slot's size, two objects at once, 64 MiB, files in the system's temporary directory.
    #[must_use]
    pub fn new(slot: &str) -> Self {
        Self {
            slot: slot.to_owned(),
            max_lag: Duration::from_secs(5),
            max_slot_size: None,
            parallel: 2,
            memory: 64 << 20,
            spool: std::env::temp_dir(),
        }
    }
}

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The timeline that is streamed.
    pub timeline: Timeline,
    /// One behind the last byte received.
    pub received: Lsn,
    /// Everything before this is stored: confirmed as flushed.
    pub stored: Lsn,
    /// How far the server said it was.
    pub server: Lsn,
    /// How long the oldest byte that is received and not stored waits.
    pub waiting: Duration,
    /// Whether another server of the same origin has gone on with a timeline of its own meanwhile: see [`Folder::split`].
    pub split: bool,
}

impl Progress {
    /// Bytes that the server keeps for us.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.server.0.saturating_sub(self.stored.0)
    }
}

/// What happens, for logs, metrics and those who act upon it. Told from the receiver's own task: return soon.
#[derive(Debug)]
pub enum ReceiveEvent<'a> {
    /// A stream begins.
    Streaming {
        /// Whose WAL.
        system: SystemId,
        /// The host.
        host: &'a str,
        /// On this timeline …
        timeline: Timeline,
        /// … from this position, the beginning of a segment.
        from: Lsn,
    },
    /// Something was received or stored, or a second has passed.
    Progress(Progress),
    /// WAL is lost: **take a new base backup**. It is recorded in the archive.
    Gap {
        /// Whose WAL.
        system: SystemId,
        /// On this timeline.
        timeline: Timeline,
        /// The first position that is missing.
        from: Lsn,
        /// The first position that will be there again.
        to: Lsn,
        /// Why, for people.
        reason: &'a str,
    },
    /// The slot was dropped because of `max_slot_size`. A gap follows when the store can be reached.
    SlotDropped {
        /// What the server kept for us, in bytes.
        kept: u64,
    },
    /// Something could not be stored, and is tried again.
    StoreFails(&'a Error),
    /// The stream ended; it is begun again after a pause.
    Interrupted(&'a Error),
}

/// Hears what happens.
pub trait Watcher: Send + Sync + fmt::Debug {
    /// Called in order.
    fn event(&self, event: ReceiveEvent<'_>);
}

/// Reads the connection settings, each time anew, so that rotated passwords are seen. May block.
pub type ReadSettings = dyn Fn() -> Result<ConnectionSettings> + Send + Sync;

/// See the module.
pub struct Receiver {
    archive: Archive,
    settings: Arc<ReadSettings>,
    options: ReceiveOptions,
    watcher: Arc<dyn Watcher>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("archive", &self.archive).field("options", &self.options).finish_non_exhaustive()
    }
}

/// What is remembered between two connections.
#[derive(Debug, Default)]
struct Memory {
    /// The folder of the system seen last, with what it knows of the store.
    folder: Option<Folder>,
    /// What went wrong with a host, by its name in the settings.
    hosts: BTreeMap<String, HostMemory>,
}

/// What is remembered of one host.
#[derive(Debug, Default)]
struct HostMemory {
    /// It said that WAL from here on is gone.
    removed: Option<resume::Place>,
    /// Its slot is useless, or keeps too much for us: drop it before anything else.
    drop_slot: bool,
    /// What lies between the archive's end and its new slot is given up, even if it still has that.
    give_up: bool,
}

impl Memory {
    fn host(&mut self, host: &ConnectionSettings) -> &mut HostMemory {
        self.hosts.entry(host.to_string()).or_default()
    }

    /// Whether this host is not to be streamed from while another one will do.
    fn is_last_resort(&self, host: &ConnectionSettings) -> bool {
        self.hosts.get(&host.to_string()).is_some_and(|h| h.removed.is_some() || h.give_up)
    }
}

impl Receiver {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(archive: Archive, settings: Arc<ReadSettings>, options: ReceiveOptions, watcher: Arc<dyn Watcher>) -> Self {
        Self { archive, settings, options, watcher }
    }

    /// Streams until cancelled, whatever happens to server, network and store. When it returns after a cancellation, what was
    /// received is stored and confirmed, if the store could do it within ten seconds.
    ///
    /// # Errors
    /// Only what trying again cannot change: [`Kind::Config`] settings, a password or repository that is wrong
    /// ([`Kind::WrongPassword`], [`Kind::NoRepository`]), [`Kind::Bug`].
    pub async fn run(&self, cancel: &Cancel) -> Result<()> {
        let mut memory = Memory::default();
        let mut pause = PAUSE.0;
        while !cancel.is_cancelled() {
            let began = Instant::now();
            let Err(e) = self.once(&mut memory, cancel).await else { continue };
            match e.kind() {
                Kind::Cancelled if cancel.is_cancelled() => break,
                Kind::Config | Kind::WrongPassword | Kind::NoRepository | Kind::Bug => return Err(e),
                _ => {}
            }
            self.watcher.event(ReceiveEvent::Interrupted(&e));
            if began.elapsed() >= GOOD {
                pause = PAUSE.0;
                if Refusal::of(&e).is_none() {
                    // It got past whatever a host had not.
                    memory.hosts.retain(|_, h| h.drop_slot);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => {}
            }
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
        if let Some(folder) = &memory.folder {
            folder.flush().await;
        }
        Ok(())
    }

    /// One connection: timeline after timeline until it is lost.
    async fn once(&self, memory: &mut Memory, cancel: &Cancel) -> Result<()> {
        let read = self.settings.clone();
        let settings = super::object::blocking(move || read()).await?;
        let connected = tokio::select! {
            connected = begin::connect(self, &settings, memory) => connected?,
            () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "cancelled")),
        };
        let mut connected = connected;
        let keeper = keep::Keeper::start(&settings, &connected, &self.options);
        loop {
            let place = tokio::select! {
                place = begin::place(self, &mut connected, memory) => place?,
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "cancelled")),
            };
            match session::stream(self, &mut connected, place, &keeper, cancel).await {
                Ok(session::Ended::Timeline) => {}
                Ok(session::Ended::Stopped) => {
                    connected.replication.close().await;
                    return Ok(());
                }
                Ok(session::Ended::TooMuch { kept }) => {
                    let host = memory.host(connected.replication.settings());
                    (host.drop_slot, host.give_up) = (true, true);
                    self.watcher.event(ReceiveEvent::SlotDropped { kept });
                    return Ok(());
                }
                Err(e) => {
                    let host = memory.host(connected.replication.settings());
                    match Refusal::of(&e) {
                        Some(Refusal::WalRemoved) => host.removed = Some(place),
                        Some(Refusal::SlotUnusable) => host.drop_slot = true,
                        _ => {}
                    }
                    return Err(e);
                }
            }
        }
    }
}
