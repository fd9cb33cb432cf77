//! Our replication client against real servers: streamed WAL, base backups, timelines, logins, refusals.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use strongroom::error::{Kind, Result};
use strongroom::model::{Lsn, SegmentName, SegmentSize, Timeline};
use strongroom::postgres::ConnectionSettings;
use strongroom::postgres::replication::{
    BackupEvent, BaseBackupOptions, EndOfTimeline, ManifestChecksums, PhysicalStream, Refusal, Replication, WalEvent,
};
use strongroom::runtime::SecretText;

use crate::pg_dump::connect::certificates;
use crate::support::postgres::{MAJORS, Server, bin};

fn settings(url: &str) -> ConnectionSettings {
    ConnectionSettings::parse(&SecretText::new(url.to_owned())).unwrap()
}

async fn open(server: &Server) -> Replication {
    Replication::connect(&settings(&server.conninfo("postgres", ""))).await.unwrap()
}

/// The server's position, with everything before it flushed.
fn flushed(server: &Server) -> Lsn {
    server
        .sql("postgres", "SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_current_wal_flush_lsn()")
        .lines()
        .last()
        .unwrap()
        .parse()
        .unwrap()
}

/// Streams from `from` until everything before `to` is there.
async fn read_until(stream: &mut PhysicalStream<'_>, from: Lsn, to: Lsn) -> Vec<u8> {
    let mut wal = Vec::new();
    while from.0 + (wal.len() as u64) < to.0 {
        if let WalEvent::Data { start, bytes, .. } = next(stream).await {
            assert_eq!(start.0, from.0 + wal.len() as u64);
            wal.extend_from_slice(&bytes);
        }
    }
    wal
}

async fn next(stream: &mut PhysicalStream<'_>) -> WalEvent {
    tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("an event in time").unwrap()
}

#[tokio::test]
async fn streamed_wal_equals_the_servers_own() {
    let size = SegmentSize::new(1 << 20).unwrap();
    for major in MAJORS {
        let server = Server::create(major, false, &["--wal-segsize=1"], "");
        let mut session = open(&server).await;
        assert_eq!((session.version().major(), session.in_recovery()), (major, false));
        assert_eq!(session.show("wal_segment_size").await.unwrap(), "1MB");
        assert_eq!(session.read_slot("ours").await.unwrap(), None);
        session.create_physical_slot("ours", false, true).await.unwrap();
        let restart = session.read_slot("ours").await.unwrap().unwrap().restart.expect("a reserved position");
        let identity = session.identify_system().await.unwrap();
        assert!(identity.timeline == Timeline(1) && identity.flushed >= restart);

        server.sql("postgres", "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 9) b FROM generate_series(1, 20000) i");
        let first = SegmentName::at(Timeline(1), restart, size);
        let end = SegmentName::at(Timeline(1), flushed(&server), size).start(size);
        let mut stream = session.start_physical(Some("ours"), first.start(size), Timeline(1)).await.unwrap();
        let wal = read_until(&mut stream, first.start(size), end).await;
        let (mut name, mut compared) = (first, 0);
        for segment in wal[..usize::try_from(end.0 - first.start(size).0).unwrap()].chunks_exact(1 << 20) {
            let theirs = std::fs::read(Path::new(&server.data()).join("pg_wal").join(name.to_string())).unwrap();
            assert!(segment == theirs, "segment {name} of PostgreSQL {major} differs");
            name = name.next(size);
            compared += 1;
        }
        assert!(compared >= 5, "{compared} segments");

        // What is confirmed is let go of, and a sign of life comes when it is asked for.
        stream.status(end, end, Lsn(0), true).await.unwrap();
        while !matches!(next(&mut stream).await, WalEvent::Keepalive { .. }) {}
        stream.stop().await.unwrap();
        assert_eq!(session.read_slot("ours").await.unwrap().unwrap().restart, Some(end));
        session.drop_slot("ours").await.unwrap();
        assert_eq!(session.read_slot("ours").await.unwrap(), None);
        session.close().await;
    }
}

#[tokio::test]
async fn a_promotion_ends_the_timeline_and_the_next_goes_on_over_the_same_connection() {
    for major in [14, 18] {
        let primary = Server::start_with(major, false, "wal_keep_size = 1GB");
        let standby = primary.standby("");
        let mut session = open(&standby).await;
        assert!(session.in_recovery());
        let at = session.identify_system().await.unwrap();
        let start = SegmentName::at(Timeline(1), at.flushed, SegmentSize::DEFAULT).start(SegmentSize::DEFAULT);
        let mut stream = session.start_physical(None, start, Timeline(1)).await.unwrap();
        standby.promote();
        let end = loop {
            if let WalEvent::EndOfTimeline(end) = next(&mut stream).await {
                break end;
            }
        };
        assert_eq!((end.next, next(&mut stream).await), (Timeline(2), WalEvent::EndOfTimeline(end)));
        let file = session.timeline_history(Timeline(2)).await.unwrap();
        let theirs = std::fs::read(Path::new(&standby.data()).join("pg_wal/00000002.history")).unwrap();
        assert_eq!(file.content, theirs);
        assert_eq!(file.history.ancestors[0].switch, end.switch);

        // Nothing is left of the old timeline there; the new one streams.
        let mut over = session.start_physical(None, end.switch, Timeline(1)).await.unwrap();
        assert_eq!(next(&mut over).await, WalEvent::EndOfTimeline(EndOfTimeline { next: Timeline(2), switch: end.switch }));
        let until = flushed(&standby);
        let from = SegmentName::at(Timeline(2), end.switch, SegmentSize::DEFAULT).start(SegmentSize::DEFAULT);
        let mut stream = session.start_physical(None, from, Timeline(2)).await.unwrap();
        let wal = read_until(&mut stream, from, until).await;
        let name = SegmentName::at(Timeline(2), from, SegmentSize::DEFAULT);
        let theirs = std::fs::read(Path::new(&standby.data()).join("pg_wal").join(name.to_string())).unwrap();
        assert!(wal[..1 << 24] == theirs[..]);
    }
}

/// Unpacks a backup so that the server's own tool can judge it.
async fn unpack(session: &mut Replication, options: &BaseBackupOptions, to: &Path) -> (u64, u32) {
    let mut stream = session.base_backup(options).await.unwrap();
    let (start, spaces) = (stream.start(), stream.tablespaces().to_vec());
    assert!(spaces.iter().all(|s| s.kib.is_some_and(|k| k > 0) && s.oid.is_some() == s.path.is_some()), "{spaces:?}");
    let (mut archives, mut manifest, mut progress) = (Vec::<(Option<u32>, Vec<u8>)>::new(), Vec::new(), 0);
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("an event in time").unwrap() {
            BackupEvent::Archive(oid) => archives.push((oid, Vec::new())),
            BackupEvent::Data(bytes) => archives.last_mut().unwrap().1.extend_from_slice(&bytes),
            BackupEvent::Manifest(bytes) => manifest.extend_from_slice(&bytes),
            BackupEvent::Progress(sent) => {
                assert!(sent <= archives.iter().map(|(_, tar)| tar.len() as u64).sum());
                progress += 1;
            }
            BackupEvent::End(end) => break end,
        }
    };
    assert_eq!(stream.next().await.unwrap(), BackupEvent::End(end));
    assert!(end.lsn > start.lsn && end.timeline == start.timeline);
    assert_eq!(archives.iter().map(|(oid, _)| *oid).collect::<Vec<_>>(), spaces.iter().map(|s| s.oid).collect::<Vec<_>>());
    archives.sort_by_key(|(oid, _)| *oid);
    for (oid, tar) in &archives {
        let dir = oid.map_or(to.to_owned(), |oid| to.join(format!("pg_tblspc/{oid}")));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(to.with_extension("tar"), tar).unwrap();
        let unpacked = Command::new("tar").arg("xf").arg(to.with_extension("tar")).arg("-C").arg(&dir).status().unwrap();
        assert!(unpacked.success());
    }
    std::fs::write(to.join("backup_manifest"), manifest).unwrap();
    (archives.len() as u64, progress)
}

#[tokio::test]
async fn base_backups_pass_pg_verifybackup() {
    for major in MAJORS {
        let server = Server::create(major, false, &["-k"], "");
        let space = server.extra_dir("space");
        server.sql("postgres", &format!("CREATE TABLESPACE s LOCATION '{space}'"));
        server.sql("postgres", "CREATE TABLE t TABLESPACE s AS SELECT i, repeat('x', 500) b FROM generate_series(1, 20000) i");
        let dir = tempfile::tempdir().unwrap();
        let mut session = open(&server).await;
        for (name, checksums) in [("a", ManifestChecksums::Crc32c), ("b", ManifestChecksums::Sha256)] {
            let mut options = BaseBackupOptions::new("it's a label");
            options.wal = true;
            options.manifest = Some(checksums);
            options.verify_checksums = true;
            let to = dir.path().join(name);
            let (archives, progress) = unpack(&mut session, &options, &to).await;
            assert!(archives == 2 && (major < 15 || progress > 1), "{archives} archives, {progress} reports");
            let label = std::fs::read_to_string(to.join("backup_label")).unwrap();
            assert!(label.contains("LABEL: it's a label"), "{label}");
            assert!(std::fs::read_to_string(to.join("tablespace_map")).unwrap().contains(&space));
            let verified = Command::new(bin(major).join("pg_verifybackup")).arg(&to).output().unwrap();
            assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        }
        // The connection is free again.
        session.identify_system().await.unwrap();
        if major == 18 {
            let path = server.sql("postgres", "SELECT pg_relation_filepath('t')");
            let file = Path::new(&server.data()).join(path);
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[5000] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            let mut options = BaseBackupOptions::new("bad");
            options.verify_checksums = true;
            let mut stream = session.base_backup(&options).await.unwrap();
            while !matches!(stream.next().await.unwrap(), BackupEvent::End(_)) {}
            assert!(stream.bad_checksums());
            drop(stream);
            session.identify_system().await.unwrap();
        }
    }
}

#[tokio::test]
async fn refusals_say_why() {
    for major in [14, 18] {
        let server = Server::create(
            major,
            false,
            &["--wal-segsize=1"],
            "max_wal_size = 2MB\nmin_wal_size = 2MB\nmax_replication_slots = 1\nwal_level = logical",
        );
        let mut session = open(&server).await;
        let start = session.identify_system().await.unwrap().flushed;
        let start =
            SegmentName::at(Timeline(1), start, SegmentSize::new(1 << 20).unwrap()).start(SegmentSize::new(1 << 20).unwrap());
        let why = |r: Result<PhysicalStream<'_>>| {
            let error = r.map(drop).unwrap_err();
            (Refusal::of(&error), error.kind())
        };
        assert_eq!(
            why(session.start_physical(Some("none"), start, Timeline(1)).await),
            (Some(Refusal::SlotMissing), Kind::NotFound)
        );
        // The connection lives on after a refusal.
        session.create_physical_slot("mine", false, false).await.unwrap();
        assert_eq!(session.read_slot("mine").await.unwrap().unwrap().restart, None);
        let exists = session.create_physical_slot("mine", false, true).await.unwrap_err();
        assert_eq!(Refusal::of(&exists), Some(Refusal::SlotExists), "{}", exists.report());
        let full = session.create_physical_slot("other", true, true).await.unwrap_err();
        assert_eq!(Refusal::of(&full), Some(Refusal::NoFreeSlot), "{}", full.report());

        let mut other = open(&server).await;
        let mut stream = other.start_physical(Some("mine"), start, Timeline(1)).await.unwrap();
        assert_eq!(why(session.start_physical(Some("mine"), start, Timeline(1)).await), (Some(Refusal::SlotInUse), Kind::Locked));
        // A connection in the middle of a stream is not for other commands.
        next(&mut stream).await;
        assert_eq!(other.identify_system().await.unwrap_err().kind(), Kind::Bug);
        drop(other);
        while session.drop_slot("mine").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        for _ in 0..6 {
            server.sql("postgres", "CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1)");
            flushed(&server);
        }
        let gone = match session.start_physical(None, start, Timeline(1)).await {
            Ok(mut stream) => stream.next().await.unwrap_err(),
            Err(e) => e,
        };
        assert_eq!((Refusal::of(&gone), gone.kind()), (Some(Refusal::WalRemoved), Kind::NotFound), "{}", gone.report());
        assert!(gone.report().contains("hint: Take a new base backup"), "{}", gone.report());

        // A slot of another kind is left alone.
        let mut session = open(&server).await;
        server.sql("postgres", "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')");
        let logical = session.read_slot("theirs").await.unwrap_err();
        assert_eq!(logical.kind(), Kind::Config, "{}", logical.report());

        // A role without the attribute, and one that pg_hba.conf does not let in.
        server.sql("postgres", "CREATE ROLE plain LOGIN");
        let refused = Replication::connect(&settings(&server.conninfo("plain", ""))).await.unwrap_err();
        assert_eq!((Refusal::of(&refused), refused.kind()), (Some(Refusal::Privilege), Kind::Denied), "{}", refused.report());
        server.install_hba("local all all trust\n");
        let refused = Replication::connect(&settings(&server.conninfo("postgres", ""))).await.unwrap_err();
        assert_eq!((Refusal::of(&refused), refused.kind()), (Some(Refusal::Login), Kind::Denied), "{}", refused.report());
        assert!(
            refused.report().contains("hint: Check user and password, and that pg_hba.conf has a line"),
            "{}",
            refused.report()
        );
    }
}

#[tokio::test]
async fn every_way_to_log_in_works_and_unsafe_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let server = Server::start_with(17, true, "");
    server.install_tls(&dir.path().join("server.crt"), &dir.path().join("server.key"));
    server.sql(
        "postgres",
        "SET password_encryption = 'md5'; CREATE ROLE weak LOGIN REPLICATION PASSWORD 'hunter2';
         SET password_encryption = 'scram-sha-256'; CREATE ROLE strong LOGIN REPLICATION PASSWORD 'hunter2'; CREATE ROLE bare LOGIN REPLICATION PASSWORD 'hunter2'",
    );
    server.install_hba(
        "local all all trust\nlocal replication all trust\nhostssl replication strong all scram-sha-256\nhost replication weak all md5\nhost replication bare all password\n",
    );
    let (port, ca) = (server.port(), dir.path().join("ca.crt").display().to_string());
    let url = |user: &str, rest: &str| settings(&format!("postgresql://{user}@localhost:{port}/{rest}"));
    for (user, rest) in [
        ("strong:hunter2", format!("?sslmode=verify-full&sslrootcert={ca}&channel_binding=require&require_auth=scram-sha-256")),
        ("strong:hunter2", "?sslmode=require&channel_binding=disable".to_owned()),
        ("strong:hunter2", "?sslmode=allow".to_owned()),
        ("strong:hunter2", String::new()),
        ("strong:hunter2", format!("?sslmode=require&sslnegotiation=direct&sslrootcert={ca}")),
        ("weak:hunter2", "?sslmode=disable".to_owned()),
        ("weak:hunter2", "?sslmode=require&require_auth=!password".to_owned()),
        ("bare:hunter2", "?sslmode=require".to_owned()),
    ] {
        let mut session =
            Replication::connect(&url(user, &rest)).await.unwrap_or_else(|e| panic!("{user} {rest}: {}", e.report()));
        session.identify_system().await.unwrap();
    }
    for (user, rest, words) in [
        ("strong:wrong", "?sslmode=require", "password authentication failed"),
        ("strong", "?sslmode=require", "none is given"),
        ("strong:hunter2", "?sslmode=disable", "no encryption"),
        ("strong:hunter2", "?sslmode=require&require_auth=md5", "require_auth does not allow"),
        ("weak:hunter2", "?sslmode=require&channel_binding=require", "no channel binding"),
        ("bare:hunter2", "?sslmode=disable", "not encrypted"),
        ("bare:hunter2", "?sslmode=require&require_auth=!password", "require_auth does not allow"),
    ] {
        let error = Replication::connect(&url(user, rest)).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{user} {rest}: {}", error.report());
        assert!(error.report().contains(words) && !error.report().contains("hunter2"), "{}", error.report());
    }
    let other = dir.path().join("other.crt").display().to_string();
    let error =
        Replication::connect(&url("strong:hunter2", &format!("?sslmode=verify-ca&sslrootcert={other}"))).await.unwrap_err();
    assert!(error.kind() == Kind::Denied && error.report().contains("hint: Check sslmode and sslrootcert"), "{}", error.report());
    let error = Replication::connect(&settings("postgresql://x@127.0.0.1:1/")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);

    // Lists of hosts, and the role a server must have.
    let standby = server.standby("listen_addresses = ''");
    let both = |attrs: &str| {
        let (a, b) = (server.socket_dir(), standby.socket_dir());
        settings(&format!("host=/nowhere,{a},{b} port=5432,{port},{} user=postgres target_session_attrs={attrs}", standby.port()))
    };
    for (attrs, in_recovery) in [
        ("any", false),
        ("primary", false),
        ("read-write", false),
        ("standby", true),
        ("read-only", true),
        ("prefer-standby", true),
    ] {
        assert_eq!(Replication::connect(&both(attrs)).await.unwrap().in_recovery(), in_recovery, "{attrs}");
    }
    let only = settings(&format!("{} target_session_attrs=standby", server.conninfo("postgres", "")));
    let error = Replication::connect(&only).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.report().contains("the server is not standby"), "{}", error.report());
}
