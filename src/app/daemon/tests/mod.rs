mod replace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::scheduler::{Entry, Limits};
use super::turn::{Ended, Event, Loaded, Task, Turn};
use super::wanted::{self, Asker};
use crate::app::wal::daemon::Services;
use crate::error::{Error, Kind, Result};
use crate::http::{Health, Metrics};
use crate::model::Time;
use crate::runtime::{Cancel, Clock};
use crate::schedule::{QuietHours, Schedule, Spec};

pub(super) const START: &str = "2026-11-21T01:30:00Z";

pub(super) fn t(text: &str) -> Time {
    text.parse().unwrap()
}

pub(super) fn schedule(text: &str, name: &str) -> Schedule {
    Schedule::new(&Spec::parse(text, None).unwrap(), name, Duration::ZERO, 0, QuietHours::default()).unwrap()
}

/// A wall clock that follows tokio's, which stands still until everything waits for it.
#[derive(Debug)]
struct PausedClock(tokio::time::Instant, Time);

impl Clock for PausedClock {
    fn now(&self) -> Time {
        let passed = self.0.elapsed();
        Time::new(self.1.secs + passed.as_secs().cast_signed(), self.1.nanos + passed.subsec_nanos())
    }
}

/// All repositories and everything that happened.
#[derive(Debug)]
struct World {
    clock: Arc<PausedClock>,
    /// Begin of the last complete backup by job.
    done: Mutex<BTreeMap<String, Time>>,
    leases: Mutex<BTreeMap<String, u32>>,
    log: Mutex<Vec<String>>,
    at_once: Mutex<(usize, usize)>,
}

impl World {
    fn new() -> Arc<Self> {
        let clock = Arc::new(PausedClock(tokio::time::Instant::now(), t(START)));
        Arc::new(Self {
            clock,
            done: Mutex::default(),
            leases: Mutex::default(),
            log: Mutex::default(),
            at_once: Mutex::default(),
        })
    }

    fn say(&self, what: &str) {
        let now = self.clock.now().to_string();
        // Milliseconds are rounding of timers.
        self.log.lock().push(format!("{} {what}", &now[11..19]));
    }

    /// By time; what happened at the same moment, by name.
    fn said(&self) -> Vec<String> {
        let mut said = self.log.lock().clone();
        said.sort();
        said
    }
}

/// A job whose run takes a while, as one daemon (`by`) runs it.
#[derive(Debug)]
struct Fake {
    world: Arc<World>,
    name: String,
    by: u32,
    takes: Duration,
    fails: bool,
    /// The repository answers from this time on.
    answers_from: Time,
}

#[async_trait]
impl Task for Fake {
    async fn last_success(&self) -> Result<Option<Time>> {
        if self.world.clock.now() < self.answers_from {
            return Err(Error::new(Kind::Unavailable, "the store does not answer"));
        }
        Ok(self.world.done.lock().get(&self.name).copied())
    }

    async fn run(&self, due: Time, cancel: &Cancel) -> Ended {
        let w = &self.world;
        if w.leases.lock().get(&self.name).is_some_and(|by| *by != self.by) {
            return Ended::Elsewhere;
        }
        let begun = w.clock.now();
        if let Some(at) = w.done.lock().get(&self.name).copied().filter(|at| *at >= due) {
            return Ended::Done(at);
        }
        w.leases.lock().insert(self.name.clone(), self.by);
        {
            let mut at_once = w.at_once.lock();
            *at_once = (at_once.0 + 1, at_once.1.max(at_once.0 + 1));
        }
        w.say(&format!("{} begins", self.name));
        assert!(self.name != "x/panics", "as asked");
        let cut = tokio::select! {
            () = tokio::time::sleep(self.takes) => false,
            () = cancel.cancelled() => true,
        };
        w.at_once.lock().0 -= 1;
        w.leases.lock().remove(&self.name);
        if cut || self.fails {
            w.say(&format!("{} {}", self.name, if cut { "is cut short" } else { "fails" }));
            return Ended::Failed;
        }
        w.done.lock().insert(self.name.clone(), begun);
        Ended::Done(begun)
    }
}

fn fake(world: &Arc<World>, name: &str) -> Fake {
    Fake {
        world: world.clone(),
        name: name.into(),
        by: 1,
        takes: Duration::from_secs(60),
        fails: false,
        answers_from: t("1970-01-01T00:00:00Z"),
    }
}

fn entry(text: &str, fake: Fake) -> Entry<Arc<dyn Task>> {
    let name = fake.name.clone();
    Entry { schedule: schedule(text, &name), store: "s".into(), history: "h".into(), task: Arc::new(fake), name }
}

fn loaded(entries: Vec<Entry<Arc<dyn Task>>>) -> Loaded {
    Loaded { entries, limits: Limits { total: 4, per_store: 4 }, services: Services::default(), heartbeats: Vec::new() }
}

struct Daemon {
    events: mpsc::Sender<Event>,
    asker: Asker,
    stop: Cancel,
    metrics: Metrics,
    ended: tokio::task::JoinHandle<Result<()>>,
}

fn daemon(world: &Arc<World>, first: Loaded) -> Daemon {
    daemon_with(world, first, Metrics::new("test"))
}

fn daemon_with(world: &Arc<World>, first: Loaded, metrics: Metrics) -> Daemon {
    let (events, inbox) = mpsc::channel(4);
    let (asker, wanted) = wanted::channel();
    let stop = Cancel::new();
    let turn = Turn::new(world.clock.clone(), Health::new(world.clock.clone()), metrics.clone());
    let ended = tokio::spawn(turn.run(first, (inbox, wanted), stop.clone(), Duration::from_secs(25)));
    Daemon { events, asker, stop, metrics, ended }
}

async fn hours(n: u64) {
    tokio::time::sleep(Duration::from_secs(n * 3600)).await;
}

#[tokio::test(start_paused = true)]
async fn a_missed_run_is_caught_up_once_and_the_next_comes_on_time() {
    let world = World::new();
    world.done.lock().extend([("a/missed".into(), t("2026-11-10T02:00:00Z")), ("a/fresh".into(), t("2026-11-20T02:00:00Z"))]);
    let names = ["a/missed", "a/fresh", "a/first"];
    let d = daemon(&world, loaded(names.iter().map(|n| entry("0 2 * * *", fake(&world, n))).collect()));
    hours(2).await;
    assert_eq!(
        world.said(),
        [
            "01:30:00 a/first begins",
            "01:30:00 a/missed begins",
            "02:00:00 a/first begins",
            "02:00:00 a/fresh begins",
            "02:00:00 a/missed begins"
        ]
    );
    d.stop.cancel();
    d.ended.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_wanted_counts_within_the_limits() {
    let world = World::new();
    let one = |entries| Loaded { limits: Limits { total: 1, per_store: 1 }, ..loaded(entries) };
    let slow = Fake { takes: Duration::from_secs(1800), ..fake(&world, "a/slow") };
    let d = daemon(&world, one(vec![entry("0 12 * * *", slow), entry("never", fake(&world, "a/base"))]));
    // While the slow one runs, which began too early for whoever wants it.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (since, cancel) = (world.clock.now(), Cancel::new());
    let (base, slow) = tokio::join!(d.asker.ask("a/base", since, &cancel), d.asker.ask("a/slow", since, &cancel));
    let (base, slow) = (done(base), done(slow));
    assert_eq!(world.said(), ["01:30:00 a/slow begins", "02:00:00 a/base begins", "02:01:00 a/slow begins"]);
    assert!(base.is_some() && base < slow && slow >= Some(t("2026-11-21T02:01:00Z")), "{base:?} {slow:?}");
    assert_eq!(d.asker.ask("a/unknown", since, &Cancel::new()).await, Ended::Failed);
    d.stop.cancel();
    d.ended.await.unwrap().unwrap();
}

/// When a complete one began.
fn done(ended: Ended) -> Option<Time> {
    match ended {
        Ended::Done(begun) => Some(begun),
        Ended::Incomplete(_) | Ended::Failed | Ended::Elsewhere => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_wanted_is_told_of_though_the_clock_here_is_behind_the_stores() {
    let world = World::new();
    let d = daemon(&world, loaded(vec![entry("never", fake(&world, "a/base"))]));
    let began = world.clock.now();
    let since = Time::new(began.secs + 5, 0);
    let asked = tokio::time::timeout(Duration::from_secs(600), d.asker.ask("a/base", since, &Cancel::new())).await;
    let begun = done(asked.expect("an answer"));
    assert!(begun.is_some_and(|at| at < since), "{begun:?}");
    assert_eq!(world.said(), ["01:30:00 a/base begins"]);
    d.stop.cancel();
    d.ended.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_known_is_not_caught_up_but_the_schedule_goes_on() {
    let world = World::new();
    let silent = Fake { answers_from: t("2026-11-21T04:10:00Z"), ..fake(&world, "a/silent") };
    let d = daemon(
        &world,
        loaded(vec![
            entry("0 2,4 * * *", silent),
            entry("every 1h", Fake { answers_from: t("2027-01-01T00:00:00Z"), ..fake(&world, "a/every") }),
        ]),
    );
    hours(4).await;
    assert_eq!(
        world.said(),
        [
            "02:00:00 a/silent begins",
            "02:30:00 a/every begins",
            "03:30:00 a/every begins",
            "04:00:00 a/silent begins",
            "04:30:00 a/every begins"
        ]
    );
    drop(d);
}

#[tokio::test(start_paused = true)]
async fn the_history_is_used_once_the_repository_answers() {
    let world = World::new();
    let late = Fake { answers_from: t("2026-11-21T01:32:00Z"), ..fake(&world, "a/late") };
    let _d = daemon(&world, loaded(vec![entry("0 2 * * *", late)]));
    tokio::time::sleep(Duration::from_secs(900)).await;
    // 5, 10, 20, 40 and 80 seconds: the first question after 01:32:00 comes 155 s after the start.
    assert_eq!(world.said(), ["01:32:35 a/late begins"]);
}

/// Takes an hour to say what it knew when it was asked.
#[derive(Debug)]
struct SlowToTell(Fake);

#[async_trait]
impl Task for SlowToTell {
    async fn last_success(&self) -> Result<Option<Time>> {
        let last = self.0.last_success().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        last
    }

    async fn run(&self, due: Time, cancel: &Cancel) -> Ended {
        self.0.run(due, cancel).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_late_does_not_hide_a_newer_backup() {
    let world = World::new();
    world.done.lock().insert("a/x".into(), t("2026-11-20T02:00:00Z"));
    let d = daemon(
        &world,
        loaded(vec![Entry { task: Arc::new(SlowToTell(fake(&world, "a/x"))), ..entry("0 2 * * *", fake(&world, "a/x")) }]),
    );
    hours(2).await;
    assert_eq!(world.said(), ["02:00:00 a/x begins"]);
    let shown = |text: &str| {
        let name = "strongroom_job_last_success_timestamp_seconds{tenant=\"a\",job=\"x\",operation=\"backup\"} ";
        text.lines().find_map(|l| l.strip_prefix(name)).map(|n| n.parse::<f64>().unwrap())
    };
    let made = t("2026-11-21T02:00:00Z").secs as f64;
    assert!(shown(&d.text()).is_some_and(|at| at >= made), "{}", d.text());
}

#[derive(Debug)]
struct PanicsOnce(Fake, AtomicBool);

#[async_trait]
impl Task for PanicsOnce {
    async fn last_success(&self) -> Result<Option<Time>> {
        assert!(self.1.swap(true, Relaxed), "as asked");
        self.0.last_success().await
    }

    async fn run(&self, due: Time, cancel: &Cancel) -> Ended {
        self.0.run(due, cancel).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_panics_is_asked_again() {
    let world = World::new();
    let task = Arc::new(PanicsOnce(fake(&world, "a/x"), AtomicBool::new(false)));
    let _d = daemon(&world, loaded(vec![Entry { task, ..entry("0 2 * * *", fake(&world, "a/x")) }]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.said(), ["01:30:05 a/x begins"]);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_nothing_starves() {
    let world = World::new();
    let entries = (0..9).map(|i| entry("0 2 * * *", fake(&world, &format!("a/j{i}")))).collect();
    let now = t("2026-11-21T00:00:00Z");
    world.done.lock().extend((0..9).map(|i| (format!("a/j{i}"), now)));
    let d = daemon(
        &world,
        Loaded { entries, limits: Limits { total: 3, per_store: 9 }, services: Services::default(), heartbeats: Vec::new() },
    );
    hours(1).await;
    assert_eq!(world.at_once.lock().1, 3);
    let said = world.said();
    assert_eq!(said.len(), 9);
    assert!(said[0].starts_with("02:00:00") && said[3].starts_with("02:01:00") && said[8].starts_with("02:02:00"), "{said:?}");
    drop(d);
}

#[tokio::test(start_paused = true)]
async fn a_busy_store_does_not_hold_up_another() {
    let world = World::new();
    let mut entries: Vec<_> = (0..4).map(|i| entry("0 2 * * *", fake(&world, &format!("a/j{i}")))).collect();
    entries[3].store = "other".into();
    let now = t("2026-11-21T00:00:00Z");
    world.done.lock().extend((0..4).map(|i| (format!("a/j{i}"), now)));
    let _d = daemon(
        &world,
        Loaded { entries, limits: Limits { total: 4, per_store: 1 }, services: Services::default(), heartbeats: Vec::new() },
    );
    hours(1).await;
    assert_eq!(world.said(), ["02:00:00 a/j0 begins", "02:00:00 a/j3 begins", "02:01:00 a/j1 begins", "02:02:00 a/j2 begins"]);
}

#[tokio::test(start_paused = true)]
async fn a_job_does_not_overlap_itself_and_failures_wait_for_their_next_time() {
    let world = World::new();
    let long = Fake { takes: Duration::from_secs(5400), ..fake(&world, "a/long") };
    let bad = Fake { fails: true, ..fake(&world, "a/bad") };
    world.done.lock().extend([("a/long".into(), t("2026-11-21T01:00:00Z")), ("a/bad".into(), t("2026-11-21T01:00:00Z"))]);
    let d = daemon(&world, loaded(vec![entry("0 * * * *", long), entry("0 * * * *", bad)]));
    hours(3).await;
    assert_eq!(
        world.said(),
        // The run due at 03:00 begins when the one before has ended; that due at 04:00 while it runs is one with 05:00.
        [
            "02:00:00 a/bad begins",
            "02:00:00 a/long begins",
            "02:01:00 a/bad fails",
            "03:00:00 a/bad begins",
            "03:01:00 a/bad fails",
            "03:30:00 a/long begins",
            "04:00:00 a/bad begins",
            "04:01:00 a/bad fails"
        ]
    );
    drop(d);
}

#[tokio::test(start_paused = true)]
async fn two_daemons_run_each_job_once() {
    let world = World::new();
    let entries = |by| ["a/x", "a/y"].iter().map(|n| entry("0 * * * *", Fake { by, ..fake(&world, n) })).collect();
    let _one = daemon(&world, loaded(entries(1)));
    let _two = daemon(&world, loaded(entries(2)));
    hours(3).await;
    let said = world.said();
    let want: Vec<String> =
        ["01:30", "02:00", "03:00", "04:00"].iter().flat_map(|at| ["x", "y"].map(|j| format!("{at}:00 a/{j} begins"))).collect();
    assert_eq!(said, want);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_taken_over_from_a_daemon_that_died() {
    let world = World::new();
    world.leases.lock().insert("a/x".into(), 7);
    let _d = daemon(&world, loaded(vec![entry("0 * * * *", fake(&world, "a/x"))]));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.said(), Vec::<String>::new());
    world.leases.lock().clear();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.said(), ["01:31:45 a/x begins"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_its_run_only() {
    let world = World::new();
    let d =
        daemon(&world, loaded(vec![entry("0 * * * *", fake(&world, "x/panics")), entry("0 * * * *", fake(&world, "x/fine"))]));
    hours(1).await;
    assert_eq!(world.said().iter().filter(|s| s.contains("x/fine")).count(), 2);
    assert_eq!(world.said().iter().filter(|s| s.contains("x/panics")).count(), 2);
    d.stop.cancel();
    d.ended.await.unwrap().unwrap();
}

#[derive(Debug)]
struct Deaf;

#[async_trait]
impl Task for Deaf {
    async fn last_success(&self) -> Result<Option<Time>> {
        Ok(None)
    }

    async fn run(&self, _: Time, _: &Cancel) -> Ended {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn the_grace_period_ends() {
    let world = World::new();
    let entry = Entry {
        name: "a/deaf".into(),
        store: "s".into(),
        history: "h".into(),
        schedule: schedule("every 1h", "a/deaf"),
        task: Arc::new(Deaf) as Arc<dyn Task>,
    };
    let d = daemon(&world, loaded(vec![entry]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = tokio::time::Instant::now();
    d.stop.cancel();
    let error = d.ended.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), before.elapsed().as_secs()), (Kind::Cancelled, 25));
}

impl Daemon {
    fn text(&self) -> String {
        format!("{}", self.metrics)
    }
}
