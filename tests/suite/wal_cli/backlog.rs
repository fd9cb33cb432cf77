//! A backlog: many segments, few calls that do work.

use std::path::Path;

use super::{Place, load, ran, until};
use crate::support::postgres::Server;

/// A server that keeps at least eight segments of 1 MiB ready and archives none itself, and their names in order.
fn backlog() -> (Server, Vec<String>) {
    let server = Server::create(17, false, &["--wal-segsize=1"], "archive_mode = on\narchive_command = 'false'\n");
    load(&server, "one", 8);
    server.sql("postgres", "SELECT pg_switch_wal()");
    let status = Path::new(&server.data()).join("pg_wal/archive_status");
    let ready = || {
        let names = std::fs::read_dir(&status).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter_map(|n| n.strip_suffix(".ready").map(str::to_owned)).collect();
        names.sort();
        names
    };
    until("segments are ready", || ready().len() >= 8);
    let names = ready();
    (server, names)
}

/// Without a helper, the first call sends what waits behind it; the calls about these answer without the store.
#[test]
fn what_waits_is_sent_in_advance_and_answered_without_the_store() {
    let place = Place::new("");
    let (server, waiting) = backlog();
    let pg_wal = Path::new(&server.data()).join("pg_wal");
    let push = |name: &str| {
        let path = pg_wal.join(name);
        place.run(&["--json", "wal", "push", path.to_str().unwrap(), "--job", "acme/wal", "--no-helper"])
    };
    let first = push(&waiting[0]).ok().json();
    assert_eq!(first["result"], "stored");
    assert_eq!(first["ahead"].as_u64().unwrap() as usize, waiting.len() - 1, "{first}");
    let stored = place.objects("/wal/main/17-").len();
    assert!(stored > waiting.len(), "segments and the identity: {stored}");

    // The store may be gone: it was stored, and that is what was asked.
    std::fs::rename(place.path("store"), place.path("away")).unwrap();
    for name in &waiting[1..] {
        assert_eq!(push(name).ok().json()["result"], "known");
    }
    // The first one was not sent in advance, so it is compared.
    assert_ne!(push(&waiting[0]).code, 0);
    std::fs::rename(place.path("away"), place.path("store")).unwrap();
    assert_eq!(push(&waiting[0]).ok().json()["result"], "same");

    // A file that has another content is another file.
    let changed = pg_wal.join(&waiting[1]);
    let mut bytes = std::fs::read(&changed).unwrap();
    bytes[500_000] ^= 1;
    std::fs::write(&changed, bytes).unwrap();
    let refused = push(&waiting[1]);
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("is stored already with another content"), "{}", refused.err);
}

/// The first call leaves a helper behind, which stores what waits and has the answers; it serves one configuration only.
#[test]
fn a_helper_stores_what_waits_while_the_server_asks() {
    let place = Place::new("");
    let (server, waiting) = backlog();
    let pg_wal = Path::new(&server.data()).join("pg_wal");
    let push = |name: &str, more: &[&str]| {
        let path = pg_wal.join(name);
        place.run(&[&["wal", "push", path.to_str().unwrap(), "--job", "acme/wal"], more].concat())
    };
    assert_eq!(push(&waiting[0], &["--json"]).ok().json()["result"], "stored");
    let all = || waiting.iter().all(|name| !place.objects(name).is_empty());
    until("the others are stored, too", all);

    // A restored server archives nothing, whoever has stored what.
    let marker = Path::new(&server.data()).join("strongroom.restored");
    std::fs::write(&marker, "{}").unwrap();
    assert_ne!(push(&waiting[1], &[]).code, 0);
    std::fs::remove_file(&marker).unwrap();

    // What the helper fails at is told with its code.
    let changed = pg_wal.join(&waiting[1]);
    let bytes = std::fs::read(&changed).unwrap();
    let mut other = bytes.clone();
    other[500_000] ^= 1;
    std::fs::write(&changed, other).unwrap();
    let refused = push(&waiting[1], &[]).exits(1);
    assert!(refused.err.contains("is stored already with another content"), "{}", refused.err);
    std::fs::write(&changed, bytes).unwrap();
    push(&waiting[1], &[]).ok();

    // The store may be gone: it was stored, and that is what was asked.
    let away = || std::fs::rename(place.path("store"), place.path("away")).unwrap();
    let back = || std::fs::rename(place.path("away"), place.path("store")).unwrap();
    away();
    for (number, name) in waiting[2..waiting.len() - 1].iter().enumerate() {
        push(name, if number % 2 == 0 { &[] } else { &["--json"] }).ok();
    }
    back();

    // Whom it does not work for finds out alone, and compares.
    let last = pg_wal.join(waiting.last().unwrap());
    let mut other = place.command(&["--json", "wal", "push", last.to_str().unwrap(), "--job", "acme/wal"]);
    other.env("STRONGROOM_ALLOW_COMMANDS", "1");
    // `known` where the helper was long in coming, so that the first call sent all that waited, and remembers.
    let result = ran(&mut other).ok().json()["result"].clone();
    assert!(result == "same" || result == "known", "{result}");
    let result = push(waiting.last().unwrap(), &["--json"]).ok().json()["result"].clone();
    assert!(result == "stored" || result == "known", "{result}");

    // Another configuration may name another place.
    let socket = pg_wal.join("pgsql_tmp.strongroom-push/socket");
    assert!(socket.exists());
    let text = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), format!("{text}# changed\n")).unwrap();
    until("the helper ends", || !socket.exists());
    away();
    assert_ne!(push(waiting.last().unwrap(), &[]).code, 0);
    back();
    push(waiting.last().unwrap(), &[]).ok();
}
