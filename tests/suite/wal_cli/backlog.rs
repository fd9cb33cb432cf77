//! A backlog: many segments, few calls that do work.

use std::path::Path;

use super::{Place, load, until};
use crate::support::postgres::Server;

/// The first call sends what waits behind it; the calls about these answer without the store.
#[test]
fn what_waits_is_sent_in_advance_and_answered_without_the_store() {
    let place = Place::new("");
    // Nothing is archived by the server itself: it only keeps what is ready.
    let server = Server::create(17, false, &["--wal-segsize=1"], "archive_mode = on\narchive_command = 'false'\n");
    load(&server, "one", 8);
    server.sql("postgres", "SELECT pg_switch_wal()");
    let pg_wal = Path::new(&server.data()).join("pg_wal");
    let ready = || {
        let names =
            std::fs::read_dir(pg_wal.join("archive_status")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter_map(|n| n.strip_suffix(".ready").map(str::to_owned)).collect();
        names.sort();
        names
    };
    until("segments are ready", || ready().len() >= 8);
    let waiting = ready();
    let push = |name: &str| {
        let path = pg_wal.join(name);
        place.run(&["--json", "wal", "push", path.to_str().unwrap(), "--job", "acme/wal"])
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
