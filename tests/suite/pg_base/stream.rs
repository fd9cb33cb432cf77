//! Stream mode: the same backup without access to files.

use std::collections::BTreeMap;

use super::files::{CONTENT, ODD, fill};
use super::*;
use crate::support::postgres::SERVERS;

/// Path, kind, permissions and owner of everything in a restored snapshot, and of files the length.
fn list(root: &Path) -> BTreeMap<String, (u32, u32, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if meta.is_dir() {
                open.push(entry.path());
            }
            found.insert(name, (meta.mode(), meta.uid(), if meta.is_dir() { 0 } else { meta.len() }));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_major_sends_what_its_files_are() {
    for major in SERVERS {
        let server = Server::create(major, false, &["--data-checksums"], "autovacuum = off");
        fill(&server, ODD);
        let expected = server.sql(ODD, CONTENT);
        let store = tempfile::tempdir().unwrap();
        let repo = crate::backup::init(store.path()).await;
        let files = try_back_up(&repo, from_files(&server)).await.unwrap();
        let stream = try_back_up(&repo, from_stream(&server)).await.unwrap();
        whole(&stream);
        // Nothing happened in between, so the second adds WAL, its own files, and what the server counts up by itself.
        assert!(stream.bytes_added < files.bytes_added / 2 + (32 << 20), "{stream:?}");
        let load = Load::start(&server, ODD);
        let busy = try_back_up(&repo, from_stream(&server)).await.unwrap();
        whole(&busy);
        drop((load, server));

        let places: Vec<_> = [&files, &stream, &busy]
            .into_iter()
            .map(|report| {
                let place = tempfile::tempdir().unwrap();
                restore(store.path(), &report.snapshot.to_hex(), place.path());
                verify(major, &place.path().join("data"));
                place
            })
            .collect();
        // The same tree, but for WAL and what counts the server's own doings.
        let tree = |at: usize| {
            let mut all = list(places[at].path());
            all.retain(|path, _| !path.starts_with("data/pg_wal/0") && !path.starts_with("data/pg_wal/archive_status/"));
            for volatile in ["data/backup_manifest", ".strongroom/manifest.json", "data/backup_label"] {
                all.get_mut(volatile).unwrap_or_else(|| panic!("no {volatile}")).2 = 0;
            }
            all.retain(|path, _| !path.contains("pg_stat") && !path.contains("/pg_internal"));
            all
        };
        let (one, other) = (tree(0), tree(1));
        let differing: Vec<_> =
            one.iter().filter(|e| other.get(e.0) != Some(e.1)).chain(other.iter().filter(|e| !one.contains_key(e.0))).collect();
        assert!(differing.is_empty(), "PostgreSQL {major}: {differing:?}");
        for place in &places[1..] {
            let facts = &manifest(place.path())["facts"]["pg_base"];
            assert_eq!((&facts["wal_included"], facts["tablespaces"].as_array().unwrap().len()), (&true.into(), 1));
            let restored = start(major, &place.path().join("data"));
            assert_eq!(restored.sql(ODD, CONTENT), expected, "PostgreSQL {major}");
            assert_eq!(restored.sql(ODD, "SELECT count(*) FROM cache; SELECT count(*) FROM cache2"), "0\n0");
            check(&restored);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_sends_its_files_and_a_promotion_ends_that() {
    let logged = "full_page_writes = on";
    let primary = Server::create(15, false, &["--data-checksums"], logged);
    primary.create_database("app");
    primary.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n; CHECKPOINT");
    let standby = Arc::new(primary.standby(logged));
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    whole(&try_back_up(&repo, from_stream(&standby)).await.unwrap());
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", place.path());
    verify(15, &place.path().join("data"));
    assert_eq!(manifest(place.path())["facts"]["pg_base"]["from_standby"], true);
    assert_eq!(start(15, &place.path().join("data")).sql("app", "SELECT count(*) FROM t"), "100000");

    let promoted = standby.clone();
    let slow = Settings { max_rate: 16 << 20, ..from_stream(&standby) };
    let error = while_reading(&repo, slow, move || promoted.promote()).await.unwrap_err();
    assert!(error.hint_text().is_some(), "{}", error.report());
    assert_eq!(repo.load_snapshots().await.unwrap().len(), 1);
    whole(&try_back_up(&repo, from_stream(&standby)).await.unwrap());
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", place.path());
    assert!(place.path().join("data/pg_wal/00000002.history").exists());
    assert_eq!(start(15, &place.path().join("data")).sql("app", "SELECT count(*) FROM t"), "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_named() {
    let server = Server::create(17, false, &["--data-checksums"], "");
    server.create_database("app");
    server.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 40000) n; CHECKPOINT");
    let path = server.sql("app", "SELECT pg_relation_filepath('t')");
    let file = std::fs::File::options().write(true).open(Path::new(&server.data()).join(&path)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 7 * 8192 + 5000).unwrap();
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let report = try_back_up(&repo, from_stream(&server)).await.unwrap();
    assert!(!report.complete && report.missing.len() == 1, "{:?}", report.missing);
    assert!(report.missing[0].contains(&path) && report.missing[0].contains("block 7"), "{:?}", report.missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_while_it_sends_leaves_no_snapshot() {
    let server = Arc::new(Server::start(14));
    server.create_database("app");
    server.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 300000) n; CHECKPOINT");
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let (killed, slow) = (server.clone(), Settings { max_rate: 8 << 20, ..from_stream(&server) });
    let error = while_reading(&repo, slow, move || killed.kill()).await.unwrap_err();
    assert_eq!(error.kind(), strongroom::error::Kind::Unavailable, "{}", error.report());
    assert!(repo.load_snapshots().await.unwrap().is_empty());
}
