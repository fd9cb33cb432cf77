//! Tablespaces of every kind: linked, inside the data directory, with relative links, and not to be read.

use super::*;
use crate::wal_cli::Place;

fn oid(server: &Server) -> String {
    server.sql("postgres", "SELECT oid FROM pg_tablespace WHERE oid > 1664")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_read_makes_the_backup_incomplete() {
    let server = Server::create(16, false, &[], "autovacuum = off");
    let space = server.folder("far");
    server.sql("postgres", &format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
    server.sql("postgres", "CREATE TABLE t TABLESPACE far AS SELECT 1 AS n; CHECKPOINT");
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let away = space.with_file_name("away");
    std::fs::rename(&space, &away).unwrap();
    let report = try_back_up(&repo, from_files(&server)).await.unwrap();
    std::fs::rename(&away, &space).unwrap();
    assert!(!report.complete, "{:?}", report.warnings);
    let named = |m: &String| m.contains(&format!("tablespace {}", oid(&server))) && m.contains(space.to_str().unwrap());
    assert!(report.missing.iter().any(named), "{:?}", report.missing);
    whole(&try_back_up(&repo, from_files(&server)).await.unwrap());
}

/// The server follows a link that somebody made of a database's directory; nothing that is below may go unsaid.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_moved_behind_a_link_makes_the_backup_incomplete() {
    let server = Server::start(17);
    server.sql("postgres", "CREATE TABLE t AS SELECT 1 AS n; CHECKPOINT");
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    let data = std::path::PathBuf::from(server.data());
    let database = data.join("base").join(server.sql("postgres", "SELECT oid FROM pg_database WHERE datname = 'postgres'"));
    let away = server.folder("away").join("database");
    std::fs::rename(&database, &away).unwrap();
    std::os::unix::fs::symlink(&away, &database).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", data.join("somebody's")).unwrap();
    let report = try_back_up(&repo, from_files(&server)).await.unwrap();
    assert!(!report.complete);
    assert!(report.missing.iter().any(|m| m.contains(database.to_str().unwrap())), "{:?}", report.missing);
    assert!(report.warnings.iter().any(|w| w.contains("somebody's")), "{:?}", report.warnings);
    assert!(!report.missing.iter().any(|m| m.contains("somebody's")), "{:?}", report.missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_inside_the_data_directory_stay_there() {
    for major in [14, 18] {
        let server = Server::create(major, false, &[], "allow_in_place_tablespaces = on");
        server.sql("postgres", "CREATE TABLESPACE near LOCATION ''");
        server.sql("postgres", "CREATE TABLE t TABLESPACE near AS SELECT generate_series(1, 1000) AS n; CHECKPOINT");
        let oid = oid(&server);
        let store = tempfile::tempdir().unwrap();
        let repo = crate::backup::init(store.path()).await;
        let files = try_back_up(&repo, from_files(&server)).await.unwrap();
        let stream = try_back_up(&repo, from_stream(&server)).await.unwrap();
        drop(server);
        whole(&files);
        // Version 14 leaves them out of what it sends, silently.
        assert_eq!(stream.complete, major > 14, "{:?}", stream.missing);
        assert!(stream.complete || stream.missing[0].contains(&format!("tablespace {oid}")), "{:?}", stream.missing);
        for report in [files, stream].into_iter().filter(|r| r.complete) {
            let place = tempfile::tempdir().unwrap();
            restore(store.path(), &report.snapshot.to_hex(), place.path());
            let data = place.path().join("data");
            assert!(!place.path().join("tablespaces").exists());
            assert!(data.join("pg_tblspc").join(&oid).symlink_metadata().unwrap().is_dir());
            verify(major, &data);
            assert_eq!(start(major, &data).sql("postgres", "SELECT count(*) FROM t"), "1000");
        }
    }
}

/// A server that goes on where a stock tool restored it is backed up, and restored by us to another place.
#[tokio::test(flavor = "multi_thread")]
async fn relative_links_lead_to_the_same_place_beside_another_data_directory() {
    let server = Server::start(15);
    let space = server.folder("far");
    server.sql("postgres", &format!("CREATE TABLESPACE far LOCATION '{}'", space.display()));
    server.sql("postgres", "CREATE TABLE t TABLESPACE far AS SELECT generate_series(1, 1000) AS n; CHECKPOINT");
    let oid = oid(&server);
    let store = tempfile::tempdir().unwrap();
    let repo = crate::backup::init(store.path()).await;
    whole(&try_back_up(&repo, from_files(&server)).await.unwrap());
    drop(server);
    let restored = tempfile::tempdir().unwrap();
    restore(store.path(), "latest", restored.path());
    let server = start(15, &restored.path().join("data"));
    server.sql("postgres", "INSERT INTO t VALUES (1001)");
    tokio::task::spawn_blocking(move || {
        let place = Place::new("");
        let url = server.conninfo("postgres", "");
        let configure = |mode: &str| {
            let job = format!("main: {{ pg_base: {{ url: \"{url}\"{mode} }}, schedule: never }}");
            place.configure(&place.local_store(), "", &job);
        };
        // It looks for the link's target from another directory, and sends an empty archive.
        configure("");
        let ran = place.run(&["backup", "acme/main"]).exits(3);
        assert!(ran.err.contains(&format!("tablespace {oid}")) && ran.err.contains("relative"), "{}", ran.err);

        configure(&format!(", data_directory: \"{}\"", server.data()));
        place.run(&["backup", "acme/main"]).ok();
        let other = Server::unborn(15);
        place.run(&["restore", "acme/main", "--to", &other.data()]).ok();
        let to = Path::new(&other.data()).with_file_name("tablespaces").join(&oid);
        assert_eq!(std::fs::read_link(Path::new(&other.data()).join("pg_tblspc").join(&oid)).unwrap(), to);
        crate::pitr::run_here(&other);
        other.restart();
        assert_eq!(other.sql("postgres", "SELECT count(*) FROM t"), "1001");

        // What the README says to do.
        let absolute =
            "for link in data/pg_tblspc/*; do [ -L \"$link\" ] && ln -sfn \"$(realpath -e \"$link\")\" \"$link\"; done";
        succeeds(Command::new("/bin/sh").args(["-ec", absolute]).current_dir(server.socket_dir()));
        configure("");
        place.run(&["backup", "acme/main"]).ok();
    })
    .await
    .unwrap();
}
