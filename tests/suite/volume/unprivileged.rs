//! Restoring without the rights to set everything: less comes back, it is counted, and nothing becomes dangerous.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use strongroom::app::backup;
use strongroom::restore::directory::{Options, Progress};
use strongroom::runtime::{Cancel, Clock as _, SystemClock, TestClock};
use strongroom::source::SourceSettings;
use strongroom::source::volume::{Settings, Volume};

use super::memory::{Memory, restore};
use crate::backup::{init, request};
use crate::support::namespace::{Need, is_root_or_passed_as_root};
use crate::support::tree::{Compare, assert_same, hostile_tree, is_root};

const SOMEBODY: &str = "12345";
/// Set for the process that plays somebody.
const PLACE: &str = "STRONGROOM_TEST_PLACE";

/// Runs one test of this binary as somebody else, with no groups and no capabilities.
fn as_somebody(test: &str, place: &Path) {
    let output = Command::new("setpriv")
        .args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(PLACE, place)
        .output()
        .expect("setpriv of util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A tree of root's, and an empty directory of somebody's beside it.
fn place() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    hostile_tree(&dir.path().join("from"));
    std::fs::create_dir(dir.path().join("to")).unwrap();
    std::os::unix::fs::chown(dir.path().join("to"), Some(12345), Some(12345)).unwrap();
    dir
}

#[test]
fn somebody_restores_what_root_backed_up() {
    if !is_root_or_passed_as_root(module_path!(), "somebody_restores_what_root_backed_up", Need::Owners) {
        return;
    }
    let dir = place();
    // Backed up and restored in the process of somebody: the blobs are in memory. Root's secrets are not readable then,
    // so they are opened first; their owners stay.
    for (path, mode) in [
        ("from/modes/f0", 0o644),
        ("from/modes/f400", 0o644),
        ("from/modes/d700", 0o755),
        ("from/modes/f7777", 0o6777),
        ("from/attributes/file", 0o754),
    ] {
        std::fs::set_permissions(dir.path().join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    as_somebody("volume::unprivileged::as_somebody_restore", dir.path());
    let to = dir.path().join("to");
    let what = Compare { owners: false, modes: false, xattrs: false, times: false, hardlinks: true, ..Compare::default() };
    std::fs::remove_file(dir.path().join("from/kinds/null")).unwrap();
    std::fs::remove_file(dir.path().join("from/kinds/loop")).unwrap();
    assert_same(&dir.path().join("from"), &to, what);
    let setuid = std::fs::metadata(to.join("modes/f4755")).unwrap();
    assert_eq!((setuid.uid(), setuid.mode() & 0o7777), (12345, 0o755), "nobody's setuid program becomes somebody's");
}

#[test]
#[ignore = "runs as a part of somebody_restores_what_root_backed_up"]
fn as_somebody_restore() {
    let place = std::env::var_os(PLACE).expect("started by another test");
    let place = Path::new(&place);
    assert!(!is_root());
    let memory = Memory::new();
    let (root, problems) = memory.backup(&Settings { path: place.join("from"), ..Settings::default() });
    assert!(problems.is_empty(), "{problems:?}");
    let report =
        restore(&memory, &root, &place.join("to"), &Options { verify: true, ..Options::default() }, &Progress::default());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let denied = report.denied;
    assert!(denied.owners > 5000 && denied.setuid == 4 && denied.devices == 2, "{denied:?}");
    assert!(denied.xattrs >= 1, "{denied:?}");
    assert_eq!(denied.sentences().len(), 4, "{denied:?}");
    // Again, over what belongs to somebody now.
    let report =
        restore(&memory, &root, &place.join("to"), &Options { delete: true, ..Options::default() }, &Progress::default());
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn what_somebody_may_not_read_is_told() {
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    std::fs::create_dir(dir.path().join("locked")).unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    std::fs::write(dir.path().join("open"), "x").unwrap();
    // Closed to everybody but root, also to their owner.
    for (path, mode) in [("locked", 0o000), ("secret", 0o000), ("open", 0o644)] {
        std::fs::set_permissions(dir.path().join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    if is_root() {
        as_somebody("volume::unprivileged::as_somebody_read", dir.path());
    } else {
        reads_what_is_open(dir.path());
    }
}

#[test]
#[ignore = "runs as a part of what_somebody_may_not_read_is_told"]
fn as_somebody_read() {
    let place = std::env::var_os(PLACE).expect("started by another test");
    reads_what_is_open(Path::new(&place));
}

fn reads_what_is_open(place: &Path) {
    let settings = Settings { path: place.to_owned(), ..Settings::default() };
    let volume = Volume::open(&settings).unwrap();
    let root = volume.root().unwrap();
    let listing = volume.list(&root).unwrap();
    let find = |name: &str| listing.entries.iter().find(|f| f.name == name.as_bytes()).unwrap();
    assert!(volume.open_file(&root, find("open")).is_ok());
    for problem in [volume.open_file(&root, find("secret")).unwrap_err(), volume.enter(&root, find("locked")).unwrap_err()] {
        assert!(problem.makes_incomplete(settings.on_change) && problem.to_string().contains("ermission denied"), "{problem}");
    }
}

#[test]
fn what_somebody_may_not_read_stays_missing_and_is_counted() {
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    for name in ["repo", "few/listed", "many"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let mode = |name: &str, mode| std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
    // Has no content to be read, but an attribute.
    let attribute = dir.path().join("few/attribute");
    std::fs::write(&attribute, "").unwrap();
    rustix::fs::lsetxattr(&attribute, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    mode("few/attribute", 0);
    // Its entries have names, and nobody may ask what they are.
    std::fs::write(dir.path().join("few/listed/file"), "x").unwrap();
    mode("few/listed", 0o444);
    for n in 0..1100 {
        std::fs::write(dir.path().join(format!("many/{n}")), "x").unwrap();
        mode(&format!("many/{n}"), 0);
    }
    if is_root() {
        std::os::unix::fs::chown(dir.path().join("repo"), Some(12345), Some(12345)).unwrap();
        as_somebody("volume::unprivileged::as_somebody_back_up", dir.path());
    } else {
        backs_up_what_is_open(dir.path());
    }
    mode("few/listed", 0o755);
}

#[test]
#[ignore = "runs as a part of what_somebody_may_not_read_stays_missing_and_is_counted"]
fn as_somebody_back_up() {
    let place = std::env::var_os(PLACE).expect("started by another test");
    backs_up_what_is_open(Path::new(&place));
}

#[tokio::main]
async fn backs_up_what_is_open(place: &Path) {
    assert!(!is_root());
    let repo = init(&place.join("repo")).await;
    // Later than everything was changed, so that what is the same is not asked for again.
    let now = SystemClock.now();
    let clock = TestClock::new(strongroom::model::Time::new(now.secs + 60, 0));
    let back_up = async |name: &str| {
        let source = SourceSettings::Volume(Settings { path: place.join(name), ..Settings::default() });
        backup::run(&repo, request(source), Arc::new(clock.clone()), &Cancel::new()).await.unwrap()
    };
    for night in 1..=2 {
        let report = back_up("few").await;
        assert!(!report.complete && report.missing_count == 2, "night {night}: {:?}", report.missing);
        for what in ["few/attribute: read extended attributes", "few/listed/file: look at"] {
            assert!(report.missing.iter().any(|m| m.contains(what)), "night {night}: {:?}", report.missing);
        }
        clock.set(strongroom::model::Time::new(now.secs + 120, 0));
    }
    let reader = repo.reader(repo.load_index().await.unwrap());
    let snapshots = repo.load_snapshots().await.unwrap();
    let mut tree = snapshots.into_iter().max_by_key(|s| s.file.time).unwrap().file.tree;
    let path = place.join("few/listed");
    tokio::task::spawn_blocking(move || {
        let mut error = None;
        for name in path.strip_prefix("/").unwrap() {
            let node = reader.entry(tree, name.as_encoded_bytes()).unwrap().unwrap();
            let strongroom::model::NodeKind::Dir { subtree: Some(below) } = node.kind else { panic!("a directory") };
            (tree, error) = (below, node.error);
        }
        assert!(error.is_some_and(|e| e.contains("ermission denied")), "an empty directory is not all there is");
    })
    .await
    .unwrap();

    let report = back_up("many").await;
    assert_eq!((report.missing.len(), report.missing_count), (1000, 1100));
    assert_eq!((report.complete, report.warning_count), (false, 0), "{:?}", report.warnings);
}
