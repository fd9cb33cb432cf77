//! The judges themselves are tried first: a sound repository of their own passes, a damaged one does not.

use std::path::Path;

use crate::support::judges::{check, judge, old_restic, restic, restic_command, rustic};

const PASSWORD: &str = "judges";

/// A repository that restic itself wrote, of two snapshots.
fn sound(dir: &Path) -> std::path::PathBuf {
    let (data, repo) = (dir.join("data"), dir.join("repo"));
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("a"), "first").unwrap();
    std::fs::write(data.join("b"), vec![7u8; 3_000_000]).unwrap();
    restic(&repo, PASSWORD, &["init"]);
    restic(&repo, PASSWORD, &["backup", data.to_str().unwrap()]);
    std::fs::write(data.join("a"), "second").unwrap();
    restic(&repo, PASSWORD, &["backup", data.to_str().unwrap()]);
    repo
}

#[test]
fn a_sound_repository_passes_and_is_restored_by_both() {
    let dir = tempfile::tempdir().unwrap();
    let verdict = judge(&sound(dir.path()), PASSWORD);
    assert_eq!(verdict.snapshots.len(), 2);
    let inside = dir.path().join("data/a");
    let inside = inside.strip_prefix("/").unwrap();
    for (index, content) in ["first", "second"].iter().enumerate() {
        for restored in [verdict.restic(index), verdict.rustic(index)] {
            assert_eq!(std::fs::read_to_string(restored.join(inside)).unwrap(), *content);
        }
    }
}

#[test]
fn the_oldest_restic_writes_what_the_newest_judges_accept() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    std::fs::write(dir.path().join("a"), "old").unwrap();
    old_restic(&repo, PASSWORD, &["init"]);
    old_restic(&repo, PASSWORD, &["backup", dir.path().join("a").to_str().unwrap()]);
    check(&repo, PASSWORD);
}

/// The rewrite in [`judge`] is a real hurdle: it demands that a tree, decoded and encoded again, is the same bytes.
#[test]
fn restic_refuses_to_rewrite_what_rustic_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let repo = sound(dir.path());
    rustic(&repo, PASSWORD, &["backup", dir.path().join("data").to_str().unwrap()]);
    check(&repo, PASSWORD);
    let refused = restic_command(&repo, PASSWORD, &["rewrite", "--exclude", "/none", "--dry-run"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("without losing information"), "{said}");
}

#[test]
fn a_damaged_repository_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let repo = sound(dir.path());
    let pack = first_pack(&repo);
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::process::Command::new("chmod").arg("u+w").arg(&pack).status().unwrap();
    std::fs::write(&pack, bytes).unwrap();
    std::panic::catch_unwind(|| restic(&repo, PASSWORD, &["check", "--read-data"])).expect_err("restic sees a flipped bit");
    std::panic::catch_unwind(|| {
        let said = rustic(&repo, PASSWORD, &["check", "--read-data"]);
        assert!(said.trim().is_empty(), "{said}");
    })
    .expect_err("rustic sees a flipped bit");
}

fn first_pack(repo: &Path) -> std::path::PathBuf {
    let folders = std::fs::read_dir(repo.join("data")).unwrap().map(|e| e.unwrap().path());
    folders.flat_map(|f| std::fs::read_dir(f).unwrap()).map(|e| e.unwrap().path()).next().expect("a pack")
}
