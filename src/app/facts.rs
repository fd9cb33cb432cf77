//! What a snapshot says about itself: whose, which job, whole or not.

use serde::Serialize;

use crate::model::{Id, JobName, Time};
use crate::repository::{Snapshot, SnapshotFile};

/// Tag of a snapshot that lacks something that was asked for.
pub const INCOMPLETE: &str = "incomplete";
/// Tag of a snapshot that never expires.
pub const HOLD: &str = "hold";
/// A snapshot dated further ahead of the store's clock than this is not believed, in seconds.
pub const FUTURE_SECS: f64 = 300.0;

/// One snapshot in lists and in `--json` output.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotFacts {
    /// 64 hexadecimal characters.
    pub id: Id,
    /// When the backup began.
    pub time: Time,
    /// When it ended.
    pub end: Time,
    /// Whose data; absent for snapshots of other programs.
    pub tenant: Option<String>,
    /// Which job; absent for snapshots of other programs.
    pub job: Option<String>,
    /// `volume`, `pg_dump` or `command`; absent for snapshots of other programs.
    pub source: Option<String>,
    /// Bytes of everything in it, before deduplication and compression; absent where it was not recorded.
    pub bytes: Option<u64>,
    /// Files in it; absent where it was not recorded.
    pub files: Option<u64>,
    /// Bytes that it added to the repository; absent where it was not recorded.
    pub added: Option<u64>,
    /// All tags.
    pub tags: Vec<String>,
    /// Whether everything that was asked for is in it.
    pub complete: bool,
    /// Whether it never expires.
    pub hold: bool,
    /// `<tenant>.<job>`, or what another program wrote.
    pub hostname: String,
    /// What was backed up.
    pub paths: Vec<String>,
    /// Its first id, if it was rewritten since (by `hold`, or by another program). References by it still work.
    pub original: Option<Id>,
}

/// Reads the facts off a snapshot.
#[must_use]
pub fn facts(snapshot: &Snapshot) -> SnapshotFacts {
    let file = &snapshot.file;
    let job = file.tag("job").map(str::to_owned);
    let tenant = job.as_ref().and_then(|j| file.hostname.strip_suffix(j)?.strip_suffix('.')).map(str::to_owned);
    SnapshotFacts {
        id: snapshot.id,
        time: file.time,
        end: file.end(),
        tenant,
        job,
        source: file.tag("source").map(str::to_owned),
        bytes: file.summary.as_ref().map(|s| s.total_bytes_processed),
        files: file.summary.as_ref().map(|s| s.total_files_processed),
        added: file.summary.as_ref().map(|s| s.data_added_packed),
        tags: file.tags.clone(),
        complete: is_complete(file),
        hold: file.has_tag(HOLD),
        hostname: file.hostname.clone(),
        paths: file.paths.clone(),
        original: file.original,
    }
}

/// Whether everything that was asked for is in it.
#[must_use]
pub fn is_complete(file: &SnapshotFile) -> bool {
    !file.has_tag(INCOMPLETE)
}

/// Whether it is one of this job's.
#[must_use]
pub fn is_of_job(file: &SnapshotFile, job: &JobName) -> bool {
    file.tag("job") == Some(job.as_str())
}

/// Whether it is dated too far ahead of `now`, the store's own time, to be believed.
#[must_use]
pub fn is_future(file: &SnapshotFile, now: Time) -> bool {
    file.time.seconds_since(now) > FUTURE_SECS
}
