//! Volumes and programs' output.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use super::{World, check, until};
use crate::support::tree::is_root;

const JOBS: &str = "\
files: { volume: { path: DIR/data }, drill: { scratch: DIR/scratch, max_age: 30d } }
words: { command: { run: [echo, hello] }, drill: { scratch: DIR/scratch } }";

fn world() -> World {
    let dir = World::new(JOBS);
    let data = dir.path().join("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::write(data.join("a"), vec![7; 3_000_000]).unwrap();
    std::fs::write(data.join("sub/b"), "b").unwrap();
    std::fs::write(data.join("empty"), "").unwrap();
    std::fs::hard_link(data.join("a"), data.join("a2")).unwrap();
    symlink("a", data.join("link")).unwrap();
    dir.run(&["backup", "--all"]).ok();
    dir
}

#[test]
fn a_good_drill_proves_what_it_says_and_leaves_only_its_report() {
    let world = world();
    assert_eq!(world.drill_status("files")["state"], "never");
    assert!(world.drill_status("words").is_null(), "nobody wants it drilled");
    let ran = world.run(&["drill"]).ok().json();
    let (files, words) = (&ran["drills"][0], &ran["drills"][1]);
    for (report, job) in [(files, "files"), (words, "words")] {
        assert_eq!((report["job"].as_str(), report["ok"].as_bool()), (Some(job), Some(true)), "{report:#}");
        assert!(report["rto_seconds"].as_f64().unwrap() > 0.0 && report["rpo_seconds"].as_f64().unwrap() >= 0.0);
        assert_eq!((report["rpo_basis"].as_str(), world.reports(job)), (Some("backup"), 1));
    }
    assert_eq!((files["bytes"].as_u64(), words["bytes"].as_u64()), (Some(3_000_001), Some(6)));
    assert!(check(files, "files")["detail"].as_str().unwrap().contains("each read back and compared"));
    assert_eq!(world.left(), Vec::<std::path::PathBuf>::new());

    let status = world.drill_status("files");
    assert_eq!((status["state"].as_str(), &status["rto_seconds"]), (Some("ok"), &files["rto_seconds"]));
    let proven = world.run(&["coverage"]).ok().json();
    assert_eq!(proven["proven"].as_array().unwrap().len(), 2, "{proven}");
    // Sealed: what it says is not to be read in the store.
    let folder = world.path().join("store/test/acme/strongroom/reports/files");
    let sealed = std::fs::read(std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()).unwrap();
    assert!(!sealed.windows(5).any(|w| w == b"files"));
    // Another one stands beside it.
    world.run(&["drill", "acme/files"]).ok();
    assert_eq!((world.reports("files"), world.reports("words")), (2, 1));
}

#[test]
fn a_damaged_repository_fails_the_drill_and_status_tells() {
    let world = world();
    world.run(&["drill", "acme/files"]).ok();
    // One byte in the largest pack.
    let mut packs = Vec::new();
    for folder in std::fs::read_dir(world.path().join("store/test/acme/data")).unwrap() {
        packs.extend(std::fs::read_dir(folder.unwrap().path()).unwrap().map(|e| e.unwrap().path()));
    }
    for pack in packs {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[20] ^= 1;
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
    }
    let ran = world.run(&["drill", "acme/files"]).exits(1);
    let report = &ran.json()["drills"][0];
    assert_eq!((report["ok"].as_bool(), &report["rto_seconds"]), (Some(false), &serde_json::Value::Null));
    assert!(ran.err.contains("error: the drill of acme/files failed"), "{}", ran.err);
    assert_eq!((world.left().len(), world.reports("files")), (0, 2));
    let status = world.run(&["status", "acme/files"]).ok();
    assert_eq!(status.json()["jobs"][0]["drill"]["state"], "failed");
    assert!(status.err.contains("acme/files: the drill of acme/files failed"), "{}", status.err);
    world.run(&["status", "--check"]).exits(1);
    let gaps = world.run(&["coverage"]).ok().json();
    assert!(gaps["gaps"].as_array().unwrap().iter().any(|g| g["kind"] == "drill"), "{gaps}");
}

#[test]
fn no_backup_and_a_stale_drill_are_told() {
    let world = World::new(JOBS);
    let ran = world.run(&["drill", "acme/words"]).exits(1).json();
    assert_eq!(
        (ran["drills"][0]["failure"]["kind"].as_str(), &ran["drills"][0]["snapshot"]),
        (Some("not_found"), &serde_json::Value::Null)
    );
    world.run(&["backup", "acme/words"]).ok();
    world.run(&["drill", "acme/words"]).ok();
    world.run(&["status", "--check", "acme/words"]).ok();
    world.configure("words: { command: { run: [echo, hello] }, drill: { scratch: DIR/scratch, max_age: 1s } }");
    until("the drill grows stale", || world.drill_status("words")["state"] == "stale");
    let status = world.run(&["status", "--check", "acme/words"]).exits(1);
    assert!(status.err.contains("which is too long"), "{}", status.err);
    // A report that was tampered with is neither a success nor a failure.
    let folder = world.path().join("store/test/acme/strongroom/reports/words");
    for report in std::fs::read_dir(folder).unwrap() {
        let path = report.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 20;
        bytes[last] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(world.drill_status("words")["state"], "unknown");
}

#[test]
fn a_scratch_directory_that_is_too_small_is_told_before_anything_is_restored() {
    let world = world();
    let scratch = world.path().join("scratch");
    let mount = ["-t", "tmpfs", "-o", "size=1m", "none"];
    let mounted =
        is_root() && Command::new("mount").args(mount).arg(&scratch).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !mounted {
        // Only root may mount; the unit test of the check runs everywhere.
        return;
    }
    let ran = world.run(&["drill", "acme/files"]);
    let (left, _) = (world.left(), Command::new("umount").arg(&scratch).status().unwrap());
    let report = &ran.exits(1).json()["drills"][0];
    let message = report["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("has room for") && report["failure"]["hint"].as_str().unwrap().contains("drill.scratch"),
        "{message}"
    );
    assert_eq!((left.len(), report["bytes"].as_u64()), (0, Some(0)));
    // Another place has room.
    world.run(&["drill", "acme/files", "--scratch", "elsewhere"]).ok();
    assert_eq!(std::fs::read_dir(world.path().join("elsewhere")).unwrap().count(), 0);
}
