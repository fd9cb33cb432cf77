//! The daemon's socket, and the client in the database's container.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use strongroom_client::call;
use strongroom_client::message::{self, Reply, Request};
use strongroom_client::wire;

use super::{Place, archived, load, program, ran, until};
use crate::support::postgres::{Server, user};
use crate::wal::{SYSTEM, file, name, segment};

/// `strongroom run`, ended with the test.
struct Daemon(Child);

impl Daemon {
    fn start(place: &Place) -> Self {
        let log = File::create(place.path("daemon.log")).unwrap();
        let mut command = Command::new(program("strongroom"));
        command.arg("--config").arg(place.config()).arg("run").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // As the servers' user: a local store's files belong to who writes them.
        if let Some(user) = user() {
            use std::os::unix::process::CommandExt as _;
            let id = |flag: &str| {
                let out = Command::new("id").args([flag, user]).output().unwrap().stdout;
                String::from_utf8(out).unwrap().trim().parse::<u32>().unwrap()
            };
            command.gid(id("-g")).uid(id("-u"));
        }
        let daemon = Self(command.spawn().unwrap());
        until("the socket is served", || UnixStream::connect(place.path("socket")).is_ok());
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn with_client(place: &Place) -> String {
    let client = program("strongroom-client");
    format!(
        "wal_level = replica\narchive_mode = on\narchive_command = '{} wal push %p --job acme/wal --socket {} --wait 2'\n",
        client.display(),
        place.path("socket")
    )
}

#[test]
fn a_server_archives_and_is_recovered_through_the_socket() {
    let place = Place::new("");
    let mut daemon = Daemon::start(&place);
    let mode = std::fs::metadata(place.path("socket")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let server = Server::create(18, false, &["--wal-segsize=1"], &with_client(&place));
    let copy = Server::unborn(18);
    let client = program("strongroom-client");
    let restore = format!(
        "archive_mode = off\nrestore_command = '{} fetch %f %p --job acme/wal --socket {}'\n",
        client.display(),
        place.path("socket")
    );
    server.copy_to(&copy, &["-X", "none"], &restore);
    load(&server, "one", 10);
    archived(&server);
    assert_eq!(server.sql("postgres", "SELECT failed_count FROM pg_stat_archiver"), "0", "{}", server.log());
    // Without the daemon nothing is lost, and nothing has to be done about it.
    daemon.0.kill().unwrap();
    daemon.0.wait().unwrap();
    load(&server, "one", 3);
    server.sql("postgres", "SELECT pg_switch_wal()");
    until("the archiver misses the daemon", || server.sql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver") == "t");
    daemon = Daemon::start(&place);
    archived(&server);
    assert_eq!(place.status()["systems"][0]["timelines"][0]["gaps"], serde_json::json!([]));
    let rows = server.sql("postgres", "SELECT count(*), sum(n) FROM one");
    std::fs::write(Path::new(&copy.data()).join("recovery.signal"), "").unwrap();
    copy.restart();
    until("the copy is in service", || copy.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    assert_eq!(copy.sql("postgres", "SELECT count(*), sum(n) FROM one"), rows);
    drop(daemon);
}

#[test]
fn without_a_daemon_the_exit_codes_are_those_of_an_unknown_answer() {
    let place = Place::new("");
    let segment = place.path("000000010000000000000001");
    std::fs::write(&segment, "x").unwrap();
    let socket = place.path("socket");
    let run =
        |args: &[&str]| ran(Command::new(program("strongroom-client")).args(args).args(["--socket", &socket, "--wait", "1"]));
    run(&["wal", "push", &segment]).exits(1);
    let to = place.path("fetched");
    run(&["wal", "fetch", "000000010000000000000001", &to]).exits(255);
    run(&["wal", "fetch", "000000010000000000000001", &to, "--mode", "standby"]).exits(1);
    run(&["--job", "acme/wal", "wal", "fetch", "000000010000000000000001", &to]).exits(255);
    run(&["wal", "--mode=recovery", "--job", "acme/wal", "fetch", "000000010000000000000001", &to]).exits(255);
    for usage in [&["wal", "fetch"] as &[&str], &["fetch", "x"], &["fetch", "../x", &to], &["fetch", "x", &to, "--nonsense"]] {
        run(usage).exits(255);
    }
    run(&["push"]).exits(1);
    run(&["push", "/etc/passwd.d!"]).exits(1);
    assert!(!Path::new(&to).exists() && !Path::new(&format!("{to}.strongroom")).exists());
}

#[test]
fn the_socket_gives_only_what_the_archive_has_to_whom_it_may() {
    let place = Place::new("");
    let _daemon = Daemon::start(&place);
    let socket = place.path("socket");
    let socket = Path::new(&socket);
    let scratch = place.path("scratch");
    let fetch = |name: &str, mode: &str| {
        let file = File::create(&scratch).unwrap();
        let request = Request::Fetch { job: "wal".into(), name: name.into(), mode: mode.into(), server: None };
        call::once(socket, &request, &[file]).unwrap()
    };
    // Nothing was ever archived: that is no proof.
    for (name, mode) in [
        ("000000010000000000000001", "recovery"),
        ("../../../etc/passwd", "recovery"),
        ("/etc/passwd", "recovery"),
        ("config", "recovery"),
        ("000000010000000000000001", "nonsense"),
    ] {
        let reply = fetch(name, mode);
        assert!(matches!(reply, Reply::Error { .. }), "{name}: {reply:?}");
    }
    assert_eq!(std::fs::metadata(&scratch).unwrap().len(), 0);
    let unknown = Request::Push { job: "other".into(), names: vec!["00000002.history".into()], server: None };
    let reply = call::once(socket, &unknown, &[File::open("/dev/null").unwrap()]).unwrap();
    assert!(matches!(&reply, Reply::Error { kind, .. } if kind == "usage"), "{reply:?}");
    let without = Request::Push { job: "wal".into(), names: vec!["00000002.history".into()], server: None };
    let reply = call::once(socket, &without, &[]).unwrap();
    assert!(matches!(&reply, Reply::Error { kind, .. } if kind == "usage"), "{reply:?}");
    for words in ["GET / HTTP/1.1\n", "STRONGROOM/2 push names=x\n", "STRONGROOM/1 drop everything=yes\n"] {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        wire::send(&stream, words, &[]).unwrap();
        let line = wire::receive_line(&mut std::io::BufReader::new(&stream)).unwrap();
        assert!(line.starts_with("error usage "), "{words}: {line}");
    }
    // One that says nothing does not keep others from being answered.
    let mut silent = UnixStream::connect(socket).unwrap();
    silent.write_all(b"STRONGROOM/1").unwrap();
    assert!(matches!(fetch("x", "recovery"), Reply::Error { .. }));

    if user().is_some() {
        let client = program("strongroom-client");
        // Its file's mode keeps strangers out already; whoever gets past that is told by credentials.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(Path::new(&scratch).parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut stranger = Command::new("runuser");
        stranger.args(["-u", "nobody", "--"]).arg(&client).args([
            "fetch",
            "000000010000000000000001",
            "/tmp/strongroom-stranger",
        ]);
        let refused = ran(stranger.arg("--socket").arg(socket)).exits(255);
        assert!(refused.err.contains("may not use"), "{}", refused.err);
    }
}

/// Asks the daemon to store a segment of 1 MiB.
fn push(number: u64) -> (Request, File) {
    let names = vec![name(1, number).to_string()];
    (Request::Push { job: "wal".into(), names, server: None }, file(&segment(1, number, 0)))
}

#[test]
fn what_could_not_be_read_ahead_is_once_it_can_be() {
    let place = Place::new("");
    let spool = place.path("spool");
    place.configure(&place.local_store(), &format!("spool: {spool}"), "");
    // Where a directory should be.
    std::fs::write(&spool, "").unwrap();
    let _daemon = Daemon::start(&place);
    let socket = place.path("socket");
    for number in 1..4 {
        let (request, file) = push(number);
        assert_eq!(call::once(Path::new(&socket), &request, &[file]).unwrap(), Reply::Stored);
    }
    let fetch = |number| {
        let server = Some(message::Server { identifier: SYSTEM.identifier, major: SYSTEM.major });
        let request = Request::Fetch { job: "wal".into(), name: name(1, number).to_string(), mode: "recovery".into(), server };
        call::once(Path::new(&socket), &request, &[tempfile::tempfile().unwrap()]).unwrap()
    };
    assert_eq!(fetch(1), Reply::Delivered(1 << 20));
    std::fs::remove_file(&spool).unwrap();
    assert_eq!(fetch(1), Reply::Delivered(1 << 20));
    let next = format!("wal-{}", name(1, 2));
    let ahead = Path::new(&spool).join("ahead");
    until("the next one is read ahead", || crate::support::tree::objects(&ahead).iter().any(|p| p.ends_with(&next)));
}

#[test]
fn a_push_under_way_is_finished_when_the_configuration_is_read_again() {
    let place = Place::new("");
    let mut config = std::fs::OpenOptions::new().append(true).open(place.config()).unwrap();
    // A segment takes 8 s, during which the next one waits.
    config.write_all(b"limits: { upload: 128KiB/s }\n").unwrap();
    let daemon = Daemon::start(&place);
    let socket = place.path("socket");
    let ask = |number| {
        let (request, segment) = push(number);
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        wire::send(&stream, &request.line(), &[segment]).unwrap();
        stream
    };
    let streams = [ask(1), ask(2)];
    let mut readers = streams.each_ref().map(std::io::BufReader::new);
    let answer = |reader: &mut std::io::BufReader<&UnixStream>| Reply::parse(&wire::receive_line(reader).unwrap()).unwrap();
    let mut answers: Vec<Reply> = readers.iter_mut().map(answer).collect();
    assert!(answers.contains(&Reply::Wait), "one is under way: {answers:?}");
    kill_process(Pid::from_raw(daemon.0.id().cast_signed()).unwrap(), Signal::HUP).unwrap();
    until("the configuration is read again", || {
        std::fs::read_to_string(place.path("daemon.log")).unwrap().contains("the configuration was read again")
    });
    for (reader, last) in readers.iter_mut().zip(&mut answers) {
        while *last == Reply::Wait {
            *last = answer(reader);
        }
    }
    assert_eq!(answers, [Reply::Stored, Reply::Stored]);
}

#[test]
fn the_client_is_installed_beside_nothing_else() {
    let place = Place::new("");
    // As in the image, where both programs lie in one directory.
    let dir = tempfile::tempdir().unwrap();
    let (own, shared) = (dir.path().join("bin"), dir.path().join("shared"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::create_dir_all(&shared).unwrap();
    let strongroom = own.join("strongroom");
    std::fs::hard_link(env!("CARGO_BIN_EXE_strongroom"), &strongroom)
        .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_strongroom"), &strongroom).map(drop))
        .unwrap();
    let install = || ran(Command::new(&strongroom).args(["install", "--client"]).arg(&shared).current_dir(place.path("")));
    let missing = install().exits(1);
    assert!(missing.err.contains("strongroom-client is in none of its places"), "{}", missing.err);
    std::fs::copy(crate::support::client::program(), own.join("strongroom-client")).unwrap();
    install().ok();
    install().ok();
    let names: Vec<_> = std::fs::read_dir(&shared).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["strongroom-client"]);
    ran(Command::new(shared.join("strongroom-client")).arg("nonsense")).exits(1);
}
