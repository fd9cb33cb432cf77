//! `BASE_BACKUP`: a copy of the whole cluster as tar archives, over the connection.
//!
//! One shape for all majors. Until PostgreSQL 14 each archive is a copy of its own and lacks the two empty blocks that end a tar
//! file; from 15 on all come in one copy and are whole. `backup_label` (and `tablespace_map`, if wanted) is the first member of
//! the main archive, `global/pg_control` the last.

use bytes::{Buf as _, Bytes};

use super::commands::{Replication, cell, value};
use super::wire::{Rows, row, unexpected};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, Timeline};

/// When the checkpoint that a backup begins with is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, at the cost of a burst of writes.
    Fast,
    /// In the server's own time, which may be minutes.
    Spread,
}

/// The checksums of files in PostgreSQL's own manifest. The server computes them, in the one process that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestChecksums {
    /// Only names, sizes and times.
    None,
    /// Cheap.
    Crc32c,
    /// Safe against intention; about half as fast as CRC-32C.
    Sha256,
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Written into `backup_label`; at most 1,024 bytes.
    pub label: String,
    /// How soon it begins.
    pub checkpoint: Checkpoint,
    /// Ask for the sizes of tablespaces, which costs the server a walk over all files, and for progress.
    pub progress: bool,
    /// KiB per second, 32 to 1,048,576.
    pub max_rate: Option<u32>,
    /// Put the WAL of the backup into the main archive. The server fails at the end if it was removed meanwhile.
    pub wal: bool,
    /// Wait at the end until the WAL is archived by `archive_command`.
    pub wait: bool,
    /// Put `tablespace_map` into the main archive in place of links in `pg_tblspc`.
    pub tablespace_map: bool,
    /// Let the server verify page checksums ([`BackupStream::bad_checksums`]).
    pub verify_checksums: bool,
    /// PostgreSQL's own manifest.
    pub manifest: Option<ManifestChecksums>,
}

impl BaseBackupOptions {
    /// A fast start, progress, `tablespace_map`, a manifest with CRC-32C; no WAL, no waiting, no limit, page checksums not
    /// verified.
    #[must_use]
    pub fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            checkpoint: Checkpoint::Fast,
            progress: true,
            max_rate: None,
            wal: false,
            wait: false,
            tablespace_map: true,
            verify_checksums: false,
            manifest: Some(ManifestChecksums::Crc32c),
        }
    }

    fn command(&self, major: u32) -> String {
        let label = format!("LABEL '{}'", self.label.replace('\'', "''"));
        let manifest = self.manifest.map(|m| match m {
            ManifestChecksums::None => "'NONE'",
            ManifestChecksums::Crc32c => "'CRC32C'",
            ManifestChecksums::Sha256 => "'SHA256'",
        });
        let mut words = vec![label];
        let mut add = |wanted: bool, old: &str, new: &str| {
            if wanted {
                words.push(if major < 15 { old } else { new }.to_owned());
            }
        };
        add(self.progress, "PROGRESS", "PROGRESS true");
        add(self.checkpoint == Checkpoint::Fast, "FAST", "CHECKPOINT 'fast'");
        add(self.wal, "WAL", "WAL true");
        add(!self.wait, "NOWAIT", "WAIT false");
        if let Some(rate) = self.max_rate {
            let rate = format!("MAX_RATE {}", rate.clamp(32, 1 << 20));
            add(true, &rate, &rate);
        }
        add(self.tablespace_map, "TABLESPACE_MAP", "TABLESPACE_MAP true");
        add(!self.verify_checksums, "NOVERIFY_CHECKSUMS", "VERIFY_CHECKSUMS false");
        if let Some(checksums) = manifest {
            let checksums = format!("MANIFEST_CHECKSUMS {checksums}");
            add(true, "MANIFEST 'yes'", "MANIFEST 'yes'");
            add(true, &checksums, &checksums);
        }
        if major < 15 { format!("BASE_BACKUP {}", words.join(" ")) } else { format!("BASE_BACKUP ({})", words.join(", ")) }
    }
}

/// A position and its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// In the WAL.
    pub lsn: Lsn,
    /// The timeline it is on.
    pub timeline: Timeline,
}

/// One directory that is sent as an archive of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseTablespace {
    /// The tablespace's number; `None` for the data directory itself.
    pub oid: Option<u32>,
    /// Its directory on the server; `None` for the data directory.
    pub path: Option<String>,
    /// Its size in KiB, roughly, if progress was asked for.
    pub kib: Option<u64>,
}

/// What a backup brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// The data that follows belongs to the archive of this tablespace; `None`: of the data directory.
    Archive(Option<u32>),
    /// The next bytes of the tar archive: about 32 KiB, without regard to where members begin.
    Data(Bytes),
    /// Bytes of the whole backup that the server has read so far, every now and then. Only from PostgreSQL 15 on.
    Progress(u64),
    /// The next bytes of PostgreSQL's manifest, which comes last.
    Manifest(Bytes),
    /// The backup is complete, and consistent from this position on. The connection can be used again.
    End(Position),
}

/// A running backup. Dropping it ends the connection, and with it the backup on the server.
#[derive(Debug)]
pub struct BackupStream<'a> {
    session: &'a mut Replication,
    start: Position,
    tablespaces: Vec<BaseTablespace>,
    copies: usize,
    /// What plain copied data is at the moment.
    manifest: bool,
    done: Option<Position>,
    bad_checksums: bool,
}

impl Replication {
    /// Begins a base backup and waits for its checkpoint, which may take minutes if it is spread.
    ///
    /// # Errors
    /// The server's, with [`super::Refusal::Privilege`] and [`super::Refusal::NoFreeSender`]; [`Kind::Unavailable`] if the
    /// connection is lost.
    pub async fn base_backup(&mut self, options: &BaseBackupOptions) -> Result<BackupStream<'_>> {
        let doing = || "begin a base backup";
        let command = options.command(self.version().major());
        self.send(&command).await.context(doing)?;
        let first = self.result_set().await.context(doing)?;
        let second = self.result_set().await.context(doing)?;
        let start = position(&first)?;
        let tablespaces = (0..second.0.len()).map(|i| tablespace(&second, i)).collect::<Result<_>>()?;
        Ok(BackupStream { session: self, start, tablespaces, copies: 0, manifest: false, done: None, bad_checksums: false })
    }

    /// One of several answers to the same command. Its description may have been received already.
    async fn result_set(&mut self) -> Result<Rows> {
        let mut rows = Rows::default();
        loop {
            let message = self.wire.receive().await?;
            match message.tag {
                b'T' | b'N' | b'S' | b'A' => {}
                b'D' => rows.0.push(row(&message.body)?),
                b'C' => return Ok(rows),
                b'E' => return Err(self.refused(&message.body).await),
                other => return Err(unexpected(other, "came in place of rows")),
            }
        }
    }
}

impl BackupStream<'_> {
    /// Where replay must begin: the redo position of the backup's checkpoint.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }

    /// What will be sent, in this order.
    #[must_use]
    pub fn tablespaces(&self) -> &[BaseTablespace] {
        &self.tablespaces
    }

    /// The next thing that happens. Safe to cancel. [`BackupEvent::End`] is the last and is repeated. Nothing before it
    /// makes a backup.
    ///
    /// # Errors
    /// The server's, with [`super::Refusal::WalRemoved`]; [`Kind::Unavailable`] if the connection is lost.
    pub async fn next(&mut self) -> Result<BackupEvent> {
        if let Some(end) = self.done {
            return Ok(BackupEvent::End(end));
        }
        loop {
            let message = self.session.wire.expect().await.context(|| "receive a base backup")?;
            match message.tag {
                b'H' => {
                    let number = self.copies;
                    self.copies = self.copies.saturating_add(1);
                    if self.session.version().major() < 15 {
                        match self.tablespaces.get(number) {
                            Some(next) => return Ok(BackupEvent::Archive(next.oid)),
                            None => self.manifest = true,
                        }
                    }
                }
                b'd' => {
                    if let Some(event) = self.copied(message.body)? {
                        return Ok(event);
                    }
                }
                b'c' => {}
                b'T' => return self.finish().await,
                other => return Err(unexpected(other, "came in the middle of a base backup")),
            }
        }
    }

    fn copied(&mut self, mut body: Bytes) -> Result<Option<BackupEvent>> {
        if self.session.version().major() < 15 {
            return Ok(Some(self.data(body)));
        }
        let cut = || unexpected(b'd', "is cut off");
        match body.try_get_u8().map_err(|_| cut())? {
            b'n' => {
                let name = body.split(|b| *b == 0).next().unwrap_or_default();
                let stem = std::str::from_utf8(name).ok().and_then(|n| n.strip_suffix(".tar"));
                self.manifest = false;
                match stem {
                    Some("base") => Ok(Some(BackupEvent::Archive(None))),
                    Some(oid) if self.tablespaces.iter().any(|t| t.oid.is_some_and(|o| o.to_string() == oid)) => {
                        Ok(Some(BackupEvent::Archive(oid.parse().ok())))
                    }
                    _ => Err(unexpected(b'd', "names an archive that was not announced")),
                }
            }
            b'm' => {
                self.manifest = true;
                Ok(None)
            }
            b'd' => Ok(Some(self.data(body))),
            b'p' => Ok(Some(BackupEvent::Progress(body.try_get_u64().map_err(|_| cut())?))),
            other => Err(unexpected(other, "is not known in a base backup")),
        }
    }

    fn data(&self, bytes: Bytes) -> BackupEvent {
        if self.manifest { BackupEvent::Manifest(bytes) } else { BackupEvent::Data(bytes) }
    }

    /// Whether the server, asked to verify page checksums, found wrong ones. Known at the end; which pages they are is in the
    /// server's log.
    #[must_use]
    pub fn bad_checksums(&self) -> bool {
        self.bad_checksums
    }

    /// The last rows: where the backup is consistent. What the server thinks of the pages it sent comes as an error after them.
    async fn finish(&mut self) -> Result<BackupEvent> {
        let doing = || "end a base backup";
        let rows = self.session.result_set().await.context(doing)?;
        let end = position(&rows)?;
        match self.session.rows().await {
            Err(e) if super::Refusal::of(&e) == Some(super::Refusal::BadChecksums) => self.bad_checksums = true,
            other => drop(other.context(doing)?),
        }
        self.done = Some(end);
        Ok(BackupEvent::End(end))
    }
}

fn position(rows: &Rows) -> Result<Position> {
    Ok(Position { lsn: cell(rows, 0, 0)?, timeline: Timeline(cell(rows, 0, 1)?) })
}

fn tablespace(rows: &Rows, at: usize) -> Result<BaseTablespace> {
    let oid = value(rows, at, 0).map(|_| cell(rows, at, 0)).transpose()?;
    let path = value(rows, at, 1).filter(|_| oid.is_some());
    let path = path
        .map(|p| String::from_utf8(p.to_vec()))
        .transpose()
        .map_err(|e| Error::new(Kind::Failed, "the directory of a tablespace is not UTF-8").because(e.utf8_error()))?;
    Ok(BaseTablespace { oid, path, kib: value(rows, at, 2).map(|_| cell(rows, at, 2)).transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_major_is_asked_in_its_own_words() {
        let mut options = BaseBackupOptions::new("it's");
        options.max_rate = Some(5);
        assert_eq!(
            options.command(14),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 32 TABLESPACE_MAP NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            options.command(15),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS true, CHECKPOINT 'fast', WAIT false, MAX_RATE 32, TABLESPACE_MAP true, VERIFY_CHECKSUMS false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        );
        options = BaseBackupOptions {
            wait: true,
            wal: true,
            verify_checksums: true,
            tablespace_map: false,
            manifest: None,
            progress: false,
            max_rate: None,
            checkpoint: Checkpoint::Spread,
            ..options
        };
        assert_eq!(options.command(13), "BASE_BACKUP LABEL 'it''s' WAL");
        assert_eq!(options.command(18), "BASE_BACKUP (LABEL 'it''s', WAL true)");
    }
}
