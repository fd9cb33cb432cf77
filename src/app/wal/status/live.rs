//! What the server itself says: over a connection, and in its `archive_status`.

use std::path::Path;

use serde::Serialize;

use crate::app::{Context, blocking};
use crate::config::settings::{WalJob, WalMode};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Lsn, Time, Timeline};
use crate::postgres::{ConnectionSettings, Session};
use crate::runtime::Cancel;

/// What a server answers.
#[derive(Debug, Clone, Serialize)]
pub struct ServerStatus {
    /// E.g. `17.5`.
    pub version: String,
    /// Whether it replays and does not write.
    pub in_recovery: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// How far it has written, or replayed.
    pub position: Lsn,
    /// `archive_mode`.
    pub archive_mode: String,
    /// Files that `archive_command` archived since the server's statistics began.
    pub archived: i64,
    /// The last of them.
    pub last_archived: Option<String>,
    /// Calls of `archive_command` that failed.
    pub failed: i64,
    /// The file of the last one, if it failed after the last success.
    pub failing: Option<String>,
    /// Whether somebody streams from the job's slot, on any of its hosts; `None` for a job that does not stream.
    pub streamed: Option<bool>,
}

impl ServerStatus {
    /// Whether the newest call of `archive_command` failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Whether nobody takes the WAL of this server: no stream, or a primary that does not archive.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        match self.streamed {
            Some(streamed) => !streamed,
            None => self.archive_mode == "off" && !self.in_recovery,
        }
    }
}

/// What waits to be archived.
#[derive(Debug, Clone, Serialize)]
pub struct Waiting {
    /// How many files.
    pub files: usize,
    /// Their length.
    pub bytes: u64,
    /// How long the oldest one has waited; 0 where none does.
    pub oldest_seconds: f64,
}

const STREAMED: &str = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)";
const QUESTION: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text, \
     (SELECT timeline_id FROM pg_control_checkpoint()), current_setting('archive_mode'), \
     archived_count, last_archived_wal, failed_count, \
     CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN last_failed_wal END \
     FROM pg_stat_archiver";

/// Asks the job's server; `None` where the configuration names none.
pub(super) async fn ask(ctx: &Context, job: &WalJob) -> Option<Result<ServerStatus>> {
    let url = job.settings.url.clone()?;
    let (password, cancel) = (job.settings.password.clone(), ctx.cancel().clone());
    let slot = (job.settings.mode == WalMode::Receive).then(|| job.settings.slot.clone());
    let work = move || {
        let mut connection = ConnectionSettings::parse(&url.read()?)?;
        if let Some(password) = password {
            connection = connection.with_password(password.read()?);
        }
        question(&connection, slot.as_deref(), &cancel)
    };
    Some(blocking(work).await)
}

fn question(connection: &ConnectionSettings, slot: Option<&str>, cancel: &Cancel) -> Result<ServerStatus> {
    use crate::postgres::get;
    let session = Session::open(connection, cancel)?;
    let row = session.one(QUESTION, &[])?;
    let position: Option<String> = get(&row, 0)?;
    let position = position.ok_or_else(|| Error::new(Kind::Unavailable, "the server has not replayed anything yet"))?;
    let timeline: i32 = get(&row, 1)?;
    let streams = |session: &Session, slot: &str| session.one(STREAMED, &[&slot]).and_then(|row| get::<bool>(&row, 0));
    let streamed = match slot {
        None => None,
        Some(slot) if streams(&session, slot)? => Some(true),
        // The stream may come from another host. One that does not answer is not streamed from.
        Some(slot) => Some(
            connection
                .hosts()
                .iter()
                .any(|host| Session::open(host, cancel).and_then(|session| streams(&session, slot)).unwrap_or_default()),
        ),
    };
    Ok(ServerStatus {
        version: session.version().text.clone(),
        in_recovery: session.in_recovery(),
        timeline: Timeline(timeline.unsigned_abs()),
        position: position.parse()?,
        archive_mode: get(&row, 2)?,
        archived: get(&row, 3)?,
        last_archived: get(&row, 4)?,
        failed: get(&row, 5)?,
        failing: get(&row, 6)?,
        streamed,
    })
}

/// Counts the `.ready` files below a server's `pg_wal`. Blocks.
///
/// # Errors
/// When the directory cannot be read.
pub fn waiting(pg_wal: &Path, now: Time) -> Result<Waiting> {
    let dir = pg_wal.join("archive_status");
    let doing = || format!("read {}", dir.display());
    let mut out = Waiting { files: 0, bytes: 0, oldest_seconds: 0.0 };
    for entry in std::fs::read_dir(&dir).context(doing)? {
        let entry = entry.context(doing)?;
        let name = entry.file_name();
        let Some(file) = name.to_str().and_then(|n| n.strip_suffix(".ready")) else { continue };
        // The server may rename it at any moment.
        let Ok(meta) = entry.metadata() else { continue };
        let since: Option<Time> = meta.modified().ok().map(Time::from);
        out.files += 1;
        out.bytes += std::fs::metadata(pg_wal.join(file)).map_or(0, |m| m.len());
        out.oldest_seconds = out.oldest_seconds.max(since.map_or(0.0, |s| now.seconds_since(s)));
    }
    Ok(out)
}
