//! Base backups with their WAL, and the WAL that retention lets go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use strongroom::app::Context;
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::store::{Key, PutMode};

use super::{World, check, until};
use crate::cli::Ran;
use crate::support::postgres::{Server, server_bin};
use crate::wal_cli::program;

/// A server that archives into a repository, and its base backup job.
struct Archived {
    world: World,
    server: Server,
}

impl Archived {
    fn start(major: u32, keep: &str, questions: &str) -> Self {
        let world = World::new("files: { volume: { path: DIR/data } }");
        let config = format!(
            "wal_level = replica\narchive_mode = on\narchive_command = '{} --config {} wal push %p --job acme/wal'\ntrack_commit_timestamp = on\nmax_prepared_transactions = 3\n",
            program("strongroom").display(),
            world.config().display()
        );
        let server = Server::start_with(major, false, &config);
        let jobs = format!(
            "main:\n  pg_base: {{ url: \"{}\" }}\n  keep: {keep}\n  drill:\n    scratch: DIR/scratch\n    server_dirs: [\"{}\"]\n{questions}wal: {{ pg_wal: {{ data_directory: \"{}\", socket: none }} }}",
            server.conninfo("postgres", "postgres"),
            server_bin(major).display(),
            server.data()
        );
        let archived = Self { world, server };
        archived.configure(&jobs);
        archived.own();
        archived.sql("CREATE TABLE orders AS SELECT g AS id, repeat('x', 100) AS note FROM generate_series(1, 5000) g");
        archived.sql("CREATE INDEX ON orders (id)");
        archived
    }

    /// The server's user archives; what we made must not keep it from that.
    fn own(&self) {
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(self.server.data()).unwrap());
        for name in ["store", "cache"] {
            let dir = self.world.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            assert!(Command::new("chown").arg("-R").arg(owner.to_string()).arg(dir).status().unwrap().success());
        }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let ran = self.world.run(args);
        self.own();
        ran
    }

    fn configure(&self, jobs: &str) {
        self.world.configure(jobs);
        let text = std::fs::read_to_string(self.world.config()).unwrap();
        let cache = self.world.path().join("cache");
        std::fs::write(self.world.config(), format!("cache_dir: {}\n{text}", cache.display())).unwrap();
    }

    fn sql(&self, sql: &str) -> String {
        self.server.sql("postgres", sql)
    }

    /// Waits until everything written so far is in the archive.
    fn settle(&self) {
        self.sql("CREATE TABLE IF NOT EXISTS mark (x int); INSERT INTO mark VALUES (1)");
        let last = self.sql("SELECT pg_walfile_name(pg_switch_wal())");
        until("the WAL is archived", || self.sql("SELECT last_archived_wal FROM pg_stat_archiver") >= last);
    }

    fn backup(&self) {
        self.run(&["backup", "acme/main"]).ok();
    }

    /// Every object of the repository but reports and leases, which belong to drills.
    fn objects(&self) -> BTreeSet<PathBuf> {
        let (mut all, mut open) = (BTreeSet::new(), vec![self.world.path().join("store/test/acme")]);
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    all.insert(path);
                }
            }
        }
        all.retain(|p| !["/strongroom/reports/", "/strongroom/leases/"].iter().any(|own| p.to_string_lossy().contains(own)));
        all
    }

    /// Puts this hold into the repository, in the place of any other.
    fn hold(&self, json: &str) {
        let config = self.world.config();
        let settings = strongroom::config::load(&config, []).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let ctx = Context::new(settings, Arc::new(SystemClock), Cancel::new());
            let repo = ctx.repository(&"acme".parse().unwrap()).await.unwrap();
            let key = Key::new("strongroom/holds/restore-test").unwrap();
            let sealed = repo.object_seal().unwrap().seal(key.as_str(), json.as_bytes()).unwrap();
            repo.store().put(&key, sealed.into(), PutMode::Overwrite).await.unwrap();
        });
        self.own();
    }

    fn segments(&self) -> Vec<String> {
        let is_segment = |name: &str| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        let objects = self.objects();
        let archived = objects.iter().filter(|p| p.to_string_lossy().contains("/wal/main/"));
        let mut all: Vec<String> = archived.map(name).filter(|n| is_segment(n)).collect();
        all.sort();
        all
    }
}

const QUESTIONS: &str = r#"    assertions:
      - SELECT count(*) = 6000 FROM orders
      - { database: postgres, sql: "SELECT current_setting('archive_mode') = 'off' AND current_setting('listen_addresses') = ''" }
      - SELECT count(*) = 1 FROM pg_prepared_xacts
    heartbeat: { every: 1h }
"#;

fn recovers_to_the_end(major: u32) {
    let archived = Archived::start(major, "{ last: 9 }", QUESTIONS);
    let place = archived.server.extra_dir("tablespace");
    archived.sql(&format!("CREATE TABLESPACE far LOCATION '{place}'"));
    archived.sql("CREATE TABLE elsewhere TABLESPACE far AS SELECT 1 AS x");
    archived.settle();
    archived.backup();
    archived.sql("INSERT INTO orders SELECT g, 'after the backup' FROM generate_series(5001, 6000) g");
    archived.sql("BEGIN; INSERT INTO mark VALUES (2); PREPARE TRANSACTION 'open'");
    archived.settle();
    let last_commit: f64 =
        archived.sql("SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) FROM orders").parse().unwrap();

    let (before, in_place) = (archived.objects(), listing(Path::new(&place)));
    let ran = archived.run(&["drill", "acme/main"]).ok();
    let report = &ran.json()["drills"][0];
    for name in ["server", "recovery", "database postgres", "pg_amcheck", "assertion 1", "assertion 2", "assertion 3"] {
        assert_eq!(check(report, name)["ok"], true, "{report:#}");
    }
    let steps: Vec<&str> = report["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(steps, ["restore", "recovery", "checks"]);
    let newest: strongroom::model::Time = report["newest_commit"].as_str().unwrap().parse().unwrap();
    assert!(newest.secs as f64 >= last_commit.floor(), "{newest} is older than {last_commit}");
    assert_eq!(report["rpo_basis"], "commit");
    assert!(report["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains("no row of it")), "{report:#}");
    assert_eq!(archived.objects(), before, "the drill changed the archive or left a hold");
    assert_eq!(listing(Path::new(&place)), in_place, "the tablespace of the running server was touched");
    assert_eq!((archived.world.left().len(), archived.world.reports("main")), (0, 1));
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_base_backup_of_version_14_recovers_to_the_end_of_its_wal() {
    recovers_to_the_end(14);
}

#[test]
fn a_base_backup_of_version_18_recovers_to_the_end_of_its_wal() {
    recovers_to_the_end(18);
}

#[test]
fn wal_that_cannot_be_read_fails_the_drill_and_ends_no_recovery_early() {
    let archived = Archived::start(17, "{ last: 9 }", "");
    archived.settle();
    archived.backup();
    for _ in 0..3 {
        archived.settle();
    }
    // One in the middle is damaged.
    let segments = archived.segments();
    let victim = &segments[segments.len() - 2];
    let path = archived.objects().into_iter().find(|p| p.ends_with(victim)).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let report = &archived.run(&["drill", "acme/main"]).exits(1).json()["drills"][0];
    let message = report["failure"]["message"].as_str().unwrap();
    assert!(message.contains(victim) && message.contains("is damaged"), "{message}");
    assert_eq!((archived.world.left().len(), report["ok"].as_bool()), (0, Some(false)));
}

#[test]
fn wal_goes_with_the_base_backups_that_needed_it_and_not_before() {
    let archived = Archived::start(16, "{ last: 1 }", "    assertions: [SELECT count(*) = 5000 FROM orders]\n");
    archived.settle();
    archived.settle();
    // Without a base backup nothing goes, and somebody is told.
    let ran = archived.run(&["prune"]).ok();
    let cluster = &ran.json()["tenants"][0]["wal"][0];
    assert_eq!((cluster["cluster"].as_str(), cluster["systems"][0]["removed_segments"].as_u64()), (Some("main"), Some(0)));
    assert!(cluster["alarms"][0].as_str().unwrap().contains("no complete base backup"), "{cluster:#}");
    assert!(ran.err.contains("no complete base backup"), "{}", ran.err);
    let all = archived.segments();

    archived.backup();
    archived.settle();
    let start = facts(&archived);
    let dry = archived.run(&["prune", "--dry-run"]).ok().json();
    let system = dry["tenants"][0]["wal"][0]["systems"][0].clone();
    assert!(system["removed_segments"].as_u64().unwrap() >= 2, "{system:#}");
    assert!(system["needed"][0]["reason"].as_str().unwrap().contains("recovery from base backup"), "{system:#}");
    assert_eq!(system["needed"][0]["from"].as_str().unwrap(), start);
    assert!(all.iter().all(|s| archived.segments().contains(s)), "a dry run removed something");

    let text = Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .arg("--config")
        .arg(archived.world.config())
        .args(["prune", "--dry-run"])
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("WAL of cluster main") && text.contains(&format!("timeline 1 from {start}: recovery from")), "{text}");

    // A restore in progress keeps what it needs until its hold expires; one that cannot be read keeps everything.
    let hold = |expires: &str| {
        format!(
            r#"{{"version":1,"cluster":"main","major":16,"system_identifier":"{}","timeline":1,"from":"0/1000000","snapshot":"{}","created":"2026-01-01T00:00:00Z","expires":"{expires}"}}"#,
            archived.sql("SELECT system_identifier FROM pg_control_system()"),
            "00".repeat(32)
        )
    };
    let removed = |expires: &str| {
        archived.hold(&hold(expires));
        archived.run(&["prune", "--dry-run"]).ok().json()["tenants"][0]["wal"][0].clone()
    };
    assert_eq!(removed("2999-01-01T00:00:00Z")["systems"][0]["removed_segments"], 0);
    assert_eq!(removed("2026-01-02T00:00:00Z")["systems"][0], system);
    let unreadable = removed("no time");
    assert_eq!(unreadable["systems"][0]["removed_segments"], 0);
    assert!(unreadable["alarms"][0].as_str().unwrap().contains("holds/restore-test"), "{unreadable:#}");
    archived.hold(&hold("2026-01-02T00:00:00Z"));

    archived.run(&["prune"]).ok();
    assert!(archived.objects().iter().all(|p| !p.to_string_lossy().contains("/holds/")), "one that is over is swept");
    let left = archived.segments();
    assert!(!left.contains(&all[0]) && left.len() < all.len() + 3, "{all:?} {left:?}");
    archived.run(&["drill", "acme/main"]).ok();

    // The next backup takes over; the base before goes, and then its WAL.
    archived.backup();
    archived.settle();
    let second = archived.run(&["prune"]).ok().json();
    let tenant = &second["tenants"][0];
    assert_eq!((tenant["removed"].as_u64(), tenant["wal"][0]["alarms"].as_array().map(Vec::len)), (Some(1), Some(0)));
    assert!(tenant["wal"][0]["systems"][0]["removed_segments"].as_u64().unwrap() > 0, "{tenant:#}");
    archived.run(&["drill", "acme/main"]).ok();
    archived.run(&["check"]).ok();

    // A base backup that cannot be read may need any of it.
    archived.settle();
    for pack in archived.objects().into_iter().filter(|p| p.to_string_lossy().contains("/acme/data/")) {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes.iter_mut().for_each(|b| *b ^= 1);
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
    }
    let cluster = archived.run(&["prune", "--dry-run"]).ok().json()["tenants"][0]["wal"][0].clone();
    assert_eq!(cluster["systems"][0]["removed_segments"], 0);
    assert!(cluster["alarms"][0].as_str().unwrap().contains("says about itself"), "{cluster:#}");
}

/// Where the replay of the newest base backup begins.
fn facts(archived: &Archived) -> String {
    let snapshots = archived.run(&["snapshots", "acme/main"]).ok().json();
    let id = snapshots["snapshots"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    let manifest = archived.run(&["cat", &id, ".strongroom/manifest.json"]).ok();
    let manifest: Value = serde_json::from_str(&manifest.out).unwrap();
    manifest["facts"]["pg_base"]["start"].as_str().unwrap().to_owned()
}
