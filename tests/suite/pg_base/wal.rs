//! The WAL of a backup: waited for, and left to the archive where there is one.

use std::fs::File;
use std::time::Duration;

use strongroom::error::Kind;
use strongroom::model::{SegmentSize, SystemId, Timeline, WalFile};
use strongroom::source::pg_base::WalInSnapshot;
use strongroom::wal::{Archive, Folder};

use super::*;

/// A second view of the data directory: the same files, but WAL as this test wants it.
fn view(server: &Server, to: &Path) {
    succeeds(Command::new("cp").arg("-al").arg(server.data()).arg(to));
    for entry in std::fs::read_dir(to.join("pg_wal")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_does_not_come_is_named() {
    let server = Server::start(16);
    let place = tempfile::tempdir_in(server.socket_dir()).unwrap();
    let seen = place.path().join("data");
    view(&server, &seen);
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let settings = || Settings { data_directory: Some(seen.clone()), wal_timeout: Duration::from_secs(1), ..from_files(&server) };
    let error = try_back_up(&repo, settings()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
    assert!(error.report().contains("did not come within 1 s") && error.report().contains("wal_timeout"), "{}", error.report());
    // Later WAL is there: waiting would be in vain.
    server.sql("postgres", "SELECT pg_switch_wal(); CREATE TABLE t AS SELECT 1 AS n");
    let later = server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn() + 16777216)");
    let next = server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())");
    for name in [next, later] {
        std::fs::write(seen.join("pg_wal").join(name), "").unwrap();
    }
    let error = try_back_up(&repo, settings()).await.unwrap_err();
    assert!(error.report().contains("WAL segment"), "{}", error.report());
    assert!(repo.load_snapshots().await.unwrap().is_empty());
}

async fn folder(repo: &Repository, server: &Server) -> Folder {
    let identifier = server.sql("postgres", "SELECT system_identifier FROM pg_control_system()").parse().unwrap();
    let archive = Archive::open(repo.store().clone(), repo.object_seal().unwrap(), "main").unwrap();
    archive.folder(SystemId { major: server.major, identifier })
}

/// Pushes whatever is complete in `pg_wal`, until it is dropped.
fn archiver(folder: Folder, server: Arc<Server>) -> impl Drop {
    struct Stop(Arc<std::sync::atomic::AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = Stop(over.clone());
    tokio::spawn(async move {
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let current = server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_flush_lsn())");
            for entry in std::fs::read_dir(Path::new(&server.data()).join("pg_wal")).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                if let Ok(WalFile::Segment(segment)) = name.parse::<WalFile>()
                    && name < current
                {
                    folder.push(&WalFile::Segment(segment), File::open(entry.path()).unwrap()).await.unwrap();
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    stop
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_the_archive_has_is_not_stored_twice() {
    // So that what is listed is there when it is opened.
    let server = Arc::new(Server::start_with(17, false, "wal_keep_size = 1GB"));
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let lean = |settings| Settings { wal: WalInSnapshot::WhenNoArchive, wal_timeout: Duration::from_secs(1), ..settings };
    let included = async || {
        let place = tempfile::tempdir().unwrap();
        restore(store.path(), "latest", place.path());
        let facts = manifest(place.path())["facts"]["pg_base"]["wal_included"].as_bool().unwrap();
        let segments = std::fs::read_dir(place.path().join("data/pg_wal")).unwrap();
        let segments = segments.filter(|e| e.as_ref().unwrap().file_type().unwrap().is_file()).count();
        assert_eq!(facts, segments > 0);
        facts
    };
    // Nothing was archived yet.
    whole(&try_back_up(&repo, lean(from_files(&server))).await.unwrap());
    assert!(included().await);
    // There is an archive, and nobody fills it.
    let folder = folder(&repo, &server).await;
    folder.register(Timeline(1), None, SegmentSize::DEFAULT).await.unwrap();
    for settings in [from_files(&server), from_stream(&server)] {
        let error = try_back_up(&repo, lean(settings)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{}", error.report());
        assert!(error.report().contains("did not reach the archive"), "{}", error.report());
    }
    assert_eq!(repo.load_snapshots().await.unwrap().len(), 1);
    // Somebody does.
    let filling = archiver(folder, server.clone());
    for settings in [from_files(&server), from_stream(&server)] {
        let patient = Settings { wal_timeout: Duration::from_secs(60), ..lean(settings) };
        whole(&try_back_up(&repo, patient).await.unwrap());
        assert!(!included().await);
    }
    drop(filling);
}
