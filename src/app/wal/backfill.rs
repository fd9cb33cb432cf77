//! Whole segments of earlier timelines that nobody archived.
//!
//! A standby marks what it was streamed as archived, in the belief that its primary does it. If that one died first, these
//! segments would be missing for ever. So when a server's new timeline is archived, its ancestors' segments in `pg_wal` are, too.

use std::path::{Path, PathBuf};

use crate::app::blocking;
use crate::error::{Context, Kind, Result};
use crate::model::{SegmentSize, Timeline, TimelineHistory};
use crate::postgres::control::Control;
use crate::wal::{Folder, Pushed, PushedFile};

/// Stores what is missing of the ancestors of `timeline`, whose history is archived already. Tells how many segments that were.
///
/// # Errors
/// The store's failures: the history file is to be pushed again, and this with it. A segment that is not fit for the archive is
/// told in the log, and left out.
pub(super) async fn run(folder: &Folder, pg_wal: &Path, timeline: Timeline) -> Result<usize> {
    let identity = match folder.identity().await? {
        Some(identity) => identity,
        // The first that this system archives is a history file.
        None => match look(pg_wal.to_path_buf(), timeline).await {
            Ok((history, size)) => folder.register(timeline, Some(&history), size).await?,
            Err(e) => {
                tracing::debug!("no earlier timelines are archived: {}", e.chain());
                return Ok(0);
            }
        },
    };
    let Some(history) = identity.history(timeline) else { return Ok(0) };
    let mut stored = 0;
    for PushedFile { file, result } in folder.backfill(pg_wal, &history).await? {
        match result {
            Ok(Pushed::Stored) => stored += 1,
            Ok(Pushed::Same) => {}
            Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Denied | Kind::Cancelled) => return Err(e),
            Err(e) => tracing::warn!("{file} of an earlier timeline stays out of the archive: {}", e.chain()),
        }
    }
    if stored > 0 {
        tracing::info!("{stored} segments of earlier timelines had not been archived and are now");
    }
    Ok(stored)
}

/// What the server's own files say: a timeline's history, and how long segments are.
async fn look(pg_wal: PathBuf, timeline: Timeline) -> Result<(TimelineHistory, SegmentSize)> {
    blocking(move || {
        let path = pg_wal.join(timeline.history_name());
        let text = std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let data = pg_wal.parent().unwrap_or(&pg_wal);
        Ok((TimelineHistory::parse(timeline, &text)?, Control::read(data)?.wal_segment_size))
    })
    .await
}
