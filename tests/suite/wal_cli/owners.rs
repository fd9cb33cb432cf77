//! Whose archive it is.

use std::path::Path;

use super::{Place, archived, load, until};
use crate::support::postgres::Server;

#[test]
fn of_two_primaries_with_one_past_the_second_is_told_and_overwrites_nothing() {
    let place = Place::new("");
    let first = Server::create(17, false, &["--wal-segsize=1"], &place.archiving());
    load(&first, "one", 1);
    archived(&first);
    // A copy that is started as it is goes on with the same timeline.
    let second = Server::unborn(17);
    first.copy_to(&second, &["-X", "stream"], "");
    load(&first, "two", 3);
    archived(&first);
    let before: Vec<(_, Vec<u8>)> = place.objects("/wal/").into_iter().map(|p| (p.clone(), std::fs::read(&p).unwrap())).collect();
    second.restart();
    load(&second, "other", 3);
    second.sql("postgres", "SELECT pg_switch_wal()");
    let failing = || second.sql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") == "t";
    until("the second one is refused", failing);
    assert!(second.log().contains("is stored already with another content"), "{}", second.log());
    assert!(second.log().contains("hint: Two servers archive to one place"), "{}", second.log());
    for (path, bytes) in &before {
        assert!(std::fs::read(path).unwrap() == *bytes, "{} was changed", path.display());
    }
    assert_eq!(place.objects("/wal/").len(), before.len());
}

#[test]
fn another_system_is_refused_until_it_is_adopted() {
    let place = Place::new("");
    let old = Server::create(16, false, &["--wal-segsize=1"], &place.archiving());
    load(&old, "one", 1);
    archived(&old);
    let of_old = place.objects("/wal/main/16-").len();
    old.stop();
    // What an upgrade leaves: a new system, of a later major.
    let new = Server::create(17, false, &["--wal-segsize=1"], &place.archiving());
    load(&new, "one", 1);
    new.sql("postgres", "SELECT pg_switch_wal()");
    until("it is refused", || new.sql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") == "t");
    assert!(new.log().contains("may not archive into cluster main"), "{}", new.log());
    assert!(new.log().contains("strongroom wal adopt"), "{}", new.log());
    assert!(place.objects("/wal/main/17-").is_empty());

    place.run(&["wal", "adopt", "--job", "acme/wal"]).exits(2);
    place.run(&["wal", "adopt", "--job", "acme/wal", "--data-directory", "/etc"]).exits(1);
    let told = place.run(&["wal", "adopt", "--job", "acme/wal", "--data-directory", &new.data()]).ok();
    assert!(told.out.contains("archives from now on") && told.out.contains("base backup"), "{}", told.out);
    archived(&new);
    let status = place.status();
    let systems = status["systems"].as_array().unwrap();
    assert_eq!(systems.len(), 2, "{status:#}");
    assert!(systems[0]["system"].as_str().unwrap().starts_with("16-") && systems[0]["current"] == false, "{status:#}");
    assert!(systems[1]["system"].as_str().unwrap().starts_with("17-") && systems[1]["current"] == true, "{status:#}");
    assert_eq!(systems[1]["timelines"][0]["gaps"], serde_json::json!([]), "{status:#}");
    assert_eq!(place.objects("/wal/main/16-").len(), of_old, "the old one's WAL stays as it was");
}

#[test]
fn a_restored_server_archives_nothing_until_it_is_adopted() {
    let place = Place::new("");
    let server = Server::create(17, false, &["--wal-segsize=1"], &place.archiving());
    archived(&server);
    let marker = Path::new(&server.data()).join("strongroom.restored");
    let before = place.objects("/wal/");
    // As the server's user, who must be able to remove it.
    let done = place.as_user(Path::new("touch")).arg(&marker).status().unwrap();
    assert!(done.success());
    load(&server, "one", 2);
    server.sql("postgres", "SELECT pg_switch_wal()");
    until("it is refused", || server.sql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") == "t");
    assert!(
        server.log().contains("was restored from a backup") && server.log().contains("strongroom wal adopt"),
        "{}",
        server.log()
    );
    assert_eq!(place.objects("/wal/"), before);
    let told = place.run(&["--json", "wal", "adopt", "--data-directory", &server.data()]).ok().json();
    assert_eq!((&told["marker_removed"], &told["new"]), (&true.into(), &false.into()), "{told:#}");
    assert!(!marker.exists());
    archived(&server);
}
