//! What a restore of a base backup writes, and what it refuses.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use strongroom::error::{Error, Kind, Result};
use strongroom::model::{Id, Node, NodeKind};
use strongroom::postgres::recovery::Target;
use strongroom::restore::cluster::{self, MARKER, Request, Source};
use strongroom::restore::directory::{Blobs, Got, Progress, Want, WriteChunks};
use strongroom::runtime::Cancel;

use super::origin::{Origin, recovery, rows_after_promotion};
use crate::support::postgres::{SERVERS, Server};
use crate::volume::memory::Memory;

#[test]
fn clusters_of_every_version_come_back_with_their_tablespaces() {
    for major in SERVERS {
        let origin = Origin::start(major);
        let space = origin.directory("a space");
        origin.sql(&format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
        origin.sql("CREATE TABLE away TABLESPACE far AS SELECT g AS n, repeat('x', 100) AS t FROM generate_series(1, 20000) g");
        origin.sql("CREATE UNLOGGED TABLE u AS SELECT 1 AS n; CREATE TABLE \"odd \"\" name\" AS SELECT 7 AS n");
        origin.sql("INSERT INTO t VALUES (1)");
        let backup = origin.backup();
        let server = Server::unborn(major);
        let request = backup.request(&server);
        let (report, progress) = backup.restore(&request);
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        assert!(progress.files.load(Relaxed) > 500);
        let data = Path::new(&request.to);
        assert_eq!(std::fs::metadata(data).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(
            std::fs::read_link(data.join("pg_tblspc").join(request.tablespaces[0].oid.to_string())).unwrap(),
            request.tablespaces[0].path
        );
        assert!(!data.join("recovery.signal").exists() && !data.join("tablespace_map").exists());
        let verify = server.as_user("pg_verifybackup", &["-n", "-i", MARKER, &server.data()]).output().unwrap();
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
        // The old tablespace is not needed.
        drop(origin);
        server.restart();
        assert_eq!(rows_after_promotion(&server), "1");
        assert_eq!(server.sql("postgres", "SELECT count(*), sum(n) FROM away"), "20000|200010000");
        assert_eq!(server.sql("postgres", "SELECT n FROM \"odd \"\" name\""), "7");
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM u"), "0");
        server.sql("postgres", "CREATE TABLE new TABLESPACE far AS SELECT 1 AS n; CHECKPOINT");
        server.stop();
    }
}

/// Fails once so many bytes were fetched.
struct Failing<'a> {
    memory: &'a Memory,
    left: AtomicU64,
}

impl Blobs for Failing<'_> {
    fn tree(&self, id: Id, visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
        self.memory.tree(id, visit)
    }

    fn length(&self, id: &Id) -> Result<u32> {
        self.memory.length(id)
    }

    fn fetch(&self, wants: Vec<Want>, write: &WriteChunks<'_>, cancel: &Cancel) -> Result<()> {
        let limited = |got: &[Got<'_>]| {
            let n = got.iter().map(|g| g.data.len() as u64).sum();
            match self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(n)) {
                Ok(_) => write(got),
                Err(_) => Err(Error::new(Kind::Unavailable, "the store went away")),
            }
        };
        self.memory.fetch(wants, &limited, cancel)
    }

    fn ids(&self, contents: &[&[u8]]) -> Vec<Id> {
        self.memory.ids(contents)
    }
}

#[test]
fn a_restore_that_was_cut_off_does_not_start_and_is_finished_with_delta() {
    let origin = Origin::start(17);
    origin.sql("INSERT INTO t SELECT generate_series(1, 50000)");
    let backup = origin.backup();
    let server = Server::unborn(17);
    let mut request = backup.request(&server);
    let all: u64 = backup.memory.data.lock().values().map(|d| d.len() as u64).sum();
    for part in [1, 2, 3] {
        let failing = Failing { memory: &backup.memory, left: AtomicU64::new(all * part / 4) };
        let source = Source { blobs: &failing, ..backup.source() };
        let e = cluster::restore(&source, &request, &Progress::default(), &Cancel::new()).expect_err("cut off");
        assert_eq!(e.kind(), Kind::Unavailable, "{e:?}");
        assert!(!request.to.join("global/pg_control").exists());
        assert!(request.to.join(MARKER).exists());
        let log = server.try_start().expect_err("half a cluster");
        let reasons = ["could not find the database system", "not a valid data directory", "not a database cluster directory"];
        assert!(reasons.iter().any(|r| log.contains(r)), "{log}");
        request.delta = true;
    }
    let (_, progress) = backup.restore(&request);
    assert!(progress.bytes_reused.load(Relaxed) > all / 4);
    server.restart();
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM t"), "50000");
}

#[test]
fn delta_writes_what_differs_and_takes_the_rest_away() {
    let origin = Origin::start(18);
    let space = origin.directory("space");
    origin.sql(&format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
    origin.sql("CREATE TABLE big TABLESPACE far AS SELECT g AS n, repeat('x', 200) AS t FROM generate_series(1, 100000) g");
    // Or the first vacuum of the restored server would change every page.
    origin.sql("VACUUM FREEZE big");
    origin.sql("INSERT INTO t VALUES (1)");
    let backup = origin.backup();
    let server = Server::unborn(18);
    let mut request = backup.request(&server);
    backup.restore(&request);
    server.restart();
    await_writes(&server);
    server.sql("postgres", "UPDATE big SET t = 'y' WHERE n = 1; CREATE TABLE more AS SELECT 1; INSERT INTO t VALUES (2)");
    server.sql("postgres", "ALTER SYSTEM SET work_mem = '77MB'");
    server.sql("postgres", "CHECKPOINT");

    // Not while it runs, and not without leave.
    request.delta = true;
    let refused = |request: &Request| {
        cluster::restore(&backup.source(), request, &Progress::default(), &Cancel::new()).expect_err("refused")
    };
    let e = refused(&request);
    assert!(e.report().contains("a server runs in"), "{e:?}");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM t"), "2", "untouched");
    server.stop();
    let e = refused(&Request { delta: false, ..request.clone() });
    assert!(e.report().contains("not empty") && e.report().contains("--delta"), "{e:?}");

    std::fs::write(request.to.join("base/too-much"), "x").unwrap();
    std::fs::write(request.to.join("standby.signal"), "").unwrap();
    let other = request.tablespaces[0].path.join("PG_9.6_201608131");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("of another version"), "x").unwrap();
    let (_, progress) = backup.restore(&request);
    let (written, reused) = (progress.bytes_written.load(Relaxed), progress.bytes_reused.load(Relaxed));
    assert!(written < reused, "{written} written, {reused} reused");
    assert!(!request.to.join("base/too-much").exists() && !request.to.join("standby.signal").exists());
    assert!(other.join("of another version").exists());
    server.restart();
    assert_eq!(rows_after_promotion(&server), "1");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM big WHERE t = 'y'"), "0");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'more'"), "0");
    assert_eq!(server.sql("postgres", "SHOW work_mem"), "4MB");
}

/// A server in another container: its process, socket and shared memory are not to be seen from here.
#[test]
fn delta_does_not_go_over_a_server_that_may_run_elsewhere() {
    let origin = Origin::start(16);
    origin.sql("INSERT INTO t VALUES (1)");
    let backup = origin.backup();
    let server = Server::unborn(16);
    let mut request = backup.request(&server);
    backup.restore(&request);
    server.restart();
    await_writes(&server);
    server.sql("postgres", "CREATE TABLE more AS SELECT 1; CHECKPOINT");
    let data = request.to.clone();
    let pid_file = data.join("postmaster.pid");
    let real = std::fs::read_to_string(&pid_file).unwrap();
    // No process has this number.
    let hidden = format!("4194304\n{}\n1700000000\n5432\n/no/such/directory\n\n  1 4294967295\nready\n", data.display());
    request.delta = true;
    let refused = || {
        let e = cluster::restore(&backup.source(), &request, &Progress::default(), &Cancel::new()).expect_err("refused");
        assert!(data.join("global/pg_control").exists() && data.join("postmaster.pid").exists(), "untouched");
        e.report()
    };
    std::fs::write(&pid_file, &hidden).unwrap();
    let report = refused();
    std::fs::write(&pid_file, real).unwrap();
    assert!(report.contains("a server may run in") && report.contains("remove postmaster.pid"), "{report}");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM more"), "1");

    // One that crashed leaves the same.
    server.stop_immediate();
    std::fs::write(&pid_file, &hidden).unwrap();
    assert!(refused().contains("a server may run in"));
    std::fs::remove_file(&pid_file).unwrap();
    backup.restore(&request);
    // And one that was shut down is gone, whatever its file says.
    server.restart();
    assert_eq!(rows_after_promotion(&server), "1");
    server.stop();
    std::fs::write(&pid_file, &hidden).unwrap();
    backup.restore(&request);
    server.restart();
    assert_eq!(rows_after_promotion(&server), "1");
}

fn await_writes(server: &Server) {
    super::origin::await_true(server, "SELECT NOT pg_is_in_recovery()");
}

#[test]
fn nothing_else_is_restored_over() {
    let origin = Origin::start(15);
    let space = origin.directory("space");
    origin.sql(&format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
    let backup = origin.backup();
    let server = Server::unborn(15);
    let request = Request { delta: true, ..backup.request(&server) };
    let refused = |request: &Request| {
        let e = cluster::restore(&backup.source(), request, &Progress::default(), &Cancel::new()).expect_err("refused");
        e.report()
    };
    // A directory that is no cluster.
    std::fs::create_dir(&request.to).unwrap();
    std::fs::write(request.to.join("letters"), "dear").unwrap();
    assert!(refused(&request).contains("no data directory"));
    assert!(request.to.join("letters").exists());
    std::fs::remove_file(request.to.join("letters")).unwrap();
    // The tablespace of a server that runs.
    let mut live = request.clone();
    live.tablespaces[0].path = space.clone();
    assert!(refused(&live).contains("--tablespace-map"));
    assert!(std::fs::read_dir(&request.to).unwrap().next().is_none(), "nothing was written");
    // A tree that is no base backup, and one that lacks its label.
    let empty = backup.memory.add_tree(Vec::new());
    let source = Source { root: empty, ..backup.source() };
    let e = cluster::restore(&source, &request, &Progress::default(), &Cancel::new()).expect_err("nothing in it");
    assert_eq!(e.kind(), Kind::Corrupt);
    let no_label = altered(&backup, |_, nodes| nodes.retain(|n| n.name != b"backup_label"));
    let e = cluster::restore(&no_label, &request, &Progress::default(), &Cancel::new()).expect_err("no label");
    assert!(e.report().contains("backup_label"), "{e:?}");
    assert!(!request.to.join("global/pg_control").exists());
    // Links that lead tablespaces out of the target.
    let outside = origin.directory("outside");
    let link = |target: &Path| NodeKind::Symlink { target: target.as_os_str().as_encoded_bytes().to_vec() };
    let astray = altered(&backup, |memory, nodes| {
        let meta = nodes[0].meta.clone();
        let there = Node { name: b"16400".to_vec(), kind: link(&outside), meta: meta.clone(), error: None };
        nodes.retain(|n| n.name != b"pg_tblspc");
        nodes.push(super::origin::directory("x", memory.add_tree(vec![there]), meta.clone()));
        nodes.push(Node { name: b"pg_tblspc".to_vec(), kind: link(Path::new("x")), meta, error: None });
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
    });
    std::fs::write(outside.join("letters"), "dear").unwrap();
    let request = Request { tablespaces: Vec::new(), ..request };
    let e = cluster::restore(&astray, &request, &Progress::default(), &Cancel::new()).expect_err("a link");
    assert!(e.report().contains("pg_tblspc"), "{e:?}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

/// The same backup with other entries in its data directory, as another program might leave it.
fn altered(backup: &super::origin::Backup, change: impl FnOnce(&Memory, &mut Vec<Node>)) -> Source<'_> {
    let memory = &backup.memory;
    let entries = |id: Id| {
        let mut nodes = Vec::new();
        let mut add = |node| {
            nodes.push(node);
            Ok(())
        };
        memory.tree(id, &mut add).unwrap();
        nodes
    };
    let mut root = entries(backup.root);
    let NodeKind::Dir { subtree: Some(data) } = root[0].kind else { panic!("no directory") };
    let mut nodes = entries(data);
    change(memory, &mut nodes);
    root[0].kind = NodeKind::Dir { subtree: Some(memory.add_tree(nodes)) };
    Source { root: memory.add_tree(root), ..backup.source() }
}

#[test]
fn a_cluster_that_was_restored_before_is_restored_without_its_old_targets() {
    let origin = Origin::start(14);
    origin.sql("INSERT INTO t VALUES (1)");
    origin.sql("ALTER SYSTEM SET recovery_target_name = 'old'");
    origin.sql("ALTER SYSTEM SET restore_command = 'false'");
    let conf = Path::new(&origin.server.data()).join("postgresql.conf");
    let old = std::fs::read_to_string(&conf).unwrap();
    let text = format!("{old}\nrecovery_target_xid = '3'\ndata_directory = '{}'\n", origin.server.data());
    std::fs::write(&conf, text).unwrap();
    let owner = std::fs::metadata(origin.server.data()).unwrap().uid();
    assert_eq!(std::fs::metadata(&conf).unwrap().uid(), owner);
    let backup = origin.backup();
    origin.sql("INSERT INTO t VALUES (2)");
    let between = origin.time();
    origin.sql("INSERT INTO t VALUES (3)");
    origin.settle();
    let server = Server::unborn(14);
    let mut request = backup.request(&server);
    request.recovery = Some(recovery(&origin, Target::Time(between)));
    let (report, _) = backup.restore(&request);
    assert!(report.notes.iter().any(|n| n.contains("recovery_target_xid") && n.contains("data_directory")), "{:?}", report.notes);
    server.restart();
    assert_eq!(rows_after_promotion(&server), "1,2");
    assert_eq!(server.sql("postgres", "SHOW data_directory"), server.data());
}
