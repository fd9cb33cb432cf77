//! What the restore room writes.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use strongroom::error::Kind;
use strongroom::model::NodeKind;
use strongroom::restore::directory::{self, Options, Progress};
use strongroom::runtime::Cancel;

use super::memory::{Memory, restore, restore_whole};
use crate::support::namespace::{Need, Tmpfs, is_root_or_passed_as_root};
use crate::support::tree::{self, Compare, assert_same, hostile_tree, noise};

#[test]
fn a_hostile_tree_comes_back_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    hostile_tree(&from);
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    let progress = restore_whole(&memory, &root, &to, &Options { verify: true, ..Options::default() });
    assert_same(&from, &to, Compare::default());
    assert!(progress.files.load(Relaxed) > 5000);

    // Again over itself: everything is there, nothing is fetched but what has several names.
    memory.fetched.store(0, Relaxed);
    let again = restore_whole(&memory, &root, &to, &Options { delete: true, ..Options::default() });
    assert_same(&from, &to, Compare::default());
    assert_eq!(memory.fetched.load(Relaxed), 700_000);
    assert_eq!(again.deleted.load(Relaxed), 0);

    // And over ruins: other contents, other kinds, other metadata, too much and too little.
    std::fs::remove_dir_all(to.join("names")).unwrap();
    std::fs::write(to.join("names"), "a file now").unwrap();
    std::fs::remove_dir_all(to.join("kinds")).unwrap();
    symlink("/etc", to.join("kinds")).unwrap();
    std::fs::remove_file(to.join("sizes/4096")).unwrap();
    std::fs::create_dir_all(to.join("sizes/4096/not/empty")).unwrap();
    std::fs::write(to.join("sizes/1048576"), noise(2 << 20, 5)).unwrap();
    std::fs::write(to.join("sizes/524289"), "short").unwrap();
    std::fs::write(to.join("times/too-much"), "x").unwrap();
    std::fs::create_dir_all(to.join("extra/deep/er")).unwrap();
    std::fs::set_permissions(to.join("many"), PermissionsExt::from_mode(0o700)).unwrap();
    rustix::fs::lsetxattr(to.join("many/0001"), "user.extra", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    restore_whole(&memory, &root, &to, &Options { delete: true, verify: true, ..Options::default() });
    // Holes that were overwritten with data are not dug again.
    assert_same(&from, &to, Compare { holes: false, ..Compare::default() });
}

#[test]
fn only_differing_ranges_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    let mut content = noise(8 << 20, 1);
    std::fs::write(from.join("large"), &content).unwrap();
    std::fs::write(from.join("same"), noise(300_000, 2)).unwrap();
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    restore_whole(&memory, &root, &to, &Options::default());
    let inode = std::fs::metadata(to.join("large")).unwrap().ino();

    // Two chunks of 32 are other, the file is longer, and its old times are as before.
    content[1_000_000] ^= 1;
    content[5_000_000] ^= 1;
    content.extend_from_slice(b"and more");
    std::fs::write(to.join("large"), &content).unwrap();
    memory.fetched.store(0, Relaxed);
    let progress = restore_whole(&memory, &root, &to, &Options::default());
    assert_same(&from, &to, Compare::default());
    assert_eq!(std::fs::metadata(to.join("large")).unwrap().ino(), inode, "written in place");
    assert_eq!(memory.fetched.load(Relaxed), 2 * (256 << 10));
    assert_eq!(progress.bytes_written.load(Relaxed), 2 * (256 << 10));
    assert_eq!(progress.bytes_reused.load(Relaxed), (8 << 20) + 300_000 - 2 * (256 << 10));

    // Cut short.
    std::fs::OpenOptions::new().write(true).open(to.join("large")).unwrap().set_len(3 << 20).unwrap();
    restore_whole(&memory, &root, &to, &Options { verify: true, ..Options::default() });
    assert_same(&from, &to, Compare::default());

    // Trusted: another content under the right size and time stays, which is what the flag means.
    let times = std::fs::metadata(to.join("same")).unwrap();
    std::fs::write(to.join("same"), noise(300_000, 3)).unwrap();
    tree::set_time(&to.join("same"), times.mtime(), times.mtime_nsec() as u32);
    memory.fetched.store(0, Relaxed);
    restore_whole(&memory, &root, &to, &Options { trust_times: true, ..Options::default() });
    assert_eq!(memory.fetched.load(Relaxed), 0);
    let report =
        restore(&memory, &root, &to, &Options { trust_times: true, verify: true, ..Options::default() }, &Progress::default());
    assert_eq!(report.problem_count, 1, "verify reads it: {:?}", report.problems);
}

#[test]
fn globs_choose_what_is_restored_and_what_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for path in ["etc/app.conf", "etc/app.bak", "data/a/keep.txt", "data/b/other.bin", "top.conf"] {
        let path = from.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, path.as_os_str().as_encoded_bytes()).unwrap();
    }
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let names = |top: &Path| {
        let mut found = Vec::new();
        let mut stack = vec![top.to_owned()];
        while let Some(dir) = stack.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    stack.push(path.clone());
                }
                found.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned());
            }
        }
        found.sort();
        found
    };
    restore_whole(&memory, &root, &to, &Options { include: list(&["*.conf"]), ..Options::default() });
    assert_eq!(names(&to), ["etc", "etc/app.conf", "top.conf"], "no directories without anything in them");

    // Only what is chosen may be removed.
    for path in ["etc/extra.conf", "etc/extra.txt", "data/x.conf"] {
        std::fs::create_dir_all(to.join(path).parent().unwrap()).unwrap();
        std::fs::write(to.join(path), "mine").unwrap();
    }
    restore_whole(&memory, &root, &to, &Options { include: list(&["*.conf"]), delete: true, ..Options::default() });
    assert_eq!(names(&to), ["data", "etc", "etc/app.conf", "etc/extra.txt", "top.conf"]);

    std::fs::create_dir_all(to.join("old/private")).unwrap();
    std::fs::create_dir_all(to.join("lost+found")).unwrap();
    std::fs::create_dir_all(to.join(".strongroom")).unwrap();
    std::fs::write(to.join("old/private/x"), "x").unwrap();
    std::fs::write(to.join("old/y"), "y").unwrap();
    restore_whole(&memory, &root, &to, &Options { exclude: list(&["private/", "*.bak"]), delete: true, ..Options::default() });
    let left = [
        ".strongroom",
        "data",
        "data/a",
        "data/a/keep.txt",
        "data/b",
        "data/b/other.bin",
        "etc",
        "etc/app.conf",
        "lost+found",
        "old",
        "old/private",
        "old/private/x",
        "top.conf",
    ];
    assert_eq!(names(&to), left);
}

#[test]
fn a_damaged_chunk_costs_only_the_files_that_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(from.join("sub")).unwrap();
    for i in 0..200 {
        std::fs::write(from.join(format!("{i}")), noise(10_000, i)).unwrap();
    }
    std::fs::write(from.join("large"), noise(2 << 20, 7)).unwrap();
    std::fs::write(from.join("sub/x"), "x").unwrap();
    std::fs::hard_link(from.join("13"), from.join("sub/linked")).unwrap();
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    let id = |path: &str, chunk: usize| memory.add(&std::fs::read(from.join(path)).unwrap())[chunk];
    for damaged in [id("13", 0), id("large", 3)] {
        memory.data.lock().get_mut(&damaged).unwrap()[5] ^= 1;
    }
    let lost = id("77", 0);
    memory.data.lock().remove(&lost);
    let report = restore(&memory, &root, &to, &Options::default(), &Progress::default());
    for file in ["13", "large", "77", "sub/linked"] {
        assert!(!to.join(file).exists(), "{file} is not left half");
        assert!(report.problems.iter().any(|p| p.contains(to.join(file).to_str().unwrap())), "{file}: {:?}", report.problems);
        std::fs::remove_file(from.join(file)).unwrap();
    }
    assert_eq!(report.problem_count, 4);
    assert_same(&from, &to, Compare { dir_times: false, hardlinks: false, ..Compare::default() });

    // A tree that is lost costs its directory.
    let NodeKind::Dir { subtree: Some(sub) } =
        memory.trees.lock()[&root.tree].iter().find(|n| n.name == b"sub").unwrap().kind.clone()
    else {
        panic!()
    };
    memory.trees.lock().remove(&sub);
    let other = dir.path().join("other");
    let report = restore(&memory, &root, &other, &Options::default(), &Progress::default());
    assert!(other.join("0").exists() && !other.join("sub/x").exists());
    assert!(report.problem_count >= 4);
}

#[test]
fn what_a_backup_could_not_read_is_said_again() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("good"), "x").unwrap();
    std::fs::write(from.join("bad"), "").unwrap();
    let memory = Memory::new();
    let mut root = memory.backup_of(&from);
    let mut nodes = memory.trees.lock()[&root.tree].clone();
    nodes[0].error = Some("input/output error".into());
    root.tree = memory.add_tree(nodes);
    let report = restore(&memory, &root, &to, &Options::default(), &Progress::default());
    assert!(report.problems[0].contains("input/output error"), "{:?}", report.problems);
    assert!(!to.join("bad").exists() && to.join("good").exists());
}

#[test]
fn what_is_mounted_below_a_target_is_not_removed_from() {
    if !is_root_or_passed_as_root(module_path!(), "what_is_mounted_below_a_target_is_not_removed_from", Need::Mounts) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    // As a backup finds it that leaves other file systems out, or of a night when it was not mounted.
    std::fs::create_dir_all(from.join("nfs")).unwrap();
    std::fs::write(from.join("file"), "x").unwrap();
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    let mount = to.join("nfs");
    std::fs::create_dir_all(&mount).unwrap();
    std::fs::write(to.join("extra"), "x").unwrap();
    let _mounted = Tmpfs::mount(&mount);
    std::fs::create_dir(mount.join("theirs")).unwrap();
    std::fs::write(mount.join("theirs/precious"), "x").unwrap();
    let delete = Options { delete: true, ..Options::default() };
    let report = restore(&memory, &root, &to, &delete, &Progress::default());
    assert!(mount.join("theirs/precious").exists() && !to.join("extra").exists());
    assert!(report.problem_count == 1 && report.problems[0].contains("another file system"), "{:?}", report.problems);
    // A cluster's directories are its own wherever they are.
    restore_whole(&memory, &root, &to, &Options { delete_mounted: true, ..delete });
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0);
}

#[test]
fn nothing_is_removed_from_a_directory_that_the_backup_could_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(from.join("locked/below")).unwrap();
    let memory = Memory::new();
    let mut root = memory.backup_of(&from);
    let mut nodes = memory.trees.lock()[&root.tree].clone();
    nodes[0].error = Some("permission denied".into());
    root.tree = memory.add_tree(nodes);
    std::fs::create_dir_all(to.join("locked/below")).unwrap();
    for extra in ["extra", "locked/kept", "locked/below/extra"] {
        std::fs::write(to.join(extra), "x").unwrap();
    }
    let report = restore(&memory, &root, &to, &Options { delete: true, ..Options::default() }, &Progress::default());
    assert!(report.problem_count == 1 && report.problems[0].contains("permission denied"), "{:?}", report.problems);
    assert!(to.join("locked/kept").exists() && !to.join("extra").exists());
    assert!(!to.join("locked/below/extra").exists(), "what is below was read whole");
}

#[test]
fn a_cancelled_restore_says_so_and_can_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("x"), "x").unwrap();
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    let cancel = Cancel::new();
    cancel.cancel();
    let e = directory::restore(&memory, &root, &to, &Options::default(), &Progress::default(), &cancel).unwrap_err();
    assert_eq!(e.kind(), Kind::Cancelled);
    restore_whole(&memory, &root, &to, &Options::default());
    assert_same(&from, &to, Compare::default());
}

#[test]
fn a_file_of_very_many_chunks_takes_several_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("large"), noise(4 << 20, 1)).unwrap();
    std::fs::write(from.join("small"), "x").unwrap();
    let memory = Memory { chunk: 64, ..Memory::default() };
    let root = memory.backup_of(&from);
    restore_whole(&memory, &root, &to, &Options { verify: true, ..Options::default() });
    assert_same(&from, &to, Compare::default());
    let mut content = noise(4 << 20, 1);
    content[3_999_999] ^= 1;
    std::fs::write(to.join("large"), &content).unwrap();
    memory.fetched.store(0, Relaxed);
    restore_whole(&memory, &root, &to, &Options::default());
    assert_same(&from, &to, Compare::default());
    assert_eq!(memory.fetched.load(Relaxed), 64);
}

/// Volumes of Kubernetes give their group to whatever is made in them, and some give ACLs.
#[test]
fn what_a_target_hands_down_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    hostile_tree(&from);
    let memory = Memory::new();
    let root = memory.backup_of(&from);
    std::fs::create_dir_all(to.join("attributes")).unwrap();
    for target in [to.clone(), to.join("attributes")] {
        rustix::fs::lsetxattr(&target, "system.posix_acl_default", &tree::acl(), rustix::fs::XattrFlags::empty()).unwrap();
        if tree::is_root() {
            std::os::unix::fs::chown(&target, None, Some(4321)).unwrap();
        }
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o2775)).unwrap();
    }
    restore_whole(&memory, &root, &to, &Options::default());
    assert_same(&from, &to, Compare::default());
}
