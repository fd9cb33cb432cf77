//! Restores by those who may read the repository and not write to it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{objects, on_repo, place};
use crate::cli::{Ran, command, run};
use crate::support::namespace::{Need, is_root_or_passed_as_root};
use crate::support::tree::is_root;

/// Runs the program as somebody without any right of root's.
fn as_somebody(dir: &Path, args: &[&str]) -> Ran {
    let mut plain = command(dir, args);
    if is_root() {
        // A copy, since the way to the original may be closed to others.
        let program = dir.join("program");
        if !program.exists() {
            crate::support::copy_program(Path::new(env!("CARGO_BIN_EXE_strongroom")), &program);
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "12345", "--regid", "12345", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
        other.arg(program).args(args).current_dir(dir).env("XDG_CACHE_HOME", dir.join("out/cache"));
        plain = other;
    }
    let o = plain.output().expect("setpriv of util-linux");
    Ran {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8(o.stdout).unwrap(),
        err: String::from_utf8(o.stderr).unwrap(),
    }
}

/// Sets the modes of everything below a directory and of itself; directories stay passable.
fn modes(path: &Path, file: u32, dir: u32) {
    for object in objects(path) {
        std::fs::set_permissions(object, PermissionsExt::from_mode(file)).unwrap();
    }
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        open.extend(std::fs::read_dir(&path).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_dir()));
        std::fs::set_permissions(path, PermissionsExt::from_mode(dir)).unwrap();
    }
}

#[test]
fn a_restore_needs_no_right_to_write() {
    let dir = place();
    let d = dir.path();
    std::fs::create_dir(d.join("data")).unwrap();
    std::fs::write(d.join("data/file"), "content").unwrap();
    run(d, &on_repo(&["backup", "--volume", "data"])).ok();
    std::fs::create_dir(d.join("out")).unwrap();
    std::fs::set_permissions(d.join("out"), PermissionsExt::from_mode(0o777)).unwrap();
    modes(&d.join("repo"), 0o444, 0o555);
    let before = objects(&d.join("repo"));

    let restored = as_somebody(d, &on_repo(&["restore", "default/volume", "--to", "out/volume"])).ok();
    assert_eq!(restored.json()["outcome"], "restored");
    assert!(restored.err.contains("these credentials may not write locks"), "{}", restored.err);
    assert_eq!(std::fs::read_to_string(d.join("out/volume/file")).unwrap(), "content");
    for readable in [&["snapshots"][..], &["ls", "latest"], &["check", "--read-data"]] {
        as_somebody(d, &on_repo(readable)).ok();
    }
    // What writes says what it lacks.
    let refused = as_somebody(d, &on_repo(&["backup", "--command", "--", "echo", "x"])).exits(1);
    let error = &refused.json()["jobs"][0]["error"];
    assert_eq!(error["kind"], "denied", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("write permission"), "{error}");
    assert_eq!(objects(&d.join("repo")), before, "nothing was written, and no lock");
    modes(&d.join("repo"), 0o600, 0o700);
}

#[test]
fn so_it_is_where_the_file_system_is_read_only() {
    if !is_root_or_passed_as_root(module_path!(), "so_it_is_where_the_file_system_is_read_only", Need::Mounts) {
        return;
    }
    let dir = place();
    let d = dir.path();
    run(d, &on_repo(&["backup", "--command", "--", "echo", "word"])).ok();
    let repo = d.join("repo");
    let bound = Command::new("mount").arg("--bind").args([&repo, &repo]).output().unwrap();
    let said = String::from_utf8_lossy(&bound.stderr);
    assert!(bound.status.success(), "root may not mount here, so a read-only file system cannot be tested: {said}");
    let read_only = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&repo).status().unwrap().success();
    let restored = run(d, &on_repo(&["restore", "default/command", "--to", "-"]));
    let refused = run(d, &on_repo(&["backup", "--command", "--", "echo", "x"]));
    assert!(Command::new("umount").arg(&repo).status().unwrap().success());
    assert!(read_only);
    let restored = restored.ok();
    assert_eq!(restored.out, "word\n");
    assert!(restored.err.contains("these credentials may not write locks"), "{}", restored.err);
    assert!(refused.exits(1).err.contains("mounted read-only"));
}
