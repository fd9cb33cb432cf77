//! No room left: the run says so and leaves no snapshot; with room again the next one succeeds.

use std::path::Path;
use std::process::Command;

use super::{PASSWORD, assert_same, failure, noise, on_repo, place, restic_check};
use crate::cli::{Ran, command, run};
use crate::support::judges;
use crate::support::namespace::{Need, is_root_or_passed_as_root};

/// A volume of 4 MB.
fn data(d: &Path) {
    std::fs::create_dir(d.join("data")).unwrap();
    for f in 0..4 {
        std::fs::write(d.join(format!("data/file-{f}")), noise(1_000_000, f)).unwrap();
    }
}

fn works_again(d: &Path) {
    run(d, &on_repo(&["backup", "--volume", "data"])).ok();
    run(d, &on_repo(&["restore", "default/volume", "--to", "back"])).ok();
    assert_same(&d.join("data"), &d.join("back"));
    judges::restic(&d.join("repo"), PASSWORD, &["check", "--read-data"]);
    assert_eq!(judges::snapshots(&d.join("repo"), PASSWORD).len(), 1);
}

/// A small file system; unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0).status().unwrap().success());
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_no_snapshot() {
    if !is_root_or_passed_as_root(module_path!(), "a_full_disk_is_said_and_leaves_no_snapshot", Need::Mounts) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::write(d.join("p"), PASSWORD).unwrap();
    data(d);
    let repo = d.join("repo");
    std::fs::create_dir(&repo).unwrap();
    let tmpfs = |options: &str| {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(&repo).output().unwrap();
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "root may not mount here, so a full disk cannot be tested: {said}");
    };
    tmpfs("size=2m");
    let _mounted = Mounted(&repo);
    run(d, &on_repo(&["init"])).ok();
    let ran = run(d, &on_repo(&["backup", "--volume", "data"])).exits(1);
    let (message, hint) = failure(&ran);
    assert!(message.contains("o space left on device"), "{message}");
    assert!(hint.contains("The disk is full"), "{hint}");
    restic_check(&repo, PASSWORD, true);
    assert_eq!(judges::snapshots(&repo, PASSWORD).len(), 0);
    assert_eq!(std::fs::read_dir(repo.join("locks")).unwrap().count(), 0, "a lock can be removed without room");

    // Not a single byte is left, as other programs leave a disk.
    let filler = noise(3_000_000, 99);
    let _full = std::fs::write(repo.join("filler"), &filler).unwrap_err();
    let (message, hint) = failure(&run(d, &on_repo(&["backup", "--volume", "data"])).exits(1));
    assert!(message.contains("o space left on device") && hint.contains("The disk is full"), "{message} {hint}");
    std::fs::remove_file(repo.join("filler")).unwrap();

    tmpfs("remount,size=30m");
    works_again(d);
}

#[test]
fn so_is_a_limit_on_the_size_of_files() {
    let dir = place();
    let d = dir.path();
    data(d);
    let program = command(d, &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1000; exec \"$@\"", "sh"]).arg(program.get_program());
    limited.args(on_repo(&["backup", "--volume", "data"])).current_dir(d);
    let o = limited.output().unwrap();
    let ran = Ran {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8(o.stdout).unwrap(),
        err: String::from_utf8(o.stderr).unwrap(),
    };
    let (message, hint) = failure(&ran.exits(1));
    assert!(message.contains("File too large"), "{message}");
    assert!(hint.contains("ulimit -f"), "{hint}");
    restic_check(&d.join("repo"), PASSWORD, true);
    assert_eq!(judges::snapshots(&d.join("repo"), PASSWORD).len(), 0);
    works_again(d);
}
