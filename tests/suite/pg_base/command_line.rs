//! `strongroom backup` of a `pg_base` job.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::cli;

fn config(dir: &Path, server: &Server) {
    let text = format!(
        "repository:\n  url: file://{}/store\n  password: {{ value: '{PASSWORD}' }}\ntenants:\n  acme:\n    jobs:\n      main:\n        pg_base: {{ url: \"{}\", data_directory: {}, cluster: orders }}\n        schedule: never\n",
        dir.display(),
        server.conninfo("postgres", ""),
        server.data()
    );
    std::fs::write(dir.join("strongroom.yaml"), text).unwrap();
}

#[test]
fn a_job_is_backed_up_and_listed() {
    let server = Server::start(17);
    let dir = tempfile::tempdir().unwrap();
    config(dir.path(), &server);
    let run = |args: &[&str]| cli::run(dir.path(), &[&["--config", "strongroom.yaml", "--json"], args].concat());
    run(&["init"]).ok();
    run(&["doctor"]).ok();
    run(&["backup", "acme/main"]).ok();
    let list = run(&["snapshots"]).ok().json();
    let text = list.to_string();
    assert!(text.contains("\"source\":\"pg_base\"") && text.contains("cluster=orders") && text.contains("\"/data\""), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_makes_it_incomplete() {
    if !crate::support::tree::is_root() {
        // Only root can be somebody else.
        return;
    }
    let server = Server::start(16);
    server.create_database("app");
    server.sql("app", "CREATE TABLE t AS SELECT 1 AS n; CHECKPOINT");
    let path = server.sql("app", "SELECT pg_relation_filepath('t')");
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    config(dir.path(), &server);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(server.data()).unwrap()).to_string();
    let run = |args: &[&str]| {
        let plain = cli::command(dir.path(), &[&["--config", "strongroom.yaml"], args].concat());
        let mut c = Command::new("setpriv");
        c.args(["--reuid", &owner, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
        c.arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(dir.path())
            .env("XDG_CACHE_HOME", dir.path().join("cache"))
            .env("HOME", dir.path());
        let output = c.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    assert_eq!(run(&["init"]).0, Some(0));
    std::fs::set_permissions(Path::new(&server.data()).join(&path), PermissionsExt::from_mode(0o0)).unwrap();
    let (code, text) = run(&["backup", "acme/main"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains(&path), "{text}");
}
