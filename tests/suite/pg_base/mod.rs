//! Base backups: of real servers, restored with stock tools, started by real servers.

mod command_line;
mod failures;
mod files;
mod pages;
mod standby;
mod stream;
mod tablespaces;
mod wal;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use strongroom::app::backup::{self, Progress, Report, Request};
use strongroom::error::Result;
use strongroom::repository::Repository;
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::SourceSettings;
use strongroom::source::pg_base::Settings;

use crate::backup::PASSWORD;
use crate::support::judges;
use crate::support::postgres::Server;

/// A job that reads the server's own data directory.
pub fn from_files(server: &Server) -> Settings {
    Settings { data_directory: Some(server.data().into()), ..Settings::new(server.url("postgres", "")) }
}

/// A job for which the server sends its files.
pub fn from_stream(server: &Server) -> Settings {
    Settings::new(server.url("postgres", ""))
}

pub fn request(settings: Settings) -> Request {
    Request { job: "base".parse().unwrap(), ..crate::backup::request(SourceSettings::PgBase(settings)) }
}

pub async fn try_back_up(repo: &Repository, settings: Settings) -> Result<Report> {
    backup::run(repo, request(settings), Arc::new(SystemClock), &Cancel::new()).await
}

#[track_caller]
pub fn whole(report: &Report) {
    assert!(report.complete && report.warnings.is_empty(), "{:?} {:?}", report.missing, report.warnings);
}

/// A backup, and somebody who does something once files are being read.
pub async fn while_reading(repo: &Repository, settings: Settings, act: impl FnOnce() + Send + 'static) -> Result<Report> {
    let progress = Arc::new(Progress::default());
    let request = Request { progress: progress.clone(), ..request(settings) };
    let actor = std::thread::spawn(move || {
        while progress.source.bytes_read.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        act();
    });
    let done = backup::run(repo, request, Arc::new(SystemClock), &Cancel::new()).await;
    actor.join().unwrap();
    done
}

/// What stock restic makes of a snapshot: the folder with `data`, `config` and `.strongroom` in it.
pub fn restore(repo: &Path, snapshot: &str, to: &Path) {
    judges::restic(repo, PASSWORD, &["restore", snapshot, "--target", to.to_str().unwrap()]);
}

pub fn manifest(restored: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(restored.join(".strongroom/manifest.json")).unwrap()).unwrap()
}

/// PostgreSQL's own judgement of a restored data directory, before anything started on it.
#[track_caller]
pub fn verify(major: u32, data: &Path) {
    let mut c = Command::new(crate::support::postgres::clients(major).join("pg_verifybackup"));
    if major == 13 {
        // It reads the WAL of its own version only.
        c.arg("--no-parse-wal");
    }
    succeeds(c.arg("--exit-on-error").arg(data));
}

/// Starts a server on a restored data directory, as stock tools left it.
pub fn start(major: u32, data: &Path) -> Server {
    Server::on(major, data, "full_page_writes = on\n")
}

/// Every database is free of damage, indexes against tables too.
#[track_caller]
pub fn check(server: &Server) {
    if server.major == 13 {
        // The first version with the tool is 14: there every row is read, and by its index where it has one.
        for set in ["enable_seqscan = on", "enable_seqscan = off"] {
            server.sql("postgres", &format!("SET {set}; SELECT count(*) FROM pg_class; SELECT count(*) FROM pg_attribute"));
        }
        return;
    }
    let mut c = Command::new(server.bin().join("pg_amcheck"));
    c.args(["--all", "--heapallindexed", "--install-missing", "-U", "postgres", "-h", &server.socket_dir()]);
    succeeds(c.args(["-p", &server.port().to_string()]));
}

#[track_caller]
pub fn succeeds(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// Money that only moves, until dropped.
pub struct Load(Child);

impl Load {
    /// Makes pgbench's tables in the database, and begins to work on them.
    pub fn start(server: &Server, database: &str) -> Self {
        let pgbench = |args: &[&str]| {
            let mut c = Command::new(crate::support::postgres::clients(server.major).join("pgbench"));
            c.args(["-U", "postgres", "-h", &server.socket_dir(), "-p", &server.port().to_string()]).args(args).arg(database);
            c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            c
        };
        succeeds(&mut pgbench(&["-i", "-q", "-s", "2"]));
        Self(pgbench(&["-n", "-c", "2", "-T", "600"]).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The sums agree, so the state is one that existed.
#[track_caller]
pub fn books_balance(server: &Server, database: &str) {
    let sums = server.sql(
        database,
        "SELECT count(*) FROM (SELECT sum(abalance) FROM pgbench_accounts UNION SELECT sum(bbalance) FROM pgbench_branches
           UNION SELECT sum(tbalance) FROM pgbench_tellers UNION SELECT sum(delta) FROM pgbench_history) s",
    );
    assert_eq!(sums, "1", "PostgreSQL {}", server.major);
    assert_ne!(server.sql(database, "SELECT count(*) FROM pgbench_history"), "0");
}
