//! Archiving and recovering with real servers.

use std::path::Path;

use super::{Place, archived, load, until};
use crate::support::postgres::Server;

/// Under load, every segment arrives, no call fails, and a recovery gets to the end.
fn archives_and_recovers(major: u32, initdb: &[&str], mib: u32) {
    let place = Place::new("");
    let server = Server::create(major, false, initdb, &place.archiving());
    let copy = Server::unborn(major);
    server.copy_to(&copy, &["-X", "none"], &format!("archive_mode = off\n{}", place.restoring("")));
    load(&server, "one", mib);
    load(&server, "two", mib);
    let last = archived(&server);
    assert_eq!(server.sql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0", "{}", server.log());
    let rows = server.sql("postgres", "SELECT count(*), sum(n) FROM two");

    let status = place.status();
    assert_eq!(status["state"], "ok", "{status:#}");
    let system = &status["systems"][0];
    let timeline = &system["timelines"][0];
    assert_eq!(timeline["gaps"], serde_json::json!([]), "{status:#}");
    assert!(timeline["ranges"][0]["last"].as_str().unwrap() >= last.as_str(), "{status:#}");
    assert_eq!(timeline["ranges"].as_array().unwrap().len(), 1, "{status:#}");
    let label = place.objects(".backup");
    assert_eq!(label.len(), 1, "the base backup's label is archived, too: {label:?}");

    std::fs::write(Path::new(&copy.data()).join("recovery.signal"), "").unwrap();
    copy.restart();
    until("the copy is in service", || copy.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    assert_eq!(copy.sql("postgres", "SELECT count(*), sum(n) FROM two"), rows);
    assert!(copy.log().contains("restored log file"), "{}", copy.log());
    // Whoever read ahead serves for a while yet; what is there is nothing that the server minds.
    let helper = Path::new(&copy.data()).join("pg_wal/pgsql_tmp.strongroom-prefetch/socket");
    assert!(helper.exists(), "nobody read ahead");
    assert!(!copy.log().contains("invalid"), "{}", copy.log());
}

#[test]
fn a_server_with_small_segments_archives_and_is_recovered() {
    archives_and_recovers(17, &["--wal-segsize=1"], 12);
}

#[test]
fn a_server_of_the_oldest_major_archives_and_is_recovered() {
    archives_and_recovers(14, &[], 20);
}

#[test]
fn an_outage_of_the_store_loses_nothing() {
    let place = Place::new("");
    let server = Server::create(18, false, &["--wal-segsize=1"], &place.archiving());
    load(&server, "one", 2);
    archived(&server);
    let (store, away) = (place.path("store"), place.path("away"));
    std::fs::rename(&store, &away).unwrap();
    load(&server, "two", 6);
    let failed = || server.sql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") == "t";
    server.sql("postgres", "SELECT pg_switch_wal()");
    until("the archiver meets the outage", failed);
    let status = place.run(&["--json", "wal", "status"]).exits(1).json();
    assert_eq!(status["archives"][0]["state"], "unknown");
    std::fs::rename(&away, &store).unwrap();
    archived(&server);
    let status = place.status();
    let timeline = &status["systems"][0]["timelines"][0];
    assert_eq!(timeline["gaps"], serde_json::json!([]), "{status:#}");
    assert!(timeline["ranges"][0]["segments"].as_u64().unwrap() >= 8, "{status:#}");
}

#[test]
fn segments_that_a_dead_primary_never_archived_are_archived_by_its_successor() {
    let place = Place::new("");
    // Its archiving is broken from the beginning; it keeps everything.
    let broken = "wal_level = replica\narchive_mode = on\narchive_command = 'false'\nwal_keep_size = 1GB\nmax_wal_senders = 5\n";
    let primary = Server::create(16, false, &["--wal-segsize=1"], broken);
    load(&primary, "one", 2);
    let standby = primary.standby(&format!("{}wal_keep_size = 1GB\n", place.archiving()));
    load(&primary, "two", 5);
    let end = primary.sql("postgres", "SELECT pg_current_wal_lsn()");
    let caught = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    until("the standby has it", || standby.sql("postgres", &caught) == "t");
    let rows = primary.sql("postgres", "SELECT count(*) FROM two");
    primary.stop_immediate();
    standby.promote();
    load(&standby, "three", 2);
    archived(&standby);
    let status = place.status();
    let timelines = status["systems"][0]["timelines"].as_array().unwrap().clone();
    assert_eq!(timelines.len(), 2, "{status:#}");
    for timeline in &timelines {
        assert_eq!(timeline["gaps"], serde_json::json!([]), "{status:#}");
    }
    assert!(timelines[0]["ranges"][0]["segments"].as_u64().unwrap() >= 5, "backfilled: {status:#}");
    assert_eq!(timelines[1]["parent"][0], 1, "{status:#}");
    assert_eq!(standby.sql("postgres", "SELECT count(*) FROM two"), rows);
    assert_eq!(standby.sql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0", "{}", standby.log());
}

#[test]
fn status_tells_which_points_can_be_recovered_and_how_far_the_archive_is_behind() {
    let place = Place::new("");
    let server = Server::create(17, false, &["--wal-segsize=1"], &place.archiving());
    let url = server.conninfo("postgres", "postgres");
    let wal = format!("url: \"{url}\", mode: archive, data_directory: {}", server.data());
    place.configure(&place.local_store(), &wal, &format!("base: {{ pg_base: {{ url: \"{url}\" }} }}"));
    assert_eq!(place.status()["state"], "never");
    archived(&server);
    assert_eq!(place.status()["systems"][0]["windows"], serde_json::json!([]));
    place.run(&["backup", "acme/base"]).ok();
    load(&server, "one", 3);
    let last = archived(&server);

    let status = place.status();
    assert_eq!(status["state"], "ok", "{status:#}");
    assert_eq!(
        (&status["server"]["timeline"], &status["server"]["failing"]),
        (&1.into(), &serde_json::Value::Null),
        "{status:#}"
    );
    assert!(status["lag"]["bytes"].as_u64().unwrap() < 1 << 20, "{status:#}");
    let system = &status["systems"][0];
    assert_eq!(system["last"]["segment"].as_str().unwrap(), last, "{status:#}");
    let windows = system["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 1, "{status:#}");
    assert_eq!((&windows[0]["open"], &windows[0]["to"]), (&true.into(), &system["last"]["end"]), "{status:#}");
    let text = place.run(&["wal", "status"]).ok().out;
    assert!(text.contains("can recover:") && text.contains("on timeline 1"), "{text}");

    // A hole behind the base backup ends what can be recovered.
    let stop: strongroom::model::Lsn = windows[0]["from"].as_str().unwrap().parse().unwrap();
    let size = strongroom::model::SegmentSize::new(1 << 20).unwrap();
    let of_stop = strongroom::model::SegmentName::at(strongroom::model::Timeline(1), stop, size);
    let gone = of_stop.next(size);
    assert!(gone.to_string() < last);
    for object in place.objects(&gone.to_string()) {
        std::fs::remove_file(object).unwrap();
    }
    let status = place.run(&["--json", "wal", "status", "--check"]).exits(1).json();
    let window = &status["archives"][0]["systems"][0]["windows"][0];
    assert_eq!((&window["open"], &window["to"]), (&false.into(), &gone.start(size).to_string().into()), "{status:#}");
}

#[test]
fn an_outage_during_a_recovery_never_ends_it_early() {
    let place = Place::new("");
    let server = Server::create(18, false, &["--wal-segsize=1"], &place.archiving());
    let copy = Server::unborn(18);
    server.copy_to(&copy, &["-X", "none"], "archive_mode = off\n");
    load(&server, "one", 4);
    let middle = archived(&server);
    load(&server, "two", 4);
    archived(&server);
    let rows = server.sql("postgres", "SELECT count(*), sum(n) FROM two");
    // The store goes away when the recovery is in the middle of it.
    let (store, away, over) = (place.path("store"), place.path("away"), place.path("over"));
    let fetch = place.restoring(" --no-prefetch");
    let fetch = fetch.trim_end().strip_prefix("restore_command = '").unwrap().strip_suffix('\'').unwrap().to_owned();
    let config = format!("restore_command = 'if [ %f = {middle} ] && [ ! -e {over} ]; then mv {store} {away}; fi; {fetch}'\n");
    let data = Path::new(&copy.data()).to_owned();
    std::fs::write(data.join("postgresql.auto.conf"), config).unwrap();
    std::fs::write(data.join("recovery.signal"), "").unwrap();
    // It may be up for reading for a moment, before it meets the outage.
    drop(copy.try_start());
    until("the recovery is stopped", || Path::new(&away).exists() && !data.join("postmaster.pid").exists());
    assert!(!copy.log().contains("archive recovery complete"), "{}", copy.log());
    assert!(data.join("recovery.signal").exists());
    std::fs::write(&over, "").unwrap();
    std::fs::rename(&away, &store).unwrap();
    copy.restart();
    until("the copy is in service", || copy.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    assert_eq!(copy.sql("postgres", "SELECT count(*), sum(n) FROM two"), rows);
}

/// The former primary died with WAL that nobody archived, and no segment is missing within either timeline.
#[test]
fn a_hole_before_a_failover_is_told() {
    let place = Place::new("");
    let primary = Server::create(16, false, &["--wal-segsize=1"], &place.archiving());
    place.configure(
        &place.local_store(),
        "",
        &format!("base: {{ pg_base: {{ url: \"{}\" }} }}", primary.conninfo("postgres", "postgres")),
    );
    place.run(&["backup", "acme/base"]).ok();
    let names = [1, 2, 3].map(|_| {
        load(&primary, "one", 1);
        archived(&primary)
    });
    let standby = primary.standby("");
    let end = primary.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
    let caught = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    until("the standby has it", || standby.sql("postgres", &caught) == "t");
    primary.kill();
    standby.promote();
    load(&standby, "two", 2);
    archived(&standby);
    let status = place.run(&["--json", "wal", "status", "--check"]).ok().json();
    assert_eq!(status["archives"][0]["systems"][0]["timelines"].as_array().unwrap().len(), 2, "{status:#}");
    // All of the old timeline behind the first of them.
    let last = place.objects("/00000001").into_iter().filter_map(|o| Some(o.file_name()?.to_str()?.get(..24)?.to_owned()));
    for name in last.filter(|n| n.starts_with("00000001") && *n > names[0]).collect::<std::collections::BTreeSet<_>>() {
        for object in place.objects(&name) {
            std::fs::remove_file(object).unwrap();
        }
    }
    let status = place.run(&["--json", "wal", "status", "--check"]).exits(1).json();
    let archive = &status["archives"][0];
    assert_eq!(archive["state"], "gap", "{status:#}");
    for timeline in archive["systems"][0]["timelines"].as_array().unwrap() {
        assert_eq!(timeline["gaps"], serde_json::json!([]), "{status:#}");
    }
}

#[test]
fn what_expired_between_older_base_backups_is_no_gap() {
    let place = Place::new("");
    let server = Server::create(17, false, &["--wal-segsize=1"], &place.archiving());
    let url = server.conninfo("postgres", "postgres");
    place.configure(
        &place.local_store(),
        "",
        &format!("base: {{ pg_base: {{ url: \"{url}\" }}, keep: {{ recovery_window: 1s, last: 5 }} }}"),
    );
    for _ in 0..3 {
        place.run(&["backup", "acme/base"]).ok();
        load(&server, "one", 3);
        archived(&server);
    }
    let ranges = || place.status()["systems"][0]["timelines"][0]["ranges"].as_array().unwrap().len();
    until("the first two keep only what makes them consistent", || {
        place.run(&["prune", "acme/base"]).ok();
        ranges() == 3
    });
    let status = place.run(&["--json", "wal", "status", "--check"]).ok().json();
    let windows = status["archives"][0]["systems"][0]["windows"].as_array().unwrap().clone();
    let needed: Vec<bool> = windows.iter().map(|w| w["needed"].as_bool().unwrap()).collect();
    assert_eq!(needed, [false, false, true], "{status:#}");
    // A hole behind the one that times are recovered from is one.
    let of_last = windows[2]["to"].as_str().unwrap().parse::<strongroom::model::Lsn>().unwrap();
    let size = strongroom::model::SegmentSize::new(1 << 20).unwrap();
    let end = strongroom::model::SegmentName::at(strongroom::model::Timeline(1), of_last, size);
    let gone = strongroom::model::SegmentName::before(strongroom::model::Timeline(1), end.start(size), size);
    let gone = strongroom::model::SegmentName::before(strongroom::model::Timeline(1), gone.start(size), size);
    for object in place.objects(&gone.to_string()) {
        std::fs::remove_file(object).unwrap();
    }
    let status = place.run(&["--json", "wal", "status", "--check"]).exits(1).json();
    assert_eq!(status["archives"][0]["state"], "gap", "{status:#}");
}
