//! What the WAL archive holds, as the planner wants it.

use std::fs::File;
use std::io::{BufReader, Read as _};

use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Lsn, SegmentName, SegmentSize, SystemId, Time, Timeline, TimelineHistory, WalFile};
use crate::postgres::commits::{Ends, ends};
use crate::postgres::recovery::Target;
use crate::repository::Repository;
use crate::restore::cluster::plan::{Archived, Base, Stretch};
use crate::wal::{Archive, Fetched, Folder, Identity, Mode, Survey};

/// Segments that are read, from the end of a stretch backwards, until one has a commit.
const LOOKED_AT: usize = 32;

/// The archive's part of every system that one of `bases` is of. For a target in time the ends of stretches are read too, to
/// find when their newest commits were made and where their last records are; for a position, those that end there.
///
/// # Errors
/// The store's failures: an archive that cannot be read is not an empty one.
pub(super) async fn load(repo: &Repository, cluster: &str, bases: &[Base], target: &Target) -> Result<Vec<Archived>> {
    let archive = Archive::open(repo.store().clone(), repo.object_seal()?, cluster)?;
    let mut systems: Vec<SystemId> =
        bases.iter().map(|b| SystemId { major: b.facts.major, identifier: b.facts.system_identifier }).collect();
    systems.sort_unstable();
    systems.dedup();
    // In the order in which they came.
    let admitted = archive.systems().await.context(|| format!("read which systems archive in cluster {cluster}"))?;
    let mut out = Vec::new();
    for system in systems {
        let folder = archive.folder(system);
        let doing = || format!("read the WAL archive of cluster {cluster}, system {system}");
        let Some(identity) = folder.identity().await.context(doing)? else { continue };
        let survey = folder.survey().await.context(doing)?;
        let stretches = stretches(&folder, &survey, target).await.context(doing)?;
        let followed = admitted.iter().skip_while(|a| a.system != system).nth(1).map(|a| a.since);
        out.push(Archived { system_identifier: system.identifier, histories: histories(&identity), stretches, followed });
    }
    Ok(out)
}

fn histories(identity: &Identity) -> Vec<TimelineHistory> {
    let history = |timeline| identity.history(timeline).unwrap_or_else(|| TimelineHistory::root(timeline));
    identity.timelines.iter().map(|known| history(known.timeline)).collect()
}

/// The runs of whole segments, with the unfinished one behind its run.
async fn stretches(folder: &Folder, survey: &Survey, target: &Target) -> Result<Vec<Stretch>> {
    let size = survey.segment_size();
    let mut out = Vec::new();
    for coverage in survey.coverage() {
        let mut runs: Vec<Stretch> =
            coverage.ranges.iter().map(|r| stretch(coverage.timeline, r.from, r.to, Ends::default())).collect();
        if let Some(unfinished) = coverage.unfinished
            && let Some(tip) = tip(folder, unfinished, size).await?
        {
            match runs.last_mut().filter(|run| run.to == tip.from) {
                Some(run) => (run.to, run.newest, run.last) = (tip.to, tip.newest, tip.last),
                None => runs.push(tip),
            }
        }
        for run in &mut runs {
            match target {
                Target::Time(time) => look(folder, survey, run, Some(*time)).await?,
                Target::Lsn(lsn) if *lsn == run.to => look(folder, survey, run, None).await?,
                _ => {}
            }
        }
        out.extend(runs);
    }
    Ok(out)
}

fn stretch(timeline: Timeline, from: Lsn, to: Lsn, ends: Ends) -> Stretch {
    Stretch { timeline, from, to, newest: ends.newest, quiet_after: None, last: ends.last.map(|record| record.begin) }
}

/// The beginning of a segment that is not whole yet. `None` if recovery would not get it.
async fn tip(folder: &Folder, name: SegmentName, size: SegmentSize) -> Result<Option<Stretch>> {
    let (from, timeline) = (name.start(size), name.timeline);
    match read(folder, name, size, name.end(size)).await {
        Ok((Fetched::Unfinished { until }, mut ends)) => {
            if ends.last.is_some_and(|record| record.end > until) {
                // It was filled up with zeros.
                (_, ends) = read(folder, name, size, until).await?;
            }
            Ok(Some(stretch(timeline, from, until, ends)))
        }
        Ok((Fetched::Delivered { .. }, ends)) => Ok(Some(stretch(timeline, from, name.end(size), ends))),
        Ok((Fetched::Missing { .. }, _)) => Ok(None),
        // There is later log: the tip was left behind, and nobody is given it.
        Err(e) if e.kind() == Kind::Failed => Ok(None),
        Err(e) => Err(e),
    }
}

/// Finds the last record of a run and, where `time` is given, its newest commit, or that there is none after `time`: what was
/// stored by then cannot hold one.
async fn look(folder: &Folder, survey: &Survey, run: &mut Stretch, time: Option<Time>) -> Result<()> {
    if run.newest.is_some() {
        return Ok(());
    }
    let size = survey.segment_size();
    let of_run = |name: SegmentName| name.timeline == run.timeline && name.start(size) >= run.from && name.end(size) <= run.to;
    let segments: Vec<_> = survey.segments().iter().rev().filter(|s| of_run(s.name)).collect();
    let mut looked_at = 0;
    let mut begins = true;
    for segment in segments {
        let is_last = segment.name.end(size) == run.to;
        // Two clocks are compared, the store's and the server's: not too closely.
        let early = time.is_some_and(|time| segment.stored.seconds_since(time) < -300.0);
        if early && !is_last {
            run.quiet_after = time;
            return Ok(());
        }
        if looked_at == LOOKED_AT {
            begins = false;
            break;
        }
        looked_at += 1;
        let ends = match read(folder, segment.name, size, segment.name.end(size)).await {
            Ok((_, ends)) => ends,
            // Whether recovery needs it is not known yet.
            Err(e) if early && e.kind() == Kind::Corrupt => Ends::default(),
            Err(e) => return Err(e),
        };
        if is_last {
            run.last = ends.last.map(|record| record.begin);
        }
        run.newest = ends.newest;
        if run.newest.is_some() || time.is_none() {
            return Ok(());
        }
        if early {
            run.quiet_after = time;
            return Ok(());
        }
    }
    if begins && looked_at > 0 {
        // All of it was read.
        run.quiet_after = time;
    }
    Ok(())
}

/// Looks into a segment as far as `to`, in constant memory.
async fn read(folder: &Folder, name: SegmentName, size: SegmentSize, to: Lsn) -> Result<(Fetched, Ends)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Error::new(Kind::Failed, "make a pipe").because(std::io::Error::from(e)))?;
    let start: Lsn = name.start(size);
    let looking = tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::with_capacity(128 << 10, File::from(reader));
        let found = ends((&mut reader).take(to.0.saturating_sub(start.0)), start);
        // To the end, or the writer would fail.
        std::io::copy(&mut reader, &mut std::io::sink())?;
        found
    });
    let fetched = folder.fetch(&WalFile::Segment(name), File::from(writer), Mode::Recovery).await;
    let found = looking.await.map_err(|e| Error::new(Kind::Bug, "a thread ended abnormally").because(e))?;
    Ok((fetched?, found.context(|| format!("look into {name}"))?))
}
