//! `strongroom restore` of base backups with the WAL archive: from the command line to a server that recovers by itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::origin::{await_true, rows_after_promotion};
use crate::cli::Ran;
use crate::support::postgres::Server;
use crate::wal_cli::{Place, archived, receive};

/// A server, its archive and its base backups.
pub struct Site {
    pub place: Place,
    pub server: Server,
}

impl Site {
    pub fn new(major: u32) -> Self {
        Self::with(major, "wal: { pg_wal: { socket: none } }, ")
    }

    /// `jobs` beside the base backups.
    fn with(major: u32, jobs: &str) -> Self {
        Self::archiving(major, jobs, "")
    }

    /// `push` are more arguments of `wal push`.
    fn archiving(major: u32, jobs: &str, push: &str) -> Self {
        let place = Place::new("");
        let archiving = place.archiving().replace("wal push", &format!("wal push {push}"));
        let server = Server::start_with(major, false, &archiving);
        let site = Self { place, server };
        site.configure(jobs);
        site.sql("CREATE TABLE t (n int)");
        site
    }

    pub fn configure(&self, jobs: &str) {
        let text = format!(
            "environment: test\ncache_dir: {}\nrepository: {{ url: \"file://{}\", password: {{ file: {} }} }}\ntenants: {{ acme: {{ jobs: {{ {jobs}main: {{ pg_base: {{ url: \"{}\", data_directory: {} }}, schedule: never }} }} }} }}\n",
            self.place.path("cache"),
            self.place.path("store"),
            self.place.path("password"),
            self.server.conninfo("postgres", "postgres"),
            self.server.data(),
        );
        std::fs::write(self.place.config(), text).unwrap();
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.sql("postgres", sql)
    }

    pub fn backup(&self) -> String {
        self.place.run(&["backup", "acme/main"]).ok();
        let list = self.place.run(&["--json", "snapshots", "acme/main"]).ok().json();
        let newest = list.as_array().or_else(|| list["snapshots"].as_array()).unwrap().last().unwrap().clone();
        newest["id"].as_str().unwrap().to_owned()
    }

    /// A moment in the form that `--target-time` takes, with other commits well before and after it.
    pub fn moment(&self) -> String {
        self.sql("SELECT pg_sleep(0.02); SELECT clock_timestamp(); SELECT pg_sleep(0.02)").trim().to_owned()
    }

    fn restore(&self, to: &str, more: &[&str]) -> Ran {
        self.place.run(&[&["--json", "restore", "acme/main", "--to", to], more].concat())
    }

    #[track_caller]
    pub fn preview(&self, more: &[&str]) -> Value {
        let to = self.place.path("nowhere");
        let planned = self.restore(&to, &[&["--preview"], more].concat()).ok().json();
        assert!(!Path::new(&to).exists());
        assert_eq!(planned["outcome"], "planned");
        planned["result"].clone()
    }

    #[track_caller]
    pub fn refused(&self, more: &[&str], code: i32, words: &[&str]) {
        let to = self.place.path("nowhere");
        let ran = self.restore(&to, more).exits(code);
        for word in words {
            assert!(ran.err.contains(word), "no `{word}` in {}", ran.err);
        }
        assert!(!Path::new(&to).exists());
    }

    fn wal_objects(&self) -> Vec<PathBuf> {
        self.place.objects("/wal/")
    }

    /// Restores, starts, and waits for the promotion. The server runs on a socket of its own.
    #[track_caller]
    fn recovered(&self, more: &[&str]) -> Server {
        self.recovered_as(self.server.major, more)
    }

    /// The same by a server of this major.
    #[track_caller]
    pub fn recovered_as(&self, major: u32, more: &[&str]) -> Server {
        let server = Server::unborn(major);
        self.restore(&server.data(), more).ok();
        run_here(&server);
        server.restart();
        server
    }
}

pub fn run_here(server: &Server) {
    let auto = Path::new(&server.data()).join("postgresql.auto.conf");
    let mut file = std::fs::OpenOptions::new().append(true).open(auto).unwrap();
    for (name, value) in server.own_settings() {
        writeln!(file, "{name} = '{value}'").unwrap();
    }
}

/// From the first backup to points before, between and after, by the archive alone.
fn every_way(major: u32) {
    let site = Site::new(major);
    site.sql("INSERT INTO t VALUES (1)");
    let first = site.backup();
    site.sql("INSERT INTO t VALUES (2)");
    let two = site.moment();
    site.sql("INSERT INTO t VALUES (3); SELECT pg_create_restore_point('three'); INSERT INTO t VALUES (4)");
    let second = site.backup();
    site.sql("INSERT INTO t VALUES (5)");
    let five = site.moment();
    site.sql("INSERT INTO t VALUES (6)");
    archived(&site.server);
    let before = site.wal_objects();

    // The base backup is chosen by the target.
    for (target, base) in [(&["--target-time", &two][..], &first), (&["--target-time", &five][..], &second), (&[][..], &second)] {
        assert_eq!(site.preview(target)["snapshot"], base.as_str(), "{target:?}");
    }
    for (target, rows) in [
        (&["--target-time", &two][..], "1,2"),
        (&["--target-time", &five][..], "1,2,3,4,5"),
        (&["--target-name", "three", "--snapshot", &first[..12]][..], "1,2,3"),
        (&["--target-immediate"][..], "1,2,3,4"),
        (&[][..], "1,2,3,4,5,6"),
        (&["--snapshot", &first[..12]][..], "1,2,3,4,5,6"),
    ] {
        let server = site.recovered(target);
        assert_eq!(rows_after_promotion(&server), rows, "{target:?}\n{}", server.log());
        server.sql("postgres", "INSERT INTO t VALUES (99); SELECT pg_switch_wal(); CHECKPOINT");
        server.stop();
    }
    assert_eq!(site.wal_objects(), before, "nothing was archived by any of them");
}

#[test]
fn version_14_recovers_from_the_archive() {
    every_way(14);
}

#[test]
fn version_15_recovers_from_the_archive() {
    every_way(15);
}

#[test]
fn version_16_recovers_from_the_archive() {
    every_way(16);
}

#[test]
fn version_17_recovers_from_the_archive() {
    every_way(17);
}

#[test]
fn version_18_recovers_from_the_archive() {
    every_way(18);
}

#[test]
fn plans_say_what_will_happen_and_refusals_what_could() {
    let site = Site::new(17);
    let long_ago = site.moment();
    let id = site.backup();
    site.sql("INSERT INTO t VALUES (1)");
    let one = site.moment();
    site.sql("INSERT INTO t VALUES (2)");
    archived(&site.server);
    let plan = site.preview(&["--target-time", &one, "--target-exclusive"]);
    assert!(plan["ends_at"].as_str().unwrap().contains("not in any more"), "{plan}");
    assert!(plan["restore_command"].as_str().unwrap().ends_with("wal fetch %f \"%p\" --job acme/wal"), "{plan}");
    assert!(plan["bytes"].as_u64().unwrap() > 10_000_000 && plan["estimated_seconds"].as_u64().unwrap() > 0);
    let wal = &plan["wal"];
    assert!(
        wal["segments"].as_u64().unwrap() >= 2 && wal["bytes"].as_u64().unwrap() == wal["segments"].as_u64().unwrap() << 24,
        "{wal}"
    );
    assert_eq!(wal["first"].as_str().unwrap().len(), 24);
    assert!(plan["newest_commit"].is_string(), "{plan}");
    assert_eq!(plan["windows"][0]["snapshot"], id.as_str());
    let text = site.place.run(&["restore", "acme/main", "--to", &site.place.path("nowhere"), "--preview"]).ok().out;
    for word in ["base backup", "WAL", "ends at", "the end of the log", "takes about", "restore_command"] {
        assert!(text.contains(word), "no `{word}` in {text}");
    }

    let windows = &["What can be reached", &id[..8], "timeline 1"][..];
    site.refused(&["--target-time", &long_ago], 1, windows);
    site.refused(&["--target-lsn", "0/28"], 1, windows);
    site.refused(&["--target-lsn", "FF/28"], 1, &["the archive ends at", "What can be reached"]);
    site.refused(&["--target-time", "2099-01-01 00:00 Europe/Berlin"], 2, &["in the future"]);
    site.refused(&["--target-time", "soon"], 2, &["5 minutes ago"]);
    site.refused(&["--target-timeline", "7"], 2, &["no timeline 7"]);
    site.refused(&["--tablespace-map", "/x=/y"], 2, &["no tablespace"]);
    site.refused(&["--delete"], 2, &["--delete is for volumes"]);
    // Nothing was changed by any of this.
    assert!(site.place.objects("/holds/").is_empty());
}

/// What is archived between the plan and the start of the restored server, or while that recovers, is behind the target, too.
fn an_idle_cluster(major: u32) {
    let site = Site::new(major);
    site.backup();
    let planned_later = |more: &[&str], n: u32| {
        let server = Server::unborn(major);
        site.restore(&server.data(), more).ok();
        site.sql(&format!("INSERT INTO t VALUES ({n})"));
        archived(&site.server);
        let settings = std::fs::read_to_string(Path::new(&server.data()).join("postgresql.auto.conf")).unwrap();
        assert!(settings.contains("recovery_target_timeline = '1'"), "{settings}");
        run_here(&server);
        server.restart();
        rows_after_promotion(&server)
    };
    // No log but that of the base backup.
    let now = site.moment();
    let ends_at = site.preview(&["--target-time", &now])["ends_at"].clone();
    assert!(ends_at.as_str().unwrap().starts_with("the end of the log as it is now"), "{ends_at}");
    site.sql("INSERT INTO t VALUES (1)");
    // The log ends with a switch.
    archived(&site.server);
    let now = site.moment();
    let plan = site.preview(&["--target-time", &now]);
    assert!(plan["notes"][0].as_str().unwrap().contains("everything is recovered"), "{plan}");
    assert_eq!(planned_later(&["--target-time", &now], 2), "1");
    let now = site.moment();
    assert_eq!(planned_later(&["--target-time", &now, "--target-exclusive"], 3), "1,2");
    let end = site.preview(&[])["wal"]["to"].as_str().unwrap().to_owned();
    assert_eq!(planned_later(&["--target-lsn", &end], 4), "1,2,3");
    // The log ends in the middle of a record.
    let full = site.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    site.sql("CREATE TABLE big AS SELECT g, repeat('x', 1000) FROM generate_series(1, 25000) g");
    await_true(&site.server, &format!("SELECT last_archived_wal >= '{full}' FROM pg_stat_archiver"));
    let now = site.moment();
    assert_eq!(planned_later(&["--target-time", &now], 5), "1,2,3,4");
    // And to the moment of now, by the machine's own clock.
    let ends_at = site.preview(&["--target-time", "0s ago"])["ends_at"].clone();
    assert!(ends_at.as_str().unwrap().starts_with("the end of the log as it is now"), "{ends_at}");
}

#[test]
fn an_idle_cluster_of_version_14_is_recovered_to_a_time_after_its_last_commit() {
    an_idle_cluster(14);
}

#[test]
fn an_idle_cluster_of_version_18_is_recovered_to_a_time_after_its_last_commit() {
    an_idle_cluster(18);
}

#[test]
fn a_base_backup_without_further_log_ends_at_itself() {
    let site = Site::new(17);
    site.sql("INSERT INTO t VALUES (1)");
    site.backup();
    let now = site.moment();
    let server = Server::unborn(17);
    site.restore(&server.data(), &["--target-time", &now]).ok();
    site.sql("INSERT INTO t VALUES (2)");
    archived(&site.server);
    run_here(&server);
    server.restart();
    assert_eq!(rows_after_promotion(&server), "1");
}

/// The last record is in a segment that is not whole, and more is streamed into that one later.
#[test]
fn a_streamed_archive_ends_where_it_ended_when_the_plan_was_made() {
    let server = Server::start(17);
    let place = Place::new(&receive::job(&server));
    let base = format!("base: {{ pg_base: {{ url: \"{}\" }}, schedule: never }}", server.conninfo("postgres", ""));
    place.configure(&place.local_store(), &receive::job(&server), &base);
    let _stream = receive::Streaming::start(&place, &["wal", "receive", "--job", "acme/wal"]);
    await_true(&server, "SELECT count(*) = 1 FROM pg_replication_slots WHERE active");
    server.sql("postgres", "CREATE TABLE t (n int)");
    place.run(&["backup", "acme/base"]).ok();
    server.sql("postgres", "INSERT INTO t VALUES (1)");
    receive::confirmed(&server);
    let now = server.sql("postgres", "SELECT pg_sleep(0.02); SELECT clock_timestamp(); SELECT pg_sleep(0.02)").trim().to_owned();
    let restored = Server::unborn(17);
    let done = place.run(&["--json", "restore", "acme/base", "--to", &restored.data(), "--target-time", &now]).ok().json();
    let ends_at = done["result"]["plan"]["ends_at"].as_str().unwrap();
    assert!(ends_at.contains("as it is now (position"), "{done:#}");
    server.sql("postgres", "INSERT INTO t VALUES (2)");
    receive::confirmed(&server);
    run_here(&restored);
    restored.restart();
    assert_eq!(rows_after_promotion(&restored), "1");
}

#[test]
fn a_hole_in_the_archive_is_no_way() {
    let site = Site::new(16);
    let id = site.backup();
    site.sql("INSERT INTO t VALUES (1)");
    let one = site.moment();
    site.sql("INSERT INTO t VALUES (2)");
    archived(&site.server);
    site.sql("INSERT INTO t VALUES (3)");
    let lost = archived(&site.server);
    site.sql("INSERT INTO t VALUES (4)");
    let four = site.moment();
    site.sql("INSERT INTO t VALUES (5)");
    archived(&site.server);
    for object in site.place.objects(&lost) {
        std::fs::remove_file(object).unwrap();
    }
    assert_eq!(site.preview(&["--target-time", &one])["snapshot"], id.as_str());
    site.refused(&["--target-time", &four], 1, &["is missing from the archive", "What can be reached", "newest commit"]);
    // A new base backup opens a new window.
    let next = site.backup();
    site.sql("INSERT INTO t VALUES (6)");
    let six = site.moment();
    site.sql("INSERT INTO t VALUES (7)");
    archived(&site.server);
    assert_eq!(site.preview(&["--target-time", &six])["snapshot"], next.as_str());
    let plan = site.preview(&[]);
    let windows: Vec<bool> = plan["windows"].as_array().unwrap().iter().map(|w| w["gap"].as_bool().unwrap()).collect();
    assert_eq!(windows, [true, false]);
    let server = site.recovered(&["--target-time", &six]);
    assert_eq!(rows_after_promotion(&server), "1,2,3,4,5,6");
}

#[test]
fn a_restore_holds_its_wal() {
    let site = Site::new(15);
    site.backup();
    archived(&site.server);
    let to = site.place.path("restored");
    let done = site.restore(&to, &[]).ok().json();
    let key = done["result"]["hold"]["key"].as_str().unwrap();
    assert!(key.starts_with("strongroom/holds/restore-"), "{done}");
    assert_eq!(site.place.objects("/holds/"), [site.place.repository().join(key)]);
    let result = &done["result"];
    assert!(result["files"].as_u64().unwrap() > 500 && result["bytes_per_second"].as_u64().unwrap() > 0, "{done}");
    assert!(Path::new(&to).join("strongroom.restored").exists());
    // A restore that fails leaves none.
    site.restore(&to, &[]).exits(1);
    assert_eq!(site.place.objects("/holds/").len(), 1);
    let again = site.restore(&to, &["--delta", "--verify", "--archive", "on"]).ok().json();
    assert!(
        again["result"]["bytes_written"].as_u64().unwrap() < again["result"]["bytes_reused"].as_u64().unwrap() / 10,
        "{again}"
    );
    assert!(!Path::new(&to).join("strongroom.restored").exists());
}

#[test]
fn without_an_archive_a_base_backup_stands_for_itself() {
    let site = Site::new(14);
    site.sql("INSERT INTO t VALUES (1)");
    let first = site.backup();
    let between = site.moment();
    site.sql("INSERT INTO t VALUES (2)");
    site.backup();
    site.sql("INSERT INTO t VALUES (3)");
    archived(&site.server);
    site.configure("");
    let server = site.recovered(&[]);
    assert_eq!(rows_after_promotion(&server), "1,2");
    assert!(!server.log().contains("archive recovery"), "{}", server.log());
    let server = site.recovered(&["--snapshot", &first[..10]]);
    assert_eq!(rows_after_promotion(&server), "1");
    assert_eq!(site.preview(&["--at", &between])["snapshot"], first.as_str());
    site.refused(&["--target-time", &between], 1, &["no WAL archive", "What can be reached"]);
    assert!(site.place.objects("/holds/").is_empty());
}

#[test]
fn a_standby_follows_the_archive() {
    let site = Site::new(17);
    site.sql("INSERT INTO t VALUES (1)");
    site.backup();
    site.sql("INSERT INTO t VALUES (2)");
    archived(&site.server);
    let server = site.recovered(&["--standby"]);
    await_true(&server, "SELECT count(*) = 2 FROM t");
    site.sql("INSERT INTO t VALUES (3)");
    archived(&site.server);
    await_true(&server, "SELECT count(*) = 3 FROM t");
    assert_eq!(server.sql("postgres", "SELECT pg_is_in_recovery()"), "t");
}

#[test]
fn a_failover_is_crossed_and_the_old_timeline_can_be_kept_to() {
    let site = Site::new(17);
    site.backup();
    site.sql("INSERT INTO t VALUES (1)");
    archived(&site.server);
    let standby = site.server.standby("");
    site.sql("INSERT INTO t VALUES (2)");
    let two = site.moment();
    await_true(&standby, "SELECT count(*) = 2 FROM t");
    site.server.stop();
    standby.promote();
    standby.sql("postgres", "INSERT INTO t VALUES (3); SELECT pg_sleep(0.02)");
    let three = standby.sql("postgres", "SELECT clock_timestamp()");
    standby.sql("postgres", "SELECT pg_sleep(0.02); INSERT INTO t VALUES (4)");
    archived(&standby);
    for (target, rows) in [
        (&[][..], "1,2,3,4"),
        (&["--target-time", &three][..], "1,2,3"),
        (&["--target-time", &two][..], "1,2"),
        // A server that is shut down archives the rest of its log first.
        (&["--target-timeline", "current"][..], "1,2"),
    ] {
        let server = site.recovered(target);
        assert_eq!(rows_after_promotion(&server), rows, "{target:?}\n{}", server.log());
    }
    assert_eq!(site.preview(&[])["timeline"], 2);
}

/// Nor does a helper, which has no way into the server's log, keep it from there.
#[test]
fn a_former_primary_whose_archiver_has_help_is_told() {
    let site = Site::new(17);
    site.backup();
    site.sql("INSERT INTO t VALUES (1)");
    let standby = site.server.standby("");
    await_true(&standby, "SELECT count(*) = 1 FROM t");
    archived(&site.server);
    standby.promote();
    standby.sql("postgres", "INSERT INTO t VALUES (2)");
    archived(&standby);
    // A backlog has one started.
    let configured = site.sql("SHOW archive_command");
    let archive_with = |command: &str| {
        site.sql(&format!("ALTER SYSTEM SET archive_command = '{}'", command.replace('\'', "''")));
        site.sql("SELECT pg_reload_conf()");
    };
    archive_with("/bin/false");
    for n in 11..16 {
        site.sql(&format!("INSERT INTO t VALUES ({n})"));
        site.sql("SELECT pg_switch_wal()");
    }
    archive_with(&configured);
    archived(&site.server);
    let helper = std::path::Path::new(&site.server.data()).join("pg_wal/pgsql_tmp.strongroom-push/socket");
    assert!(helper.exists());
    assert!(site.server.log().contains("two servers of one origin write"), "{}", site.server.log());
}

/// Nobody stopped the former primary. Nothing of either is lost, and it is told wherever somebody looks.
#[test]
fn a_former_primary_that_lives_on_is_stored_and_told() {
    // A helper, which is started where the archiver lags behind, has no way into the server's log.
    let site = Site::archiving(16, "wal: { pg_wal: { socket: none } }, ", "--no-helper");
    site.backup();
    site.sql("INSERT INTO t VALUES (1)");
    let standby = site.server.standby("");
    await_true(&standby, "SELECT count(*) = 1 FROM t");
    archived(&site.server);
    standby.promote();
    standby.sql("postgres", "INSERT INTO t VALUES (2)");
    archived(&standby);
    let state = || site.place.status()["state"].clone();
    // The segment in which they parted ends on the former timeline, too: that alone is no second writer.
    assert_eq!(state(), "ok");
    for n in [11, 12] {
        site.sql(&format!("INSERT INTO t VALUES ({n})"));
        archived(&site.server);
    }
    standby.sql("postgres", "INSERT INTO t VALUES (3)");
    archived(&standby);
    let words = "two servers of one origin write";
    assert!(site.server.log().contains(words), "{}", site.server.log());
    assert!(!standby.log().contains(words), "{}", standby.log());
    let status = site.place.status();
    assert_eq!(status["state"], "split", "{status:#}");
    let split = &status["systems"][0]["splits"][0];
    assert_eq!((&split["timeline"], &split["child"]), (&1.into(), &2.into()), "{status:#}");
    let said = site.place.run(&["wal", "status", "--check"]).exits(1);
    assert!(said.out.contains("split: timeline 1 went on"), "{}", said.out);
    for (target, rows) in [(&[][..], "1,2,3"), (&["--target-timeline", "current"][..], "1,11,12")] {
        let server = site.recovered(target);
        assert_eq!(rows_after_promotion(&server), rows, "{target:?}\n{}", server.log());
    }
}
