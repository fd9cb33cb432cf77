use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::*;

fn sh(script: &str) -> Program {
    Program::new("/bin/sh").args(["-c", script]).inherit(&["PATH"])
}

#[test]
fn output_status_and_stderr_are_told() {
    let cancel = Cancel::new();
    assert_eq!(sh("printf abc; echo warn >&2").read(10, &cancel).unwrap(), b"abc");
    let mut child = sh("echo out; echo first >&2; echo last >&2; exit 3").start(&cancel).unwrap();
    let mut text = String::new();
    child.take_output().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\n");
    let error = child.wait().into_result().unwrap_err();
    assert_eq!(error.report(), "sh failed with exit status 3: first\nlast");
}

#[test]
fn the_environment_is_cleared_and_secrets_stay_out_of_debug() {
    let program = Program::new("/usr/bin/env").env("PGPASSWORD", "hunter2");
    assert!(!format!("{program:?}").contains("hunter2"));
    assert_eq!(program.read(100, &Cancel::new()).unwrap(), b"PGPASSWORD=hunter2\n");
}

#[test]
fn input_goes_through() {
    let mut child = Program::new("/bin/cat").with_input().start(&Cancel::new()).unwrap();
    let (mut input, mut output) = (child.take_input().unwrap(), child.take_output().unwrap());
    let data = vec![7u8; 5 << 20];
    std::thread::scope(|s| {
        let data = &data;
        s.spawn(move || input.write_all(data).unwrap());
        let mut back = Vec::new();
        output.read_to_end(&mut back).unwrap();
        assert!(back == *data);
    });
    assert!(child.wait().success());
}

#[test]
fn cancel_ends_the_whole_group_and_the_reader() {
    let cancel = Cancel::new();
    let mut child =
        sh("trap '' TERM; sleep 100 & echo $!; wait; sleep 100").grace(Duration::from_millis(200)).start(&cancel).unwrap();
    let mut output = child.take_output().unwrap();
    let mut first = [0u8; 32];
    let n = output.read(&mut first).unwrap();
    let grandchild: i32 = String::from_utf8_lossy(&first[..n]).trim().parse().unwrap();
    cancel.cancel();
    let began = Instant::now();
    // An error where the grandchild was killed and did not get to its end yet.
    output.read_to_end(&mut Vec::new()).ok();
    assert_eq!(child.wait().into_result().unwrap_err().kind(), Kind::Cancelled);
    let state = || std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
    while !state().is_empty() && !state().contains(") Z") {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", state());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_timeout_and_a_drop_end_it() {
    let began = Instant::now();
    let error = sh("sleep 100").timeout(Some(Duration::from_millis(100))).read(1, &Cancel::new()).unwrap_err();
    assert_eq!(error.to_string(), "sh did not end within 100ms");
    let child = sh("sleep 100").start(&Cancel::new()).unwrap();
    let pid = child.id();
    drop(child);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_killed_program_hints_at_memory() {
    let error = sh("kill -9 $$").read(1, &Cancel::new()).unwrap_err();
    assert!(error.report().starts_with("sh was killed (signal 9)\nhint: "), "{}", error.report());
}

#[test]
fn a_missing_program_is_named() {
    let error = Program::new("no-such-program").start(&Cancel::new()).err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("no-such-program"));
}

#[test]
fn long_stderr_keeps_its_end() {
    let mut child = sh("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done").start(&Cancel::new()).unwrap();
    drop(child.take_output());
    let exit = child.wait();
    assert!(exit.stderr().ends_with("line 2999\n") && exit.stderr().len() <= 8 << 10);
}
