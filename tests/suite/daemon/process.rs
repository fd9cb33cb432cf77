//! The real program: `strongroom run` as a process, with signals.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::{World, snapshots, until};

/// A daemon that is killed when the test ends, whatever happens.
struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Daemon {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
            .arg("--config")
            .arg(config)
            .args(["--allow-commands", "--log-format", "text", "run"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (mut stderr, into) = (child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                into.lock().push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        Self { child, log }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for words in the log.
    fn says(&self, words: &str) {
        let begun = Instant::now();
        while !self.log.lock().contains(words) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the log never says `{words}`:\n{}", self.log.lock());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ends(&mut self, within: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < within, "still running after {within:?}:\n{}", self.log.lock());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

/// Writes a configuration file and tells where.
fn config(world: &World, jobs: &str, more: &str) -> PathBuf {
    let file = world.path().join("strongroom.yaml");
    std::fs::write(&file, format!("{}{more}", world.text(jobs))).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn it_backs_up_serves_metrics_and_ends_on_sigterm() {
    let world = World::new().await;
    let port = free_port();
    let jobs = "files: { volume: { path: DATA }, every: 1s, keep: { last: 2 } }\nslow: { command: { run: [sh, -c, 'echo part; sleep 600'], file: out }, every: 1h }";
    let file = config(&world, jobs, &format!("http: {{ metrics: '127.0.0.1:{port}' }}\n"));
    let mut daemon = Daemon::start(&file);
    daemon.says("backed up");
    let ctx = world.ctx(jobs);
    until(&ctx, 2).await;
    assert_eq!((get(port, "/healthz").0, get(port, "/readyz").0), (200, 200));
    let (status, metrics) = get(port, "/metrics");
    assert_eq!(status, 200);
    for want in [
        r#"strongroom_job_running{tenant="acme",job="slow"} 1"#,
        r#"strongroom_job_last_exit_code{tenant="acme",job="files",operation="backup"} 0"#,
        r#"strongroom_job_last_success_timestamp_seconds{tenant="acme",job="files",operation="backup"} "#,
        r#"strongroom_job_last_read_bytes{tenant="acme",job="files"} "#,
        "strongroom_jobs 2",
        "strongroom_config_last_reload_successful 1",
    ] {
        assert!(metrics.contains(want), "{want}\n{metrics}");
    }
    daemon.signal(Signal::TERM);
    let status = daemon.ends(Duration::from_secs(15));
    assert_eq!(status.code(), Some(0), "{}", daemon.log.lock());
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    assert!(repo.load_locks().await.unwrap().is_empty(), "locks are given back");
    assert!(snapshots(&ctx).await.iter().all(|s| s.file.tag("job") == Some("files")), "a cancelled run leaves no snapshot");
    assert!(!children_of(daemon.child.id()), "children die with their job");
}

/// Whether a process whose parent was `pid` still runs `sleep 600`.
fn children_of(pid: u32) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|p| {
        let stat = std::fs::read_to_string(p.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split_whitespace().nth(1) == Some(&pid.to_string()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_is_refused_and_a_good_one_taken_on_sighup() {
    let world = World::new().await;
    let port = free_port();
    let http = format!("http: {{ metrics: '127.0.0.1:{port}' }}\n");
    let jobs = "files: { volume: { path: DATA }, every: 1h }";
    let file = config(&world, jobs, &http);
    let mut daemon = Daemon::start(&file);
    daemon.says("backed up");
    config(&world, "files: { volume: { path: DATA }, every: soon, kep: { last: 1 } }", &http);
    daemon.signal(Signal::HUP);
    daemon.says("the new configuration is refused and the one in use goes on");
    daemon.says("kep");
    assert!(get(port, "/metrics").1.contains("strongroom_config_last_reload_successful 0"));
    config(&world, "files: { volume: { path: DATA }, every: 1h }\nmore: { volume: { path: DATA }, every: 1h }", &http);
    daemon.signal(Signal::HUP);
    daemon.says("the configuration was read again: 2 jobs");
    until(&world.ctx(jobs), 2).await;
    assert!(get(port, "/metrics").1.contains("strongroom_config_last_reload_successful 1"));
    assert!(daemon.child.try_wait().unwrap().is_none());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends(Duration::from_secs(10)).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let world = World::new().await;
    // Ignores SIGTERM, so that the run does not end quickly.
    let deaf = world.path().join("deaf");
    let script = format!("trap \"\" TERM; touch {}; echo part; while :; do sleep 1; done", deaf.display());
    let jobs = format!("deaf: {{ command: {{ run: [sh, -c, '{script}'], file: out }}, every: 1h }}");
    let mut daemon = Daemon::start(&config(&world, &jobs, ""));
    crate::faults::until("the program runs", || deaf.exists());
    daemon.signal(Signal::TERM);
    daemon.says("once more to abort at once");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends(Duration::from_secs(30)).code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_at_start_is_told_with_its_path() {
    let world = World::new().await;
    let mut daemon = Daemon::start(&config(&world, "files: { volume: { path: DATA }, schedule: '*/90 * * * *' }", ""));
    assert_eq!(daemon.ends(Duration::from_secs(10)).code(), Some(78));
    daemon.says("tenants.acme.jobs.files.schedule");
    daemon.says("every: 90m");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_is_replaced_by_one_that_catches_up_once() {
    let world = World::new().await;
    let flag = world.path().join("quick");
    let script = format!("echo part; test -e {} || sleep 600", flag.display());
    // Due once a year, and never run: missed.
    let jobs = format!("dump: {{ command: {{ run: [sh, -c, '{script}'], file: out }}, schedule: '0 0 1 1 *' }}");
    let file = config(&world, &jobs, "");
    let mut daemon = Daemon::start(&file);
    daemon.says("starting");
    let ctx = world.ctx(&jobs);
    let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
    while repo.load_locks().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.child.kill().unwrap();
    daemon.ends(Duration::from_secs(5));
    std::fs::write(&flag, "").unwrap();
    let daemon = Daemon::start(&file);
    until(&ctx, 1).await;
    daemon.says("backed up");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(snapshots(&ctx).await.len(), 1, "caught up once:\n{}", daemon.log.lock());
    drop(daemon);
    // The next one finds nothing to catch up.
    let daemon = Daemon::start(&file);
    daemon.says("last complete run: 2");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(snapshots(&ctx).await.len(), 1, "{}", daemon.log.lock());
    assert!(repo.load_locks().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_make_each_backup_once() {
    let world = World::new().await;
    let jobs = "files: { volume: { path: DATA }, schedule: '*/3 * * * * *' }";
    let file = config(&world, jobs, "");
    let daemons = [Daemon::start(&file), Daemon::start(&file)];
    let ctx = world.ctx(jobs);
    until(&ctx, 5).await;
    drop(daemons);
    let mut rounds: Vec<i64> = snapshots(&ctx).await.iter().map(|s| s.file.time.secs.div_euclid(3)).collect();
    let all = rounds.len();
    rounds.sort_unstable();
    rounds.dedup();
    assert_eq!(rounds.len(), all, "each time once");
}
