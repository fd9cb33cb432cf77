//! Dumping.

use std::sync::Arc;

use strongroom::postgres::archive::ArchiveCheck;
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::pg_dump::{Databases, PgDump, Settings};
use strongroom::source::{Report, Streams as _};

use crate::support::postgres::{MAJORS, Server, bin, shared};
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
        assert_eq!(facts["system_identifier"].as_str().unwrap(), server.sql("postgres", "SELECT system_identifier FROM pg_control_system()"));
        let database = &facts["databases"][0];
        let archive = sink.file("databases/dump_shop.dump");
        assert_eq!(database["name"], "dump_shop");
        assert_eq!(database["dump_bytes"], archive.len());
        assert_eq!(database["archive_version"], if major < 16 { "1.14" } else if major == 16 { "1.15" } else { "1.16" });
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
