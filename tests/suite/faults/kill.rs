//! The real program, ended by SIGKILL.

use std::path::Path;

use super::{PASSWORD, assert_same, bytes_in, end, noise, objects, on_repo, place, restic_check, start, until};
use crate::cli::run;
use crate::support::judges;

/// Kills a backup of 9 MB once `moment` has come, and looks at what is left and at the next run.
#[track_caller]
fn killed_when(what: &str, mut moment: impl FnMut(&Path) -> bool) {
    let dir = place();
    let d = dir.path();
    let repo = d.join("repo");
    std::fs::create_dir(d.join("data")).unwrap();
    let whole = 9_000_000;
    std::fs::write(d.join("data/large"), noise(whole - 1_000_000, 1)).unwrap();
    std::fs::write(d.join("data/small"), noise(1_000_000, 2)).unwrap();

    let mut child = start(d, &on_repo(&["backup", "--volume", "data"]));
    until(what, || moment(&repo));
    child.kill().unwrap();
    let killed = end(child);
    restic_check(&repo, PASSWORD, true);
    let snapshots = judges::snapshots(&repo, PASSWORD).len();
    // On a busy machine the signal may come after the last instruction.
    assert!(killed.code == -1 || (killed.code, snapshots) == (0, 1), "{what}: {}", killed.err);
    // Its lease and its lock are not waited for: they are seen to be dead.
    let there = bytes_in(&repo.join("data"));
    let next = run(d, &on_repo(&["backup", "--volume", "data"])).ok().json();
    let stored = next["jobs"][0]["report"]["bytes_stored"].as_u64().unwrap();
    assert!(stored + there < whole as u64 + 50_000, "{what}: {there} bytes were there, {stored} stored again");
    assert_eq!(judges::snapshots(&repo, PASSWORD).len(), snapshots + 1, "{what}");
    assert_eq!(objects(&repo.join("locks")).len(), 0, "{what}");
    run(d, &on_repo(&["restore", "default/volume", "--to", "back"])).ok();
    assert_same(&d.join("data"), &d.join("back"));
    judges::restic(&repo, PASSWORD, &["check", "--read-data"]);
}

#[test]
fn while_it_has_a_lock_and_nothing_else() {
    // Or is through, where nobody looked in time.
    killed_when("it has its lock", |repo| {
        !objects(&repo.join("locks")).is_empty() || !objects(&repo.join("snapshots")).is_empty()
    });
}

#[test]
fn while_it_uploads_its_first_pack() {
    killed_when("a pack is on its way", |repo| {
        // Or there already, where nobody looked in time.
        objects(&repo.join(".tmp")).iter().any(|p| p.metadata().is_ok_and(|m| m.len() > 1_000_000))
            || bytes_in(&repo.join("data")) > 0
    });
}

#[test]
fn after_a_pack() {
    killed_when("a pack is there", |repo| !objects(&repo.join("data")).is_empty());
}

#[test]
fn once_its_index_is_there() {
    killed_when("the index is there", |repo| !objects(&repo.join("index")).is_empty());
}
