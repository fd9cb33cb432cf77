//! `strongroom wal status`: how far the archive is, what it lacks, and to which points it can lead a recovery.

mod live;
mod windows;

use serde::Serialize;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{bases, open};
use crate::app::{Context, blocking, expire_wal};
use crate::config::settings::WalJob;
use crate::error::{Error, Result};
use crate::model::{Id, Lsn, SegmentName, Selector, SystemId, Time, Timeline};
use crate::retention::{self, recovery_bases};
use crate::wal::{Archive, Folder, Gap, Identity, SeenSplit, Survey};

pub use live::{ServerStatus, Waiting, waiting};
pub use windows::Window;

/// One archive.
#[derive(Debug, Clone, Serialize)]
pub struct WalStatus {
    /// Whose.
    pub tenant: String,
    /// Which `pg_wal` job.
    pub job: String,
    /// Name of the cluster.
    pub cluster: String,
    /// `archive` or `receive`.
    pub mode: &'static str,
    /// See [`State`].
    pub state: State,
    /// The systems that archived here, the current one last.
    pub systems: Vec<SystemStatus>,
    /// What the server itself tells, where it can be asked.
    pub server: Option<ServerStatus>,
    /// What waits in the server's `archive_status`, where that can be reached.
    pub waiting: Option<Waiting>,
    /// How far the archive is behind the server.
    pub lag: Option<Lag>,
    /// What could not be found out, and why. Not the same as "nothing".
    pub errors: Vec<String>,
}

/// What a look at an archive says in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be, as far as could be seen.
    Ok,
    /// The server failed to archive its newest WAL, nobody takes it, or files wait for over five minutes; or, while nothing was
    /// stored for over five minutes, the server wrote more than a segment.
    Behind,
    /// Recovery from a base backup that WAL is kept behind does not get to the end of the current system's newest timeline, because
    /// WAL is missing. Without a base backup: a segment is missing between the first and the last one of a timeline.
    Gap,
    /// Two servers of one origin archived within the last hour, each on a timeline of its own.
    Split,
    /// Nothing was ever archived.
    Never,
    /// The archive could not be read.
    Unknown,
}

/// The WAL of one system.
#[derive(Debug, Clone, Serialize)]
pub struct SystemStatus {
    /// `<major>-<system identifier>`.
    pub system: SystemId,
    /// Whether it is the one that archives now.
    pub current: bool,
    /// Bytes of one segment.
    pub segment_size: u64,
    /// Bytes of everything stored.
    pub stored_bytes: u64,
    /// The newest segment, by the time it was stored.
    pub last: Option<Last>,
    /// In ascending order.
    pub timelines: Vec<TimelineStatus>,
    /// Timelines that went on after another one that left them was known: two servers wrote.
    pub splits: Vec<SeenSplit>,
    /// Stretches that are known to be lost.
    pub lost: Vec<Gap>,
    /// To which points it can lead a recovery, one a base backup and way.
    pub windows: Vec<Window>,
}

/// The newest segment.
#[derive(Debug, Clone, Serialize)]
pub struct Last {
    /// Its name.
    pub segment: SegmentName,
    /// When it was stored, by the store's clock.
    pub time: Time,
    /// How long ago that was, in seconds.
    pub age_seconds: f64,
    /// One behind its last byte.
    pub end: Lsn,
}

/// One timeline.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineStatus {
    /// Its number.
    pub timeline: Timeline,
    /// The one it left, and where; `null` for the first one, and where that is not known.
    pub parent: Option<(Timeline, Lsn)>,
    /// Segments without a hole between them.
    pub ranges: Vec<Range>,
    /// What is missing between these: from (inclusive) to (exclusive).
    pub gaps: Vec<(Lsn, Lsn)>,
    /// The segment of which only the beginning is stored.
    pub unfinished: Option<SegmentName>,
    /// WAL before this position was expired on purpose.
    pub expired_below: Option<Lsn>,
}

/// Segments without a hole between them.
#[derive(Debug, Clone, Serialize)]
pub struct Range {
    /// The first one.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// When the first one was stored.
    pub from_time: Time,
    /// When the last one was stored.
    pub to_time: Time,
}

/// How far the archive is behind.
#[derive(Debug, Clone, Serialize)]
pub struct Lag {
    /// WAL that the server has written and whole segments of the archive do not hold.
    pub bytes: Option<u64>,
    /// For how long there has been something that is not archived. An idle server's last segment counts only if it waits.
    pub seconds: Option<f64>,
}

/// Files wait at most this long in a healthy system.
const PATIENCE_SECS: f64 = 300.0;
/// A split whose last segment is older is over.
const SPLIT_SECS: f64 = 3600.0;

/// Looks at the archives that a selector names. What cannot be found out is told, and does not fail the call.
///
/// # Errors
/// Only for a selector that names nothing.
pub async fn run(ctx: &Context, selector: Option<&Selector>) -> Result<Vec<WalStatus>> {
    let mut out = Vec::new();
    for job in ctx.wal_jobs(selector)? {
        out.push(one(ctx, job).await);
    }
    Ok(out)
}

async fn one(ctx: &Context, job: &WalJob) -> WalStatus {
    let mut status = WalStatus {
        tenant: job.tenant.to_string(),
        job: job.name.to_string(),
        cluster: job.settings.cluster.clone(),
        mode: job.settings.mode.as_str(),
        state: State::Ok,
        systems: Vec::new(),
        server: None,
        waiting: None,
        lag: None,
        errors: Vec::new(),
    };
    let mut newest = None;
    match stored(ctx, job).await {
        Ok((systems, surveyed)) => (status.systems, newest) = (systems, surveyed),
        Err(e) => {
            status.state = State::Unknown;
            status.errors.push(e.chain());
        }
    }
    if let Some(server) = live::ask(ctx, job).await {
        match server {
            Ok(server) => status.server = Some(server),
            Err(e) => status.errors.push(e.context("ask the server").chain()),
        }
    }
    if let Some(data) = job.settings.data_directory.clone() {
        let now = ctx.clock().now();
        match blocking(move || waiting(&data.join("pg_wal"), now)).await {
            Ok(waiting) => status.waiting = Some(waiting),
            Err(e) => status.errors.push(e.chain()),
        }
    }
    status.lag = lag(&status, newest.as_ref());
    judge(&mut status);
    status
}

/// A survey of the current system, with what it is of.
type Surveyed = (SystemId, Survey);

async fn stored(ctx: &Context, job: &WalJob) -> Result<(Vec<SystemStatus>, Option<Surveyed>)> {
    let archive = open(ctx, job).await?;
    let admitted = archive.systems().await?;
    let now = ctx.store_time(ctx.repository(&job.tenant).await?.store()).await?;
    let bases = bases::of(ctx, &job.tenant, &job.settings.cluster).await?;
    let windows = expire_wal::windows(ctx.tenant(&job.tenant)?).remove(&job.settings.cluster).unwrap_or_default();
    let (mut out, mut newest) = (Vec::new(), None);
    for (i, system) in admitted.iter().map(|a| a.system).enumerate() {
        let current = i + 1 == admitted.len();
        if let Some((status, survey)) = system_status(&archive, system, current, now, &bases, &windows).await? {
            out.push(status);
            newest = current.then_some((system, survey));
        }
    }
    Ok((out, newest))
}

async fn system_status(
    archive: &Archive,
    system: SystemId,
    current: bool,
    now: Time,
    bases: &[bases::Base],
    windows: &BTreeMap<String, Duration>,
) -> Result<Option<(SystemStatus, Survey)>> {
    let folder: Folder = archive.folder(system);
    // Let in, and silent so far.
    let Some(identity) = folder.identity().await? else { return Ok(None) };
    let survey = folder.survey().await?;
    let size = survey.segment_size();
    // The furthest of the timeline that grew last: segments that go up side by side are not stored in their order.
    let grew = survey.segments().iter().max_by_key(|s| (s.stored, s.name)).map(|s| s.name.timeline);
    let of_it = survey.segments().iter().filter(|s| Some(s.name.timeline) == grew);
    let last = of_it.max_by_key(|s| s.name).map(|s| Last {
        segment: s.name,
        time: s.stored,
        age_seconds: now.seconds_since(s.stored).max(0.0),
        end: s.name.end(size),
    });
    let coverage = survey.coverage();
    let timelines = coverage.iter().map(|coverage| {
        let known = identity.known(coverage.timeline);
        let history = identity.history(coverage.timeline);
        TimelineStatus {
            timeline: coverage.timeline,
            parent: history.and_then(|h| h.ancestors.last().map(|a| (a.timeline, a.switch))),
            ranges: coverage.ranges.iter().map(range).collect(),
            gaps: coverage.gaps(),
            unfinished: coverage.unfinished,
            expired_below: known.and_then(|k| k.expired_below),
        }
    });
    let status = SystemStatus {
        system,
        current,
        segment_size: size.bytes(),
        stored_bytes: survey.bytes(),
        last,
        timelines: timelines.collect(),
        splits: survey.splits(&identity),
        lost: identity.gaps.clone(),
        windows: windows::of(&identity, &survey, bases, &needed(&identity, &survey, bases, windows, now)),
    };
    Ok(Some((status, survey)))
}

/// The base backups that WAL is kept behind, as expiry sees it.
fn needed(
    identity: &Identity,
    survey: &Survey,
    bases: &[bases::Base],
    windows: &BTreeMap<String, Duration>,
    now: Time,
) -> BTreeSet<Id> {
    let bases = bases.iter().map(|b| retention::Base {
        id: b.snapshot,
        job: b.job.clone(),
        system: SystemId { major: b.facts.major, identifier: b.facts.system_identifier },
        timeline: b.facts.timeline,
        start: b.facts.start,
        stop: b.facts.stop,
        stopped: b.facts.stopped,
        complete: true,
    });
    let cluster = retention::Cluster { bases: bases.collect(), windows: windows.clone(), ..retention::Cluster::default() };
    recovery_bases(&cluster, &expire_wal::system(identity, survey), now)
}

fn range(r: &crate::wal::SegmentRange) -> Range {
    Range {
        first: r.first,
        last: r.last,
        segments: r.segments,
        bytes: r.bytes,
        from_time: r.first_stored,
        to_time: r.last_stored,
    }
}

/// Against the server where it answers, else by what waits.
fn lag(status: &WalStatus, newest: Option<&Surveyed>) -> Option<Lag> {
    let oldest = status.waiting.as_ref().map(|w| w.oldest_seconds);
    let bytes = match (&status.server, newest) {
        (Some(server), Some((_, survey))) => {
            let last = survey.segments().iter().rfind(|s| s.name.timeline == server.timeline);
            let reached = last.map(|s| s.name.end(survey.segment_size()));
            reached.map(|end| server.position.0.saturating_sub(end.0))
        }
        _ => status.waiting.as_ref().map(|w| w.bytes),
    };
    let since_last = || {
        let last = status.systems.iter().find(|s| s.current)?.last.as_ref()?;
        (bytes? > 0).then_some(last.age_seconds)
    };
    let seconds = oldest.or_else(since_last).or(bytes.filter(|b| *b == 0).map(|_| 0.0));
    (bytes.is_some() || seconds.is_some()).then_some(Lag { bytes, seconds })
}

fn judge(status: &mut WalStatus) {
    if status.state == State::Unknown {
        return;
    }
    let current = status.systems.iter().find(|s| s.current);
    let failing = status.server.as_ref().is_some_and(|s| s.is_failing() || s.is_silent());
    let late = status.waiting.as_ref().is_some_and(|w| w.oldest_seconds > PATIENCE_SECS);
    let behind = status.lag.as_ref().and_then(|l| l.bytes).unwrap_or(0);
    let stalled = |s: &SystemStatus| behind > s.segment_size && s.last.as_ref().is_some_and(|l| l.age_seconds > PATIENCE_SECS);
    status.state = match current {
        None => State::Never,
        Some(system) if is_torn(system) => State::Gap,
        Some(system) if system.splits.iter().any(|s| is_recent(system, s)) => State::Split,
        Some(system) if failing || late || stalled(system) => State::Behind,
        Some(_) => State::Ok,
    };
}

/// Whether WAL is missing that a recovery to the newest timeline needs. What expiry removes between older base backups is not.
fn is_torn(system: &SystemStatus) -> bool {
    let newest = system.timelines.last().map(|t| t.timeline);
    let mut ways = system.windows.iter().filter(|w| w.needed && Some(w.timeline) == newest).peekable();
    match ways.peek() {
        Some(_) => ways.any(|w| !w.open),
        None => system.timelines.iter().any(|t| !t.gaps.is_empty()),
    }
}

/// Whether it goes on, by the newest segment of all.
fn is_recent(system: &SystemStatus, split: &SeenSplit) -> bool {
    let age = system.last.as_ref().map(|last| last.age_seconds + last.time.seconds_since(split.last_stored));
    age.is_some_and(|age| age < SPLIT_SECS)
}

/// For `--check`: what is wrong, in one sentence.
#[must_use]
pub fn verdict(status: &WalStatus) -> Option<Error> {
    use crate::error::Kind;
    let job = format!("{}/{}", status.tenant, status.job);
    let what = match status.state {
        State::Ok => return None,
        State::Behind => "the archive is behind",
        State::Gap => "WAL is missing",
        State::Split => "two servers of one origin archive, each on a timeline of its own",
        State::Never => "nothing was ever archived",
        State::Unknown => "the archive could not be read",
    };
    Some(Error::new(Kind::Failed, format!("{job}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_segment_that_nobody_stored_for_long_is_behind() {
        let state = |bytes: u64, age_seconds: f64| {
            let timeline = Timeline(1);
            let segment_size = 1 << 20;
            let size = crate::model::SegmentSize::new(segment_size).unwrap();
            let segment = SegmentName::at(timeline, Lsn(5 << 20), size);
            let system = SystemStatus {
                system: SystemId { major: 17, identifier: 7 },
                current: true,
                segment_size,
                stored_bytes: 1,
                last: Some(Last { segment, time: Time::new(0, 0), age_seconds, end: segment.end(size) }),
                timelines: Vec::new(),
                splits: Vec::new(),
                lost: Vec::new(),
                windows: Vec::new(),
            };
            let mut status = WalStatus {
                tenant: "a".into(),
                job: "wal".into(),
                cluster: "c".into(),
                mode: "archive",
                state: State::Ok,
                systems: vec![system],
                server: None,
                waiting: None,
                lag: Some(Lag { bytes: Some(bytes), seconds: None }),
                errors: Vec::new(),
            };
            judge(&mut status);
            status.state
        };
        assert_eq!(state(5 << 20, 301.0), State::Behind);
        assert_eq!(state(5 << 20, 299.0), State::Ok, "it may be under way");
        assert_eq!(state(1 << 20, 9_000.0), State::Ok, "an idle server's last segment");
    }
}
