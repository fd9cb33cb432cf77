//! The files of real clusters: control file, WAL segments, data pages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use strongroom::model::{Lsn, SegmentName, SegmentSize};
use strongroom::postgres::control::State;
use strongroom::postgres::page::{self, Verdict};
use strongroom::postgres::{Control, wal_header};

use crate::support::postgres::{MAJORS, Server, bin};

/// What `pg_controldata` says, by its labels.
fn controldata(major: u32, data: &str) -> BTreeMap<String, String> {
    let output = Command::new(bin(major).join("pg_controldata")).arg(data).env("LC_ALL", "C").env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

fn assert_same(major: u32, data: &str) -> Control {
    let control = Control::read(Path::new(data)).unwrap();
    let said = controldata(major, data);
    let text = |t: &dyn std::fmt::Display| t.to_string();
    for (label, ours) in [
        ("pg_control version number", text(&control.control_version)),
        ("Catalog version number", text(&control.catalog_version)),
        ("Database system identifier", text(&control.system_identifier)),
        ("Database cluster state", text(&control.state)),
        ("Latest checkpoint location", text(&control.checkpoint)),
        ("Latest checkpoint's REDO location", text(&control.redo)),
        ("Latest checkpoint's TimeLineID", text(&control.timeline)),
        ("Latest checkpoint's PrevTimeLineID", text(&control.previous_timeline)),
        ("Minimum recovery ending location", text(&control.min_recovery_point)),
        ("Min recovery ending loc's timeline", text(&control.min_recovery_timeline)),
        ("Backup start location", text(&control.backup_start)),
        ("Backup end location", text(&control.backup_end)),
        ("End-of-backup record required", if control.backup_end_required { "yes" } else { "no" }.to_owned()),
        ("wal_level setting", control.wal_level.unwrap().as_str().to_owned()),
        ("max_connections setting", text(&control.max_connections)),
        ("max_worker_processes setting", text(&control.max_worker_processes)),
        ("max_wal_senders setting", text(&control.max_wal_senders)),
        ("max_prepared_xacts setting", text(&control.max_prepared_transactions)),
        ("max_locks_per_xact setting", text(&control.max_locks_per_transaction)),
        ("Database block size", text(&control.block_size)),
        ("Blocks per segment of large relation", text(&control.segment_blocks)),
        ("WAL block size", text(&control.wal_block_size)),
        ("Bytes per WAL segment", text(&control.wal_segment_size.bytes())),
        ("Data page checksum version", text(&control.checksum_version)),
    ] {
        assert_eq!(said[label], ours, "{label} of PostgreSQL {major}");
    }
    // `Sat Nov 21 07:25:32 2026` against `2026-11-21T07:25:32Z`.
    for (label, time) in [("Time of latest checkpoint", control.checkpoint_time), ("pg_control last modified", control.modified)]
    {
        let iso = time.to_string();
        let (day, clock) = (iso[8..10].trim_start_matches('0'), &iso[11..19]);
        let parts: Vec<&str> = said[label].split_whitespace().collect();
        assert_eq!((parts[2], parts[3], parts[4]), (day, clock, &iso[..4]), "{label}");
    }
    assert_eq!(control.major, major);
    control
}

#[test]
fn control_files_are_read_as_pg_controldata_reads_them() {
    for (major, size) in MAJORS.into_iter().zip(["1", "64", "16", "1", "64"]) {
        let config = "wal_level = logical\nmax_prepared_transactions = 7\nmax_worker_processes = 9\nmax_wal_senders = 11\nmax_locks_per_transaction = 65";
        let server = Server::create(major, false, &["-k", &format!("--wal-segsize={size}")], config);
        server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000); CHECKPOINT");
        let running = assert_same(major, &server.data());
        assert!(running.has_checksums() && running.state == State::InProduction);
        assert_eq!(running.wal_segment_size, SegmentSize::new(size.parse::<u64>().unwrap() << 20).unwrap());
        let standby = server.standby("hot_standby = on");
        standby.sql("postgres", "CHECKPOINT");
        assert_eq!(assert_same(major, &standby.data()).state, State::InArchiveRecovery);
        drop(standby);

        // Each of its segments says who it is.
        let names = wal_names(&server.data());
        assert!(!names.is_empty());
        for (name, path) in names {
            let bytes = std::fs::read(path).unwrap();
            let header = wal_header::parse(&bytes).unwrap();
            assert_eq!((header.major, header.system_identifier), (Some(major), running.system_identifier));
            assert_eq!((header.name(), header.segment_size), (name, running.wal_segment_size));
        }
    }
}

/// The segments in use, not those made in advance.
fn wal_names(data: &str) -> Vec<(SegmentName, PathBuf)> {
    let size = Control::read(Path::new(data)).unwrap().wal_segment_size;
    let redo = Control::read(Path::new(data)).unwrap().redo;
    let entries = std::fs::read_dir(Path::new(data).join("pg_wal")).unwrap().map(|e| e.unwrap());
    let named = entries.filter_map(|e| Some((e.file_name().to_str()?.parse::<SegmentName>().ok()?, e.path())));
    named.filter(|(n, _)| n.start(size) <= redo).collect()
}

#[test]
fn pages_of_a_cluster_are_valid_until_a_bit_flips() {
    for major in [14, 18] {
        let server = Server::create(major, false, &["-k"], "");
        server.sql("postgres", "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT i, repeat(md5(i::text), 9) FROM generate_series(1, 20000) i; CHECKPOINT");
        let after = Lsn(u64::MAX);
        let (mut pages, mut files) = (0usize, 0usize);
        let base = Path::new(&server.data()).join("base");
        for database in std::fs::read_dir(&base).unwrap() {
            for file in std::fs::read_dir(database.unwrap().path()).unwrap() {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                if !name.starts_with(|c: char| c.is_ascii_digit()) {
                    continue;
                }
                let bytes = std::fs::read(file.path()).unwrap();
                assert_eq!(page::bad_pages(&bytes, page::SIZE, 0, after).count(), 0, "{name}");
                // Shifted by one page, every used one is in the wrong place.
                let used = bytes.chunks_exact(page::SIZE).filter(|p| page::judge(p, 0, after) != Verdict::New).count();
                assert!(page::bad_pages(&bytes, page::SIZE, 1 << 20, after).count() == used, "{name}");
                files += 1;
                pages += bytes.len() / page::SIZE;
            }
        }
        assert!(files > 500 && pages > 1500, "{files} files, {pages} pages");

        let path = server.sql("postgres", "SELECT pg_relation_filepath('t')");
        let mut bytes = std::fs::read(Path::new(&server.data()).join(path)).unwrap();
        bytes[3 * page::SIZE + 4000] ^= 0x10;
        assert_eq!(page::bad_pages(&bytes, page::SIZE, 0, after).collect::<Vec<_>>(), [3]);
        let changed = page::lsn(&bytes[3 * page::SIZE..4 * page::SIZE]);
        assert!(changed > Lsn(0));
        assert_eq!(page::bad_pages(&bytes, page::SIZE, 0, changed).count(), 0, "replay would bring it in order");
    }
}
