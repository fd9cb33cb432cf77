//! `global/pg_control`: what a cluster knows of itself while it is stopped.
//!
//! The layout is that of `ControlFileData` in PostgreSQL's `pg_control.h`, as compilers for 64-bit little-endian machines lay
//! it out. Versions 1300 (PostgreSQL 13 to 16) and 1700 agree in every field read here but the checkpoint's own `wal_level`;
//! 1800 has one field more, right before the nonce and the checksum.

use std::fmt;
use std::path::Path;

use super::bytes::{u32_at, u64_at};
use super::crc32c::crc32c;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentSize, Time, Timeline};

/// Where it lies, relative to the data directory.
pub const PATH: &str = "global/pg_control";

/// Its size on disk in bytes. All but the first 300 are zero.
pub const FILE_SIZE: usize = 8192;

/// `catalog_version_no` of each released major; it never changes within one.
const CATALOGS: &[(u32, u32)] =
    &[(202_007_201, 13), (202_107_181, 14), (202_209_061, 15), (202_307_071, 16), (202_406_281, 17), (202_506_291, 18)];

/// What the cluster was doing when the file was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Starting up.
    StartingUp,
    /// Cleanly shut down as a primary.
    ShutDown,
    /// Cleanly shut down as a standby.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// A standby, or recovering from an archive.
    InArchiveRecovery,
    /// Running as a primary, or killed while it did.
    InProduction,
}

/// In the words of `pg_controldata`.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// How much the WAL says (`wal_level`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for crash recovery only: no backup, no archive.
    Minimal,
    /// Enough for archives and standbys.
    Replica,
    /// Enough for logical decoding too.
    Logical,
}

impl WalLevel {
    /// As the setting is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        }
    }
}

/// The content of the control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// `initdb` gave it this number.
    pub system_identifier: u64,
    /// `pg_control_version`: 1300, 1700 or 1800.
    pub control_version: u32,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// Major version of PostgreSQL, told from the catalog's version.
    pub major: u32,
    /// What the cluster was doing.
    pub state: State,
    /// When the file was last written, by the server's clock.
    pub modified: Time,
    /// Where the record of the last checkpoint begins.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: Timeline,
    /// The timeline before it, where the checkpoint is the first of its own; else the same.
    pub previous_timeline: Timeline,
    /// When the last checkpoint was made, by the server's clock.
    pub checkpoint_time: Time,
    /// Recovery must reach this before the cluster is consistent; 0 outside of archive recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of it; 0 outside of archive recovery.
    pub min_recovery_timeline: u32,
    /// The redo position of the base backup that is being recovered from; 0 once its end was reached.
    pub backup_start: Lsn,
    /// The end of the base backup from a standby that is being recovered from; 0 once it was reached.
    pub backup_end: Lsn,
    /// Recovery must see the record of the backup's end.
    pub backup_end_required: bool,
    /// `wal_level`. `None` for one that is not known.
    pub wal_level: Option<WalLevel>,
    /// `max_connections`. A hot standby needs at least the primary's value of this and the next four.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// Size of a data page in bytes.
    pub block_size: u32,
    /// Pages in each file of a large relation.
    pub segment_blocks: u32,
    /// Size of a page of WAL in bytes.
    pub wal_block_size: u32,
    /// `wal_segment_size`.
    pub wal_segment_size: SegmentSize,
    /// 0 without checksums on data pages, else the version of the algorithm, which is 1.
    pub checksum_version: u32,
}

impl Control {
    /// Reads the file of a data directory. A running server may be writing it: it is read up to three times before its
    /// checksum counts as wrong.
    ///
    /// # Errors
    /// As [`parse`]; the file's own.
    pub fn read(data_directory: &Path) -> Result<Self> {
        let path = data_directory.join(PATH);
        let mut tries = 3;
        loop {
            tries -= 1;
            let bytes = std::fs::read(&path).context(|| format!("read {}", path.display()))?;
            match parse(&bytes) {
                Err(e) if e.kind() == Kind::Corrupt && tries > 0 => {}
                other => return other.context(|| format!("read {}", path.display())),
            }
        }
    }

    /// Whether data pages carry checksums.
    #[must_use]
    pub fn has_checksums(&self) -> bool {
        self.checksum_version != 0
    }
}

/// Reads the content of a control file. Bytes behind the checksum are ignored.
///
/// # Errors
/// [`Kind::Corrupt`] for a wrong checksum or impossible values; [`Kind::Failed`] for a version of PostgreSQL, or a kind of
/// machine, that is not supported.
pub fn parse(bytes: &[u8]) -> Result<Control> {
    let version = u32_at(bytes, 8).ok_or_else(cut)?;
    let crc_at = match version {
        1300 | 1700 => 288,
        1800 => 292,
        _ if version.swap_bytes() / 100 == 13 || matches!(version.swap_bytes(), 1700 | 1800) => {
            return Err(Error::new(Kind::Failed, "the control file was written by a big-endian machine")
                .hint("Its data directory can only be used on a machine of that kind."));
        }
        _ => {
            return Err(Error::new(Kind::Failed, format!("the control file has version {version}, which is not known"))
                .hint("PostgreSQL 13 to 18 are supported."));
        }
    };
    let body = bytes.get(..crc_at).ok_or_else(cut)?;
    if u32_at(bytes, crc_at).ok_or_else(cut)? != crc32c(body) {
        return Err(Error::new(Kind::Corrupt, "the control file's checksum is wrong"));
    }
    fields(body, version)
}

fn fields(body: &[u8], control_version: u32) -> Result<Control> {
    let number = |at: usize| u32_at(body, at).ok_or_else(cut);
    let wide = |at: usize| u64_at(body, at).ok_or_else(cut);
    let lsn = |at: usize| wide(at).map(Lsn);
    let time = |at: usize| wide(at).map(|t| Time::new(t.cast_signed(), 0));
    let catalog_version = number(12)?;
    let major = CATALOGS.iter().find(|(c, _)| *c == catalog_version).map(|(_, major)| *major).ok_or_else(|| {
        Error::new(Kind::Failed, format!("the cluster's catalog has version {catalog_version}, which is not known"))
            .hint("Released versions of PostgreSQL 13 to 18 are supported.")
    })?;
    Ok(Control {
        system_identifier: wide(0)?,
        control_version,
        catalog_version,
        major,
        state: state(number(16)?)?,
        modified: time(24)?,
        checkpoint: lsn(32)?,
        // A copy of the checkpoint's record lies at 40.
        redo: lsn(40)?,
        timeline: Timeline(number(48)?),
        previous_timeline: Timeline(number(52)?),
        checkpoint_time: time(104)?,
        min_recovery_point: lsn(136)?,
        min_recovery_timeline: number(144)?,
        backup_start: lsn(152)?,
        backup_end: lsn(160)?,
        backup_end_required: body.get(168).is_some_and(|b| *b != 0),
        wal_level: match number(172)? {
            0 => Some(WalLevel::Minimal),
            1 => Some(WalLevel::Replica),
            2 => Some(WalLevel::Logical),
            _ => None,
        },
        max_connections: number(180)?,
        max_worker_processes: number(184)?,
        max_wal_senders: number(188)?,
        max_prepared_transactions: number(192)?,
        max_locks_per_transaction: number(196)?,
        block_size: number(216)?,
        segment_blocks: number(220)?,
        wal_block_size: number(224)?,
        wal_segment_size: SegmentSize::new(u64::from(number(228)?)).map_err(|e| e.with_kind(Kind::Corrupt))?,
        checksum_version: number(252)?,
    })
}

fn state(number: u32) -> Result<State> {
    Ok(match number {
        0 => State::StartingUp,
        1 => State::ShutDown,
        2 => State::ShutDownInRecovery,
        3 => State::ShuttingDown,
        4 => State::InCrashRecovery,
        5 => State::InArchiveRecovery,
        6 => State::InProduction,
        _ => return Err(Error::new(Kind::Corrupt, format!("the control file has state {number}, which is not known"))),
    })
}

fn cut() -> Error {
    Error::new(Kind::Corrupt, "the control file is too short")
}

#[cfg(test)]
mod tests;
