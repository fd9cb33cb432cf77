//! How old each job's last good backup is, and when the next one is due.

use serde::Serialize;

use super::Context;
use super::facts::{facts, is_complete, is_future, is_of_job};
use crate::config::settings::Job;
use crate::error::Result;
use crate::model::{Id, Selector, Time};
use crate::repository::Snapshot;
use crate::schedule::{QuietHours, Schedule};

/// One job's state.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    /// Whose.
    pub tenant: String,
    /// Which job.
    pub job: String,
    /// `volume`, `pg_dump` or `command`.
    pub source: &'static str,
    /// `ok`; `overdue`: a run was due and there is no complete snapshot since; `incomplete`: the newest snapshot is; `never`:
    /// there is none; `unknown`: the repository could not be read (see `error`).
    pub state: State,
    /// Newest complete snapshot.
    pub last: Option<Last>,
    /// The newest snapshot, where it is newer than `last` and incomplete.
    pub incomplete: Option<Id>,
    /// How many snapshots there are.
    pub snapshots: usize,
    /// The schedule, in English.
    pub schedule: String,
    /// When it is due next; absent for jobs without a schedule.
    pub next: Option<Time>,
    /// Why the state is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The newest complete snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct Last {
    /// Its id.
    pub id: Id,
    /// When it was begun.
    pub time: Time,
    /// How long ago that was by the store's clock, in seconds.
    pub age_seconds: f64,
    /// Bytes of everything in it.
    pub bytes: Option<u64>,
}

/// See [`JobStatus::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// A run was due and did not succeed.
    Overdue,
    /// The newest snapshot lacks something.
    Incomplete,
    /// There is no snapshot.
    Never,
    /// Could not be found out.
    Unknown,
}

/// Looks at the jobs a selector names. A repository that cannot be read makes its jobs `unknown`, not the call fail.
///
/// # Errors
/// Only for a selector that names nothing.
pub async fn run(ctx: &Context, selector: Option<&Selector>) -> Result<Vec<JobStatus>> {
    let mut out = Vec::new();
    for tenant in ctx.tenants(selector)? {
        let jobs = ctx.jobs(Some(&Selector { tenant: tenant.name.clone(), job: selector.and_then(|s| s.job.clone()) }))?;
        let read = async {
            let repo = ctx.repository(&tenant.name).await?;
            Ok::<_, crate::error::Error>((repo.load_snapshots().await?, ctx.store_time(repo.store()).await?))
        };
        match read.await {
            Ok((snapshots, now)) => {
                for job in jobs {
                    out.push(one(job, &snapshots, now)?);
                }
            }
            Err(e) => out.extend(jobs.into_iter().map(|job| JobStatus { state: State::Unknown, error: Some(e.chain()), ..blank(job) })),
        }
    }
    Ok(out)
}

fn blank(job: &Job) -> JobStatus {
    JobStatus {
        tenant: job.tenant.to_string(),
        job: job.name.to_string(),
        source: job.source.kind(),
        state: State::Never,
        last: None,
        incomplete: None,
        snapshots: 0,
        schedule: job.schedule.describe(&job.selector().to_string()),
        next: None,
        error: None,
    }
}

fn one(job: &Job, snapshots: &[Snapshot], now: Time) -> Result<JobStatus> {
    let mine: Vec<&Snapshot> = snapshots.iter().filter(|s| is_of_job(&s.file, &job.name) && !is_future(&s.file, now)).collect();
    let newest = mine.iter().max_by_key(|s| (s.file.time, s.id));
    let last = mine.iter().filter(|s| is_complete(&s.file)).max_by_key(|s| (s.file.time, s.id));
    let schedule = Schedule::new(&job.schedule, &job.selector().to_string(), job.jitter, 0, QuietHours::default())?;
    let start = last.map(|s| s.file.time);
    let incomplete = newest.filter(|s| !is_complete(&s.file)).map(|s| s.id);
    let state = match (last, newest) {
        (None, None) => State::Never,
        _ if incomplete.is_some() => State::Incomplete,
        _ if schedule.missed(start, now).is_some() => State::Overdue,
        _ => State::Ok,
    };
    Ok(JobStatus {
        state,
        last: last.map(|s| Last { id: s.id, time: s.file.time, age_seconds: now.seconds_since(s.file.time), bytes: facts(s).bytes }),
        incomplete,
        snapshots: mine.len(),
        next: schedule.next_start(start, now).map(|s| s.at),
        ..blank(job)
    })
}
