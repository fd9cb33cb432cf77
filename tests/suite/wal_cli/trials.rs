//! A quiet database whose server dies with its disk, and the daemon beside it: what a restore brings back from the last base backup
//! and what was streamed since.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use strongroom::postgres::{ConnectionSettings, connect};
use strongroom::runtime::SecretText;

use super::receive::{Streaming, job};
use super::{Place, until};
use crate::support::postgres::{MAJORS, Server};

/// As in [`job`].
const MAX_LAG: Duration = Duration::from_secs(1);
/// What one request may take where many tests share few processors.
const PUT: Duration = Duration::from_millis(1500);
/// Trials at the same time: they mostly wait.
const AT_ONCE: usize = 3;

/// How often a server dies: more in the slow tests.
fn trials() -> u64 {
    std::env::var("STRONGROOM_TRIALS").ok().and_then(|n| n.parse().ok()).unwrap_or(6)
}

/// Commits one number after the other until the time is over, and tells when each was acknowledged.
async fn commit_now_and_then(url: String, until: Instant, random: &mut StdRng) -> Vec<Instant> {
    let settings = ConnectionSettings::parse(&SecretText::new(url)).unwrap();
    let (client, _) = connect(&settings).await.unwrap();
    let mut commits = Vec::new();
    while Instant::now() < until {
        let number = i32::try_from(commits.len()).unwrap() + 1;
        client.execute("INSERT INTO t VALUES ($1, repeat('x', 3000))", &[&number]).await.unwrap();
        commits.push(Instant::now());
        let pause = if random.random_range(0..8) == 0 { 900..1600 } else { 0..250 };
        tokio::time::sleep(Duration::from_millis(random.random_range(pause))).await;
    }
    commits
}

/// The longest that this machine took for a write of a few bytes, of those made one after the other until `over`: who shares the
/// processors and the disk with others stands still now and then, and the program under test with him.
fn longest_stall(folder: &Path, over: &AtomicBool) -> Duration {
    let (mut longest, path) = (Duration::ZERO, folder.join("stall"));
    while !over.load(Relaxed) {
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(10));
        std::fs::write(&path, "x").and_then(|()| std::fs::File::open(&path)?.sync_all()).unwrap();
        longest = longest.max(began.elapsed());
    }
    longest
}

/// How old the oldest lost commit was when the server died; nothing if none was lost.
fn trial(number: u64) -> Option<Duration> {
    let mut random = StdRng::seed_from_u64(number);
    let major = MAJORS[usize::try_from(number).unwrap() % MAJORS.len()];
    let mib = [1, 16, 64][random.random_range(0..3)];
    let sizes = format!("min_wal_size = {}MB\nmax_wal_size = {}MB", mib * 2, mib * 8);
    let server = Server::create(major, false, &[&format!("--wal-segsize={mib}")], &sizes);
    let place = Place::new(&job(&server));
    let base = format!("base: {{ pg_base: {{ url: \"{}\" }}, schedule: never }}", server.conninfo("postgres", ""));
    place.configure(&place.local_store(), &job(&server), &base);
    let mut stream = Streaming::start(&place, &["run"]);
    until("the slot is used", || server.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE active") == "1");
    server.sql("postgres", "CREATE TABLE t (n int PRIMARY KEY, body text)");
    place.run(&["backup", "acme/base"]).ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = Instant::now() + MAX_LAG + PUT + Duration::from_millis(random.random_range(0..2500));
    let over = AtomicBool::new(false);
    let folder = PathBuf::from(place.path(""));
    let (commits, stall) = std::thread::scope(|scope| {
        let stall = scope.spawn(|| longest_stall(&folder, &over));
        let commits = runtime.block_on(commit_now_and_then(server.conninfo("postgres", "postgres"), end, &mut random));
        over.store(true, Relaxed);
        (commits, stall.join().unwrap())
    });
    let died = Instant::now();
    server.kill();
    stream.kill();
    drop(server);

    let restored = Server::unborn(major);
    place.run(&["restore", "acme/base", "--to", &restored.data()]).ok();
    crate::pitr::run_here(&restored);
    restored.restart();
    until("it is in service", || restored.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    let rows = restored.sql("postgres", "SELECT count(*), coalesce(max(n), 0) FROM t");
    let (count, last) = rows.split_once('|').unwrap();
    assert_eq!(count, last, "trial {number}: a commit is lost, and a later one is not");
    let lost = commits.get(count.parse::<usize>().unwrap()).map(|at| died - *at);
    println!(
        "trial {number}: PostgreSQL {major}, segments of {mib} MiB, {} commits, {count} left, lost: {lost:?}, the machine stood still for {stall:?}",
        commits.len()
    );
    // A put is two such writes.
    let allowed = MAX_LAG + PUT + 2 * stall;
    assert!(lost.is_none_or(|age| age <= allowed), "trial {number}: a commit {lost:?} old is lost\n{}", restored.log());
    lost
}

#[test]
fn a_server_that_dies_with_its_disk_loses_no_commit_older_than_max_lag_and_one_request() {
    let (next, lost) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(number) = Some(next.fetch_add(1, Relaxed)).filter(|n| *n < trials()) {
                    lost.lock().push(trial(number));
                }
            });
        }
    });
    let lost = lost.into_inner();
    println!("{} trials; the oldest lost commit was {:?} old", lost.len(), lost.iter().flatten().max());
}
