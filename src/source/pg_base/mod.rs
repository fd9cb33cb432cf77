//! Physical base backups: a whole cluster as files, with the WAL that makes them consistent.
//!
//! Two ways to the same tree. With the data directory at hand ([`Settings::data_directory`]) its files are read in parallel
//! between `pg_backup_start` and `pg_backup_stop` ([`DataDirectory`], [`Server`]); without it the server sends them over a
//! replication connection. This room knows the server, the layout of a data directory and PostgreSQL's own files about a
//! backup; the backup itself is driven by the application, which also owns the repository.
//!
//! **Consistency.** Files are read while they change. Replay from the backup's start repairs that: every page that changed
//! since is in the WAL. So nothing between start and stop may be skipped, `pg_control` is read last, and the label that
//! `pg_backup_stop` gives belongs into the data directory, byte for byte.

mod directory;
mod file;
mod label;
mod manifest;
mod pages;
mod rules;
mod server;
mod tar;
mod wal;

use std::path::PathBuf;
use std::time::Duration;

use crate::postgres::{ConnectionSettings, TargetAttrs};
use crate::runtime::Secret;

pub use directory::{DataDirectory, Dir, Entry, EntryKind, Listing};
pub use file::{Content, FileReader, READ_BYTES};
pub use label::Label;
pub use manifest::{Digest, FILE as MANIFEST_FILE, ManifestFile, ManifestWriter};
pub use pages::PageScan;
pub use rules::{FileClass, LABEL_FILE, TABLESPACE_MAP_FILE, member_class};
pub use server::{Facts, Server, Start, Stop};
pub use tar::{Member, TarEvent, TarReader};
pub use wal::{Follower, WalSegment, WalSink};

/// What to back up, from where, how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A libpq URL or key=value string. Read at each run.
    pub url: Secret,
    /// The password, where the URL holds none.
    pub password: Option<Secret>,
    /// The server's data directory as this process sees it. `None`: the server sends the files.
    pub data_directory: Option<PathBuf>,
    /// Ties the backup to its WAL archive.
    pub cluster: String,
    /// Which server of several.
    pub from: From,
    /// Whether the WAL from start to stop is stored too.
    pub wal: WalInSnapshot,
    /// How long to wait for the last WAL of the backup.
    pub wal_timeout: Duration,
    /// Checkpoint at once, or spread its writes as the server's own checkpoints do.
    pub fast_checkpoint: bool,
    /// The most to read in bytes a second; 0: no limit.
    pub max_rate: u64,
}

impl Settings {
    /// Everything as it is by default; the server sends the files.
    #[must_use]
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            password: None,
            data_directory: None,
            cluster: "main".to_owned(),
            from: From::Any,
            wal: WalInSnapshot::Always,
            wal_timeout: Duration::from_secs(300),
            fast_checkpoint: true,
            max_rate: 0,
        }
    }

    /// Where the server is. Secrets are read now.
    ///
    /// # Errors
    /// Secrets that cannot be read; bad connection settings.
    pub fn connection(&self) -> crate::error::Result<ConnectionSettings> {
        let mut connection = ConnectionSettings::parse(&self.url.read()?)?;
        if let Some(password) = &self.password {
            connection = connection.with_password(password.read()?);
        }
        Ok(match self.from {
            From::Any => connection,
            From::Primary => connection.with_target(TargetAttrs::Primary),
            From::Standby => connection.with_target(TargetAttrs::Standby),
            From::PreferStandby => connection.with_target(TargetAttrs::PreferStandby),
        })
    }
}

/// Which server a backup is taken from, where the connection names several hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum From {
    /// The first that answers, or what the URL's `target_session_attrs` wants.
    #[default]
    Any,
    /// The primary only.
    Primary,
    /// A standby only.
    Standby,
    /// A standby, else the primary.
    PreferStandby,
}

/// Whether the WAL of the backup goes into its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WalInSnapshot {
    /// Always: the snapshot can be restored by itself.
    #[default]
    Always,
    /// Only if the repository's WAL archive does not have it.
    WhenNoArchive,
}
