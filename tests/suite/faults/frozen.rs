//! A writer stands still past its lock while a stock client unlocks and prunes: it commits a whole snapshot, or none.

use std::process::Stdio;
use std::sync::Arc;

use strongroom::app::backup;
use strongroom::error::Kind;
use strongroom::repository::WriterOptions;
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::{SourceSettings, volume};
use strongroom::store::LocalStore;
use strongroom::store::fault::{Fault, FaultStore, Op, Rule, When};

use super::{PASSWORD, assert_same, bytes_in, end, failure, noise, on_repo, place, restic_check, signal, start, until};
use crate::cli::run;
use crate::support::judges;

/// What an impatient person does to a repository whose writer seems to be gone.
fn unlock_and_prune(repo: &std::path::Path, password: &str) {
    judges::restic(repo, password, &["unlock", "--remove-all"]);
    judges::restic(repo, password, &["prune", "--max-unused", "0"]);
}

#[test]
fn a_program_stopped_in_the_middle_commits_nothing() {
    let dir = place();
    let d = dir.path();
    let repo = d.join("repo");
    std::fs::create_dir(d.join("data")).unwrap();
    std::fs::write(d.join("data/old"), noise(300_000, 7)).unwrap();
    run(d, &on_repo(&["backup", "--volume", "data"])).ok();

    let go = d.join("go");
    let script = format!(
        "head -c 14000000 /dev/urandom; until test -e {}; do sleep 0.05; done; head -c 100000 /dev/urandom",
        go.display()
    );
    let args = on_repo(&["backup", "--command", "--", "sh", "-c", &script]);
    let before = bytes_in(&repo.join("data"));
    let child = start(d, &args);
    until("a pack is uploaded", || bytes_in(&repo.join("data")) > before + 5_000_000);
    signal(child.id(), "-STOP");
    unlock_and_prune(&repo, PASSWORD);
    assert!(bytes_in(&repo.join("data")) < before + 1_000_000, "the prune removed what no snapshot needs");
    std::fs::write(&go, "").unwrap();
    signal(child.id(), "-CONT");
    let (message, hint) = failure(&end(child).exits(11));
    assert!(message.contains("our lock was removed while we worked"), "{message}");
    assert!(hint.contains("run it again"), "{hint}");

    restic_check(&repo, PASSWORD, true);
    assert_eq!(judges::snapshots(&repo, PASSWORD).len(), 1);
    // Everything works on, for them and for us.
    run(d, &on_repo(&["backup", "--command", "--", "echo", "later"])).ok();
    run(d, &on_repo(&["restore", "default/volume", "--to", "back"])).ok();
    assert_same(&d.join("data"), &d.join("back"));
    restic_check(&repo, PASSWORD, true);
}

#[test]
fn a_program_stopped_after_its_last_write_leaves_a_whole_snapshot() {
    let dir = place();
    let d = dir.path();
    let repo = d.join("repo");
    std::fs::create_dir(d.join("data")).unwrap();
    std::fs::write(d.join("data/file"), noise(3_000_000, 8)).unwrap();
    let child = start(d, &on_repo(&["backup", "--volume", "data"]));
    until("the snapshot is there", || bytes_in(&repo.join("snapshots")) > 0);
    signal(child.id(), "-STOP");
    unlock_and_prune(&repo, PASSWORD);
    signal(child.id(), "-CONT");
    let ran = end(child);
    // Whether it had looked at its lock for the last time decides; either is consistent.
    let left = judges::snapshots(&repo, PASSWORD).len();
    assert_eq!((ran.code, left), if ran.code == 0 { (0, 1) } else { (11, 0) }, "{}", ran.err);
    restic_check(&repo, PASSWORD, true);
    run(d, &on_repo(&["backup", "--volume", "data"])).ok();
    run(d, &on_repo(&["restore", "default/volume", "--to", "back"])).ok();
    assert_same(&d.join("data"), &d.join("back"));
}

/// Stands still right before or right after write `n` of those under `prefix`: the moments between two instructions that no
/// signal hits reliably.
async fn frozen_at(prefix: &str, n: u64, after: bool) {
    let (dir, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repo = crate::backup::init(dir.path()).await;
    for f in 0..12 {
        std::fs::write(data.path().join(format!("file-{f}")), noise(50_000, f)).unwrap();
    }
    let store = FaultStore::new(LocalStore::open(dir.path().to_owned(), Arc::new(SystemClock)).unwrap(), 1);
    let path = dir.path().to_owned();
    let hook = Arc::new(move |_: &_| tokio::task::block_in_place(|| unlock_and_prune(&path, crate::backup::PASSWORD)));
    let fault = if after { Fault::After(hook) } else { Fault::Before(hook) };
    store.add(Rule::new(fault).on([Op::Put]).prefix(prefix).when(When::Nth(n)));
    let request = || {
        let volume = volume::Settings { path: data.path().to_owned(), ..volume::Settings::default() };
        let writer = WriterOptions { pack_size: 60_000, tree_pack_size: 4_000, index_bytes: 200_000, ..WriterOptions::default() };
        backup::Request { writer, ..crate::backup::request(SourceSettings::Volume(volume)) }
    };
    let frozen = repo.with_store(Arc::new(store));
    let at = format!("{} write {n} of {prefix}", if after { "after" } else { "before" });
    let failed = backup::run(&frozen, request(), Arc::new(SystemClock), &Cancel::new()).await.err();
    let failed = failed.unwrap_or_else(|| panic!("committed although frozen {at}"));
    assert_eq!(failed.kind(), Kind::Locked, "{at}: {}", failed.report());
    assert_eq!(repo.load_snapshots().await.unwrap().len(), 0, "{at}");
    let check = || {
        let path = dir.path().to_owned();
        tokio::task::spawn_blocking(move || restic_check(&path, crate::backup::PASSWORD, true))
    };
    check().await.unwrap();
    backup::run(&repo, request(), Arc::new(SystemClock), &Cancel::new()).await.unwrap();
    check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_it_was_about_to_write_it_commits_nothing() {
    for (prefix, n) in [("data/", 2), ("index/", 1), ("index/", 2), ("snapshots/", 1)] {
        for after in [false, true] {
            frozen_at(prefix, n, after).await;
        }
    }
}

#[test]
fn nobody_is_kept_waiting_for_a_writer_that_stands_still() {
    // A reader is not in its way, and its shared lock not in the reader's.
    let dir = place();
    let d = dir.path();
    std::fs::write(d.join("file"), "content").unwrap();
    run(d, &on_repo(&["backup", "--command", "--", "cat", "file"])).ok();
    let mut child = crate::cli::command(d, &on_repo(&["backup", "--command", "--job", "other", "--", "sleep", "611"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("there is a lock", || bytes_in(&d.join("repo/locks")) > 0);
    signal(child.id(), "-STOP");
    assert_eq!(run(d, &on_repo(&["restore", "default/command", "--to", "-"])).ok().out, "content");
    run(d, &on_repo(&["prune", "--keep-last", "1"])).exits(11);
    signal(child.id(), "-CONT");
    signal(child.id(), "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
