//! The server during a backup: one session from `pg_backup_start` to `pg_backup_stop`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::label::Label;
use super::{LABEL_FILE, Settings};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentSize, Time, Timeline};
use crate::postgres::{ConnectionSettings, Session, get};
use crate::runtime::Cancel;

/// How long a checkpoint at the start may take, in any case. The job's own limit is usually shorter.
const CHECKPOINT: Duration = Duration::from_secs(6 * 3600);

/// The largest configuration file that is taken in bytes; larger ones are none.
const CONFIG_FILE: u64 = 4 << 20;

/// What a backup needs to know of its server.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Of the cluster.
    pub system_identifier: u64,
    /// Major version.
    pub major: u32,
    /// The version as the server writes it.
    pub server_version: String,
    /// The timeline of the last checkpoint.
    pub timeline: Timeline,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// Whether data pages have checksums.
    pub checksums: bool,
    /// Size of a data page in bytes.
    pub page_size: u32,
    /// Pages in a file of a large relation.
    pub segment_pages: u32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The data directory as the server sees it, if this role may know.
    pub data_directory: Option<String>,
}

/// A server that is being backed up.
pub struct Server {
    session: Session,
    connection: ConnectionSettings,
    facts: Facts,
}

/// A backup that began.
#[derive(Debug, Clone)]
pub struct Start {
    /// Where replay begins.
    pub lsn: Lsn,
    /// The timeline of it.
    pub timeline: Timeline,
    /// When, by the server's clock.
    pub at: Time,
}

/// A backup that ended.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Where it is consistent.
    pub lsn: Lsn,
    /// The content of `backup_label`, byte for byte.
    pub label: String,
    /// The content of `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: String,
    /// When, by the server's clock.
    pub at: Time,
}

impl Server {
    /// Connects and looks at the cluster.
    ///
    /// # Errors
    /// Those of connecting; a role that may not read the cluster's control data; a server older than 13.
    pub fn open(settings: &Settings, cancel: &Cancel) -> Result<Self> {
        let connection = settings.connection()?;
        let session = Session::open(&connection, cancel)?;
        let connection = connection.pinned(session.endpoint());
        let version = session.version().clone();
        if version.major() < 13 {
            return Err(Error::new(Kind::Failed, format!("the server has version {version}"))
                .hint("Base backups are made of PostgreSQL 13 and newer."));
        }
        // The session must outlive the copying, whatever the server's defaults are.
        let idle = if version.major() >= 14 { "SET idle_session_timeout = 0;" } else { "" };
        session.run(&format!("SET statement_timeout = 0; SET lock_timeout = 0; {idle}"), Duration::from_secs(60))?;
        let row = session
            .one(
                "SELECT s.system_identifier, i.bytes_per_wal_segment, i.data_page_checksum_version, i.database_block_size, i.blocks_per_segment, c.timeline_id
                 FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_init() i, pg_catalog.pg_control_checkpoint() c",
                &[],
            )
            .context(|| "read the cluster's control data")?;
        let number = |column| get::<i32>(&row, column).map(i32::cast_unsigned);
        let facts = Facts {
            system_identifier: get::<i64>(&row, 0)?.cast_unsigned(),
            major: version.major(),
            server_version: version.text.clone(),
            timeline: Timeline(number(5)?),
            segment_size: SegmentSize::new(u64::from(number(1)?))?,
            checksums: number(2)? != 0,
            page_size: number(3)?,
            segment_pages: number(4)?,
            in_recovery: session.in_recovery(),
            // Settings that the role may not see are not in the view.
            data_directory: session
                .query("SELECT setting::text FROM pg_catalog.pg_settings WHERE name = 'data_directory'", &[])?
                .first()
                .map(|row| get(row, 0))
                .transpose()?
                .flatten(),
        };
        Ok(Self { session, connection, facts })
    }

    /// What it is.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How to reach this very server again.
    #[must_use]
    pub fn connection(&self) -> &ConnectionSettings {
        &self.connection
    }

    /// Where it answers, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.session.endpoint().to_string()
    }

    /// Begins a backup: files read from now on belong to it. Waits for a checkpoint (on a standby: a restartpoint). The backup
    /// ends with this value too, without a result.
    ///
    /// # Errors
    /// A role that may not; a `wal_level` that is too low.
    pub fn start(&self, label: &str, fast: bool) -> Result<Start> {
        let at = self.now()?;
        let call = if self.facts.major >= 15 { "pg_backup_start($1, $2)" } else { "pg_start_backup($1, $2, false)" };
        let sql = format!("SELECT pg_catalog.{call}::text");
        let row =
            self.session.one_within(CHECKPOINT, &sql, &[&label, &fast]).context(|| "begin the backup").map_err(|e| {
                match e.kind() {
                    Kind::Denied => e.hint(format!(
                        "As a superuser grant the role EXECUTE on pg_catalog.{} and pg_catalog.{}, and membership in pg_monitor.",
                        if self.facts.major >= 15 { "pg_backup_start" } else { "pg_start_backup(text, boolean, boolean)" },
                        if self.facts.major >= 15 { "pg_backup_stop" } else { "pg_stop_backup(boolean, boolean)" },
                    )),
                    _ => e,
                }
            })?;
        let lsn: Lsn = get::<String>(&row, 0)?.parse()?;
        let row = self.session.one("SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()", &[])?;
        let timeline = Timeline(get::<i32>(&row, 0)?.cast_unsigned());
        Ok(Start { lsn, timeline, at })
    }

    /// Ends the backup that [`Server::start`] began, when all files but these were read. Does not wait for WAL. On a primary the
    /// segment with the backup's last record is complete afterwards.
    ///
    /// # Errors
    /// The session was lost, or the standby promoted: the files that were read are no backup then. A standby that followed its
    /// primary to another timeline.
    pub fn stop(&self, start: &Start) -> Result<Stop> {
        let call = if self.facts.major >= 15 { "pg_backup_stop(false)" } else { "pg_stop_backup(false, false)" };
        let sql = format!("SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog.{call}");
        let row = self.session.one_within(CHECKPOINT, &sql, &[]).context(|| "end the backup").map_err(|e| match e.kind() {
            Kind::Cancelled => e,
            Kind::Unavailable => {
                e.hint("The server or the connection was lost while its files were read, so they are no backup; run it again.")
            }
            _ => e.hint("What was read is not consistent without the server's word, so there is no backup; run it again."),
        })?;
        let lsn: Lsn = get::<String>(&row, 0)?.parse()?;
        let stop = Stop {
            lsn,
            label: get(&row, 1)?,
            tablespace_map: get::<Option<String>>(&row, 2)?.unwrap_or_default(),
            // Later than the last record that is needed, so that a recovery to this time has reached it.
            at: self.now()?,
        };
        let label = Label::parse(&stop.label)?;
        if label.start != start.lsn || label.timeline != start.timeline {
            return Err(
                Error::new(Kind::Failed, format!("the server's {LABEL_FILE} is that of another backup")).hint("Run it again.")
            );
        }
        if self.facts.in_recovery {
            let row = self.session.one("SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()", &[])?;
            let now = get::<i32>(&row, 0)?.cast_unsigned();
            if now > start.timeline.0 {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("the standby went from timeline {} to {now} during the backup", start.timeline),
                )
                .hint("Run it again: the next one is made on the new timeline."));
            }
        }
        Ok(stop)
    }

    /// A name for a temporary replication slot of this backup. Such a slot is gone with its session, so the number of ours is enough
    /// to tell it from others.
    ///
    /// # Errors
    /// The server's.
    pub fn slot_name(&self) -> Result<String> {
        let pid: i32 = get(&self.session.one("SELECT pg_catalog.pg_backend_pid()", &[])?, 0)?;
        Ok(format!("strongroom_base_{pid}"))
    }

    /// Its clock.
    ///
    /// # Errors
    /// The server's.
    pub fn now(&self) -> Result<Time> {
        let sql = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8";
        let micros: i64 = get(&self.session.one(sql, &[])?, 0)?;
        let nanos = u32::try_from(micros.rem_euclid(1_000_000)).unwrap_or_default().saturating_mul(1000);
        Ok(Time::new(micros.div_euclid(1_000_000), nanos))
    }

    /// Every tablespace besides the default ones: number and directory.
    ///
    /// # Errors
    /// The server's.
    pub fn tablespaces(&self) -> Result<Vec<crate::model::Tablespace>> {
        let sql = "SELECT oid, pg_catalog.pg_tablespace_location(oid)::text FROM pg_catalog.pg_tablespace
                   WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid";
        let rows = self.session.query(sql, &[])?;
        rows.iter().map(|row| Ok(crate::model::Tablespace { oid: get(row, 0)?, path: get(row, 1)? })).collect()
    }

    /// Versions of the libraries that sort text: `libc`, `icu`. What the server does not tell is not in it.
    ///
    /// # Errors
    /// The server's.
    pub fn collation_versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = BTreeMap::new();
        for (library, provider) in [("libc", "c"), ("icu", "i")] {
            let sql = "SELECT pg_catalog.pg_collation_actual_version(oid)::text FROM pg_catalog.pg_collation
                       WHERE collprovider = $1::text::\"char\" AND pg_catalog.pg_collation_actual_version(oid) IS NOT NULL LIMIT 1";
            let mut rows = self.session.query(sql, &[&provider])?;
            if rows.is_empty() && self.facts.major >= 15 {
                let sql = "SELECT datcollversion::text FROM pg_catalog.pg_database
                           WHERE datlocprovider = $1::text::\"char\" AND datcollversion IS NOT NULL LIMIT 1";
                rows = self.session.query(sql, &[&provider])?;
            }
            if let Some(row) = rows.first() {
                versions.insert(library.to_owned(), get(row, 0)?);
            }
        }
        Ok(versions)
    }

    /// Configuration files that do not lie in the data directory, by their path on the server. Of those that cannot be read the
    /// reason.
    ///
    /// # Errors
    /// The server's.
    pub fn outside_files(&self) -> Result<Vec<(String, Result<Vec<u8>>)>> {
        let Some(directory) = &self.facts.data_directory else { return Ok(Vec::new()) };
        let sql = "SELECT DISTINCT file FROM (
                     SELECT sourcefile::text AS file FROM pg_catalog.pg_settings
                     UNION SELECT setting::text FROM pg_catalog.pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file')
                   ) f WHERE file <> '' ORDER BY 1";
        let inside = format!("{}/", directory.trim_end_matches('/'));
        let mut files = Vec::new();
        for row in self.session.query(sql, &[])? {
            let path: String = get(&row, 0)?;
            if !path.starts_with(&inside) {
                let content = self.outside_file(&path).context(|| format!("read {path}"));
                files.push((path, content));
            }
        }
        Ok(files)
    }

    fn outside_file(&self, path: &str) -> Result<Vec<u8>> {
        // By the server itself: its files may not be mounted here, or be others under the same name.
        let limit = i64::try_from(CONFIG_FILE).unwrap_or(i64::MAX);
        let row = self.session.one("SELECT pg_catalog.pg_read_binary_file($1, 0, $2)", &[&path, &limit])?;
        get(&row, 0)
    }
}
