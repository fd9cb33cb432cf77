//! Streaming by the program itself: `wal receive`, and the daemon. What a recovery then has.

use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{Place, load, until};
use crate::support::postgres::Server;

/// A process of ours that streams; killed when dropped.
pub struct Streaming(Child);

impl Streaming {
    pub fn start(place: &Place, args: &[&str]) -> Self {
        let log = std::fs::File::create(place.path("stream.log")).unwrap();
        Self(place.command(args).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// The process itself: what was started may be the one that changed the user for it.
    fn pid(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let child = std::fs::read_to_string(children).unwrap_or_default();
        let pid = child.split_whitespace().next().map_or(self.0.id().cast_signed(), |c| c.parse().unwrap());
        Pid::from_raw(pid).unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        kill_process(self.pid(), Signal::KILL).unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM: it must end well.
    fn ends(mut self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
        until("the end of the stream", || self.0.try_wait().unwrap().is_some());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            kill_process(self.pid(), Signal::KILL).unwrap();
            self.0.wait().unwrap();
        }
    }
}

pub fn job(server: &Server) -> String {
    format!("url: \"{}\", max_lag: 1s", server.conninfo("postgres", ""))
}

/// Waits until everything that is committed is confirmed.
pub fn confirmed(server: &Server) {
    let position = server.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    let sql = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'strongroom' AND restart_lsn >= '{position}'");
    until("the commit is confirmed", || server.sql("postgres", &sql) == "1");
}

/// A recovery of the copy ends with the same rows.
fn recovers(copy: &Server, rows: &str) {
    std::fs::write(Path::new(&copy.data()).join("recovery.signal"), "").unwrap();
    copy.restart();
    until("the copy is in service", || copy.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    assert_eq!(copy.sql("postgres", "SELECT count(*), sum(n) FROM one"), rows, "{}", copy.log());
}

#[test]
fn a_streamed_server_is_recovered_to_its_last_commit() {
    let server = Server::create(16, false, &["--wal-segsize=1"], "");
    let place = Place::new(&job(&server));
    let stream = Streaming::start(&place, &["wal", "receive", "--job", "acme/wal"]);
    until("the slot is there", || server.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE active") == "1");
    let copy = Server::unborn(16);
    server.copy_to(&copy, &["-X", "none"], &place.restoring(""));
    load(&server, "one", 6);
    server.sql("postgres", "INSERT INTO one VALUES (1000000, 'the last one')");
    confirmed(&server);
    let rows = server.sql("postgres", "SELECT count(*), sum(n) FROM one");
    stream.ends();
    let status = place.status();
    assert_eq!(status["systems"][0]["timelines"][0]["gaps"], serde_json::json!([]), "{status:#}");
    recovers(&copy, &rows);
}

#[test]
fn the_daemon_streams_and_a_server_that_dies_with_its_disk_loses_nothing_that_is_old() {
    let server = Server::create(18, false, &[], "");
    let place = Place::new(&job(&server));
    let mut stream = Streaming::start(&place, &["run"]);
    until("the slot is there", || server.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE active") == "1");
    let copy = Server::unborn(18);
    server.copy_to(&copy, &["-X", "none"], &place.restoring(""));
    load(&server, "one", 1);
    let rows = server.sql("postgres", "SELECT count(*), sum(n) FROM one");
    confirmed(&server);
    server.kill();
    stream.kill();
    drop(server);
    recovers(&copy, &rows);
}

#[test]
fn the_daemon_makes_a_base_backup_after_wal_was_lost() {
    let server = Server::create(17, false, &["--wal-segsize=1"], "max_wal_size = 2MB\nmin_wal_size = 2MB\nwal_keep_size = 0");
    let place = Place::new(&job(&server));
    let base = format!("base: {{ pg_base: {{ url: \"{}\" }}, schedule: never }}", server.conninfo("postgres", ""));
    place.configure(&place.local_store(), &job(&server), &base);
    let bases = || place.run(&["--json", "snapshots", "acme/base"]).ok().json()["snapshots"].as_array().unwrap().len();
    let streams = || server.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE active") == "1";

    let stream = Streaming::start(&place, &["run"]);
    until("the slot is there", streams);
    load(&server, "one", 2);
    confirmed(&server);
    stream.ends();
    assert_eq!(bases(), 0, "nothing was lost so far");
    until("the slot is free", || !streams());
    server.sql("postgres", "SELECT pg_drop_replication_slot('strongroom')");
    for _ in 0..5 {
        load(&server, "one", 2);
        server.sql("postgres", "SELECT pg_switch_wal(); CHECKPOINT");
    }
    let stream = Streaming::start(&place, &["run"]);
    until("a base backup", || bases() == 1);
    stream.ends();
    let log = std::fs::read_to_string(place.path("stream.log")).unwrap();
    assert!(log.contains("is lost from") && log.contains("a base backup that began later is needed"), "{log}");

    // One is enough, also for the next process.
    let stream = Streaming::start(&place, &["run"]);
    until("the slot is used", streams);
    load(&server, "one", 1);
    confirmed(&server);
    stream.ends();
    assert_eq!(bases(), 1);
}

#[test]
fn a_server_whose_wal_nobody_takes_is_behind() {
    let server = Server::create(17, false, &["--wal-segsize=1"], "");
    let place = Place::new(&job(&server));
    let streams = || server.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE active") == "1";
    let state = || place.run(&["--json", "wal", "status", "--check"]);
    let stream = Streaming::start(&place, &["wal", "receive", "--job", "acme/wal"]);
    until("the slot is there", streams);
    load(&server, "one", 3);
    confirmed(&server);
    let status = state().ok().json();
    assert_eq!(status["archives"][0]["server"]["streamed"], true, "{status:#}");
    stream.ends();
    until("the slot is free", || !streams());
    load(&server, "one", 5);
    let status = state().exits(1).json();
    assert_eq!(status["archives"][0]["state"], "behind", "{status:#}");
    assert!(status["archives"][0]["lag"]["bytes"].as_u64().unwrap() > 4 << 20, "{status:#}");

    // Nor does it archive by itself.
    place.configure(&place.local_store(), &format!("url: \"{}\", mode: archive", server.conninfo("postgres", "")), "");
    let status = state().exits(1).json();
    let archive = &status["archives"][0];
    assert_eq!((&archive["state"], &archive["server"]["archive_mode"]), (&"behind".into(), &"off".into()), "{status:#}");
}
