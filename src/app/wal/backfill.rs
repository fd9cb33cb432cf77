//! Whole segments of earlier timelines that nobody archived.
//!
//! A standby marks what it was streamed as archived, in the belief that its primary does it. If that one died first, these
//! segments would be missing for ever. So when a server's new timeline is archived, its ancestors' segments in `pg_wal` are, too.

use std::fs::File;
use std::path::Path;

use crate::app::blocking;
use crate::error::{Context, Kind, Result};
use crate::model::{SegmentName, SegmentSize, Timeline, TimelineHistory, WalFile};
use crate::wal::{Folder, Pushed};

/// Stores what is missing of the ancestors of `timeline`, whose history is archived already. Tells how many segments that were.
///
/// # Errors
/// The store's failures: the history file is to be pushed again, and this with it. A segment that is not fit for the archive is
/// told in the log, and left out.
pub(super) async fn run(folder: &Folder, pg_wal: &Path, timeline: Timeline) -> Result<usize> {
    let Some(identity) = folder.identity().await? else { return Ok(0) };
    let Some(history) = identity.history(timeline) else { return Ok(0) };
    let dir = pg_wal.to_path_buf();
    let size = identity.segment_size;
    let there = blocking(move || segments(&dir, &history, size)).await?;
    let mut stored = 0;
    for name in there {
        if folder.has(name).await? {
            continue;
        }
        let path = pg_wal.join(name.to_string());
        let file = match File::open(&path).context(|| format!("open {}", path.display())) {
            Ok(file) => file,
            // The server may remove it at any time.
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) => return Err(e),
        };
        match folder.push(&WalFile::Segment(name), file).await {
            Ok(Pushed::Stored) => stored += 1,
            Ok(Pushed::Same) => {}
            Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Denied | Kind::Cancelled) => return Err(e),
            Err(e) => tracing::warn!("{name} of an earlier timeline stays out of the archive: {}", e.chain()),
        }
    }
    if stored > 0 {
        tracing::info!("{stored} segments of earlier timelines had not been archived and are now");
    }
    Ok(stored)
}

/// The whole segments of its ancestors, in order: what lies before the segment in which each was left.
fn segments(pg_wal: &Path, history: &TimelineHistory, size: SegmentSize) -> Result<Vec<SegmentName>> {
    let doing = || format!("read {}", pg_wal.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(pg_wal).context(doing)? {
        let name = entry.context(doing)?.file_name();
        let Some(name) = name.to_str().and_then(|n| n.parse::<SegmentName>().ok()) else { continue };
        let own = history.ancestors.iter().find(|a| a.timeline == name.timeline);
        // Beyond the first position of the ancestor's own ancestors' time, and whole before it was left.
        if own.is_some_and(|a| name.end(size) <= a.switch) && u64::from(name.seg) < size.per_log() {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}
