//! Page checksums, seen while copying.

use std::os::unix::fs::FileExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_named_and_the_snapshot_is_incomplete() {
    let server = Server::create(15, false, &["--data-checksums"], "");
    server.create_database("app");
    server.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 40000) n; CHECKPOINT");
    let path = server.sql("app", "SELECT pg_relation_filepath('t')");
    let file = std::fs::File::options().write(true).open(Path::new(&server.data()).join(&path)).unwrap();
    let pages = file.metadata().unwrap().len() / 8192;
    assert!(pages > 150);
    for page in [3, 150] {
        file.write_all_at(b"damage", page * 8192 + 5000).unwrap();
    }
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let report = try_back_up(&repo, from_files(&server)).await.unwrap();
    assert!(!report.complete);
    assert_eq!((report.missing.len(), report.bad_pages), (2, Some(2)), "{:?}", report.missing);
    assert!(report.missing[0].contains(&path) && report.missing[0].contains("block 3"), "{:?}", report.missing);
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", place.path());
    let facts = &manifest(place.path())["facts"]["pg_base"];
    assert_eq!(facts["bad_pages"], serde_json::json!([{ "file": path, "block": 3 }, { "file": path, "block": 150 }]));
    // It is stored as it was read, for whoever must save what can be saved.
    let (original, copy) = (Path::new(&server.data()).join(&path), place.path().join("data").join(&path));
    assert!(std::fs::read(original).unwrap() == std::fs::read(copy).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_checksums_pages_are_not_judged() {
    let server = Server::create(18, false, &["--no-data-checksums"], "");
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let report = try_back_up(&repo, from_files(&server)).await.unwrap();
    whole(&report);
    assert_eq!(report.bad_pages, None);
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", place.path());
    assert_eq!(manifest(place.path())["facts"]["pg_base"]["checksums"], false);
}
