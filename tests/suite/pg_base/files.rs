//! Files mode, from the server to a restored server.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use strongroom::model::NodeKind;
use strongroom::repository::BlobType;

use super::*;
use crate::support::postgres::SERVERS;

/// Tables in a tablespace, large and small, unlogged, in a database with an odd name.
pub fn fill(server: &Server, database: &str) {
    let space = server.folder("fast disk ü");
    let quoted = space.to_str().unwrap();
    server.sql("postgres", &format!("CREATE TABLESPACE \"fast ü\" LOCATION '{quoted}'"));
    server.create_database(database);
    server.sql(
        database,
        r#"
        CREATE TABLE big (id int PRIMARY KEY, body text) TABLESPACE "fast ü";
        INSERT INTO big SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 40000) n;
        CREATE INDEX ON big (body) TABLESPACE "fast ü";
        CREATE TABLE wide AS SELECT n AS id, (SELECT string_agg(md5((n * i)::text), '') FROM generate_series(1, 400) i) AS body FROM generate_series(1, 50) n;
        CREATE UNLOGGED TABLE cache AS SELECT * FROM generate_series(1, 1000) n;
        CREATE UNLOGGED TABLE cache2 (n int PRIMARY KEY) TABLESPACE "fast ü";
        INSERT INTO cache2 VALUES (1);
        CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 5);
        CHECKPOINT;
        "#,
    );
}

pub const CONTENT: &str =
    "SELECT md5(string_agg(b::text, ',' ORDER BY id)) FROM big b; SELECT md5(string_agg(w::text, ',' ORDER BY id)) FROM wide w;";

pub const ODD: &str = "odd \"name\" é 🐘";

#[tokio::test(flavor = "multi_thread")]
async fn every_major_comes_back_from_stock_restic() {
    for major in SERVERS {
        let server = Server::create(major, false, &["--data-checksums"], "");
        fill(&server, ODD);
        let odd_file = Path::new(&server.data()).join(std::ffi::OsStr::from_bytes(b"not ours \xff\n"));
        std::fs::write(odd_file, "kept").unwrap();
        let expected = server.sql(ODD, CONTENT);
        let load = Load::start(&server, ODD);
        let store = tempfile::tempdir().unwrap();
        let repo = crate::backup::init(store.path()).await;
        let first = try_back_up(&repo, from_files(&server)).await.unwrap();
        whole(&first);
        let second = try_back_up(&repo, from_files(&server)).await.unwrap();
        whole(&second);
        drop(load);
        assert!(first.bytes_total > 30 << 20, "{first:?}");
        assert!(second.bytes_read > 30 << 20 && second.bytes_added < first.bytes_added, "{second:?}");
        let identifier = server.sql("postgres", "SELECT system_identifier FROM pg_control_system()");
        drop(server);

        judges::check(store.path(), PASSWORD);
        for report in [&first, &second] {
            let place = tempfile::tempdir().unwrap();
            restore(store.path(), &report.snapshot.to_hex(), place.path());
            let data = place.path().join("data");
            let facts = &manifest(place.path())["facts"]["pg_base"];
            assert_eq!(facts["system_identifier"], *identifier);
            assert_eq!(
                (&facts["major"], &facts["checksums"], &facts["wal_included"]),
                (&major.into(), &true.into(), &true.into())
            );
            assert_eq!(facts["tablespaces"].as_array().unwrap().len(), 1);
            assert!(facts["collation_versions"].is_object(), "{facts}");
            assert!(std::fs::read_to_string(place.path().join(".strongroom/tablespace_map")).unwrap().contains("fast disk ü"));
            for absent in ["tablespace_map", "postmaster.pid", "postmaster.opts"] {
                assert!(!data.join(absent).exists(), "{absent}");
            }
            verify(major, &data);
            let restored = start(major, &data);
            let relative = restored.sql(
                "postgres",
                "SELECT pg_tablespace_location(oid) = '../../tablespaces/' || oid FROM pg_tablespace WHERE oid > 1664",
            );
            assert_eq!(relative, "t");
            assert_eq!(restored.sql(ODD, CONTENT), expected, "PostgreSQL {major}");
            assert_eq!(restored.sql(ODD, "SELECT count(*) FROM cache; SELECT count(*) FROM cache2"), "0\n0");
            books_balance(&restored, ODD);
            check(&restored);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_segments_of_any_size_are_complete() {
    for (major, size) in [(14, "1"), (18, "64")] {
        let wal_size =
            if size == "64" { "min_wal_size = 128MB\nmax_wal_size = 256MB" } else { "min_wal_size = 2MB\nmax_wal_size = 8MB" };
        let server = Server::create(major, false, &[&format!("--wal-segsize={size}")], wal_size);
        server.create_database("app");
        let load = Load::start(&server, "app");
        let store = tempfile::tempdir().unwrap();
        let repo = crate::backup::init(store.path()).await;
        // Slow enough for checkpoints to remove WAL that the backup needs, if nothing keeps it.
        let slow = |settings| Settings { max_rate: 16 << 20, ..settings };
        let files = try_back_up(&repo, slow(from_files(&server))).await.unwrap();
        let stream = try_back_up(&repo, slow(from_stream(&server))).await.unwrap();
        drop((load, server));
        for report in [files, stream] {
            whole(&report);
            let place = tempfile::tempdir().unwrap();
            restore(store.path(), &report.snapshot.to_hex(), place.path());
            let data = place.path().join("data");
            let segments =
                std::fs::read_dir(data.join("pg_wal")).unwrap().map(|e| e.unwrap()).filter(|e| e.file_type().unwrap().is_file());
            let bytes: u64 = size.parse::<u64>().unwrap() << 20;
            let segments: Vec<u64> = segments.map(|e| e.metadata().unwrap().len()).collect();
            assert!(!segments.is_empty() && segments.iter().all(|s| *s == bytes), "{segments:?}");
            verify(major, &data);
            let restored = start(major, &data);
            books_balance(&restored, "app");
            check(&restored);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_from_elsewhere_comes_along() {
    let server = Server::start(16);
    let elsewhere = server.folder("etc");
    std::fs::write(elsewhere.join("more.conf"), "work_mem = '7MB'\n").unwrap();
    server.sql("postgres", "ALTER SYSTEM SET log_connections = on");
    let conf = Path::new(&server.data()).join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap() + &format!("include '{}/more.conf'\n", elsewhere.display());
    std::fs::write(&conf, text).unwrap();
    server.sql("postgres", "SELECT pg_reload_conf(); SELECT pg_sleep(0.3)");
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    whole(&try_back_up(&repo, from_files(&server)).await.unwrap());
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", place.path());
    assert_eq!(std::fs::read_to_string(place.path().join("config/more.conf")).unwrap(), "work_mem = '7MB'\n");
    let outside = &manifest(place.path())["facts"]["pg_base"]["outside_files"];
    assert_eq!(outside["more.conf"], elsewhere.join("more.conf").to_str().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_day_adds_changed_chunks_only() {
    let server = Server::create(17, false, &["--data-checksums"], "");
    server.create_database("app");
    server.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) AS a, repeat(md5((n * 7)::text), 30) AS b FROM generate_series(1, 60000) n; VACUUM FREEZE t; CHECKPOINT");
    let space = server.folder("space");
    server.sql("postgres", &format!("CREATE TABLESPACE space LOCATION '{}'", space.to_str().unwrap()));
    server.sql("app", "CREATE TABLE u TABLESPACE space AS SELECT * FROM t WHERE n <= 6000; VACUUM FREEZE u; CHECKPOINT");
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let first = try_back_up(&repo, from_files(&server)).await.unwrap();
    // A few pages next to each other.
    server.sql("app", "UPDATE t SET a = 'changed' WHERE n BETWEEN 30000 AND 30020; UPDATE u SET a = 'changed' WHERE n BETWEEN 3000 AND 3020; CHECKPOINT");
    let second = try_back_up(&repo, from_files(&server)).await.unwrap();
    whole(&second);
    assert!(first.bytes_total > 60 << 20, "{first:?}");
    assert!(second.bytes_total >= first.bytes_total);
    // One or two segments of WAL, and a few chunks of 64 KiB.
    assert!(second.bytes_added < (32 << 20) + (6 << 20), "{second:?}");
    assert!(second.files_unmodified > second.files_changed, "{second:?}");

    // A table is cut small where it changed, and stays so; in a stream it is cut as it was, too.
    let stream = try_back_up(&repo, from_stream(&server)).await.unwrap();
    whole(&stream);
    for table in ["t", "u"] {
        let path = server.sql("app", &format!("SELECT pg_relation_filepath('{table}')"));
        let path = match path.trim().strip_prefix("pg_tblspc/") {
            Some(below) => format!("tablespaces/{below}"),
            None => format!("data/{}", path.trim()),
        };
        let before = chunks(&repo, &first, &path).await;
        let after = chunks(&repo, &second, &path).await;
        let (rest, whole_ones) = before.split_last().unwrap();
        // It compresses well.
        assert!(whole_ones.len() > 5 && *rest <= 512 && whole_ones.iter().all(|k| *k == 512), "{before:?}");
        let small = after.iter().filter(|k| **k == 64).count();
        assert!((8..=24).contains(&small), "{after:?}");
        assert_eq!(chunks(&repo, &stream, &path).await, after);
    }
}

/// Lengths of a stored file's chunks, in KiB.
async fn chunks(repo: &Repository, report: &Report, path: &str) -> Vec<u32> {
    let index = repo.load_index().await.unwrap();
    let snapshots = repo.load_snapshots().await.unwrap();
    let mut tree = snapshots.iter().find(|s| s.id == report.snapshot).unwrap().file.tree;
    let (reader, path) = (repo.reader(index.clone()), path.to_owned());
    let content = tokio::task::spawn_blocking(move || {
        for name in path.split('/') {
            match reader.entry(tree, name.as_bytes()).unwrap().unwrap().kind {
                NodeKind::Dir { subtree } => tree = subtree.unwrap(),
                NodeKind::File { content, .. } => return content,
                other => panic!("{other:?}"),
            }
        }
        panic!("{path} is a directory");
    });
    let content = content.await.unwrap();
    content.iter().map(|id| index.get(BlobType::Data, id).unwrap().plain_len() >> 10).collect()
}
