//! Jobs as the daemon and the one-shot command run them: leases, catching up, retention, pruning, reloads, ends.

mod process;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strongroom::app::{self, Context, daemon, job, prune};
use strongroom::config::{self, Format, Settings};
use strongroom::error::Kind;
use strongroom::http::Metrics;
use strongroom::model::{Selector, Time};
use strongroom::repository::{LockMode, SnapshotFile};
use strongroom::retention::Action;
use strongroom::runtime::{Cancel, Clock, SystemClock, secret};
use strongroom::store::{Key, Lease};

/// A store, a volume with a file, and a configuration for both.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        secret::allow_commands(true);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/file"), "content").unwrap();
        let world = Self { dir };
        let ctx = world.ctx("files: { volume: { path: DATA } }");
        app::init::run(&ctx, &"acme".parse().unwrap()).await.unwrap();
        world
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A configuration file with these jobs of one tenant; `DATA` is the volume.
    fn text_of(jobs: &str, dir: &Path) -> String {
        let jobs = jobs.replace("DATA", &dir.join("data").display().to_string());
        let jobs: String = jobs.lines().map(|l| format!("      {l}\n")).collect();
        format!(
            "environment: test\nrepository:\n  url: file://{}/store\n  password: {{ value: secret }}\ntenants:\n  acme:\n    jobs:\n{jobs}",
            dir.display()
        )
    }

    fn text(&self, jobs: &str) -> String {
        Self::text_of(jobs, self.path())
    }

    fn settings_of(jobs: &str, dir: &Path) -> Settings {
        config::load_text(&Self::text_of(jobs, dir), Format::Yaml, None, []).unwrap()
    }

    fn settings(&self, jobs: &str) -> Settings {
        Self::settings_of(jobs, self.path())
    }

    fn ctx(&self, jobs: &str) -> Context {
        Context::new(self.settings(jobs), Arc::new(SystemClock), Cancel::new())
    }
}

fn job(ctx: &Context, name: &str) -> config::settings::Job {
    let selector: Selector = format!("acme/{name}").parse().unwrap();
    ctx.jobs(Some(&selector)).unwrap()[0].clone()
}

async fn run(ctx: &Context, name: &str, options: &job::Options) -> strongroom::error::Result<job::Outcome> {
    job::run(ctx, &job(ctx, name), options).await
}

async fn snapshots(ctx: &Context) -> Vec<strongroom::repository::Snapshot> {
    ctx.repository(&"acme".parse().unwrap()).await.unwrap().load_snapshots().await.unwrap()
}

fn report(outcome: job::Outcome) -> app::backup::Report {
    match outcome {
        job::Outcome::Backed(report) => *report,
        other => panic!("{other:?}"),
    }
}

fn now() -> Time {
    SystemClock.now()
}

/// Somebody asked; nothing is tried again.
fn asked() -> job::Options {
    let any = World::settings_of("x: { volume: { path: /x }, retries: 0 }", Path::new("/nowhere"));
    job::Options::asked(any.tenants.values().next().unwrap().jobs.values().next().unwrap())
}

const FILES: &str = "files: { volume: { path: DATA }, keep: { last: 2 }, retries: 0 }";

#[tokio::test(flavor = "multi_thread")]
async fn a_due_run_is_made_once_whoever_asks() {
    let world = World::new().await;
    let ctx = world.ctx(FILES);
    assert_eq!(job::last_success(&ctx, &job(&ctx, "files")).await.unwrap(), None);
    let due = now();
    let options = |due| job::Options { why: job::Why::Due(due), ..asked() };
    let first = report(run(&ctx, "files", &options(due)).await.unwrap());
    assert!(first.complete && first.started >= due);
    match run(&ctx, "files", &options(due)).await.unwrap() {
        job::Outcome::Already(begun) => assert_eq!(begun, first.started),
        other => panic!("{other:?}"),
    }
    assert_eq!(job::last_success(&ctx, &job(&ctx, "files")).await.unwrap(), Some(first.started));
    // Another process, due later; and somebody who asks in any case.
    report(run(&world.ctx(FILES), "files", &options(now())).await.unwrap());
    report(run(&ctx, "files", &asked()).await.unwrap());
    assert_eq!(snapshots(&ctx).await.len(), 3);
}

/// A node's clock that is a day ahead.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> Time {
        let now = now();
        Time::new(now.secs + 86_400, now.nanos)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_clock_that_was_ahead_stands_for_no_run() {
    let world = World::new().await;
    let wrong = Context::new(world.settings(FILES), Arc::new(Ahead), Cancel::new());
    report(run(&wrong, "files", &asked()).await.unwrap());
    let (ctx, due) = (world.ctx(FILES), now());
    assert_eq!(job::last_success(&ctx, &job(&ctx, "files")).await.unwrap(), None);
    let made = report(run(&ctx, "files", &job::Options { why: job::Why::Due(due), ..asked() }).await.unwrap());
    assert_eq!(job::last_success(&ctx, &job(&ctx, "files")).await.unwrap(), Some(made.started));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_overlap_with_itself() {
    let world = World::new().await;
    let jobs = "slow: { command: { run: [sh, -c, 'sleep 5; echo done'], file: out } }";
    let (one, two) = (world.ctx(jobs), world.ctx(jobs));
    let first = tokio::spawn(async move { run(&one, "slow", &asked()).await });
    leased(&two, "slow").await;
    match run(&two, "slow", &asked()).await.unwrap() {
        job::Outcome::Elsewhere(who) => assert!(who.contains(&format!("pid {}", std::process::id())), "{who}"),
        other => panic!("{other:?}"),
    }
    report(first.await.unwrap().unwrap());
    // Given back at once.
    report(run(&two, "slow", &asked()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_ends_the_run_without_a_snapshot() {
    let world = World::new().await;
    let ctx = world.ctx("slow: { command: { run: [sh, -c, 'sleep 60'], file: out }, retries: 0 }");
    let store = ctx.repository(&"acme".parse().unwrap()).await.unwrap().store().clone();
    let running = {
        let ctx = ctx.clone();
        tokio::spawn(async move { run(&ctx, "slow", &asked()).await })
    };
    leased(&ctx, "slow").await;
    // As if it had expired while this process stood still.
    let key = Key::new("strongroom/leases/slow").unwrap();
    store.delete(&key).await.unwrap();
    let theirs = Lease::acquire(
        store,
        key,
        "somebody else",
        Duration::from_secs(600),
        &mut <rand::rngs::StdRng as rand::SeedableRng>::from_os_rng(),
    )
    .await
    .unwrap();
    assert!(theirs.is_some());
    let begun = std::time::Instant::now();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(50));
    assert!(snapshots(&ctx).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_past_its_timeout_is_stopped_and_says_so() {
    let world = World::new().await;
    let ctx = world.ctx("slow: { command: { run: [sh, -c, 'echo part; sleep 60'], file: out }, timeout: 1s, retries: 5 }");
    let metrics = Metrics::default();
    let patience = job::Patience { retries: 5, unattended: true };
    let options = job::Options { patience, metrics: Some(metrics.job("acme", "slow")), ..asked() };
    let begun = std::time::Instant::now();
    let error = run(&ctx, "slow", &options).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(
        error.kind() == Kind::Failed && error.report().contains("did not end within 1 s") && error.report().contains("`timeout`"),
        "{error:?}"
    );
    assert!(snapshots(&ctx).await.is_empty());
    assert!(metrics.to_string().contains("strongroom_job_last_exit_code{tenant=\"acme\",job=\"slow\",operation=\"backup\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_follows_complete_backups_only() {
    let world = World::new().await;
    let metrics = Metrics::default();
    let options = |_: &Context| job::Options { retain: true, metrics: Some(metrics.job("acme", "files")), ..asked() };
    let ctx = world.ctx(FILES);
    for _ in 0..4 {
        report(run(&ctx, "files", &options(&ctx)).await.unwrap());
    }
    let left = snapshots(&ctx).await;
    assert_eq!(left.len(), 2);
    let text = metrics.to_string();
    for want in [
        r#"strongroom_job_snapshots{tenant="acme",job="files"} 2"#,
        r#"strongroom_job_removed_snapshots_total{tenant="acme",job="files"} 2"#,
        r#"strongroom_job_last_exit_code{tenant="acme",job="files",operation="prune"} 0"#,
        r#"strongroom_job_last_exit_code{tenant="acme",job="files",operation="backup"} 0"#,
        r#"strongroom_job_runs_total{tenant="acme",job="files",operation="backup",result="ok"} 4"#,
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    let put = text
        .lines()
        .find_map(|l| l.strip_prefix(r#"strongroom_job_store_requests_total{tenant="acme",job="files",request="put"} "#))
        .unwrap();
    // Each run: lock, lease twice, data, tree, index, snapshot, and a lock for retention.
    assert!((28..=60).contains(&put.parse::<u32>().unwrap()), "{put} puts in 4 runs");
    // Nothing is removed on account of a failed run.
    std::fs::remove_dir_all(world.path().join("data")).unwrap();
    run(&ctx, "files", &options(&ctx)).await.unwrap_err();
    assert_eq!(snapshots(&ctx).await.len(), 2);
}

async fn prune_once(ctx: &Context, options: prune::Options) -> (prune::TenantPrune, Option<strongroom::error::Error>) {
    prune::run(ctx, &"acme".parse().unwrap(), None, &options).await.unwrap()
}

/// Writes snapshots of other days without data of their own.
async fn fake_snapshots(ctx: &Context, count: u32, change: impl Fn(u32, &mut SnapshotFile)) {
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    let last = repo.load_snapshots().await.unwrap().pop().unwrap();
    for n in 1..=count {
        let mut file = last.file.clone();
        file.time = Time::new(file.time.secs - i64::from(n) * 86_400, 0);
        file.summary = None;
        change(n, &mut file);
        repo.save_snapshot(&file).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_shows_its_plan_follows_it_and_leaves_the_rest() {
    let world = World::new().await;
    let ctx = world.ctx("files: { volume: { path: DATA }, keep: { daily: 3 } }\nother: { volume: { path: DATA } }");
    report(run(&ctx, "files", &asked()).await.unwrap());
    fake_snapshots(&ctx, 9, |n, file| match n {
        4 => file.tags.push("hold".into()),
        5 => file.tags.clear(),
        6 => file.tags = vec!["job=gone".into()],
        7 => file.tags.push("incomplete".into()),
        8 => file.time = Time::new(now().secs + 86_400, 0),
        _ => {}
    })
    .await;
    let (plan, error) = prune_once(&ctx, prune::Options { dry_run: true, ..prune::Options::default() }).await;
    assert!(error.is_none(), "{error:?}");
    let files = &plan.jobs[0];
    assert_eq!(
        (files.count(Action::Keep), files.count(Action::Remove), files.count(Action::Ignore), files.removed),
        (4, 3, 1, 0)
    );
    assert!(files.snapshots.iter().all(|f| !f.reasons.is_empty()));
    assert_eq!(files.alarms.len(), 1, "{:?}", files.alarms);
    assert_eq!((plan.foreign, plan.unconfigured.get("gone")), (1, Some(&1)));
    assert_eq!(snapshots(&ctx).await.len(), 10, "a dry run removes nothing");
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["jobs"][0]["keep"], "3 daily");
    assert_eq!(json["jobs"][0]["snapshots"][1]["action"], "keep");

    let (done, error) = prune_once(&ctx, prune::Options::default()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(done.jobs[0].removed, 3);
    assert_eq!(snapshots(&ctx).await.len(), 7);
    let (again, _) = prune_once(&ctx, prune::Options::default()).await;
    assert_eq!(again.jobs[0].removed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_altered_pushes_nothing_out() {
    let world = World::new().await;
    let ctx = world.ctx("files: { volume: { path: DATA }, keep: { last: 2 } }");
    for n in 0..3 {
        std::fs::write(world.path().join("data/file"), format!("content {n}")).unwrap();
        report(run(&ctx, "files", &asked()).await.unwrap());
    }
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    let mut all = repo.load_snapshots().await.unwrap();
    // The newest one loses its content, as by `restic rewrite --exclude`; the one before is only held and let go again.
    let (newest, before) = (all.pop().unwrap(), all.pop().unwrap());
    let reader = repo.reader(repo.load_index().await.unwrap());
    let own = tokio::task::spawn_blocking(move || {
        reader.tree(newest.file.tree).unwrap().into_iter().find(|n| n.name == b".strongroom").unwrap()
    })
    .await
    .unwrap();
    let strongroom::model::NodeKind::Dir { subtree: Some(tree) } = own.kind else { panic!("{own:?}") };
    repo.save_snapshot(&SnapshotFile { tree, original: Some(newest.id), ..newest.file }).await.unwrap();
    repo.save_snapshot(&SnapshotFile { original: Some(before.id), ..before.file }).await.unwrap();
    repo.remove_snapshot(newest.id).await.unwrap();
    repo.remove_snapshot(before.id).await.unwrap();
    let (plan, _) = prune_once(&ctx, prune::Options { dry_run: true, ..prune::Options::default() }).await;
    let actions: Vec<Action> = plan.jobs[0].snapshots.iter().map(|s| s.action).collect();
    assert_eq!(actions, [Action::Keep, Action::Keep, Action::Keep], "{:?}", plan.jobs[0].snapshots);
    assert!(plan.jobs[0].snapshots[0].reasons[0].contains("altered"), "{:?}", plan.jobs[0].snapshots);
    assert!(!plan.jobs[0].snapshots[1].reasons[0].contains("altered"), "{:?}", plan.jobs[0].snapshots);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_refuses_an_unusual_share_until_forced_and_waits_for_nobody() {
    let world = World::new().await;
    let ctx = world.ctx(FILES);
    report(run(&ctx, "files", &asked()).await.unwrap());
    fake_snapshots(&ctx, 30, |_, _| {}).await;
    let (plan, error) = prune_once(&ctx, prune::Options::default()).await;
    let error = error.unwrap();
    assert!(error.report().contains("prune --force") && error.report().contains("acme"), "{error:?}");
    assert!(plan.jobs[0].refused.is_some() && plan.jobs[0].count(Action::Remove) == 29);
    assert_eq!(snapshots(&ctx).await.len(), 31);

    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    let lock = repo.lock(LockMode::Shared, &app::lock_holder(), &Cancel::new()).await.unwrap();
    let locked =
        prune::run(&ctx, &"acme".parse().unwrap(), None, &prune::Options { force: true, ..prune::Options::default() }).await;
    assert_eq!(locked.unwrap_err().kind(), Kind::Locked);
    lock.release().await.unwrap();
    let (_, error) = prune_once(&ctx, prune::Options { force: true, ..prune::Options::default() }).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(snapshots(&ctx).await.len(), 2);
    assert!(repo.load_locks().await.unwrap().is_empty());
}

/// Waits until a run of this job holds its lease.
async fn leased(ctx: &Context, job: &str) {
    let store = ctx.repository(&"acme".parse().unwrap()).await.unwrap().store().clone();
    let key = Key::new(format!("strongroom/leases/{job}")).unwrap();
    while store.head(&key).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until there are this many snapshots.
async fn until(ctx: &Context, count: usize) {
    for _ in 0..1800 {
        if snapshots(ctx).await.len() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} snapshots instead of {count}", snapshots(ctx).await.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_backs_up_reloads_and_stops() {
    let world = World::new().await;
    let file = world.path().join("strongroom.yaml");
    let text = world.text("files: { volume: { path: DATA }, every: 2s, keep: { last: 3 } }");
    std::fs::write(&file, &text).unwrap();
    let settings = config::load(&file, []).unwrap();
    let ctx = Context::new(settings.clone(), Arc::new(SystemClock), Cancel::new());
    let stop = Cancel::new();
    let options = daemon::Options { origin: Some(daemon::Origin::new(file.clone(), Vec::new())), grace: Duration::from_secs(20) };
    let running = tokio::spawn(daemon::run(settings, options, Arc::new(SystemClock), stop.clone()));
    until(&ctx, 3).await;
    // A mistake: the old configuration goes on.
    std::fs::write(&file, text.replace("every: 2s", "every: soon")).unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (mark, mut waited) = (now(), 0);
    while snapshots(&ctx).await.iter().map(|s| s.file.time).max().unwrap() <= mark {
        waited += 1;
        assert!(waited < 1200, "the old configuration goes on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A new job, and the old one is gone.
    std::fs::write(&file, text.replace("files:", "renamed:")).unwrap();
    for _ in 0..1200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if snapshots(&ctx).await.iter().any(|s| s.file.tag("job") == Some("renamed")) {
            break;
        }
    }
    let renamed = snapshots(&ctx)
        .await
        .iter()
        .find(|s| s.file.tag("job") == Some("renamed"))
        .map(|s| s.file.time)
        .expect("the new job runs");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let old = snapshots(&ctx).await.iter().filter(|s| s.file.tag("job") == Some("files")).map(|s| s.file.time).max().unwrap();
    assert!(old <= renamed, "the old job does not run any more");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap().unwrap();
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    assert!(repo.load_locks().await.unwrap().is_empty(), "locks are given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_while_the_daemon_starts_is_seen() {
    let world = World::new().await;
    let file = world.path().join("strongroom.yaml");
    let text = world.text("files: { volume: { path: DATA }, every: 1h }");
    std::fs::write(&file, &text).unwrap();
    let origin = daemon::Origin::new(file.clone(), Vec::new());
    let settings = origin.load().unwrap();
    std::fs::write(&file, text.replace("files:", "renamed:")).unwrap();
    let (stop, ctx) = (Cancel::new(), world.ctx(FILES));
    let options = daemon::Options { origin: Some(origin), grace: Duration::from_secs(20) };
    let running = tokio::spawn(daemon::run(settings, options, Arc::new(SystemClock), stop.clone()));
    until(&ctx, 2).await;
    assert!(snapshots(&ctx).await.iter().any(|s| s.file.tag("job") == Some("renamed")));
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_make_each_backup_once() {
    let world = World::new().await;
    let jobs = "files: { volume: { path: DATA }, schedule: '*/4 * * * * *' }";
    let stop = Cancel::new();
    let start = |settings| tokio::spawn(daemon::run(settings, daemon::Options::new(None), Arc::new(SystemClock), stop.clone()));
    let running = [start(world.settings(jobs)), start(world.settings(jobs))];
    let ctx = world.ctx(jobs);
    until(&ctx, 4).await;
    stop.cancel();
    for daemon in running {
        daemon.await.unwrap().unwrap();
    }
    let mut rounds: Vec<i64> = snapshots(&ctx).await.iter().map(|s| s.file.time.secs.div_euclid(4)).collect();
    let all = rounds.len();
    rounds.sort_unstable();
    rounds.dedup();
    assert_eq!(rounds.len(), all, "each time once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_stopped_cancels_its_jobs() {
    let world = World::new().await;
    let jobs = "slow: { command: { run: [sh, -c, 'echo part; sleep 60'], file: out }, every: 1h }";
    let (stop, ctx) = (Cancel::new(), world.ctx(jobs));
    let running =
        tokio::spawn(daemon::run(world.settings(jobs), daemon::Options::new(None), Arc::new(SystemClock), stop.clone()));
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    for _ in 0..100 {
        if !repo.load_locks().await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), running).await.expect("in time").unwrap().unwrap();
    assert!(repo.load_locks().await.unwrap().is_empty(), "the lock is given back");
    assert!(snapshots(&ctx).await.is_empty());
    // So is the lease: the next run need not wait.
    let quick = world.ctx("slow: { command: { run: [echo, hello], file: out } }");
    report(run(&quick, "slow", &asked()).await.unwrap());
}
