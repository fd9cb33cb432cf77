//! What must not become a backup.

use strongroom::error::Kind;

use super::*;

/// Enough to read for a while.
fn filled(major: u32) -> Arc<Server> {
    let server = Server::start(major);
    server.create_database("app");
    server.sql("app", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 300000) n; CHECKPOINT");
    Arc::new(server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_leaves_no_snapshot() {
    let server = filled(17);
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let settings = Settings { max_rate: 8 << 20, ..from_files(&server) };
    let killed = server.clone();
    let error = while_reading(&repo, settings, move || killed.kill()).await.unwrap_err();
    assert!(error.hint_text().is_some() && error.kind() != Kind::Bug, "{}", error.report());
    assert!(repo.load_snapshots().await.unwrap().is_empty());
    judges::restic(store.path(), PASSWORD, &["check", "--read-data"]);
}

/// The server may be writing it at the moment when it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_file_is_stored_in_a_state_that_is_whole() {
    use std::os::unix::fs::FileExt as _;
    let server = Arc::new(Server::start(17));
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let path = Path::new(&server.data()).join("global/pg_control");
    let half_written = move || {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let flip = || {
            let mut byte = [0];
            file.read_exact_at(&mut byte, 40).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 40).unwrap();
        };
        flip();
        std::thread::sleep(std::time::Duration::from_secs(3));
        flip();
    };
    let report = while_reading(&repo, from_files(&server), half_written).await.unwrap();
    whole(&report);
    let place = tempfile::tempdir().unwrap();
    restore(store.path(), &report.snapshot.to_hex(), place.path());
    strongroom::postgres::Control::read(&place.path().join("data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_directory_is_refused_before_anything_is_read() {
    let (server, other) = (filled(15), Server::start(15));
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let refused = async |directory: std::path::PathBuf| {
        let progress = Arc::new(Progress::default());
        let settings = Settings { data_directory: Some(directory), ..from_files(&server) };
        let request = Request { progress: progress.clone(), ..request(settings) };
        let error = backup::run(&repo, request, Arc::new(SystemClock), &Cancel::new()).await.unwrap_err();
        assert_eq!(progress.source.bytes_read.load(std::sync::atomic::Ordering::Relaxed), 0);
        error
    };
    let error = refused(other.data().into()).await;
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.report().contains("system identifier"), "{}", error.report());
    // A copy of the right one: the same cluster, and not what the server writes to.
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    succeeds(Command::new("cp").arg("-a").arg(server.data()).arg(&copy));
    let error = refused(copy).await;
    assert!(error.report().contains("It may be a copy"), "{}", error.report());
    let error = refused(place.path().join("nothing")).await;
    assert!(error.report().contains("Mount the server's data directory"), "{}", error.report());
    assert!(repo.load_snapshots().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_is_told_what_it_needs() {
    let server = filled(16);
    server.sql(
        "postgres",
        "CREATE ROLE weak LOGIN; CREATE ROLE strong LOGIN REPLICATION; GRANT pg_monitor TO strong;
        GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO strong",
    );
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let error = try_back_up(&repo, Settings { url: server.url("weak", "postgres"), ..from_files(&server) }).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{}", error.report());
    assert!(error.report().contains("grant the role EXECUTE on pg_catalog.pg_backup_start"), "{}", error.report());
    whole(&try_back_up(&repo, Settings { url: server.url("strong", "postgres"), ..from_files(&server) }).await.unwrap());
}
