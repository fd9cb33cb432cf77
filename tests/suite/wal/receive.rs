//! Streaming from real servers: what arrives, what is confirmed, what is lost when a server dies, and what happens when one is
//! promoted, a slot is gone or the store is away.

use std::path::Path;
use std::time::{Duration, Instant};

use strongroom::postgres::{ConnectionSettings, Control};
use strongroom::runtime::{Cancel, SecretText};
use strongroom::store::ErrorKind;
use strongroom::store::fault::{Fault, Rule};
use strongroom::wal::{Progress, ReceiveEvent, ReceiveOptions, Receiver, Watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::support::postgres::{SERVERS, Server};

const SLOT: &str = "strongroom";
const LONG: Duration = Duration::from_secs(60);

/// What a receiver has told so far.
#[derive(Debug, Clone, Default)]
struct Told {
    progress: Option<Progress>,
    streams: Vec<(Timeline, Lsn, String)>,
    gaps: Vec<(Timeline, Lsn, Lsn)>,
    store_failures: usize,
    interruptions: Vec<String>,
    dropped: usize,
}

#[derive(Debug)]
struct Hear(watch::Sender<Told>);

impl Watcher for Hear {
    fn event(&self, event: ReceiveEvent<'_>) {
        self.0.send_modify(|told| match event {
            ReceiveEvent::Streaming { timeline, from, host, .. } => told.streams.push((timeline, from, host.to_owned())),
            ReceiveEvent::Progress(progress) => told.progress = Some(progress),
            ReceiveEvent::Gap { timeline, from, to, .. } => told.gaps.push((timeline, from, to)),
            ReceiveEvent::SlotDropped { .. } => told.dropped += 1,
            ReceiveEvent::StoreFails(_) => told.store_failures += 1,
            ReceiveEvent::Interrupted(e) => told.interruptions.push(e.report()),
        });
    }
}

struct Running {
    cancel: Cancel,
    told: watch::Receiver<Told>,
    task: JoinHandle<Result<()>>,
}

impl Running {
    async fn until(&mut self, what: &str, reached: impl FnMut(&Told) -> bool) -> Told {
        let waited = tokio::time::timeout(LONG, self.told.wait_for(reached)).await.map(|told| told.map(|t| t.clone()));
        match waited {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => panic!("the receiver ended before {what}: {:?}", self.told.borrow()),
            Err(_) => panic!("no {what}: {:?}", self.told.borrow()),
        }
    }

    async fn stored(&mut self, position: Lsn) -> Told {
        self.until(&format!("WAL up to {position}"), |t| t.progress.is_some_and(|p| p.stored >= position)).await
    }

    /// Asks it to end, and waits.
    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(LONG, self.task).await.expect("an end in time").unwrap().unwrap();
    }

    /// Ends it as a kill would.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn options(max_lag: Duration) -> ReceiveOptions {
    ReceiveOptions { max_lag, ..ReceiveOptions::new(SLOT) }
}

fn receive(place: &Place, url: &str, options: ReceiveOptions) -> Running {
    let (sender, told) = watch::channel(Told::default());
    let url = url.to_owned();
    let settings = Arc::new(move || ConnectionSettings::parse(&SecretText::new(url.clone())));
    let receiver = Receiver::new(place.archive(), settings, options, Arc::new(Hear(sender)));
    let cancel = Cancel::new();
    let own = cancel.clone();
    Running { cancel, told, task: tokio::spawn(async move { receiver.run(&own).await }) }
}

fn url(server: &Server) -> String {
    server.conninfo("postgres", "")
}

fn folder_of(place: &Place, server: &Server) -> (Folder, SegmentSize) {
    let control = Control::read(Path::new(&server.data())).unwrap();
    (place.archive().folder(SystemId { major: control.major, identifier: control.system_identifier }), control.wal_segment_size)
}

fn lsn(server: &Server, sql: &str) -> Lsn {
    server.sql("postgres", sql).lines().last().unwrap().parse().unwrap()
}

fn flushed(server: &Server) -> Lsn {
    lsn(server, "SELECT pg_current_wal_flush_lsn()")
}

/// Some WAL, and the position behind it.
fn write(server: &Server, rows: u32) -> Lsn {
    lsn(
        server,
        &format!(
            "CREATE TABLE IF NOT EXISTS t (a text); INSERT INTO t SELECT repeat(md5(i::text), 9) FROM generate_series(1, {rows}) i;
             SELECT pg_current_wal_flush_lsn()"
        ),
    )
}

/// The end of what the archive gives back from this segment on.
async fn end_of(folder: &Folder, size: SegmentSize, mut name: SegmentName) -> Lsn {
    loop {
        match fetch(folder, &WalFile::Segment(name), Mode::Recovery).await.0.unwrap() {
            Fetched::Delivered { .. } => name = name.next(size),
            Fetched::Unfinished { until } => return until,
            Fetched::Missing { .. } => return name.start(size),
        }
    }
}

/// Compares what the archive gives back with the server's own files, and tells how many there were and where they end.
async fn compare(folder: &Folder, server: &Server, first: SegmentName, size: SegmentSize) -> (usize, Lsn) {
    let (mut name, mut count) = (first, 0);
    loop {
        let (done, bytes) = fetch(folder, &WalFile::Segment(name), Mode::Recovery).await;
        let theirs = || std::fs::read(Path::new(&server.data()).join("pg_wal").join(name.to_string())).unwrap();
        match done.unwrap() {
            Fetched::Delivered { .. } => assert!(bytes == theirs(), "{name} differs"),
            Fetched::Unfinished { until } => {
                let length = usize::try_from(until.0 - name.start(size).0).unwrap();
                assert!(bytes[..length] == theirs()[..length], "the beginning of {name} differs");
                return (count + 1, until);
            }
            Fetched::Missing { .. } => return (count, name.start(size)),
        }
        (name, count) = (name.next(size), count + 1);
    }
}

#[tokio::test]
async fn what_is_streamed_is_what_the_server_wrote() {
    for (major, mib) in SERVERS.into_iter().zip([1, 1, 16, 1, 16, 64]) {
        let place = Place::new();
        let server = Server::create(major, false, &[&format!("--wal-segsize={mib}")], "wal_keep_size = 2GB");
        let mut options = options(Duration::from_millis(300));
        if major == 16 {
            // Put together in a file.
            options.memory = 0;
        }
        let mut running = receive(&place, &url(&server), options.clone());
        let first = running.until("stream", |t| !t.streams.is_empty()).await.streams[0].1;
        let position = write(&server, 20_000);
        running.stored(position).await;
        server.sql("postgres", "SELECT pg_switch_wal()");
        let position = write(&server, 10);
        running.stored(position).await;
        running.stop().await;

        let (folder, size) = folder_of(&place, &server);
        let first = SegmentName::at(Timeline(1), first, size);
        let (count, end) = compare(&folder, &server, first, size).await;
        assert!(count >= 2 && end >= position, "{count} segments up to {end}");
        // Confirmed is what is stored, to the byte.
        let kept = lsn(&server, "SELECT restart_lsn FROM pg_replication_slots");
        assert_eq!(kept, end, "PostgreSQL {major}");

        // Another process goes on in the middle of the segment, and tips are gone once it is whole.
        let mut running = receive(&place, &url(&server), options);
        write(&server, 10);
        server.sql("postgres", "SELECT pg_switch_wal()");
        let position = write(&server, 10);
        let told = running.stored(position).await;
        assert_eq!((told.streams.len(), told.gaps.len()), (1, 0));
        assert_eq!(told.streams[0].1, SegmentName::at(Timeline(1), end, size).start(size));
        running.stop().await;
        let (_, end) = compare(&folder, &server, first, size).await;
        assert!(end >= position);
        let current = SegmentName::at(Timeline(1), end, size).to_string();
        let tips: Vec<String> = place.keys().await.into_iter().filter(|k| k.contains(".tip/")).collect();
        assert!(!tips.is_empty() && tips.iter().all(|k| k.contains(&format!("{current}.tip/"))), "{tips:?}");
    }
}

// With threads: the server is waited for while the receiver works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_shuts_down_waits_only_for_one_request() {
    let place = Place::new();
    let server = Server::start(17);
    let mut running = receive(&place, &url(&server), options(LONG));
    let position = write(&server, 100);
    let told = running.until("all of it", |t| t.progress.is_some_and(|p| p.received >= position)).await;
    assert!(told.progress.unwrap().stored < position, "nothing is due yet: {told:?}");
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let told = running.until("an end", |t| !t.interruptions.is_empty()).await;
    let (folder, size) = folder_of(&place, &server);
    let (_, end) = compare(&folder, &server, SegmentName::at(Timeline(1), told.streams[0].1, size), size).await;
    let control = Control::read(Path::new(&server.data())).unwrap();
    assert!(end > control.checkpoint, "the last checkpoint at {}, stored up to {end}: {told:?}", control.checkpoint);
    running.kill().await;
}

#[tokio::test]
async fn after_a_failover_it_goes_on_with_the_new_primary() {
    for major in [14, 18] {
        let place = Place::new();
        let primary = Server::create(major, false, &["--wal-segsize=1"], "");
        let standby = primary.standby("");
        let both = format!(
            "host={},{} port={},{} user=postgres target_session_attrs=primary",
            primary.socket_dir(),
            standby.socket_dir(),
            primary.port(),
            standby.port()
        );
        let mut running = receive(&place, &both, options(Duration::from_millis(300)));
        let first = running.until("stream", |t| !t.streams.is_empty()).await.streams[0].1;
        // The slot is kept on the standby, too.
        while standby.sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE restart_lsn IS NOT NULL") != "1" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let position = write(&primary, 10_000);
        running.stored(position).await;
        wait_for_replay(&standby, position).await;
        primary.kill();
        standby.promote();
        let position = write(&standby, 5_000);
        let told = running.stored(position).await;
        assert_eq!(told.gaps, []);
        let (timeline, ..) = told.streams.last().unwrap();
        assert_eq!(*timeline, Timeline(2), "{told:?}");
        running.stop().await;

        let (folder, size) = folder_of(&place, &standby);
        let history = std::fs::read(Path::new(&standby.data()).join("pg_wal/00000002.history")).unwrap();
        let (done, bytes) = fetch(&folder, &WalFile::History(Timeline(2)), Mode::Recovery).await;
        assert!(matches!(done.unwrap(), Fetched::Delivered { .. }) && bytes == history);
        let history = TimelineHistory::parse(Timeline(2), std::str::from_utf8(&history).unwrap()).unwrap();
        let switch = history.ancestors[0].switch;
        // Every segment of the lineage is there: whole ones of the old timeline, then those of the new one.
        let survey = folder.survey().await.unwrap();
        let mut name = SegmentName::at(Timeline(1), first, size);
        while name.end(size) <= switch {
            assert!(survey.has(name), "{name}");
            name = name.next(size);
        }
        let (count, end) = compare(&folder, &standby, name.on(Timeline(2)), size).await;
        assert!(count > 1 && end >= position, "{count} segments up to {end}");
        assert_eq!(folder.identity().await.unwrap().unwrap().gaps, []);
    }
}

async fn wait_for_replay(standby: &Server, position: Lsn) {
    while lsn(standby, "SELECT pg_last_wal_replay_lsn()") < position {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_standby_that_is_promoted_is_followed_over_the_same_connection() {
    let place = Place::new();
    let primary = Server::create(17, false, &["--wal-segsize=1"], "");
    let standby = primary.standby("");
    let mut running = receive(&place, &url(&standby), options(Duration::from_millis(300)));
    running.until("stream", |t| !t.streams.is_empty()).await;
    let position = write(&primary, 5_000);
    running.stored(position).await;
    standby.promote();
    let position = write(&standby, 5_000);
    let told = running.stored(position).await;
    assert_eq!(told.streams.iter().map(|s| s.0).collect::<Vec<_>>(), [Timeline(1), Timeline(2)]);
    assert_eq!((told.gaps, told.interruptions), (vec![], vec![]));
    running.stop().await;

    // The former primary went on alone: it is not the one to stream from any more.
    write(&primary, 10);
    let mut running = receive(&place, &url(&primary), options(Duration::from_millis(300)));
    let told = running.until("refusal", |t| !t.interruptions.is_empty()).await;
    assert!(told.streams.is_empty(), "{told:?}");
    assert!(told.interruptions[0].contains("the archive went on to timeline 2"), "{}", told.interruptions[0]);
    running.stop().await;
}

#[tokio::test]
async fn a_hole_is_recorded_and_left_behind() {
    for major in [14, 18] {
        let place = Place::new();
        let server =
            Server::create(major, false, &["--wal-segsize=1"], "max_wal_size = 2MB\nmin_wal_size = 2MB\nwal_keep_size = 0");
        let mut running = receive(&place, &url(&server), options(Duration::from_millis(300)));
        let position = write(&server, 5_000);
        let first = running.stored(position).await.streams[0].1;
        running.stop().await;
        server.sql("postgres", &format!("SELECT pg_drop_replication_slot('{SLOT}')"));
        for _ in 0..5 {
            write(&server, 5_000);
            server.sql("postgres", "SELECT pg_switch_wal(); CHECKPOINT");
        }
        let mut running = receive(&place, &url(&server), options(Duration::from_millis(300)));
        let position = write(&server, 5_000);
        let told = running.stored(position).await;
        running.stop().await;
        let (folder, size) = folder_of(&place, &server);
        let [(timeline, from, to)] = told.gaps[..] else { panic!("{told:?}") };
        let recorded = folder.identity().await.unwrap().unwrap().gaps;
        assert_eq!(recorded.iter().map(|g| (g.timeline, g.from, g.to)).collect::<Vec<_>>(), [(timeline, from, to)]);
        let before = end_of_whole(&folder, size, SegmentName::at(timeline, first, size)).await;
        assert!(from == before && to > from, "{from} to {to}; stored up to {before}");
        // What is missing is told as missing, and what is behind it is there.
        let (lost, _) = fetch(&folder, &WalFile::Segment(SegmentName::at(timeline, from, size)), Mode::Recovery).await;
        assert!(lost.unwrap_err().report().contains("never archived"));
        let (_, end) = compare(&folder, &server, SegmentName::at(timeline, to, size), size).await;
        assert!(end >= position);
    }
}

#[tokio::test]
async fn what_one_host_has_no_more_another_one_still_has() {
    for major in [14, 18] {
        let place = Place::new();
        let conf = "max_wal_size = 2MB\nmin_wal_size = 2MB\nwal_keep_size = 0";
        let primary = Server::create(major, false, &["--wal-segsize=1"], conf);
        let mut running = receive(&place, &url(&primary), options(Duration::from_millis(300)));
        let position = write(&primary, 1_000);
        let first = running.stored(position).await.streams[0].1;
        running.stop().await;
        for _ in 0..5 {
            write(&primary, 5_000);
            primary.sql("postgres", "SELECT pg_switch_wal(); CHECKPOINT");
        }
        // It begins behind what is missing, which the slot on the primary keeps.
        let standby = primary.standby("");
        let both = format!(
            "host={},{} port={},{} user=postgres",
            standby.socket_dir(),
            primary.socket_dir(),
            standby.port(),
            primary.port()
        );
        let mut running = receive(&place, &both, options(Duration::from_millis(300)));
        let position = write(&primary, 1_000);
        let told = running.stored(position).await;
        running.stop().await;
        assert!(told.gaps.is_empty() && told.interruptions.len() == 1, "PostgreSQL {major}: {told:?}");
        let hosts: Vec<bool> = told.streams.iter().map(|s| s.2.contains(&standby.socket_dir())).collect();
        assert_eq!(hosts, [true, false], "{told:?}");
        let (folder, size) = folder_of(&place, &primary);
        assert_eq!(folder.identity().await.unwrap().unwrap().gaps, []);
        assert!(end_of(&folder, size, SegmentName::at(Timeline(1), first, size)).await >= position);
    }
}

#[tokio::test]
async fn only_what_no_host_has_is_lost() {
    let place = Place::new();
    let conf = "max_wal_size = 2MB\nmin_wal_size = 2MB\nwal_keep_size = 0";
    let primary = Server::create(17, false, &["--wal-segsize=1"], conf);
    let mut running = receive(&place, &url(&primary), options(Duration::from_millis(300)));
    let position = write(&primary, 1_000);
    running.stored(position).await;
    running.stop().await;
    primary.sql("postgres", &format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    for _ in 0..5 {
        write(&primary, 5_000);
        primary.sql("postgres", "SELECT pg_switch_wal(); CHECKPOINT");
    }
    let standby = primary.standby("");
    let both = format!(
        "host={},{} port={},{} user=postgres",
        standby.socket_dir(),
        primary.socket_dir(),
        standby.port(),
        primary.port()
    );
    let mut running = receive(&place, &both, options(Duration::from_millis(300)));
    let told = running.until("a gap", |t| !t.gaps.is_empty()).await;
    assert_eq!(told.interruptions.len(), 2, "each host is asked: {told:?}");
    let position = write(&primary, 1_000);
    let told = running.stored(position).await;
    running.stop().await;
    assert_eq!(told.gaps.len(), 1, "{told:?}");
    let (folder, size) = folder_of(&place, &primary);
    assert!(end_of(&folder, size, SegmentName::at(Timeline(1), told.gaps[0].2, size)).await >= position);
}

/// The end of the whole segments.
async fn end_of_whole(folder: &Folder, size: SegmentSize, mut name: SegmentName) -> Lsn {
    while folder.has(name).await.unwrap() {
        name = name.next(size);
    }
    name.start(size)
}

#[tokio::test]
async fn an_outage_stops_the_confirmation_and_nothing_is_lost() {
    let place = Place::new();
    let server = Server::create(18, false, &["--wal-segsize=1"], "max_wal_size = 4MB\nmin_wal_size = 2MB");
    let mut running = receive(&place, &url(&server), options(Duration::from_millis(300)));
    let position = write(&server, 1_000);
    let first = running.stored(position).await.streams[0].1;
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).writes());
    let before = running.told.borrow().progress.unwrap();
    for _ in 0..5 {
        write(&server, 8_000);
        server.sql("postgres", "CHECKPOINT");
    }
    let far = running.until("failures", |t| t.store_failures >= 6).await;
    let progress = far.progress.unwrap();
    assert!(progress.stored == before.stored || progress.stored <= before.received, "{progress:?} after {before:?}");
    // A few segments wait in memory, not all.
    assert!(progress.received.0 - progress.stored.0 < 6 << 20, "{progress:?}");
    assert_eq!(lsn(&server, "SELECT restart_lsn FROM pg_replication_slots"), progress.stored);
    assert!(flushed(&server).0 - progress.stored.0 > 8 << 20);
    place.store.clear();
    let position = write(&server, 10);
    let told = running.stored(position).await;
    assert_eq!(told.gaps, []);
    running.stop().await;
    let (folder, size) = folder_of(&place, &server);
    assert!(end_of(&folder, size, SegmentName::at(Timeline(1), first, size)).await >= position);
    assert_eq!(
        lsn(&server, "SELECT restart_lsn FROM pg_replication_slots"),
        end_of(&folder, size, SegmentName::at(Timeline(1), first, size)).await
    );
}

#[tokio::test]
async fn a_slot_that_keeps_too_much_is_let_go() {
    let place = Place::new();
    let server = Server::create(16, false, &["--wal-segsize=1"], "max_wal_size = 2MB\nmin_wal_size = 2MB");
    let mut options = options(Duration::from_millis(300));
    options.max_slot_size = Some(6 << 20);
    let mut running = receive(&place, &url(&server), options);
    let position = write(&server, 1_000);
    running.stored(position).await;
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)));
    for _ in 0..8 {
        write(&server, 5_000);
        server.sql("postgres", "CHECKPOINT");
    }
    running.until("a dropped slot", |t| t.dropped > 0).await;
    while server.sql("postgres", "SELECT count(*) FROM pg_replication_slots") != "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.sql("postgres", "CHECKPOINT");
    place.store.clear();
    let told = running.until("a gap", |t| !t.gaps.is_empty()).await;
    let position = write(&server, 1_000);
    running.stored(position).await;
    running.stop().await;
    let (folder, size) = folder_of(&place, &server);
    let (_, from, to) = told.gaps[0];
    assert!(to > from);
    let (_, end) = compare(&folder, &server, SegmentName::at(Timeline(1), to, size), size).await;
    assert!(end >= position);
}
