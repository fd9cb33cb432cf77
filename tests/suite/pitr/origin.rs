//! A server with a WAL archive that is a plain directory, and base backups of it in memory, so that what a test finds is
//! about the restore.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strongroom::model::{BaseBackup, Id, Metadata, Node, NodeKind, SegmentSize, Tablespace, Time, Timeline};
use strongroom::postgres::recovery::{Action, FollowTimeline, Recovery, Target};
use strongroom::restore::cluster::{self, Mark, Report, Request, Source};
use strongroom::restore::directory::Progress;
use strongroom::runtime::Cancel;

use crate::support::postgres::Server;
use crate::volume::memory::Memory;

/// The server that is backed up.
pub struct Origin {
    pub server: Server,
    pub dir: tempfile::TempDir,
}

/// A base backup of it.
pub struct Backup {
    pub memory: Memory,
    pub root: Id,
    pub facts: BaseBackup,
}

impl Origin {
    /// A server that archives, with a table `t` of numbers and a tablespace of its own.
    pub fn start(major: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let archive = dir.path().join("archive");
        std::fs::create_dir(&archive).unwrap();
        open_to_all(&archive);
        let config = format!(
            "archive_mode = on\narchive_command = 'test ! -f {0}/%f && cp %p {0}/%f'\ntrack_commit_timestamp = on\nwal_level = replica",
            archive.display()
        );
        let server = Server::start_with(major, false, &config);
        server.sql("postgres", "CREATE TABLE t (n int)");
        Self { server, dir }
    }

    pub fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    /// A directory that the server may use.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(self.server.data()).unwrap());
        std::os::unix::fs::chown(&path, Some(uid), None).unwrap();
        path
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.sql("postgres", sql)
    }

    /// Waits until everything written so far is in the archive.
    pub fn settle(&self) {
        let last = self.sql("SELECT pg_walfile_name(pg_switch_wal())");
        let began = Instant::now();
        // The server's own word: a file that is being copied is there before it is whole.
        let archived = format!("SELECT coalesce(left(last_archived_wal, 24) >= '{last}', false) FROM pg_stat_archiver");
        while self.sql(&archived) != "t" {
            assert!(began.elapsed() < Duration::from_secs(120), "{last} is not archived: {}", self.server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn time(&self) -> Time {
        time(&self.sql("SELECT clock_timestamp()"))
    }

    /// Takes a base backup with PostgreSQL's own tool and lays it out as ours are.
    pub fn backup(&self) -> Backup {
        let scratch = self.directory("scratch");
        let data = scratch.join("data");
        let (host, port) = (self.server.socket_dir(), self.server.port().to_string());
        let mut args: Vec<String> =
            ["-v", "-c", "fast", "-X", "stream", "-U", "postgres", "-h", &host, "-p", &port, "-D"].map(str::to_owned).to_vec();
        args.push(data.to_str().unwrap().to_owned());
        let spaces = self.sql("SELECT oid || ' ' || pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 1664");
        let spaces: Vec<(&str, &str)> = spaces.lines().map(|l| l.split_once(' ').unwrap()).collect();
        for (oid, path) in &spaces {
            args.push(format!("--tablespace-mapping={path}={}", scratch.join(oid).display()));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = self.server.as_user("pg_basebackup", &args).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words}");
        let stopped = self.time();
        for (oid, _) in &spaces {
            std::fs::remove_file(data.join("pg_tblspc").join(oid)).unwrap();
            std::fs::rename(scratch.join(oid), data.join("pg_tblspc").join(oid)).unwrap();
        }
        let memory = Memory::new();
        let root = memory.backup_of(&data);
        let meta = root.meta.unwrap();
        let facts = BaseBackup {
            cluster: "main".into(),
            system_identifier: self.sql("SELECT system_identifier FROM pg_control_system()").parse().unwrap(),
            major: self.server.major,
            server_version: self.sql("SHOW server_version"),
            segment_size: SegmentSize::DEFAULT,
            timeline: Timeline(1),
            start: after(&words, "write-ahead log start point: ").parse().unwrap(),
            stop: after(&words, "write-ahead log end point: ").parse().unwrap(),
            started: stopped,
            stopped,
            from_standby: false,
            wal_included: true,
            tablespaces: spaces
                .iter()
                .map(|(oid, path)| Tablespace { oid: oid.parse().unwrap(), path: (*path).into() })
                .collect(),
            checksums: false,
            bad_pages: Vec::new(),
            collation_versions: BTreeMap::new(),
            outside_files: BTreeMap::new(),
        };
        std::fs::remove_dir_all(scratch).unwrap();
        let root = memory.add_tree(vec![directory("data", root.tree, meta)]);
        Backup { memory, root, facts }
    }
}

impl Backup {
    pub fn source(&self) -> Source<'_> {
        Source { blobs: &self.memory, root: self.root, facts: &self.facts }
    }

    /// Restores, and insists that it works.
    #[track_caller]
    pub fn restore(&self, request: &Request) -> (Report, Progress) {
        let progress = Progress::default();
        let report = cluster::restore(&self.source(), request, &progress, &Cancel::new()).unwrap_or_else(|e| panic!("{e:?}"));
        (report, progress)
    }

    /// Into the data directory of `server`, which then can run; tablespaces beside it.
    pub fn request(&self, server: &Server) -> Request {
        let to = PathBuf::from(server.data());
        let map = self.facts.tablespaces.iter();
        let map = map.map(|t| (t.oid.to_string(), Path::new(&server.socket_dir()).join(format!("space-{}", t.oid)))).collect();
        Request {
            tablespaces: cluster::place(&self.facts.tablespaces, &map, &to).unwrap(),
            to,
            delta: false,
            verify: true,
            recovery: None,
            standby: false,
            archive: false,
            settings: server.own_settings(),
            mark: Mark {
                version: 1,
                snapshot: Id::default(),
                system_identifier: self.facts.system_identifier.to_string(),
                cluster: "main".into(),
                time: self.facts.stopped,
            },
        }
    }
}

/// Recovery from the archive to a target, then promotion.
pub fn recovery(origin: &Origin, target: Target) -> Recovery {
    Recovery {
        restore_command: format!("cp {}/%f \"%p\"", origin.archive().display()),
        target,
        inclusive: true,
        timeline: FollowTimeline::Latest,
        action: Action::Promote,
    }
}

/// Waits until a statement says `t`.
#[track_caller]
pub fn await_true(server: &Server, sql: &str) {
    let began = Instant::now();
    while server.sql("postgres", sql) != "t" {
        assert!(began.elapsed() < Duration::from_secs(120), "never true: {sql}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The numbers in the table once the server takes writes.
#[track_caller]
pub fn rows_after_promotion(server: &Server) -> String {
    await_true(server, "SELECT NOT pg_is_in_recovery()");
    server.sql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t")
}

pub fn time(text: &str) -> Time {
    // PostgreSQL prints `+00` where RFC 3339 wants `+00:00`.
    text.parse().or_else(|_| format!("{text}:00").parse()).unwrap_or_else(|_| panic!("not a time: {text}"))
}

pub fn directory(name: &str, tree: Id, meta: Metadata) -> Node {
    Node { name: name.into(), kind: NodeKind::Dir { subtree: Some(tree) }, meta, error: None }
}

fn after<'a>(text: &'a str, words: &str) -> &'a str {
    let at = text.find(words).unwrap_or_else(|| panic!("no `{words}` in {text}")) + words.len();
    text[at..].split_ascii_whitespace().next().unwrap()
}

pub fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
}

/// Names of everything below a directory, with lengths.
pub fn listing(dir: &Path) -> Vec<(String, u64)> {
    let mut out: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().len()))
        .collect();
    out.sort();
    out
}
