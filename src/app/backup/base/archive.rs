//! `wal_in_snapshot: when_no_archive`: whether the repository's own WAL archive has the WAL of a backup.

use std::time::{Duration, Instant};

use super::super::Run;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{SegmentName, SystemId, Timeline};
use crate::runtime::Cancel;
use crate::source::pg_base::{Facts, Settings, Start, Stop, WalInSnapshot};
use crate::wal::{Archive, Folder};

/// How often the archive is asked for a segment that it does not have yet.
const PAUSE: Duration = Duration::from_secs(1);

impl Run {
    /// The archive that the backup may rely on. `None`: its WAL goes into the snapshot. So it does on a standby, whose last segment
    /// is not complete and may not be for long, and where nothing of this timeline was archived yet.
    pub(super) fn archive_for(&self, settings: &Settings, facts: &Facts) -> Result<Option<Folder>> {
        if settings.wal == WalInSnapshot::Always || facts.in_recovery {
            return Ok(None);
        }
        let archive = Archive::open(self.repo.store().clone(), self.repo.object_seal()?, &settings.cluster)?;
        let folder = archive.folder(SystemId { major: facts.major, identifier: facts.system_identifier });
        let identity = self.repo.runtime().block_on(folder.identity()).context(|| "look into the WAL archive")?;
        let has = identity.is_some_and(|identity| identity.known(facts.timeline).is_some());
        if !has {
            tracing::info!(
                cluster = settings.cluster,
                "the archive has no WAL of this server's timeline, so that of the backup goes into the snapshot"
            );
        }
        Ok(has.then_some(folder))
    }

    /// Waits until every segment from start to stop is in the archive.
    pub(super) fn wait_for_archive(
        &self,
        folder: &Folder,
        settings: &Settings,
        facts: &Facts,
        (start, stop): (&Start, &Stop),
        cancel: &Cancel,
    ) -> Result<()> {
        let began = Instant::now();
        let size = facts.segment_size;
        let timeline: Timeline = start.timeline;
        let last = SegmentName::before(timeline, stop.lsn, size);
        let mut next = SegmentName::at(timeline, start.lsn, size);
        while next <= last {
            cancel.check()?;
            if self.repo.runtime().block_on(folder.has(next)).context(|| "look into the WAL archive")? {
                next = next.next(size);
                continue;
            }
            if began.elapsed() >= settings.wal_timeout {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("WAL segment {next}, which the backup needs, did not reach the archive within {} s", settings.wal_timeout.as_secs()),
                )
                .hint("Look at `strongroom wal status` and the server's archiver; with `wal_in_snapshot: always` a backup does not depend on the archive."));
            }
            std::thread::sleep(PAUSE.min(settings.wal_timeout));
        }
        Ok(())
    }
}
