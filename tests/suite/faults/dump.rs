//! A dump that breaks in the middle, through the real program.

use std::path::Path;
use std::process::{Child, Stdio};

use super::{PASSWORD, end, failure, on_repo, place, restic_check, signal, until};
use crate::cli::Ran;
use crate::support::judges;
use crate::support::postgres::Server;

struct World {
    dir: tempfile::TempDir,
    server: Server,
}

impl World {
    fn new() -> Self {
        let server = Server::start(16);
        server.create_database("shop");
        server.sql(
            "shop",
            "CREATE UNLOGGED TABLE big AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, 25000) n",
        );
        Self { dir: place(), server }
    }

    fn start(&self) -> Child {
        let url = self.server.conninfo("postgres", "shop");
        let path = format!("{}:/usr/bin:/bin", self.server.bin().display());
        let mut c = crate::cli::command(self.dir.path(), &on_repo(&["backup", "--pg-dump", &url]));
        c.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The program stands still while `pg_dump` copies the table: with nobody reading, it cannot end.
    fn stopped_in_the_middle(&self) -> Child {
        let counts = |of: &str| self.server.sql("postgres", &format!("SELECT count(*) FROM pg_stat_activity WHERE {of}"));
        let ours = "state = 'active' AND query LIKE 'BEGIN; LOCK TABLE big;%' AND pid <> pg_backend_pid()";
        let mut holder = self.server.psql("shop");
        holder.args(["-c", "BEGIN; LOCK TABLE big; SELECT pg_sleep(600)"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut holder = holder.spawn().unwrap();
        until("the table is locked", || counts(&format!("{ours} AND wait_event = 'PgSleep'")) == "1");
        let child = self.start();
        until("pg_dump waits for the table", || counts("wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'") != "0");
        signal(child.id(), "-STOP");
        self.server.sql("postgres", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}"));
        holder.wait().unwrap();
        until("the table is being copied", || counts("state = 'active' AND query LIKE 'COPY public.big%'") != "0");
        child
    }

    fn goes_on(&self, child: Child) -> Ran {
        signal(child.id(), "-CONT");
        end(child)
    }

    #[track_caller]
    fn snapshots(&self) -> usize {
        let repo = self.dir.path().join("repo");
        restic_check(&repo, PASSWORD, true);
        assert_eq!(super::objects(&repo.join("locks")).len(), 0);
        judges::snapshots(&repo, PASSWORD).len()
    }
}

/// The program of this name that process `parent` started.
fn child_of(parent: u32, name: &str) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten();
    let children = tasks.flat_map(|t| {
        let text = std::fs::read_to_string(t.path().join("children")).unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    });
    let is_it = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.file_name() == Some(Path::new(name).as_os_str()))
    };
    children.into_iter().find(is_it).unwrap_or_else(|| panic!("{parent} has no child {name}"))
}

#[test]
fn when_pg_dump_is_killed_there_is_no_snapshot() {
    let world = World::new();
    let child = world.stopped_in_the_middle();
    signal(child_of(child.id(), "pg_dump"), "-KILL");
    let (message, hint) = failure(&world.goes_on(child).exits(1));
    assert!(message.contains("dump database shop: pg_dump") && message.contains("signal"), "{message}");
    assert!(!hint.is_empty(), "{message}");
    assert_eq!(world.snapshots(), 0);
    end(world.start()).ok();
    assert_eq!(world.snapshots(), 1);
}

#[test]
fn when_the_server_dies_there_is_no_snapshot() {
    let world = World::new();
    let child = world.stopped_in_the_middle();
    world.server.stop_immediate();
    let (message, hint) = failure(&world.goes_on(child).exits(1));
    assert!(message.contains("dump database shop: pg_dump failed"), "{message}");
    assert!(hint.contains("The server went away"), "{message}\n{hint}");
    assert_eq!(world.snapshots(), 0);
    // A server that is not there is said to be not there.
    let (message, hint) = failure(&end(world.start()).exits(1));
    assert!(!message.is_empty() && !hint.is_empty(), "{message}\n{hint}");
    assert_eq!(world.snapshots(), 0);
}
