//! Segments of real servers: every major, every size, over a promotion.

use std::path::{Path, PathBuf};

use strongroom::postgres::wal_header;
use strongroom::wal::Pushed;

use super::*;
use crate::support::postgres::{self, Server};

/// Segments that the server has finished, and its history files.
fn finished(server: &Server, current: &str) -> Vec<(WalFile, PathBuf)> {
    let dir = Path::new(&server.data()).join("pg_wal");
    let mut names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable_by_key(|n| (!n.ends_with(".history"), n.clone()));
    let wanted = names.iter().filter(|n| n.ends_with(".history") || (n.len() == 24 && n.as_str() < current));
    wanted.map(|n| (n.parse().unwrap(), dir.join(n))).collect()
}

fn current(server: &Server) -> String {
    server.sql("postgres", "SELECT pg_walfile_name(pg_current_wal_lsn())")
}

fn work(server: &Server) {
    server.sql(
        "postgres",
        "CREATE TABLE IF NOT EXISTS t (x text);
         INSERT INTO t SELECT repeat(md5(i::text), 20) FROM generate_series(1, 4000) i; SELECT pg_switch_wal();
         INSERT INTO t VALUES ('a'); SELECT pg_switch_wal(); INSERT INTO t VALUES ('b'); SELECT pg_switch_wal();
         INSERT INTO t VALUES ('c')",
    );
}

/// Who the server is, from the first segment at hand, and that it says so itself.
fn system(server: &Server, files: &[(WalFile, PathBuf)]) -> SystemId {
    let path = files.iter().find_map(|(f, p)| matches!(f, WalFile::Segment(_)).then_some(p)).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let header = wal_header::parse(&bytes).unwrap();
    let identifier: u64 = server.sql("postgres", "SELECT system_identifier FROM pg_control_system()").parse().unwrap();
    let size: u64 = server.sql("postgres", "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'").parse().unwrap();
    assert_eq!((header.major, header.system_identifier), (Some(server.major), identifier));
    assert_eq!(header.segment_size.bytes(), size);
    SystemId { major: server.major, identifier }
}

async fn all_come_back(folder: &Folder, files: &[(WalFile, PathBuf)]) {
    for (wal, path) in files {
        let (done, bytes) = fetch(folder, wal, Mode::Recovery).await;
        assert!(matches!(done.unwrap(), Fetched::Delivered { .. }));
        assert!(bytes == std::fs::read(path).unwrap(), "{wal}");
    }
}

async fn archive_all(server: Server, place: &Place) {
    work(&server);
    let files = finished(&server, &current(&server));
    assert!(files.len() >= 3, "{files:?}");
    let folder = place.archive().folder(system(&server, &files));
    for (wal, path) in &files {
        assert_eq!(folder.push(wal, File::open(path).unwrap()).await.unwrap(), Pushed::Stored, "{wal}");
    }
    all_come_back(&folder, &files).await;
    // The segment that is being written is not taken for one that is finished by its name alone: recycled ones carry old pages.
    let survey = folder.survey().await.unwrap();
    let coverage = survey.coverage();
    assert_eq!((coverage.len(), coverage[0].ranges.len()), (1, 1), "{coverage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_major() {
    for major in postgres::SERVERS {
        archive_all(Server::start(major), &Place::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size() {
    for size in ["1", "64"] {
        let server = Server::start_initdb(17, &[&format!("--wal-segsize={size}")], "min_wal_size = 128MB\nmax_wal_size = 256MB");
        archive_all(server, &Place::new()).await;
    }
}

/// The new primary's first segment begins with pages of the old timeline.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion() {
    let place = Place::new();
    let primary = Server::start_with(18, false, "wal_keep_size = 1GB");
    work(&primary);
    let standby = primary.standby("wal_keep_size = 1GB");
    work(&primary);
    let files = finished(&primary, &current(&primary));
    let folder = place.archive().folder(system(&primary, &files));
    for (wal, path) in &files {
        folder.push(wal, File::open(path).unwrap()).await.unwrap();
    }
    let reached = primary.sql("postgres", "SELECT pg_current_wal_lsn()");
    crate::faults::until("the standby has everything", || {
        standby.sql("postgres", &format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{reached}', false)")) == "t"
    });
    primary.stop_immediate();
    standby.sql("postgres", "SELECT pg_promote()");
    work(&standby);
    let current = current(&standby);
    let after = finished(&standby, &current);
    assert!(after.iter().any(|(f, _)| matches!(f, WalFile::History(Timeline(2)))), "{after:?}");
    // What the primary did not archive before it died is filled in from what the standby received.
    let lost: Vec<SegmentName> = files.iter().rev().take(2).map(|(f, _)| f.to_string().parse().unwrap()).collect();
    for segment in &lost {
        let key_of = format!("{}{}/{segment}", folder.path(), segment.folder());
        place.store.delete(&key(&key_of)).await.unwrap();
    }
    let folder = place.archive().folder(folder.system());
    let (history_file, path) = &after[0];
    folder.push(history_file, File::open(path).unwrap()).await.unwrap();
    let parsed = TimelineHistory::parse(Timeline(2), &std::fs::read_to_string(path).unwrap()).unwrap();
    let pg_wal = Path::new(&standby.data()).join("pg_wal");
    let filled = folder.backfill(&pg_wal, &parsed).await.unwrap();
    assert!(filled.iter().all(|f| f.result.as_ref().is_ok_and(|p| *p == Pushed::Stored)), "{filled:?}");
    for segment in &lost {
        assert!(filled.iter().any(|f| f.file == WalFile::Segment(*segment)) && folder.has(*segment).await.unwrap());
    }
    assert!(folder.backfill(&pg_wal, &parsed).await.unwrap().is_empty());
    for (wal, path) in &after {
        // The standby's copies of what the primary archived are the same.
        folder.push(wal, File::open(path).unwrap()).await.unwrap();
    }
    all_come_back(&folder, &after).await;
    let identity = folder.identity().await.unwrap().unwrap();
    let start =
        files.iter().find_map(|(f, _)| if let WalFile::Segment(s) = f { Some(s.start(identity.segment_size)) } else { None });
    let end: SegmentName = current.parse().unwrap();
    let path = identity.path((Timeline(1), start.unwrap()), (Timeline(2), Some(end.start(identity.segment_size)))).unwrap();
    assert_eq!(folder.survey().await.unwrap().missing(&path), []);
}
