//! `wal fetch`: every way to end, with its exit code. PostgreSQL takes 1 for "the log ends here" and goes into service.

use std::path::Path;

use super::{Place, archived, load, ran};
use crate::cli::Ran;
use crate::support::postgres::Server;
use crate::support::seaweedfs;

/// An archive with a few segments of 1 MiB, and the server that made it.
fn archive() -> (Place, Server, Vec<String>) {
    let place = Place::new("");
    let server = Server::create(17, false, &["--wal-segsize=1"], &place.archiving());
    load(&server, "one", 4);
    archived(&server);
    let stored = place.objects("/wal/main/");
    let names = stored.iter().filter_map(|p| p.file_name()?.to_str()).filter(|n| n.len() == 24).map(str::to_owned).collect();
    (place, server, names)
}

fn fetch(place: &Place, name: &str, more: &[&str]) -> Ran {
    let to = place.path("fetched");
    std::fs::remove_file(&to).ok();
    let ran = place.run(&[&["wal", "fetch", name, &to, "--job", "acme/wal", "--no-prefetch"], more].concat());
    assert_eq!(Path::new(&to).exists(), ran.code == 0, "a file is there exactly if it was delivered: {}", ran.err);
    assert!(!Path::new(&format!("{to}.strongroom")).exists(), "nothing half is left behind");
    ran
}

#[test]
fn what_is_there_is_delivered_and_what_is_not_is_proven_missing() {
    let (place, server, names) = archive();
    let name = names.last().unwrap();
    fetch(&place, name, &[]).ok();
    let fetched = std::fs::read(place.path("fetched")).unwrap();
    assert_eq!(fetched, std::fs::read(Path::new(&server.data()).join("pg_wal").join(name)).unwrap());
    for missing in ["000000010000000900000001", "00000002.history", "000000010000000000000001.partial"] {
        fetch(&place, missing, &[]).exits(1);
        fetch(&place, missing, &["--mode", "standby"]).exits(1);
        fetch(&place, missing, &["--mode", "rewind"]).exits(1);
    }
}

#[test]
fn a_hole_with_later_wal_behind_it_is_no_end() {
    let (place, _server, names) = archive();
    let gone = &names[names.len() - 2];
    for object in place.objects(gone) {
        std::fs::remove_file(object).unwrap();
    }
    let ran = fetch(&place, gone, &[]).exits(255);
    assert!(ran.err.contains("is missing, but it is not the end of the archive"), "{}", ran.err);
    fetch(&place, gone, &["--mode", "standby"]).exits(1);
    let status = place.run(&["--json", "wal", "status", "--check"]).exits(1).json();
    assert_eq!(status["archives"][0]["state"], "gap", "{status:#}");
}

#[test]
fn a_damaged_object_is_no_end() {
    let (place, _server, names) = archive();
    let object = &place.objects(&names[1])[0];
    let mut bytes = std::fs::read(object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(object).unwrap();
    std::fs::write(object, bytes).unwrap();
    fetch(&place, &names[1], &[]).exits(255);
}

#[test]
fn two_objects_that_were_swapped_are_detected() {
    let (place, _server, names) = archive();
    let (one, two) = (place.objects(&names[1]).remove(0), place.objects(&names[2]).remove(0));
    let bytes = std::fs::read(&one).unwrap();
    std::fs::rename(&two, &one).unwrap();
    std::fs::write(&two, bytes).unwrap();
    for name in &names[1..3] {
        fetch(&place, name, &[]).exits(255);
    }
}

#[test]
fn a_wrong_password_is_no_end() {
    let (place, _server, _names) = archive();
    std::fs::write(place.path("password"), "wrong\n").unwrap();
    fetch(&place, "000000010000000900000001", &[]).exits(255);
    fetch(&place, "000000010000000900000001", &["--mode", "standby"]).exits(1);
}

#[test]
fn a_store_that_is_gone_is_no_end() {
    let (place, _server, _names) = archive();
    std::fs::rename(place.path("store"), place.path("away")).unwrap();
    fetch(&place, "000000010000000900000001", &[]).exits(255);
    fetch(&place, "000000010000000900000001", &["--mode", "standby"]).exits(1);
}

#[test]
fn a_mistake_in_the_configuration_is_no_end() {
    let place = Place::bare();
    for text in ["tenants: [", "tenants: {}", "nonsense: 1", ""] {
        std::fs::write(place.config(), text).unwrap();
        fetch(&place, "000000010000000900000001", &[]).exits(255);
    }
    std::fs::remove_file(place.config()).unwrap();
    fetch(&place, "000000010000000900000001", &[]).exits(255);
    fetch(&place, "000000010000000900000001", &["--mode=standby"]).exits(1);
}

#[test]
fn a_mistake_of_usage_is_no_end() {
    let place = Place::new("");
    let to = place.path("fetched");
    let name = "000000010000000900000001";
    for args in [
        &["wal", "fetch"] as &[&str],
        &["wal", "fetch", name],
        &["wal", "fetch", name, &to, "--nonsense"],
        &["wal", "fetch", name, &to, "--mode", "nonsense"],
        &["wal", "fetch", name, &to, "--job", "acme/nonsense"],
        &["wal", "fetch", name, &to, "--job", "not a job"],
        &["wal", "fetch", "../../etc/passwd", &to],
        &["wal", "fetch", "", &to],
        &["wal", "fetch", name, "/nonexistent/directory/file"],
        // Nothing was ever archived: that is not the end of an archive.
        &["wal", "fetch", name, &to, "--no-prefetch"],
    ] {
        place.run(args).exits(255);
    }
    place.run(&["wal", "fetch", name, &to, "--mode", "standby", "--job", "acme/nonsense"]).exits(1);
}

#[test]
fn neither_a_refusal_nor_an_outage_of_a_server_is_an_end() {
    let weed = seaweedfs::shared();
    let place = Place::bare();
    let s3 = |port: u16, key: &str, more: &str| {
        format!(
            "{{ url: s3://{}/wal-{}, allow_http: true, password: {{ file: {} }}, {more}s3: {{ endpoint: \"http://127.0.0.1:{port}\", access_key_id: {{ value: testkey }}, secret_access_key: {{ value: {key} }} }} }}",
            seaweedfs::BUCKET,
            std::process::id(),
            place.path("password"),
        )
    };
    let name = "000000010000000900000001";
    place.configure(&s3(weed.http, "testsecret", ""), "", "");
    place.run(&["init"]).ok();
    let server = Server::create(15, false, &["--wal-segsize=1"], &place.archiving());
    archived(&server);
    fetch(&place, name, &[]).exits(1);
    place.configure(&s3(weed.http, "wrong", ""), "", "");
    let refused = fetch(&place, name, &[]).exits(255);
    assert!(refused.err.contains("signature"), "{}", refused.err);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.configure(&s3(nobody, "testsecret", "timeouts: { operation: 2s }, "), "fetch_timeout: 1s", "");
    fetch(&place, name, &[]).exits(255);
    fetch(&place, name, &["--mode", "standby"]).exits(1);
}

#[test]
fn a_push_that_fails_is_tried_again_by_the_server() {
    let place = Place::new("");
    let push = |args: &[&str]| place.run(&[&["wal", "push"], args].concat());
    for args in [&[] as &[&str], &["nonsense"], &["/nonexistent/000000010000000900000001"], &["x", "--nonsense"]] {
        let ran = push(args);
        assert!((1..=125).contains(&ran.code), "{args:?}: {}", ran.code);
    }
    // The name is looked at before anything else, the configuration included.
    let mut alone = place.as_user(&super::program("strongroom"));
    let ran = ran(alone.args(["--config", "/nonexistent", "wal", "push", "/etc/passwd"]));
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("no file of a WAL archive"), "{}", ran.err);
}
