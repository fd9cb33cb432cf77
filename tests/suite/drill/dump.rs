//! Dumps, in servers made for them.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{World, check, until};
use crate::support::postgres::{Server, server_bin, shared};

/// A job that dumps these databases of the server, with this in its `drill` besides.
fn job(server: &Server, databases: &str, more: &str) -> String {
    let bin = server_bin(server.major);
    format!(
        "db:\n  pg_dump: {{ url: \"{}\", databases: {databases}, client_dirs: [\"{bin}\"] }}\n  drill:\n    scratch: DIR/scratch\n    server_dirs: [\"{bin}\"]\n{more}",
        server.conninfo("postgres", "postgres"),
        bin = bin.display()
    )
}

fn shop(server: &Server, name: &str) {
    server.create_database(name);
    server.sql(name, "CREATE TABLE orders AS SELECT g AS id, repeat('x', 100) AS note FROM generate_series(1, 5000) g");
    server.sql(name, "CREATE INDEX ON orders (id)");
}

#[test]
fn a_dump_is_restored_with_roles_and_tablespaces_and_asked() {
    for major in [14, 18] {
        let server = Server::start(major);
        let place = Path::new(&server.data()).parent().unwrap().join("tablespace");
        std::fs::create_dir(&place).unwrap();
        std::os::unix::fs::chown(
            &place,
            Some(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.data()).unwrap())),
            None,
        )
        .unwrap();
        server.sql("postgres", &format!("CREATE ROLE clerk; CREATE TABLESPACE far LOCATION '{}'", place.display()));
        shop(&server, "shop");
        server.sql("shop", "ALTER TABLE orders OWNER TO clerk; CREATE TABLE elsewhere (x int) TABLESPACE far");
        server.create_database("other db");
        let before = listing(&place);
        let questions = r#"    assertions:
      - { database: shop, sql: "SELECT count(*) = 5000 FROM orders" }
      - { database: shop, sql: "SELECT tableowner = 'clerk' FROM pg_tables WHERE tablename = 'orders'" }
      - { database: other db, sql: "SELECT current_setting('listen_addresses') = '' AND current_setting('archive_mode') = 'off'" }
"#;
        let world = World::new(&job(&server, r#"["*"]"#, questions));
        world.run(&["backup", "acme/db"]).ok();
        let ran = world.run(&["drill", "acme/db"]).ok().json();
        let report = &ran["drills"][0];
        assert_eq!(check(report, "database shop")["detail"].as_str().unwrap().split(',').next(), Some("2 tables"));
        for name in ["roles and tablespaces", "database other db", "assertion 1", "assertion 2", "assertion 3"] {
            assert_eq!(check(report, name)["ok"], true, "{report:#}");
        }
        let steps: Vec<&str> = report["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(steps, ["server", "restore", "checks"]);
        assert_eq!((world.left().len(), world.reports("db")), (0, 1));
        assert_eq!(listing(&place), before, "the tablespace of the running server was touched");
    }
}

fn listing(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn an_assertion_that_does_not_hold_fails_the_drill() {
    let server = shared(17);
    shop(server, "drill_false");
    let questions = r#"    assertions:
      - SELECT count(*) > 0 FROM orders
      - SELECT count(*) > 5000 FROM orders
      - SELECT count(*) FROM orders
      - SELECT true FROM orders
      - SELECT true FROM missing
      - { database: nowhere, sql: SELECT true }
      - SELECT NULL::bool
"#;
    let world = World::new(&job(server, "[drill_false]", questions));
    world.run(&["backup", "acme/db"]).ok();
    let ran = world.run(&["drill"]).exits(1);
    let report = &ran.json()["drills"][0];
    let said: Vec<(bool, &str)> = (1..=7)
        .map(|n| check(report, &format!("assertion {n}")))
        .map(|c| (c["ok"].as_bool().unwrap(), c["detail"].as_str().unwrap().split(": ").last().unwrap()))
        .collect();
    assert_eq!(said[0], (true, "SELECT count(*) > 0 FROM orders"));
    assert_eq!(said[1], (false, "it returned \"f\" and not true"));
    assert_eq!(said[2], (false, "it returned \"5000\" and not true"));
    assert_eq!(said[3], (false, "it returned 5000 rows and not one"));
    assert!(said[4].1.contains("does not exist") && said[5].1.contains("does not exist"), "{said:?}");
    assert_eq!(said[6], (false, "it returned NULL and not true"));
    assert!(ran.err.contains("assertion 2: SELECT count(*) > 5000"), "{}", ran.err);
    assert_eq!(world.left().len(), 0);
}

#[test]
fn a_drill_that_is_stopped_or_killed_leaves_no_server_and_nothing_on_the_disk() {
    let server = shared(16);
    shop(server, "drill_stopped");
    let world = World::new(&job(server, "[drill_stopped]", "    assertions: [SELECT pg_sleep(600) IS NULL]\n"));
    world.run(&["backup", "acme/db"]).ok();
    // Its server runs, and is asked the question that takes long.
    let asking = || {
        let pid = std::fs::read_to_string(world.left().first()?.join("server/data/postmaster.pid")).ok()?;
        // While initdb runs, a negative number stands there.
        let pid = pid.lines().next()?.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)?;
        let children = format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero());
        let children = std::fs::read_to_string(children).ok()?;
        let title = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children.split_whitespace().any(|c| title(c).contains("SELECT") && title(c).contains("drill_stopped")).then_some(pid)
    };
    for (signal, code) in [(Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let mut child = world.start(&["drill"]);
        let mut postmaster = None;
        until("the assertion runs", || {
            postmaster = asking();
            postmaster.is_some()
        });
        let began = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        // Not what the question takes.
        assert!(began.elapsed() < Duration::from_secs(60));
        until("the server ends", || test_kill_process(postmaster.unwrap()).is_err());
        assert_eq!((world.left().len(), world.reports("db")), (usize::from(signal == Signal::KILL), 0));
    }
    // What the killed one left is swept by the next.
    world.configure(&job(server, "[drill_stopped]", ""));
    world.run(&["drill"]).ok();
    assert_eq!((world.left().len(), world.reports("db")), (0, 1));
}

#[test]
fn the_daemon_writes_heartbeats_as_an_ordinary_role_and_drills_by_schedule() {
    let server = shared(15);
    shop(server, "drill_beat");
    server.sql("postgres", "DROP ROLE IF EXISTS beater");
    server.sql("postgres", "CREATE ROLE beater LOGIN; GRANT CREATE ON DATABASE drill_beat TO beater");
    let beat = format!(
        "    every: 1s\n    heartbeat: {{ every: 1s, url: \"{}\" }}\n  schedule: every 1s\n",
        server.conninfo("beater", "drill_beat")
    );
    let world = World::new(&job(server, "[drill_beat]", &beat));
    let mut daemon = world.start(&["run"]);
    let drilled = || {
        let status = world.drill_status("db");
        status["state"] == "ok" || status["state"] == "stale"
    };
    until("a drill by schedule", drilled);
    assert_eq!(server.sql("drill_beat", "SELECT name, at > now() - interval '1 hour' FROM strongroom.heartbeat"), "acme/db|t");
    kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
    daemon.wait().unwrap();
    assert_eq!(world.left().len(), 0);

    // The row in the backup is what tells how much was lost.
    world.run(&["backup", "acme/db"]).ok();
    let report = &world.run(&["drill"]).ok().json()["drills"][0];
    assert!(report["heartbeat"].is_string(), "{report:#}");
    server.sql("drill_beat", "UPDATE strongroom.heartbeat SET at = now() + interval '1 hour'");
    world.run(&["backup", "acme/db"]).ok();
    let report = &world.run(&["drill"]).ok().json()["drills"][0];
    assert_eq!((report["rpo_basis"].as_str(), report["rpo_seconds"].as_f64()), (Some("heartbeat"), Some(0.0)));
}
