//! Backups of standbys.

use std::time::{Duration, Instant};

use strongroom::error::Kind;
use strongroom::runtime::{Secret, SecretText};
use strongroom::source::pg_base::From;

use super::*;

const LOGGED: &str = "full_page_writes = on";

fn pair(major: u32) -> (Server, Server) {
    let primary = Server::create(major, false, &["--data-checksums"], LOGGED);
    primary.create_database("app");
    let standby = primary.standby(LOGGED);
    (primary, standby)
}

fn caught_up(primary: &Server, standby: &Server) {
    let position = primary.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    let began = Instant::now();
    while standby.sql("postgres", &format!("SELECT pg_last_wal_replay_lsn() >= '{position}'")) != "t" {
        assert!(began.elapsed() < Duration::from_secs(120), "the standby does not catch up: {}", standby.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_under_load_is_backed_up() {
    for major in [14, 18] {
        let (primary, standby) = pair(major);
        let load = Load::start(&primary, "app");
        caught_up(&primary, &standby);
        let store = tempfile::tempdir().unwrap();
        let repo = crate::backup::init(store.path()).await;
        let report = try_back_up(&repo, from_files(&standby)).await.unwrap();
        whole(&report);
        drop((load, standby, primary));
        let place = tempfile::tempdir().unwrap();
        restore(store.path(), "latest", place.path());
        let data = place.path().join("data");
        let facts = &manifest(place.path())["facts"]["pg_base"];
        assert_eq!(facts["from_standby"], true);
        assert!(std::fs::read_to_string(data.join("backup_label")).unwrap().contains("BACKUP FROM: standby"));
        assert!(!data.join("standby.signal").exists());
        let restored = start(major, &data);
        books_balance(&restored, "app");
        check(&restored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_voids_the_backup() {
    let (primary, standby) = pair(16);
    primary.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n; CHECKPOINT");
    caught_up(&primary, &standby);
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let settings = Settings { max_rate: 16 << 20, ..from_files(&standby) };
    let standby = Arc::new(standby);
    let promoted = standby.clone();
    let error = while_reading(&repo, settings, move || promoted.promote()).await.unwrap_err();
    let text = error.report();
    assert!(text.contains("standby was promoted") && text.contains("run it again"), "{text}");
    assert!(repo.load_snapshots().await.unwrap().is_empty());
    // On the new timeline all is well, and its history comes along.
    whole(&try_back_up(&repo, from_files(&standby)).await.unwrap());
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", place.path());
    assert!(place.path().join("data/pg_wal/00000002.history").exists());
    assert_eq!(manifest(place.path())["facts"]["pg_base"]["timeline"], 2);
    assert_eq!(start(16, &place.path().join("data")).sql("app", "SELECT count(*) FROM t"), "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_decides_which_host_is_taken() {
    let (primary, standby) = pair(17);
    let url = |servers: &[&Server]| {
        let list = |f: &dyn Fn(&Server) -> String| servers.iter().map(|s| f(s)).collect::<Vec<_>>().join(",");
        Secret::Value(SecretText::new(format!(
            "host={} port={} user=postgres",
            list(&|s| s.socket_dir()),
            list(&|s| s.port().to_string())
        )))
    };
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let both = url(&[&primary, &standby]);
    for (from, directory) in [(From::Primary, &primary), (From::Standby, &standby), (From::PreferStandby, &standby)] {
        let settings = Settings { url: both.clone(), from, ..from_files(directory) };
        whole(&try_back_up(&repo, settings).await.unwrap());
        // The other's directory is of the same cluster, and still not the one.
        let other = if std::ptr::eq(directory, &primary) { &standby } else { &primary };
        let error = try_back_up(&repo, Settings { url: both.clone(), from, ..from_files(other) }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{}", error.report());
        assert!(error.report().contains("is not the data directory of this server"), "{}", error.report());
    }
    let alone = Settings { url: url(&[&primary]), from: From::Standby, ..from_files(&primary) };
    assert_eq!(try_back_up(&repo, alone).await.unwrap_err().kind(), Kind::Unavailable);
    let alone = Settings { url: url(&[&primary]), from: From::PreferStandby, ..from_files(&primary) };
    whole(&try_back_up(&repo, alone).await.unwrap());
}
