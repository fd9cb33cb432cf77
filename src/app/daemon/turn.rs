//! The loop: starts what is due, takes note of what ended, learns what the repositories know, takes over new
//! configurations, and ends in order.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::scheduler::{Due, Entry, Limits, Meanwhile, Scheduler, Settled};
use super::wanted::Wanted;
use crate::app::{heartbeat, wal};
use crate::config::settings::{Heartbeat, Job};
use crate::error::{Error, Kind, Result};
use crate::http::{Health, JobMetrics, Metrics};
use crate::model::Time;
use crate::runtime::{Cancel, Clock};

/// The clock is looked at this often even if nothing is due, since it may jump.
const LOOK: Duration = Duration::from_secs(20);
/// Histories asked for at the same time. Opening a repository takes 32 MiB for its password for a moment.
const LOOKUPS: usize = 2;
/// Between two questions to a repository that did not answer: at first, and at most.
const LOOKUP_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Ends the names of drills, which are entries beside their jobs. No job's name ends like this.
pub(super) const DRILL: &str = " (drill)";

/// What the daemon does with a job. Cheap to clone behind its [`Arc`].
#[async_trait]
pub(super) trait Task: Send + Sync + fmt::Debug {
    /// The configuration that has it is in force from now on.
    fn in_force(&self) {}

    /// When the last complete backup in the repository began.
    ///
    /// # Errors
    /// When that could not be found out, which is not the same as "there is none".
    async fn last_success(&self) -> Result<Option<Time>>;

    /// Runs the job to its end, retries and retention included, unless it is done already or running elsewhere.
    /// Ends soon after `cancel` fires.
    async fn run(&self, due: Time, cancel: &Cancel) -> Ended;
}

/// How a run ended. Failures have been logged and counted where they happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// A backup that began at that time is in the repository.
    Done(Time),
    /// A backup that began at that time is in the repository and lacks something.
    Incomplete(Time),
    /// The run failed for good, or was cancelled.
    Failed,
    /// Another process holds the job's lease.
    Elsewhere,
}

/// A configuration, ready to be put in force.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) entries: Vec<Entry<Arc<dyn Task>>>,
    pub(super) limits: Limits,
    /// Rows with the time to be written, by whom.
    pub(super) heartbeats: Vec<(Job, Heartbeat)>,
    /// What runs all the time beside the scheduled jobs: started when this is put in force, ended when the next one is.
    pub(super) services: wal::daemon::Services,
}

/// What the loop is told from outside.
#[derive(Debug)]
pub(super) enum Event {
    /// A new configuration is in force from now on.
    Replace(Loaded),
}

/// A run that ended.
#[derive(Debug)]
struct Ran {
    name: String,
    /// What it was due for.
    due: Time,
    begun: Time,
    ended: Ended,
}

/// What a repository answered.
#[derive(Debug)]
struct Told {
    name: String,
    /// Which lookup it was; an answer to an earlier one is not wanted any more.
    number: u64,
    last: Option<Time>,
}

/// The running daemon.
pub(super) struct Turn {
    scheduler: Scheduler<Arc<dyn Task>>,
    clock: Arc<dyn Clock>,
    health: Health,
    metrics: Metrics,
    /// Fires for runs when the process ends.
    runs: Cancel,
    tasks: JoinSet<Ran>,
    lookups: JoinSet<Option<Told>>,
    at_once: Arc<Semaphore>,
    /// Jobs with a lookup under way: its number, and what ends it.
    asked: BTreeMap<String, (u64, Cancel)>,
    asked_count: u64,
    /// What the configuration in force writes besides, and what ends that.
    beats: (JoinSet<()>, Cancel),
    services: wal::daemon::Running,
    /// Who waits for a run that begins after a time, by job.
    wanted: BTreeMap<String, Vec<Wanted>>,
}

impl Turn {
    pub(super) fn new(clock: Arc<dyn Clock>, health: Health, metrics: Metrics) -> Self {
        Self {
            scheduler: Scheduler::new(Limits { total: 1, per_store: 1 }),
            clock,
            health,
            metrics,
            runs: Cancel::new(),
            tasks: JoinSet::new(),
            lookups: JoinSet::new(),
            at_once: Arc::new(Semaphore::new(LOOKUPS)),
            asked: BTreeMap::new(),
            asked_count: 0,
            beats: (JoinSet::new(), Cancel::new()),
            services: wal::daemon::Running::default(),
            wanted: BTreeMap::new(),
        }
    }

    /// Turns until `stop` fires, then cancels what runs and waits for it, at most for `grace`.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if something still ran at the end of `grace`.
    pub(super) async fn run(
        mut self,
        first: Loaded,
        (mut events, mut wanted): (mpsc::Receiver<Event>, mpsc::Receiver<Wanted>),
        stop: Cancel,
        grace: Duration,
    ) -> Result<()> {
        self.replace(first);
        self.health.ready();
        loop {
            self.health.beat();
            let now = self.clock.now();
            for due in self.scheduler.due(now) {
                self.start(due, now);
            }
            self.show_next(now);
            let sleep = self.scheduler.wake(now).map_or(LOOK, |at| pause(now, at));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ran) = self.tasks.join_next() => self.ended(ran),
                Some(told) = self.lookups.join_next() => self.told(told),
                Some(event) = events.recv() => match event {
                    Event::Replace(loaded) => self.replace(loaded),
                },
                Some(asked) = wanted.recv() => self.want(asked),
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.drain(grace).await
    }

    fn replace(&mut self, loaded: Loaded) {
        let now = self.clock.now();
        self.beat(loaded.heartbeats);
        let names: Vec<String> = loaded.entries.iter().map(|e| e.name.clone()).collect();
        let tasks: Vec<(String, Arc<dyn Task>)> = loaded.entries.iter().map(|e| (e.name.clone(), e.task.clone())).collect();
        let (new, gone) = self.scheduler.replace(loaded.entries, loaded.limits, now);
        self.services.replace(loaded.services);
        self.metrics.jobs(names.iter().filter(|n| !n.ends_with(DRILL)).count());
        self.metrics.reloaded(now);
        for name in &gone {
            self.wanted.remove(name);
            if let Some((_, lookup)) = self.asked.remove(name) {
                lookup.cancel();
            }
            self.forget(name);
        }
        for (name, task) in tasks {
            task.in_force();
            let metrics = self.job_metrics(&name);
            metrics.iter().for_each(|m| m.next_run(None));
            if new.contains(&name) {
                metrics.iter().for_each(JobMetrics::known);
                // What was known was of another repository.
                metrics.iter().for_each(|m| m.last_success(None));
            }
            // Who was asked and has not answered may not be able to: with a password, an address that was corrected now.
            if new.contains(&name) || self.asked.contains_key(&name) {
                self.ask(name, task);
            }
        }
    }

    /// The metrics of a backup; a drill writes its own.
    fn job_metrics(&self, name: &str) -> Option<JobMetrics> {
        let (tenant, job) = name.split_once('/').filter(|_| !name.ends_with(DRILL))?;
        Some(self.metrics.job(tenant, job))
    }

    /// Removes what is shown of a job, or of its drills.
    fn forget(&self, name: &str) {
        match (self.job_metrics(name), name.strip_suffix(DRILL).and_then(|n| n.split_once('/'))) {
            (Some(metrics), _) => metrics.forget(),
            (None, Some((tenant, job))) => self.metrics.drill(tenant, job).forget(),
            (None, None) => {}
        }
    }

    /// Writes these heartbeats from now on, and no others.
    fn beat(&mut self, heartbeats: Vec<(Job, Heartbeat)>) {
        self.beats.1.cancel();
        self.beats = (JoinSet::new(), self.runs.child());
        for (job, beat) in heartbeats {
            let stop = self.beats.1.clone();
            let span = tracing::info_span!("heartbeat", job = %job.selector());
            self.beats.0.spawn(async move { heartbeat::run(&job, &beat, &stop).await }.instrument(span));
        }
    }

    /// Asks the repository for a job's history.
    fn ask(&mut self, name: String, task: Arc<dyn Task>) {
        self.asked_count += 1;
        let (number, stop) = (self.asked_count, self.runs.child());
        if let Some((_, earlier)) = self.asked.insert(name.clone(), (number, stop.clone())) {
            earlier.cancel();
        }
        let at_once = Arc::clone(&self.at_once);
        let span = tracing::info_span!("lookup", job = name);
        self.lookups
            .spawn(async move { lookup(task, at_once, stop).await.map(|last| Told { name, number, last }) }.instrument(span));
    }

    fn start(&mut self, due: Due<Arc<dyn Task>>, now: Time) {
        let late = now.seconds_since(due.due);
        let span = tracing::info_span!("run", job = due.name);
        span.in_scope(|| tracing::info!("starting{}", if late > 60.0 { " a run that was missed" } else { "" }));
        if let Some(metrics) = self.job_metrics(&due.name) {
            metrics.running(true);
            metrics.next_run(None);
        }
        let cancel = self.runs.child();
        let Due { name, due, task } = due;
        self.tasks.spawn(
            async move {
                // A task of its own, so that a panic ends this run and nothing else.
                let inner = tokio::spawn(async move { task.run(due, &cancel).await }.in_current_span());
                let ended = inner.await.unwrap_or_else(|e| {
                    tracing::error!("the run ended abnormally, which is a bug in strongroom: {e}");
                    Ended::Failed
                });
                Ran { name, due, begun: now, ended }
            }
            .instrument(span),
        );
    }

    /// Makes a job due. Without it, whoever asked is told by the answer that never comes.
    fn want(&mut self, asked: Wanted) {
        if self.scheduler.want(&asked.name, asked.since) {
            self.wanted.entry(asked.name.clone()).or_default().push(asked);
        }
    }

    /// Tells those who waited for this run. One that began too early is not what they wait for; theirs is still due. A run that was
    /// due for them is theirs, whatever this machine's clock says: what they want is dated by the store's.
    fn answer(&mut self, name: &str, due: Time, ended: Ended) {
        let waiting = self.wanted.remove(name).unwrap_or_default();
        let (early, answered): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|w| matches!(ended, Ended::Done(begun) | Ended::Incomplete(begun) if begun.max(due) < w.since));
        for wanted in answered {
            // Who went away does not mind.
            wanted.answer.send(ended).ok();
        }
        if !early.is_empty() {
            self.wanted.insert(name.to_owned(), early);
        }
    }

    /// The run that ended is not in the repository that the job has now: those who wait still need one.
    fn want_again(&mut self, name: &str) {
        let waiting = self.wanted.remove(name).unwrap_or_default();
        waiting.into_iter().filter(|w| !w.answer.is_closed()).for_each(|w| self.want(w));
    }

    fn ended(&mut self, ran: Result<Ran, tokio::task::JoinError>) {
        let Ok(Ran { name, due, begun, ended }) = ran else { return };
        let how = match ended {
            Ended::Done(at) => Settled::At(at),
            Ended::Incomplete(_) | Ended::Failed => Settled::At(begun),
            Ended::Elsewhere => Settled::Elsewhere,
        };
        let meanwhile = self.scheduler.settled(&name, how, self.clock.now());
        match meanwhile {
            Meanwhile::Moved => self.want_again(&name),
            Meanwhile::Same | Meanwhile::Gone => self.answer(&name, due, ended),
        }
        if meanwhile == Meanwhile::Gone {
            // The run told of its end.
            return self.forget(&name);
        }
        let Some(metrics) = self.job_metrics(&name) else { return };
        match (meanwhile, ended) {
            (Meanwhile::Same, Ended::Done(at)) => metrics.last_success(Some(at)),
            // The run itself told of its success.
            (Meanwhile::Moved, _) => metrics.last_success(self.scheduler.last(&name)),
            (Meanwhile::Same, Ended::Incomplete(_) | Ended::Failed | Ended::Elsewhere) | (Meanwhile::Gone, _) => {}
        }
        metrics.running(false);
    }

    fn told(&mut self, told: Result<Option<Told>, tokio::task::JoinError>) {
        let Ok(Some(Told { name, number, last })) = told else { return };
        if self.asked.get(&name).is_none_or(|(current, _)| *current != number) {
            return;
        }
        self.asked.remove(&name);
        self.scheduler.learned(&name, last);
        if let (Some(last), Some(metrics)) = (last, self.job_metrics(&name)) {
            metrics.looked_up(last);
        }
    }

    fn show_next(&self, now: Time) {
        for (name, start) in self.scheduler.plans(now) {
            if let Some(metrics) = self.job_metrics(name) {
                metrics.next_run(Some(start.at));
            }
        }
    }

    async fn drain(mut self, grace: Duration) -> Result<()> {
        self.health.draining();
        self.runs.cancel();
        self.lookups.abort_all();
        let services = self.services.end();
        let running = self.tasks.len();
        if running > 0 {
            tracing::info!("stopping: {running} running jobs have {} s to end", grace.as_secs());
        }
        let all = async {
            while self.tasks.join_next().await.is_some() {}
            services.await;
        };
        if tokio::time::timeout(grace, all).await.is_err() {
            let left = self.tasks.len();
            return Err(Error::new(Kind::Cancelled, format!("{left} jobs did not end within {} s and were cut off", grace.as_secs()))
                .hint("Their repositories are unharmed; the next run uses what was uploaded. Raise the grace period if this happens often."));
        }
        Ok(())
    }
}

/// Asks until the repository answers; `None` when stopped. A failure is logged once, and again when it changes.
async fn lookup(task: Arc<dyn Task>, at_once: Arc<Semaphore>, stop: Cancel) -> Option<Option<Time>> {
    let mut pause = LOOKUP_PAUSE.0;
    let mut said = String::new();
    loop {
        let answer = async {
            let _turn = at_once.acquire().await;
            // In its own bounds, so that a panic is an answer that is asked for again, and not silence.
            AssertUnwindSafe(task.last_success())
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the question ended abnormally, which is a bug in strongroom")))
        };
        let answer = tokio::select! {
            // A question that nobody wants answered keeps no other waiting.
            () = stop.cancelled() => return None,
            answer = answer => answer,
        };
        match answer {
            Ok(last) => {
                let text = last.map_or_else(|| "never".to_owned(), |l| l.to_string());
                tracing::info!("last complete run: {text}");
                return Some(last);
            }
            Err(e) => {
                let report = e.report();
                if said != report {
                    tracing::error!(
                        "cannot find out when this job last succeeded, so missed runs are not caught up yet: {report}"
                    );
                    said = report;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LOOKUP_PAUSE.1);
    }
}

/// Until `at`, rounded up to the millisecond so that it is past when the sleep ends; at most [`LOOK`].
fn pause(now: Time, at: Time) -> Duration {
    let seconds = at.seconds_since(now).clamp(0.0, LOOK.as_secs_f64());
    (Duration::from_secs_f64(seconds) + Duration::from_millis(1)).min(LOOK)
}
