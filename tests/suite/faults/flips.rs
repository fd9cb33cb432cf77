//! A bit flips in a file of the repository: a check that reads everything says so, whichever file it is.

use std::path::{Path, PathBuf};

use super::{noise, objects, on_repo, place};
use crate::cli::{Ran, run};

/// A repository with a snapshot, in which nothing is wrong.
fn sound() -> tempfile::TempDir {
    let dir = place();
    let d = dir.path();
    std::fs::create_dir(d.join("data")).unwrap();
    std::fs::write(d.join("data/file"), noise(50_000, 3)).unwrap();
    run(d, &on_repo(&["backup", "--volume", "data"])).ok();
    run(d, &on_repo(&["check", "--read-data"])).ok();
    dir
}

/// Runs `then` with bit `bit` of byte `at` flipped.
fn flipped<T>(file: &Path, at: usize, bit: u8, then: impl FnOnce() -> T) -> T {
    let whole = std::fs::read(file).unwrap();
    let mut bytes = whole.clone();
    bytes[at] ^= 1 << bit;
    std::fs::write(file, &bytes).unwrap();
    let done = then();
    std::fs::write(file, whole).unwrap();
    done
}

/// The file was not taken for sound, and in words.
#[track_caller]
fn noticed(ran: Ran, codes: &[i32], what: &str) {
    assert!(codes.contains(&ran.code), "{what}: exit {}\n{}{}", ran.code, ran.out, ran.err);
    assert!(!ran.err.contains("panicked") && ran.err.contains("error: "), "{what}: {}", ran.err);
    ran.json();
}

/// Offsets at both ends, near the ends of headers, and in between.
fn offsets(len: usize) -> Vec<usize> {
    let mut all = vec![0, 1, 15, 16, 40, len / 3, len / 2, len.saturating_sub(40), len.saturating_sub(17), len - 4, len - 1];
    all.retain(|at| *at < len);
    all.sort_unstable();
    all.dedup();
    all
}

fn every_flip_in(folder: &str, codes: &[i32]) {
    let dir = sound();
    let d = dir.path();
    let files: Vec<PathBuf> =
        if folder == "config" { vec![d.join("repo/config")] } else { objects(&d.join("repo").join(folder)) };
    assert!(!files.is_empty());
    for file in files {
        let len = file.metadata().unwrap().len() as usize;
        for (n, at) in offsets(len).into_iter().enumerate() {
            let what = format!("byte {at} of {len} of {}", file.display());
            let ran = flipped(&file, at, (n % 8) as u8, || run(d, &on_repo(&["check", "--read-data"])));
            noticed(ran, codes, &what);
        }
    }
    run(d, &on_repo(&["check", "--read-data"])).ok();
}

#[test]
fn in_a_pack() {
    every_flip_in("data", &[1]);
}

#[test]
fn in_an_index() {
    every_flip_in("index", &[1]);
}

#[test]
fn in_a_snapshot() {
    every_flip_in("snapshots", &[1]);
}

#[test]
fn in_the_config() {
    every_flip_in("config", &[1]);
}

#[test]
fn in_a_key() {
    every_flip_in("keys", &[1]);
}

#[test]
fn in_a_lock() {
    let dir = sound();
    let d = dir.path();
    // The lock of a run that goes on.
    let script = format!("touch {}; exec sleep 612", d.join("started").display());
    let mut child = super::start(d, &on_repo(&["backup", "--command", "--", "sh", "-c", &script]));
    // It is started once the lock is held, and looked at for the last time.
    super::until("the program runs", || d.join("started").exists());
    let lock = objects(&d.join("repo/locks")).remove(0);
    let len = lock.metadata().unwrap().len() as usize;
    let ran = flipped(&lock, len / 2, 3, || run(d, &on_repo(&["check", "--read-data"])));
    child.kill().and_then(|()| child.wait()).unwrap();
    assert!(ran.err.contains("lock ") && ran.err.contains("hint: "), "{}", ran.err);
    noticed(ran, &[1], "a lock");
    // An empty one is what a full disk leaves of a stock client, and is none.
    std::fs::write(d.join("repo/locks").join("0".repeat(64)), "").unwrap();
    run(d, &on_repo(&["check", "--read-data"])).ok();
}
