//! The command source and restore.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::app::backup;
use strongroom::app::restore_command::{self, Request, Target};
use strongroom::app::select::Found;
use strongroom::error::{Kind, Result};
use strongroom::restore;
use strongroom::runtime::secret::allow_commands;
use strongroom::runtime::{Cancel, Secret, SecretText, SystemClock};
use strongroom::source::command::{Command, Settings};
use strongroom::source::{Report, SourceSettings, Streams as _};

use crate::support::judges;
use crate::support::sink::Memory;

fn sh(script: &str) -> Settings {
    allow_commands(true);
    Settings::new(["/bin/sh", "-c", script].map(str::to_owned).to_vec(), "out/data.txt")
}

fn run(settings: &Settings, sink: &mut Memory) -> Result<Report> {
    Command::new(settings.clone(), Arc::new(SystemClock)).run(sink, &Cancel::new())
}

#[test]
fn output_is_one_file_and_the_environment_is_ours() {
    let mut sink = Memory::default();
    let mut s = sh("echo to stderr >&2; printf '%s' \"$SECRET\"; env | cut -d= -f1 | sort | tr '\\n' ' '");
    s.env = BTreeMap::from([("SECRET".to_owned(), Secret::Value(SecretText::new("hunter2".to_owned())))]);
    let report = run(&s, &mut sink).unwrap();
    let text = String::from_utf8(sink.file("out/data.txt").to_vec()).unwrap();
    assert!(text.starts_with("hunter2") && !text.contains("CARGO"), "{text}");
    assert_eq!(report.facts["bytes"], text.len());
    assert!(!format!("{s:?}").contains("hunter2"));
}

#[test]
fn only_status_zero_and_some_output_is_a_success() {
    let failing = |s: &Settings| {
        let mut sink = Memory::default();
        let error = run(s, &mut sink).unwrap_err();
        assert!(sink.files.is_empty());
        error.report()
    };
    assert_eq!(
        failing(&sh("seq 100000; echo the broker is down >&2; exit 3")),
        "back up the output of sh: sh failed with exit status 3: the broker is down"
    );
    let empty = failing(&sh("echo nothing to say >&2"));
    assert!(empty.starts_with("sh succeeded but wrote nothing to standard output: nothing to say\nhint: "), "{empty}");
    assert!(failing(&sh("seq 10; kill -9 $$")).contains("was killed (signal 9)"));
    let mut slow = sh("echo a; sleep 60");
    slow.timeout = Some(Duration::from_millis(300));
    let began = Instant::now();
    assert!(failing(&slow).contains("did not end within 300ms"));
    assert!(began.elapsed() < Duration::from_secs(30));
    let mut missing = sh("");
    missing.run = vec!["no-such-program-here".to_owned()];
    assert!(failing(&missing).contains("the program no-such-program-here was not found"));
    let mut outside = sh("echo a");
    outside.file = "../x".to_owned();
    assert!(failing(&outside).contains("no name for a file"));

    let mut allowed = sh("true");
    allowed.allow_empty = true;
    let mut sink = Memory::default();
    run(&allowed, &mut sink).unwrap();
    assert_eq!(sink.file("out/data.txt"), b"");

    let mut sink = Memory { fail_after: Some(10), ..Memory::default() };
    assert_eq!(run(&sh("yes"), &mut sink).unwrap_err().report(), "the store is gone\nhint: Look after it.");
}

#[test]
fn a_program_that_is_fed_decides_by_its_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("fed");
    let feed = |script: String, data: &[u8]| {
        restore::command::feed(
            &mut &*data,
            &["/bin/sh".to_owned(), "-c".to_owned(), script],
            Some(Duration::from_secs(60)),
            &Cancel::new(),
        )
    };
    let data = vec![b'x'; 3 << 20];
    assert_eq!(feed(format!("cat > {}", out.display()), &data).unwrap(), 3 << 20);
    assert!(std::fs::read(&out).unwrap() == data);
    let error = feed("cat > /dev/null; echo disk full >&2; exit 1".to_owned(), &data).unwrap_err();
    assert_eq!(error.report(), "restore into sh: sh failed with exit status 1: disk full");
    assert_eq!(feed("head -c 10 > /dev/null".to_owned(), &data).unwrap_err().kind(), Kind::Incomplete);
}

/// A source that breaks.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the store is gone"))
    }
}

#[test]
fn a_program_that_is_fed_never_takes_half_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let half = vec![b'x'; 1 << 20];
    // Whoever would finish does so before the program counts as ended.
    for n in 0..10 {
        let f = dir.path().join(n.to_string());
        let script = format!("cat > {0}.tmp && mv {0}.tmp {0}", f.display());
        let run = ["/bin/sh".to_owned(), "-c".to_owned(), script];
        let mut from = half.chain(Broken);
        let error = restore::command::feed(&mut from, &run, Some(Duration::from_secs(60)), &Cancel::new()).unwrap_err();
        assert_eq!(error.report(), "restore into sh: read the snapshot: the store is gone");
        assert!(!f.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_programs_output_goes_into_a_repository_and_back() {
    let (store, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = crate::backup::init(store.path()).await;
    let request = crate::backup::request(SourceSettings::Command(sh("seq 300000")));
    let report = backup::run(&repository, request, Arc::new(SystemClock), &Cancel::new()).await.unwrap();
    let failed = crate::backup::request(SourceSettings::Command(sh("seq 300000; exit 1")));
    backup::run(&repository, failed, Arc::new(SystemClock), &Cancel::new()).await.unwrap_err();
    let mut snapshots = repository.load_snapshots().await.unwrap();
    assert_eq!((snapshots.len(), snapshots[0].id), (1, report.snapshot));

    let found = Found { tenant: "acme".parse().unwrap(), repository, snapshot: snapshots.pop().unwrap(), warnings: Vec::new() };
    let expected = std::process::Command::new("seq").arg("300000").output().unwrap().stdout;
    let cancel = Cancel::new();
    let to = |target| restore_command::run(&found, Request::new(target), &cancel);
    let outcome = to(Target::File(out.path().to_owned())).await.unwrap();
    assert_eq!((outcome.file.as_str(), outcome.bytes), ("out/data.txt", expected.len() as u64));
    assert!(std::fs::read(out.path().join("data.txt")).unwrap() == expected);
    let copy = out.path().join("copy");
    to(Target::Program(["/bin/sh".to_owned(), "-c".to_owned(), format!("cat > {}", copy.display())].to_vec())).await.unwrap();
    assert!(std::fs::read(copy).unwrap() == expected);

    let verdict = judges::judge(store.path(), crate::backup::PASSWORD);
    assert!(std::fs::read(verdict.restic(0).join("out/data.txt")).unwrap() == expected);
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn helper_that_is_killed() {
    if std::env::var_os("STRONGROOM_TEST_HELPER").is_none() {
        return;
    }
    let mut s = sh("echo $$ > \"$PIDFILE\"; exec sleep 300");
    let pidfile = std::env::var("PIDFILE").unwrap();
    s.env = BTreeMap::from([("PIDFILE".to_owned(), Secret::Value(SecretText::new(pidfile)))]);
    run(&s, &mut Memory::default()).unwrap();
}

#[test]
fn programs_die_with_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let mut helper = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "command::helper_that_is_killed"])
        .env("STRONGROOM_TEST_HELPER", "1")
        .env("PIDFILE", &pidfile)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let pid = loop {
        let text = std::fs::read_to_string(&pidfile).unwrap_or_default();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the helper started nothing");
        std::thread::sleep(Duration::from_millis(10));
    };
    helper.kill().unwrap();
    helper.wait().unwrap();
    let began = Instant::now();
    let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z"));
    while !gone() {
        assert!(began.elapsed() < Duration::from_secs(60), "process {pid} outlives its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}
