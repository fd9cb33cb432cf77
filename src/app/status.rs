//! How old each job's last good backup is, and when the next one is due.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Context;
use super::drill::{self, DrillStatus};
use super::facts::{facts, is_complete, is_future};
use crate::config::settings::Job;
use crate::error::Result;
use crate::model::{Id, Selector, TenantName, Time};
use crate::repository::Snapshot;
use crate::schedule::{QuietHours, Schedule};

/// One job's state.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    /// Whose.
    pub tenant: String,
    /// Which job.
    pub job: String,
    /// `volume`, `pg_dump` or `command`; absent where no snapshot says so.
    pub source: Option<String>,
    /// Whether it is in the configuration. Jobs that only the repository knows are told too.
    pub configured: bool,
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
    /// How its drills stand; absent for a job that nobody drills.
    pub drill: Option<DrillStatus>,
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
        let only = selector.and_then(|s| s.job.as_ref());
        let jobs: Vec<&Job> = tenant.jobs.values().filter(|j| only.is_none_or(|o| *o == j.name)).collect();
        let read = async {
            let repo = ctx.repository(&tenant.name).await?;
            let only = only.map(|o| o.as_str());
            let drills = drill::newest(&repo, only).await?;
            Ok::<_, crate::error::Error>((repo.load_snapshots().await?, drills, ctx.store_time(repo.store()).await?))
        };
        match read.await {
            Ok((snapshots, drills, now)) => {
                for job in &jobs {
                    let drill = drill::status(job, drills.get(job.name.as_str()), now)?;
                    out.push(JobStatus { drill, ..configured(job, &snapshots, now)? });
                }
                let known: BTreeSet<&str> = snapshots
                    .iter()
                    .filter_map(|s| s.file.tag("job"))
                    .filter(|j| only.is_none_or(|o| o.as_str() == *j))
                    .collect();
                let gone = known.into_iter().filter(|j| jobs.iter().all(|job| job.name.as_str() != *j));
                out.extend(gone.map(|job| unconfigured(&tenant.name, job, &snapshots, now)));
            }
            Err(e) => {
                out.extend(jobs.into_iter().map(|job| JobStatus { state: State::Unknown, error: Some(e.chain()), ..blank(job) }))
            }
        }
    }
    Ok(out)
}

fn blank(job: &Job) -> JobStatus {
    JobStatus {
        tenant: job.tenant.to_string(),
        job: job.name.to_string(),
        source: Some(job.source.kind().to_owned()),
        configured: true,
        state: State::Never,
        last: None,
        incomplete: None,
        snapshots: 0,
        schedule: job.schedule.describe(&job.selector().to_string()),
        next: None,
        drill: None,
        error: None,
    }
}

/// A job that only the repository knows: nothing is due, so nothing is overdue.
fn unconfigured(tenant: &TenantName, job: &str, snapshots: &[Snapshot], now: Time) -> JobStatus {
    let seen = Seen::of(job, snapshots, now);
    JobStatus {
        tenant: tenant.to_string(),
        job: job.to_owned(),
        source: seen.newest.and_then(|s| s.file.tag("source")).map(str::to_owned),
        configured: false,
        state: if seen.incomplete().is_some() { State::Incomplete } else { State::Ok },
        last: seen.last(now),
        incomplete: seen.incomplete(),
        snapshots: seen.count,
        schedule: "not in the configuration".to_owned(),
        next: None,
        drill: None,
        error: None,
    }
}

fn configured(job: &Job, snapshots: &[Snapshot], now: Time) -> Result<JobStatus> {
    let seen = Seen::of(job.name.as_str(), snapshots, now);
    let schedule = Schedule::new(&job.schedule, &job.selector().to_string(), job.jitter, 0, QuietHours::default())?;
    let start = seen.whole.map(|s| s.file.time);
    let state = match seen.newest {
        None => State::Never,
        Some(_) if seen.incomplete().is_some() => State::Incomplete,
        Some(_) if schedule.missed(start, now).is_some() => State::Overdue,
        Some(_) => State::Ok,
    };
    Ok(JobStatus {
        state,
        last: seen.last(now),
        incomplete: seen.incomplete(),
        snapshots: seen.count,
        next: schedule.next_start(start, now).map(|s| s.at),
        ..blank(job)
    })
}

/// What the repository knows of a job; future-dated snapshots left out.
struct Seen<'a> {
    newest: Option<&'a Snapshot>,
    whole: Option<&'a Snapshot>,
    count: usize,
}

impl<'a> Seen<'a> {
    fn of(job: &str, snapshots: &'a [Snapshot], now: Time) -> Self {
        let mine: Vec<&Snapshot> =
            snapshots.iter().filter(|s| s.file.tag("job") == Some(job) && !is_future(&s.file, now)).collect();
        let newest =
            |whole: bool| mine.iter().copied().filter(|s| !whole || is_complete(&s.file)).max_by_key(|s| (s.file.time, s.id));
        Self { newest: newest(false), whole: newest(true), count: mine.len() }
    }

    fn incomplete(&self) -> Option<Id> {
        self.newest.filter(|s| !is_complete(&s.file)).map(|s| s.id)
    }

    fn last(&self, now: Time) -> Option<Last> {
        self.whole.map(|s| Last {
            id: s.id,
            time: s.file.time,
            age_seconds: now.seconds_since(s.file.time),
            bytes: facts(s).bytes,
        })
    }
}
