//! Dumping.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::postgres::archive::ArchiveCheck;
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::pg_dump::{Databases, PgDump, Settings};
use strongroom::source::{Report, Streams as _};

use crate::support::postgres::{MAJORS, Server, bin, kill, shared};
use crate::support::sink::Memory;

pub fn settings(server: &Server, role: &str, database: &str) -> Settings {
    let mut s = Settings::new(server.url(role, database));
    s.client_dirs = vec![server.bin()];
    s.retry_wait = std::time::Duration::from_millis(100);
    s
}

pub fn dump(settings: &Settings, sink: &mut Memory) -> strongroom::error::Result<Report> {
    PgDump::new(settings.clone(), Arc::new(SystemClock)).run(sink, &Cancel::new())
}

/// A small shop with all that makes dumps interesting.
pub const SHOP: &str = r#"
    CREATE EXTENSION IF NOT EXISTS pgcrypto;
    CREATE SCHEMA "Sales ""x""";
    CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, note text);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer int REFERENCES customers, total numeric(10,2), at timestamptz DEFAULT '2026-01-01') ;
    CREATE INDEX orders_by_customer ON orders (customer);
    CREATE TABLE "Sales ""x"""."Weird Table" ("a b" int, j jsonb, b bytea);
    CREATE TABLE empty_one (x int);
    CREATE TABLE events (day date, what text) PARTITION BY RANGE (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    CREATE VIEW big_orders AS SELECT * FROM orders WHERE total > 500;
    CREATE MATERIALIZED VIEW per_customer AS SELECT customer, count(*) FROM orders GROUP BY 1 WITH NO DATA;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
    INSERT INTO customers (name, note) SELECT 'customer ' || n, repeat(md5(n::text), n % 50) FROM generate_series(1, 500) n;
    INSERT INTO orders SELECT n, 1 + n % 500, n % 1000 FROM generate_series(1, 5000) n;
    INSERT INTO "Sales ""x"""."Weird Table" SELECT n, jsonb_build_object('n', n), decode(md5(n::text), 'hex') FROM generate_series(1, 100) n;
    INSERT INTO events SELECT '2026-01-15'::date + (n % 40), 'event ' || n FROM generate_series(1, 300) n;
    REFRESH MATERIALIZED VIEW per_customer;
    SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 2000), 'hex')) FROM generate_series(1, 5) n;
    SELECT lo_create(4000000000);
"#;

#[test]
fn every_major_dumps_whole_archives() {
    for major in MAJORS {
        let server = shared(major);
        server.create_database("dump_shop");
        server.sql("dump_shop", SHOP);
        let mut sink = Memory::default();
        let report = dump(&settings(server, "postgres", "dump_shop"), &mut sink).unwrap();
        assert_eq!(sink.files.keys().collect::<Vec<_>>(), ["databases/dump_shop.dump", "globals.sql"]);
        assert!(String::from_utf8_lossy(sink.file("globals.sql")).contains("CREATE ROLE postgres"));
        assert_eq!(report.warnings, Vec::<String>::new());

        let facts = &report.facts;
        assert!(facts["server_version"].as_str().unwrap().starts_with(&major.to_string()));
        assert_eq!(
            facts["system_identifier"].as_str().unwrap(),
            server.sql("postgres", "SELECT system_identifier FROM pg_control_system()")
        );
        let database = &facts["databases"][0];
        let archive = sink.file("databases/dump_shop.dump");
        assert_eq!(database["name"], "dump_shop");
        assert_eq!(database["dump_bytes"], archive.len());
        assert_eq!(
            database["archive_version"],
            if major < 16 {
                "1.14"
            } else if major == 16 {
                "1.15"
            } else {
                "1.16"
            }
        );
        assert!(database["server_bytes"].as_u64().unwrap() > 1 << 20);

        cuts_are_noticed(archive, major);
    }
}

/// Every cut near the places where something begins or ends, and many between.
fn cuts_are_noticed(archive: &[u8], major: u32) {
    let whole = |bytes: &[u8], step: usize| {
        let mut check = ArchiveCheck::new();
        bytes.chunks(step).try_for_each(|part| check.feed(part))?;
        check.finish()
    };
    let summary = whole(archive, 65_536).unwrap();
    assert_eq!(whole(archive, 13).unwrap().data_bytes, summary.data_bytes);
    let mut ends: Vec<usize> = (0..archive.len()).step_by(archive.len() / 150 + 1).collect();
    for place in &summary.places {
        let block = usize::try_from(place.block).unwrap();
        ends.extend([block - 1, block, block + 1, block + 6]);
    }
    ends.extend(archive.len() - 12..archive.len());
    for end in ends {
        assert!(whole(&archive[..end], 65_536).is_err(), "PostgreSQL {major}: {end} of {} bytes passed", archive.len());
    }
}

#[test]
fn patterns_choose_databases_and_odd_names_survive() {
    let server = Server::start(17);
    let odd = [
        "ameide_a",
        "ameide_b",
        "ameide_\"quoted' \\x",
        "ameide_ spaces é ü 🐘",
        "ameide_a/b%c",
        "ameide_=postgresql://h",
        "-ameide",
        "other",
    ];
    for name in odd {
        server.create_database(name);
        let table = format!("CREATE TABLE t AS SELECT {}::text AS name", format_args!("'{}'", name.replace('\'', "''")));
        server.sql(name, &table);
    }
    let mut s = settings(&server, "postgres", "");
    s.databases = Databases::Patterns(vec!["ameide_*".to_owned(), "-ameide".to_owned()]);
    s.exclude = vec!["*_b".to_owned()];
    s.globals = false;
    let mut sink = Memory::default();
    let report = dump(&s, &mut sink).unwrap();
    let files: Vec<&str> = sink.files.keys().map(String::as_str).collect();
    assert_eq!(
        files,
        [
            "databases/-ameide.dump",
            "databases/ameide_ spaces é ü 🐘.dump",
            "databases/ameide_\"quoted' \\x.dump",
            "databases/ameide_=postgresql:%2F%2Fh.dump",
            "databases/ameide_a%2Fb%25c.dump",
            "databases/ameide_a.dump",
        ]
    );
    for database in report.facts["databases"].as_array().unwrap() {
        let (name, file) = (database["name"].as_str().unwrap(), database["file"].as_str().unwrap());
        let mut check = ArchiveCheck::new();
        check.feed(sink.file(file)).unwrap();
        assert_eq!(check.finish().unwrap().header.database, name);
    }

    s.databases = Databases::All;
    s.exclude.clear();
    let mut sink = Memory::default();
    dump(&s, &mut sink).unwrap();
    assert_eq!(sink.files.len(), odd.len() + 1, "all, with postgres, without templates");

    s.databases = Databases::OfUrl;
    s.url = server.url("postgres", "ameide_=postgresql://h");
    let mut sink = Memory::default();
    dump(&s, &mut sink).unwrap();
    assert_eq!(sink.files.keys().collect::<Vec<_>>(), ["databases/ameide_=postgresql:%2F%2Fh.dump"]);

    s.databases = Databases::Patterns(vec!["ameide_a".to_owned(), "shop_*".to_owned()]);
    let report = dump(&s, &mut Memory::default()).unwrap_err().report();
    assert!(report.starts_with("no database fits the pattern shop_*\nhint: The server has: "), "{report}");
}

#[test]
fn what_a_role_may_not_dump_is_said_before_anything_is_dumped() {
    for major in [14, 18] {
        let server = shared(major);
        for name in ["rights_1", "rights_2"] {
            server.create_database(name);
            server.sql(
                name,
                "CREATE TABLE public.plain (x int); CREATE TABLE public.hidden (x int); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
                 CREATE SCHEMA closed; CREATE TABLE closed.t (x int); CREATE SEQUENCE counter; SELECT lo_create(77);
                 CREATE EXTENSION pgcrypto; CREATE TABLE part (d int) PARTITION BY LIST (d); CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)",
            );
        }
        server.sql("postgres", "DROP ROLE IF EXISTS rights_reader; CREATE ROLE rights_reader LOGIN");
        let mut s = settings(server, "rights_reader", "rights_1");
        s.databases = Databases::Patterns(vec!["rights_*".to_owned()]);
        server.sql("rights_1", "GRANT SELECT ON plain, hidden, part TO rights_reader");

        let mut sink = Memory::default();
        let error = dump(&s, &mut sink).unwrap_err();
        let report = error.report();
        assert_eq!(error.kind(), strongroom::error::Kind::Denied);
        let one = "database rights_1: no USAGE on schema closed; no SELECT on table public.part_1; row-level security hides rows of table public.hidden; no SELECT on sequence public.counter; no SELECT on large object 77";
        let two = "database rights_2: no USAGE on schema closed; no SELECT on table public.hidden, public.part, public.part_1, public.plain;";
        assert!(
            report.starts_with("role rights_reader may not dump everything: ") && report.contains(one) && report.contains(two),
            "{report}"
        );
        assert!(
            report.contains("GRANT pg_read_all_data TO \"rights_reader\" and ALTER ROLE \"rights_reader\" BYPASSRLS"),
            "{report}"
        );
        assert!(sink.begun.is_empty(), "nothing was begun");

        // What the hint says is enough, but for large objects, which need an owner's or a superuser's grant.
        server.sql("postgres", "GRANT pg_read_all_data TO rights_reader; ALTER ROLE rights_reader BYPASSRLS");
        for name in ["rights_1", "rights_2"] {
            server.sql(name, "GRANT SELECT ON LARGE OBJECT 77 TO rights_reader");
        }
        let mut sink = Memory::default();
        let report = dump(&s, &mut sink).unwrap();
        assert_eq!(sink.files.keys().collect::<Vec<_>>(), ["databases/rights_1.dump", "databases/rights_2.dump", "globals.sql"]);
        assert_eq!(report.warnings, Vec::<String>::new(), "pg_read_all_data may read passwords too");

        server.sql("postgres", "REVOKE CONNECT ON DATABASE rights_2 FROM PUBLIC");
        let report = dump(&s, &mut Memory::default()).unwrap_err().report();
        assert!(report.starts_with("the role may not connect to rights_2"), "{report}");
    }
}

#[test]
fn an_owner_who_may_not_read_passwords_dumps_globals_without() {
    for major in [14, 17] {
        let server = shared(major);
        server.sql("postgres", "DROP DATABASE IF EXISTS owned");
        server.sql("postgres", "DROP ROLE IF EXISTS owner_of; CREATE ROLE owner_of LOGIN PASSWORD 'x'");
        server.sql("postgres", "CREATE DATABASE owned OWNER owner_of");
        server.sql("owned", "SET ROLE owner_of; CREATE TABLE mine (x int); SELECT lo_create(5)");
        let mut sink = Memory::default();
        let report = dump(&settings(server, "owner_of", "owned"), &mut sink).unwrap();
        assert_eq!(report.facts["globals"]["role_passwords"], false);
        assert!(report.warnings.iter().any(|w| w.contains("no role passwords")), "{:?}", report.warnings);
        let text = String::from_utf8_lossy(sink.file("globals.sql")).into_owned();
        assert!(text.contains("CREATE ROLE owner_of") && !text.contains("PASSWORD"), "{text}");
    }
}

#[test]
fn arguments_that_leave_objects_out_turn_the_findings_into_warnings() {
    let server = shared(16);
    server.create_database("leave_out");
    server.sql("leave_out", "CREATE TABLE mine (x int); CREATE TABLE secret (x int); DROP ROLE IF EXISTS leave_role; CREATE ROLE leave_role LOGIN; GRANT SELECT ON mine TO leave_role");
    let mut s = settings(server, "leave_role", "leave_out");
    assert!(dump(&s, &mut Memory::default()).unwrap_err().report().contains("no SELECT on table public.secret"));
    s.arguments = vec!["--exclude-table=public.secret".to_owned()];
    let mut sink = Memory::default();
    let report = dump(&s, &mut sink).unwrap();
    assert!(report.warnings.iter().any(|w| w.contains("public.secret")), "{:?}", report.warnings);
    s.arguments = vec!["--no-comments".to_owned()];
    let report = dump(&s, &mut Memory::default()).unwrap_err().report();
    assert!(report.contains("permission denied") && report.contains("hint: Grant the role SELECT"), "{report}");
}

#[test]
fn a_locked_table_is_waited_for_retried_and_reported() {
    let server = shared(16);
    server.create_database("locked");
    server.sql("locked", "CREATE TABLE busy (x int)");
    let mut s = settings(server, "postgres", "locked");
    s.lock_timeout = Duration::from_millis(200);
    s.retries = 1;
    s.globals = false;

    let hold = || {
        let child = server
            .psql("locked")
            .arg("-c")
            .arg("BEGIN; LOCK TABLE busy; SELECT pg_sleep(600); COMMIT")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while server.sql(
            "locked",
            "SELECT count(*) FROM pg_locks WHERE relation = 'busy'::regclass AND mode = 'AccessExclusiveLock' AND granted",
        ) != "1"
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    };
    let mut holder = hold();
    let mut sink = Memory::default();
    let error = dump(&s, &mut sink).unwrap_err();
    let report = error.report();
    assert!(
        report.contains("a table stayed locked by somebody else, in each of 2 attempts")
            && report.contains("LOCK TABLE public.busy")
            && report.contains("hint: Find out who holds the lock"),
        "{report}"
    );
    assert_eq!(sink.begun.len(), 2);
    assert!(sink.files.is_empty());
    let free = || {
        let holders = "query LIKE 'BEGIN; LOCK TABLE busy%' AND pid <> pg_backend_pid()";
        server.sql("locked", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {holders}"));
    };
    free();
    holder.wait().unwrap();

    // Freed after an attempt, a later one succeeds.
    let mut holder = hold();
    s.retries = 1000;
    let mut sink = Memory::default();
    let failed = || server.log().matches("LOCK TABLE public.busy").count();
    let before = failed();
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            crate::faults::until("an attempt failed", || failed() > before);
            free();
        });
        dump(&s, &mut sink).unwrap()
    });
    assert!(report.facts["databases"][0]["attempts"].as_u64().unwrap() > 1, "{:?}", report.facts);
    assert_eq!(sink.files.len(), 1);
    holder.wait().unwrap();
}

#[test]
fn an_older_pg_dump_is_refused_before_it_starts() {
    let server = shared(18);
    let mut s = settings(server, "postgres", "postgres");
    s.client_dirs = vec![bin(14), bin(16), PathBuf::from("/nowhere")];
    let mut sink = Memory::default();
    let report = dump(&s, &mut sink).unwrap_err().report();
    assert!(
        report.starts_with("no PostgreSQL client tools fit the server (PostgreSQL 18.6): installed: 14 in ")
            && report.contains(", 16 in ")
            && report.contains("postgresql-client-18"),
        "{report}"
    );
    assert!(sink.begun.is_empty());

    s.client_dirs = vec![bin(18), bin(16)];
    s.url = shared(15).url("postgres", "postgres");
    let report = dump(&s, &mut sink).unwrap();
    assert!(report.facts["tool_version"].as_str().unwrap().starts_with("16."), "the lowest that is not older");
}

/// A database whose dump takes a while.
fn large(server: &Server, name: &str) {
    server.create_database(name);
    server.sql(name, "CREATE UNLOGGED TABLE big AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, 60000) n");
}

#[test]
fn a_server_that_dies_leaves_no_file_and_says_why() {
    for immediate in [true, false] {
        let server = Arc::new(Server::start(if immediate { 14 } else { 18 }));
        large(&server, "big");
        let mut s = settings(&server, "postgres", "big");
        s.globals = false;
        let victim = Arc::clone(&server);
        let mut done = false;
        let mut sink = Memory {
            on_write: Some(Box::new(move |bytes| {
                if bytes > 4 << 20 && !done {
                    done = true;
                    if immediate { victim.stop_immediate() } else { victim.kill_session("pg_dump") }
                }
            })),
            ..Memory::default()
        };
        let report = dump(&s, &mut sink).unwrap_err().report();
        assert!(sink.files.is_empty());
        assert!(
            report.starts_with("dump database big: pg_dump failed with exit status 1: pg_dump: ")
                && report.contains("hint: The server went away"),
            "{report}"
        );
    }
}

/// The child of this process that has this argument.
fn child_with(argument: &str) -> i32 {
    let me = format!("PPid:\t{}\n", std::process::id());
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|e| {
            let of = |file: &str| std::fs::read_to_string(e.path().join(file)).unwrap_or_default();
            (of("status").contains(&me) && of("cmdline").contains(argument)).then(|| e.file_name().to_str()?.parse().ok())?
        })
        .expect("a child with this argument")
}

#[test]
fn a_killed_pg_dump_leaves_no_file_and_says_so() {
    let server = shared(15);
    large(server, "killed");
    let mut s = settings(server, "postgres", "killed");
    s.globals = false;
    let mut done = false;
    let mut sink = Memory {
        on_write: Some(Box::new(move |bytes| {
            if bytes > 1 << 20 && !done {
                done = true;
                kill(child_with("dbname=dbname='killed'"));
            }
        })),
        ..Memory::default()
    };
    let report = dump(&s, &mut sink).unwrap_err().report();
    assert!(sink.files.is_empty());
    assert_eq!(
        report,
        "dump database killed: pg_dump was killed (signal 9)\nhint: If nobody killed it, the machine or the container ran out of memory: give it more."
    );
}

#[test]
fn a_failing_store_and_a_cancel_end_the_program() {
    let server = shared(17);
    large(server, "ended");
    let mut s = settings(server, "postgres", "ended");
    s.globals = false;
    let mut sink = Memory { fail_after: Some(1 << 20), ..Memory::default() };
    let report = dump(&s, &mut sink).unwrap_err().report();
    assert_eq!(report, "dump database ended: the store is gone\nhint: Look after it.");

    let cancel = Cancel::new();
    let trigger = cancel.clone();
    let mut sink = Memory {
        on_write: Some(Box::new(move |bytes| {
            if bytes > 1 << 20 {
                trigger.cancel()
            }
        })),
        ..Memory::default()
    };
    let began = Instant::now();
    let error = PgDump::new(s, Arc::new(SystemClock)).run(&mut sink, &cancel).unwrap_err();
    assert_eq!(error.kind(), strongroom::error::Kind::Cancelled);
    assert!(sink.files.is_empty() && began.elapsed() < Duration::from_secs(60));
    let working = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'ended' AND application_name = 'strongroom' AND state = 'active' AND wait_event IS DISTINCT FROM 'ClientWrite'";
    crate::faults::until("nobody works for it", || server.sql("postgres", working) == "0");
}

#[test]
fn a_standby_is_dumped_and_its_conflicts_are_retried() {
    let primary = Server::start(17);
    large(&primary, "app");
    primary.sql("app", "ALTER TABLE big SET LOGGED; CREATE UNLOGGED TABLE cache AS SELECT 1 AS x");
    let standby = primary.standby("max_standby_streaming_delay = 0\nhot_standby_feedback = off");
    let mut s = settings(&standby, "postgres", "app");
    s.globals = false;
    s.retries = 5;
    // While the first attempt reads, the primary removes what it reads.
    let mut done = false;
    let (primary, standby) = (Arc::new(primary), Arc::new(standby));
    let (other, replica) = (Arc::clone(&primary), Arc::clone(&standby));
    let mut sink = Memory {
        on_write: Some(Box::new(move |bytes| {
            if bytes > 4 << 20 && !done {
                done = true;
                other.sql("app", "DELETE FROM big WHERE n % 2 = 0");
                other.sql("app", "VACUUM big");
                let position = other.sql("app", "SELECT pg_current_wal_flush_lsn()");
                let there = format!("SELECT pg_last_wal_receive_lsn() >= '{position}'");
                crate::faults::until("the standby has it", || replica.sql("postgres", &there) == "t");
                // It may not be replayed while this attempt is read, and it is not told anywhere that it waits for that.
                std::thread::sleep(Duration::from_millis(700));
            }
        })),
        ..Memory::default()
    };
    let report = dump(&s, &mut sink).unwrap();
    assert_eq!(report.facts["standby"], true);
    assert_eq!(report.warnings, ["database app: a standby has no rows of unlogged table public.cache"]);
    assert!(report.facts["databases"][0]["attempts"].as_u64().unwrap() > 1, "{:?} {}", report.facts, standby.log());
    assert_eq!(sink.files.len(), 1);
}
