//! Restoring: what comes back is compared by content.

use std::io::Read;

use strongroom::error::{Kind, Result};
use strongroom::postgres::ConnectionSettings;
use strongroom::restore::database::{Mode, Outcome, Settings, globals, restore};
use strongroom::runtime::{Cancel, SecretText};

use super::dump::{SHOP, dump, settings};
use crate::support::postgres::{MAJORS, Server, bin, shared};
use crate::support::sink::Memory;

/// Every table's rows, sequence's value, large object, index, constraint and function, as one text.
pub fn fingerprint(server: &Server, database: &str) -> String {
    let tables = server.sql(
        database,
        "SELECT format('SELECT %L, count(*), md5(coalesce(string_agg(md5(t::text), '''' ORDER BY t::text), '''')) FROM %I.%I t;', c.oid::regclass, n.nspname, c.relname)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'm', 'v', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY n.nspname, c.relname",
    );
    let mut text = server.sql(database, &tables);
    for query in [
        "SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2",
        "SELECT indexdef FROM pg_indexes WHERE schemaname NOT LIKE 'pg_%' ORDER BY 1",
        "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid >= 16384 AND contype <> 'n' ORDER BY conrelid::regclass::text, 2",
        "SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgrelid::regclass::text, 2",
        "SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1",
        "SELECT extname FROM pg_extension ORDER BY 1",
    ] {
        text.push('\n');
        text.push_str(&server.sql(database, query));
    }
    text
}

pub fn connection(server: &Server, database: &str) -> ConnectionSettings {
    ConnectionSettings::parse(&SecretText::new(server.conninfo("postgres", database))).unwrap()
}

fn target(server: &Server, database: &str, tools: u32) -> Settings {
    let mut s = Settings::new(connection(server, database));
    s.client_dirs = vec![bin(tools)];
    s
}

fn run(archive: &[u8], settings: &Settings) -> Result<Outcome> {
    restore(&mut &archive[..], settings, &Cancel::new())
}

/// The shop's archive from a server of this major.
fn archive(server: &Server, database: &str) -> Vec<u8> {
    server.create_database(database);
    server.sql(database, SHOP);
    let mut s = settings(server, "postgres", database);
    s.globals = false;
    let mut sink = Memory::default();
    dump(&s, &mut sink).unwrap();
    sink.files.into_values().next().unwrap()
}

fn drop_database(server: &Server, name: &str) {
    server.sql("postgres", &format!("DROP DATABASE IF EXISTS \"{}\"", name.replace('"', "\"\"")));
}

#[test]
fn every_major_restores_what_it_dumped() {
    for major in MAJORS {
        let server = shared(major);
        let archive = archive(server, "shop_back");
        let before = fingerprint(server, "shop_back");
        assert!(before.contains("orders|5000|") && before.contains("4000000000|"), "{before}");

        // Into an existing, empty database of another name.
        server.create_database("shop_other");
        let outcome = run(&archive, &target(server, "shop_other", major)).unwrap();
        assert_eq!(fingerprint(server, "shop_other"), before);
        assert_eq!((outcome.database.as_str(), outcome.bytes, outcome.spooled), ("shop_other", archive.len() as u64, false));
        assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);

        // Again: refused, and nothing changes.
        server.sql("shop_other", "DELETE FROM orders WHERE id > 10");
        let changed = fingerprint(server, "shop_other");
        let report = run(&archive, &target(server, "shop_other", major)).unwrap_err().report();
        assert!(
            report.starts_with("restore into database shop_other (nothing was changed in it): pg_restore failed")
                && report.contains("hint: Restore with --clean"),
            "{report}"
        );
        assert_eq!(fingerprint(server, "shop_other"), changed);

        // Cleanly over it.
        let mut s = target(server, "shop_other", major);
        s.mode = Mode::Clean;
        run(&archive, &s).unwrap();
        assert_eq!(fingerprint(server, "shop_other"), before);

        // In parallel, from a spooled file.
        let scratch = tempfile::tempdir().unwrap();
        let mut s = target(server, "", major);
        s.mode = Mode::Create;
        s.target_database = Some("shop_new \"x'".to_owned());
        s.jobs = 3;
        s.size = Some(archive.len() as u64);
        drop_database(server, "shop_new \"x'");
        assert_eq!(run(&archive, &s).unwrap_err().kind(), Kind::Usage);
        s.scratch = Some(scratch.path().to_owned());
        let outcome = run(&archive, &s).unwrap();
        assert!(outcome.spooled);
        assert_eq!(fingerprint(server, "shop_new \"x'"), before);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        assert!(run(&archive, &s).unwrap_err().report().contains("exists already"));
    }
}

#[test]
fn create_brings_settings_and_rights_back_or_leaves_nothing() {
    let server = shared(16);
    let archive = {
        drop_database(server, "made");
        server.sql("postgres", "DROP ROLE IF EXISTS made_owner; CREATE ROLE made_owner");
        server.create_database("made");
        server.sql("made", "ALTER DATABASE made OWNER TO made_owner; ALTER DATABASE made SET work_mem = '7MB'; REVOKE CONNECT ON DATABASE made FROM PUBLIC; COMMENT ON DATABASE made IS 'a shop'; CREATE TABLE t AS SELECT 1 AS x");
        let mut s = settings(server, "postgres", "made");
        s.globals = false;
        let mut sink = Memory::default();
        dump(&s, &mut sink).unwrap();
        sink.files.into_values().next().unwrap()
    };
    let facts = |name: &str| {
        server.sql(
            "postgres",
            &format!("SELECT pg_get_userbyid(datdba), ARRAY(SELECT a::text FROM unnest(datacl) a ORDER BY 1), shobj_description(d.oid, 'pg_database'), setconfig FROM pg_database d LEFT JOIN pg_db_role_setting ON setdatabase = d.oid WHERE datname = '{name}'"),
        )
    };
    let before = facts("made");
    assert!(before.contains("7MB") && before.contains("made_owner") && before.contains("a shop"), "{before}");
    for (name, rename) in [("made", None), ("made_again", Some("made_again".to_owned()))] {
        drop_database(server, name);
        let mut s = target(server, "", 16);
        s.mode = Mode::Create;
        s.target_database = rename;
        let outcome = run(&archive, &s).unwrap();
        assert_eq!((outcome.warnings, outcome.database.as_str()), (Vec::new(), name));
        assert_eq!(facts(name), before);
        assert_eq!(server.sql(name, "SELECT x FROM t"), "1");
    }

    // A role that is missing: the new database is removed again, and the hint helps.
    drop_database(server, "made_again");
    let mut s = target(server, "", 16);
    s.mode = Mode::Create;
    let archive = {
        server.create_database("made");
        server.sql("made", "CREATE TABLE t AS SELECT 1 AS x; ALTER TABLE t OWNER TO made_owner");
        let mut d = settings(server, "postgres", "made");
        d.globals = false;
        let mut sink = Memory::default();
        dump(&d, &mut sink).unwrap();
        sink.files.into_values().next().unwrap()
    };
    drop_database(server, "made");
    server.sql("postgres", "DROP ROLE made_owner");
    let report = run(&archive, &s).unwrap_err().report();
    assert!(
        report.starts_with("restore into the new database made (it was removed again): ")
            && report.contains("hint: Create the roles first"),
        "{report}"
    );
    assert_eq!(facts("made"), "");
    s.no_owner = true;
    s.no_privileges = true;
    run(&archive, &s).unwrap();
    assert_eq!(server.sql("made", "SELECT x FROM t"), "1");
}

#[test]
fn one_table_comes_back_with_its_indexes_and_rights() {
    for major in [14, 18] {
        let server = shared(major);
        let archive = archive(server, "shop_tables");
        let rows = |database: &str, table: &str| {
            server.sql(database, &format!("SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} t"))
        };
        server.create_database("one_table");
        for (text, table) in [
            ("public.customers", "customers"),
            ("\"Sales \"\"x\"\"\".\"Weird Table\"", "\"Sales \"\"x\"\"\".\"Weird Table\""),
            ("events", "events"),
        ] {
            let mut s = target(server, "one_table", major);
            s.table = Some(text.parse().unwrap());
            run(&archive, &s).unwrap();
            assert_eq!(rows("one_table", table), rows("shop_tables", table));
        }
        assert_eq!(server.sql("one_table", "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'S') AND relnamespace = 'public'::regnamespace ORDER BY 1"), "customers\ncustomers_id_seq\nevents\nevents_1\nevents_2");
        assert_eq!(server.sql("one_table", "INSERT INTO customers (name) VALUES ('next') RETURNING id"), "501");

        // Its trigger needs a function that is not there; nothing is left behind.
        let mut s = target(server, "one_table", major);
        s.table = Some("orders".parse().unwrap());
        let report = run(&archive, &s).unwrap_err().report();
        assert!(report.contains("nothing was changed in it") && report.contains("hint: The table needs something"), "{report}");
        server.sql("one_table", "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'");
        run(&archive, &s).unwrap();
        assert_eq!(rows("one_table", "orders"), rows("shop_tables", "orders"));
        assert_eq!(server.sql("one_table", "SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'"), "2");
        assert_eq!(
            server.sql("one_table", "SELECT conname FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'f'"),
            "orders_customer_fkey"
        );

        // Over what is there.
        server.sql("one_table", "DELETE FROM orders");
        s.mode = Mode::Clean;
        run(&archive, &s).unwrap();
        assert_eq!(rows("one_table", "orders"), rows("shop_tables", "orders"));

        s.table = Some("public.Orders".parse().unwrap());
        assert!(run(&archive, &s).unwrap_err().report().contains("hint: The dump has public.orders."));
    }
}

#[test]
fn an_old_dump_goes_into_a_new_server_and_not_the_other_way_round() {
    let (old, new) = (shared(14), shared(18));
    let archive_14 = archive(old, "shop_14");
    drop_database(new, "shop_14");
    let mut s = target(new, "", 18);
    s.mode = Mode::Create;
    let outcome = run(&archive_14, &s).unwrap();
    assert!(outcome.dumped_from.starts_with("14.") && outcome.restored_to.starts_with("18."));
    assert_eq!(fingerprint(new, "shop_14"), fingerprint(old, "shop_14"));

    // Tools that are too old for the dump.
    let archive_18 = archive(new, "shop_18");
    let report = run(&archive_18, &target(old, "shop_14", 16)).unwrap_err().report();
    assert!(report.starts_with("no PostgreSQL client tools fit a dump made by pg_dump 18.6: installed: 16 in "), "{report}");
    // A server that is too old may understand it or not; it is said either way.
    old.create_database("shop_18");
    match run(&archive_18, &target(old, "shop_18", 18)) {
        Ok(outcome) => assert!(outcome.warnings.iter().any(|w| w.contains("is older than the dump's")), "{:?}", outcome.warnings),
        Err(e) => assert!(e.report().contains("older than the dump"), "{}", e.report()),
    }
}

#[test]
fn a_stream_that_breaks_changes_nothing() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(std::time::Duration::from_millis(300));
            Err(std::io::Error::other(strongroom::error::Error::new(Kind::Corrupt, "blob 12ab is damaged")))
        }
    }
    let server = shared(17);
    let archive = archive(server, "shop_breaks");
    for mode in [Mode::Existing, Mode::Create] {
        for keep in [archive.len() / 2, archive.len()] {
            drop_database(server, "broken");
            if mode == Mode::Existing {
                server.create_database("broken");
            }
            let mut s = target(server, "", 17);
            s.mode = mode;
            s.target_database = Some("broken".to_owned());
            let error = restore(&mut (&archive[..keep]).chain(Broken), &s, &Cancel::new()).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.report().contains("blob 12ab is damaged"), "{}", error.report());
            if mode == Mode::Existing {
                assert_eq!(
                    server.sql("broken", "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
                    "0"
                );
            } else {
                assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'broken'"), "0");
            }
        }
    }
    // The same for a dump that is short, without an error from below.
    server.create_database("broken");
    for keep in [0, 10, 5000, archive.len() - 1] {
        let error = restore(&mut &archive[..keep], &target(server, "broken", 17), &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.report());
    }
    assert_eq!(server.sql("broken", "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"), "0");

    let report = run(&archive, &target(server, "no_such_db", 17)).unwrap_err().report();
    assert!(
        report.contains("database \"no_such_db\" does not exist")
            && report.contains("hint: Create the database no_such_db first, or restore with --create."),
        "{report}"
    );
}

#[test]
fn globals_bring_roles_to_another_server() {
    let from = shared(15);
    from.sql("postgres", "DROP ROLE IF EXISTS globals_boss; DROP ROLE IF EXISTS globals_group; CREATE ROLE globals_boss LOGIN PASSWORD 'secret'; CREATE ROLE globals_group; GRANT globals_group TO globals_boss; ALTER ROLE globals_boss SET work_mem = '5MB'");
    let mut sink = Memory::default();
    dump(&settings(from, "postgres", "postgres"), &mut sink).unwrap();
    let to = Server::start(16);
    let outcome = globals::restore(&mut sink.file("globals.sql"), &connection(&to, ""), &[bin(16)], &Cancel::new()).unwrap();
    assert!(outcome.existed >= 1, "the superuser existed");
    let roles = "SELECT rolname, setconfig, rolpassword FROM pg_authid a LEFT JOIN pg_db_role_setting ON setrole = a.oid WHERE rolname LIKE 'globals_%' ORDER BY 1";
    assert_eq!(to.sql("postgres", roles), from.sql("postgres", roles));
    assert_eq!(to.sql("postgres", "SELECT pg_has_role('globals_boss', 'globals_group', 'MEMBER')"), "t");

    to.sql("postgres", "CREATE ROLE weak LOGIN");
    let weak = ConnectionSettings::parse(&SecretText::new(to.conninfo("weak", "postgres"))).unwrap();
    let error = globals::restore(&mut sink.file("globals.sql"), &weak, &[bin(16)], &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Incomplete);
    assert!(error.report().contains("permission denied"), "{}", error.report());

    // However much is said after it.
    let again: String = (0..500).map(|n| format!("CREATE ROLE \"one that exists already, number {n}\";\n")).collect();
    to.sql("postgres", &again);
    let script = format!("CREATE ROLE new IN ROLE nobody_of_this_name;\n{again}");
    let error = globals::restore(&mut script.as_bytes(), &connection(&to, ""), &[bin(16)], &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Incomplete);
    assert!(error.report().starts_with("1 statements of globals.sql failed"), "{}", error.report());
    assert!(error.report().contains("nobody_of_this_name"), "{}", error.report());
    let outcome = globals::restore(&mut again.as_bytes(), &connection(&to, ""), &[bin(16)], &Cancel::new()).unwrap();
    assert_eq!(outcome.existed, 500);
    // Nor does it stop half-way through a statement when the snapshot cannot be read.
    let mut broken = (&b"CREATE ROLE half"[..]).chain(Broken);
    assert!(globals::restore(&mut broken, &connection(&to, ""), &[bin(16)], &Cancel::new()).is_err());
    assert_eq!(to.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'half'"), "0");
}

/// A source that breaks.
struct Broken;

impl std::io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the store is gone"))
    }
}
