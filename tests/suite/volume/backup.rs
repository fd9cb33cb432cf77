//! What the source room reads.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use strongroom::error::Kind;
use strongroom::model::{Node, NodeKind, Time};
use strongroom::runtime::{Cancel, Clock as _, SystemClock, secret};
use strongroom::source::volume::{Hook, Hooks, OnChange, ProblemKind, Settings, Volume, hooks};

use super::memory::Memory;
use crate::support::tree::set_time;

fn settings(path: &Path) -> Settings {
    Settings { path: path.to_owned(), ..Settings::default() }
}

/// Paths of everything a backup with these settings keeps, but for the volume itself.
fn kept(settings: &Settings) -> BTreeSet<String> {
    fn below(memory: &Memory, tree: strongroom::model::Id, at: &str, out: &mut BTreeSet<String>) {
        let nodes = memory.trees.lock()[&tree].clone();
        for node in nodes {
            let path = format!("{at}{}", node.display_name());
            if let NodeKind::Dir { subtree: Some(tree) } = node.kind {
                below(memory, tree, &format!("{path}/"), out);
            }
            out.insert(path);
        }
    }
    let memory = Memory::new();
    let (root, problems) = memory.backup(settings);
    assert!(problems.is_empty(), "{problems:?}");
    let mut out = BTreeSet::new();
    below(&memory, root.tree, "", &mut out);
    out
}

fn files(top: &Path, paths: &[&str]) {
    for path in paths {
        let path = top.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
}

fn set(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[test]
fn globs_choose_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &["a.txt", "a.tmp", "cache/x", "cache/y/z", "src/b.txt", "src/b.tmp", "src/cache/x", "logs/today"]);
    let with = |exclude: &[&str], include: &[&str]| {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        kept(&Settings { exclude: list(exclude), include: list(include), ..settings(dir.path()) })
    };
    let all = [
        "a.txt",
        "a.tmp",
        "cache",
        "cache/x",
        "cache/y",
        "cache/y/z",
        "src",
        "src/b.txt",
        "src/b.tmp",
        "src/cache",
        "src/cache/x",
        "logs",
        "logs/today",
    ];
    assert_eq!(with(&[], &[]), set(&all));
    assert_eq!(
        with(&["cache/**", "*.tmp"], &[]),
        set(&["a.txt", "cache", "src", "src/b.txt", "src/cache", "src/cache/x", "logs", "logs/today"])
    );
    assert_eq!(with(&["cache", "/logs/"], &[]), set(&["a.txt", "a.tmp", "src", "src/b.txt", "src/b.tmp"]));
    assert_eq!(with(&["b.*"], &["src/*"]), set(&["src", "src/cache", "src/cache/x"]));
    assert_eq!(with(&[], &["/cache/y"]), set(&["cache", "cache/y", "cache/y/z"]));
}

#[test]
fn caches_marks_and_sockets_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &["real/x", "real/y/z", "fake/x", ".strongroom/restored", "sub/.strongroom/x"]);
    std::fs::write(dir.path().join("real/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n# comment").unwrap();
    std::fs::write(dir.path().join("fake/CACHEDIR.TAG"), "Signature: something else entirely, of the same length").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let found = kept(&Settings { exclude_caches: true, ..settings(dir.path()) });
    let wanted =
        ["real", "real/CACHEDIR.TAG", "fake", "fake/CACHEDIR.TAG", "fake/x", "sub", "sub/.strongroom", "sub/.strongroom/x"];
    assert_eq!(found, set(&wanted));
    assert!(kept(&settings(dir.path())).contains("real/y/z"));
}

#[test]
fn other_file_systems_are_left_out_when_asked() {
    // The kernel's own mounts are on every machine that runs this; nothing of them is read but names.
    let volume = Volume::open(&Settings { one_file_system: true, ..settings(Path::new("/")) }).unwrap();
    let root = volume.root().unwrap();
    let listing = volume.list(&root).unwrap();
    let proc = listing.entries.iter().find(|e| e.name == b"proc").unwrap();
    let below = volume.enter(&root, proc).unwrap();
    assert!(volume.list(&below).unwrap().entries.is_empty());
    let volume = Volume::open(&settings(Path::new("/"))).unwrap();
    let root = volume.root().unwrap();
    let listing = volume.list(&root).unwrap();
    let proc = listing.entries.iter().find(|e| e.name == b"proc").unwrap();
    let below = volume.enter(&root, proc).unwrap();
    let inside = volume.list(&below).unwrap().entries;
    assert!(!inside.is_empty());
    let (here, there) = (proc.meta.device_id, inside[0].meta.device_id);
    assert!(here > 1 && here == there, "a number of its own: {here} {there}");
    assert!(volume.lineage().unwrap().is_empty());
}

#[test]
fn lineage_is_the_path_of_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::open(&settings(dir.path())).unwrap();
    let names: PathBuf = volume.lineage().unwrap().iter().map(|n| n.display_name().into_owned()).collect();
    assert_eq!(Path::new("/").join(names), dir.path());
    for bad in ["relative", "/a/../b", "/does/not/exist"] {
        assert!(Volume::open(&settings(Path::new(bad))).is_err(), "{bad}");
    }
}

/// The node of one file, as a backup stores it.
fn node(dir: &Path, name: &str) -> (Volume, Node) {
    let volume = Volume::open(&settings(dir)).unwrap();
    let root = volume.root().unwrap();
    let mut found = volume.list(&root).unwrap().entries.into_iter().find(|f| f.name == name.as_bytes()).unwrap();
    volume.complete(&root, &mut found).unwrap();
    let node = volume.to_node(&found);
    (volume, node)
}

#[test]
fn unchanged_means_nothing_has_moved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "one").unwrap();
    set_time(&path, 1_000_000, 0);
    let (_, old) = node(dir.path(), "file");
    let later = Time::new(SystemClock.now().secs + 10, 0);
    let unchanged = |scanned: Time| {
        let (volume, _) = node(dir.path(), "file");
        let root = volume.root().unwrap();
        let found = volume.list(&root).unwrap().entries.into_iter().find(|f| f.name == b"file").unwrap();
        volume.unchanged(&found, &old, scanned)
    };
    assert!(unchanged(later));
    assert!(!unchanged(old.meta.ctime), "too close to the scan to tell");
    assert!(!unchanged(Time::new(old.meta.ctime.secs - 100, 0)), "changed after the scan began");
    assert!(!unchanged(Time::new(1_000_001, 0)));

    // Same size and the old time set back: only the ctime tells.
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&path, "two").unwrap();
    set_time(&path, 1_000_000, 0);
    assert!(!unchanged(later));
    // Another file with everything equal but the inode.
    let (_, now) = node(dir.path(), "file");
    assert_eq!((now.meta.mtime, now.size()), (old.meta.mtime, old.size()));
    assert_ne!(now.meta.ctime, old.meta.ctime);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, vec![1; 10_000]).unwrap();
    let volume = Volume::open(&settings(dir.path())).unwrap();
    let root = volume.root().unwrap();
    let found = volume.list(&root).unwrap().entries.remove(0);

    let mut file = volume.open_file(&root, &found).unwrap();
    assert_eq!(file.read_small(1 << 20).unwrap().unwrap().len(), 10_000);
    assert!(!file.changed().unwrap());
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&path, vec![2; 12_000]).unwrap();
    assert!(file.changed().unwrap());

    // It has grown since it was listed: all of it comes, or nothing.
    let mut file = volume.open_file(&root, &found).unwrap();
    assert_eq!(file.read_small(1 << 20).unwrap().unwrap().len(), 12_000);
    assert_eq!(volume.open_file(&root, &found).unwrap().read_small(12_000).unwrap().unwrap().len(), 12_000);
    assert_eq!(volume.open_file(&root, &found).unwrap().read_small(11_999).unwrap(), None);
    // It grows between opening and reading.
    let mut file = volume.open_file(&root, &found).unwrap();
    std::fs::write(&path, vec![2; 14_000]).unwrap();
    assert_eq!(file.read_small(13_000).unwrap(), None);

    // Replaced by a rename, as editors do: it is read, and said to have changed.
    std::fs::write(dir.path().join("new"), "new").unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    let mut file = volume.open_file(&root, &found).unwrap();
    assert_eq!(file.read_small(1 << 20).unwrap().unwrap(), b"new");
    assert!(file.changed().unwrap());

    // Replaced by a link: not followed, and what is there now is not in the snapshot.
    let missing = || volume.open_file(&root, &found).unwrap_err().makes_incomplete(OnChange::Warn);
    std::fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert!(missing());
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(missing(), "and a pipe is not waited for");
    std::fs::remove_file(&path).unwrap();
    let gone = volume.open_file(&root, &found).unwrap_err();
    assert_eq!(gone.kind(), ProblemKind::Gone);
    assert!(!gone.makes_incomplete(OnChange::Incomplete));
}

#[test]
fn a_directory_replaced_by_a_link_is_not_entered() {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path(), &["sub/x"]);
    let volume = Volume::open(&settings(dir.path())).unwrap();
    let root = volume.root().unwrap();
    let found = volume.list(&root).unwrap().entries.remove(0);
    std::fs::remove_dir_all(dir.path().join("sub")).unwrap();
    symlink("/etc", dir.path().join("sub")).unwrap();
    assert!(volume.enter(&root, &found).unwrap_err().makes_incomplete(OnChange::Warn));
}

#[test]
fn many_entries_and_deep_directories_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20_000 {
        std::fs::File::create(dir.path().join(format!("{i:05}-with-a-longer-name-than-most"))).unwrap();
    }
    let volume = Volume::open(&settings(dir.path())).unwrap();
    let listing = volume.list(&volume.root().unwrap()).unwrap();
    assert_eq!(listing.entries.len(), 20_000);
    assert!(listing.entries.is_sorted_by(|a, b| a.name < b.name));
}

fn hook(run: &[&str], seconds: u64) -> Hook {
    Hook { run: run.iter().map(|s| (*s).to_owned()).collect(), timeout: Duration::from_secs(seconds) }
}

#[test]
fn hooks_run_with_a_deadline_and_a_clean_environment() {
    secret::allow_commands(true);
    let cancel = Cancel::new();
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ran");
    let touch = format!("touch {}", mark.display());
    let good = Hooks { pre: vec![hook(&["sh", "-c", &touch], 10)], post: vec![] };
    hooks::pre(&good, &cancel).unwrap();
    assert!(mark.exists());

    let bad = Hooks {
        pre: vec![hook(&["sh", "-c", "echo because >&2; exit 7"], 10), hook(&["rm", mark.to_str().unwrap()], 10)],
        post: vec![],
    };
    let e = hooks::pre(&bad, &cancel).unwrap_err();
    assert!(e.chain().contains("because") && e.chain().contains('7'), "{}", e.chain());
    assert!(mark.exists(), "the second one did not run");

    let began = Instant::now();
    let slow = Hooks { pre: vec![hook(&["sh", "-c", "sleep 60 & sleep 60"], 1)], post: vec![] };
    let e = hooks::pre(&slow, &cancel).unwrap_err();
    assert!(e.chain().contains("longer than"), "{}", e.chain());
    assert!(began.elapsed() < Duration::from_secs(20));

    // Every post hook runs, after failures and after a cancellation.
    cancel.cancel();
    let post = Hooks {
        pre: vec![],
        post: vec![hook(&["false"], 10), hook(&["/nonexistent/program"], 10), hook(&["rm", mark.to_str().unwrap()], 10)],
    };
    assert!(hooks::post(&post, &cancel).is_err());
    assert!(!mark.exists());
    let waiting = Hooks { pre: vec![hook(&["sleep", "60"], 60)], post: vec![] };
    assert_eq!(hooks::pre(&waiting, &cancel).unwrap_err().kind(), Kind::Cancelled);

    let clean =
        Hooks { pre: vec![hook(&["sh", "-c", "test -z \"$HOME$CARGO_MANIFEST_DIR\" && test -n \"$PATH\""], 10)], post: vec![] };
    hooks::pre(&clean, &Cancel::new()).unwrap();
}
