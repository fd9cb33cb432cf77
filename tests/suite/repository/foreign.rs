//! Repositories that stock clients wrote are read, checked, pruned and continued.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use strongroom::repository::{MaxUnused, PruneOptions, decode_tree, encode_tree, plan_prune};

use super::*;
use crate::support::judges;

/// A target of a symbolic link that only newer programs keep.
const RAW_TARGET: &[u8] = b"/to <\xff>";
/// And one that all do.
const TARGET: &[u8] = "/to <ü>".as_bytes();

/// What volumes hold that trips programs up.
fn hostile(dir: &Path, target: &[u8]) {
    let long = "x".repeat(255);
    let names: [&[u8]; 12] = [
        b"plain",
        br#"a"b\c"#,
        b"new\nline\ttab",
        b"\xff\xfe invalid",
        "nbsp\u{a0}and\u{200b}".as_bytes(),
        "emoji \u{1f600}".as_bytes(),
        b"<&>",
        b"\x01\x7f",
        "e\u{301} nfd".as_bytes(),
        "\u{2028}line".as_bytes(),
        long.as_bytes(),
        b" leading",
    ];
    for (n, name) in names.iter().enumerate() {
        std::fs::write(dir.join(OsStr::from_bytes(name)), noise(n * 1000, n as u64)).unwrap();
    }
    std::fs::write(dir.join("large"), noise(3_000_000, 99)).unwrap();
    std::fs::create_dir_all(dir.join("sub/empty")).unwrap();
    std::fs::write(dir.join("sub/setuid"), "program").unwrap();
    std::fs::set_permissions(dir.join("sub/setuid"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(dir.join("sub/empty"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::hard_link(dir.join("plain"), dir.join("sub/hard link")).unwrap();
    symlink(OsStr::from_bytes(target), dir.join("symlink")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap().success());
}

/// The same in the form of [`Fixture::contents`].
fn on_disk(dir: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        let name = path
            .as_os_str()
            .as_bytes()
            .split(|b| *b == b'/')
            .map(|part| part.escape_ascii().to_string())
            .collect::<Vec<_>>()
            .join("/");
        if kind.is_dir() {
            on_disk(&path, files);
        } else if kind.is_symlink() {
            files.insert(name, [b"-> ", std::fs::read_link(&path).unwrap().into_os_string().into_vec().as_slice()].concat());
        } else if kind.is_fifo() {
            files.insert(name, b"special".to_vec());
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

type Tool = fn(&Path, &[&str]) -> String;

/// Backs up a hostile directory twice with `tool` (something was deleted in between), opens the repository, and looks.
async fn reads_and_prunes(init: &[&str], tool: Tool, version: u32, target: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let (repo_dir, source) = (dir.path().join("repo"), dir.path().join("source"));
    std::fs::create_dir(&source).unwrap();
    hostile(&source, target);
    std::fs::write(source.join("going"), noise(2_500_000, 7)).unwrap();
    tool(&repo_dir, init);
    let mut days = Vec::new();
    for day in 0..2 {
        let mut files = Files::new();
        on_disk(&source, &mut files);
        days.push(files);
        tool(&repo_dir, &["backup", source.to_str().unwrap()]);
        if day == 0 {
            std::fs::remove_file(source.join("going")).unwrap();
            std::fs::write(source.join("coming"), noise(2_000, 8)).unwrap();
        }
    }

    let repo = open(&repo_dir).await;
    assert_eq!(repo.format_version(), version);
    let found = contents(&repo).await;
    assert_eq!(found.len(), 2);
    for ((_, found), expected) in found.iter().zip(&days) {
        assert!(found.keys().eq(expected.keys()), "{:#?}\n{:#?}", found.keys(), expected.keys());
        assert!(found == expected);
    }
    modes_are_right(&repo, &source).await;
    let report = check_with(&repo, ReadData::All).await;
    assert!(report.is_sound() && report.files > 20, "{report:#?}");

    // A backup of ours fits in, whatever the version.
    store(&repo, 4_000_000_000, &files(&[("ours", 200_000, 5), ("empty", 0, 0)])).await.unwrap();
    judges::check(&repo_dir, PASSWORD);
    let report = check_with(&repo, ReadData::All).await;
    assert!(report.is_sound(), "{report:#?}");

    repo.remove_snapshot(found[0].0).await.unwrap();
    let options =
        PruneOptions { max_unused: MaxUnused::Bytes(0), orphan_grace: std::time::Duration::ZERO, ..PruneOptions::default() };
    let lock = repo.lock(LockMode::Exclusive, &holder(), &Cancel::new()).await.unwrap();
    let (pruned, held) = (repo.clone(), lock.clone());
    blocking(move || {
        plan_prune(&pruned, &options, &Cancel::new()).unwrap().execute(&held, &Arc::default(), &Cancel::new()).unwrap()
    })
    .await;
    lock.release().await.unwrap();
    judges::check(&repo_dir, PASSWORD);
    let report = check_with(&repo, ReadData::All).await;
    assert!(report.is_sound() && report.unused_blobs == 0, "{report:#?}");
    assert!(contents(&repo).await[0].1 == days[1]);
    let size: u64 = objects(&repo_dir.join("data")).iter().map(|p| p.metadata().unwrap().len()).sum();
    assert!(size < 4_000_000, "the 2.5 MB that went are still there: {size}");
}

async fn modes_are_right(repo: &Repository, source: &Path) {
    let reader = repo.reader(repo.load_index().await.unwrap());
    let snapshot = repo.load_snapshots().await.unwrap().pop().unwrap();
    let source = source.to_owned();
    blocking(move || {
        let mut tree = snapshot.file.tree;
        for part in source.components().skip(1).chain([std::path::Component::Normal("sub".as_ref())]) {
            let nodes = reader.tree(tree).unwrap();
            let node = nodes.into_iter().find(|n| n.name == part.as_os_str().as_bytes()).unwrap();
            let NodeKind::Dir { subtree: Some(id) } = node.kind else { panic!("no directory") };
            tree = id;
        }
        let nodes = reader.tree(tree).unwrap();
        for node in &nodes {
            let meta = source.join("sub").join(OsStr::from_bytes(&node.name)).metadata().unwrap();
            assert_eq!(node.meta.mode, meta.mode() & 0o7777, "{}", node.display_name());
            assert_eq!((node.meta.mtime.secs, i64::from(node.meta.mtime.nanos)), (meta.mtime(), meta.mtime_nsec()));
            assert_eq!((node.meta.uid, node.meta.gid), (meta.uid(), meta.gid()));
        }
        assert_eq!(nodes.len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_format_of_the_oldest_restic() {
    reads_and_prunes(&["init", "--repository-version", "1"], |repo, args| judges::old_restic(repo, PASSWORD, args), 1, TARGET)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_restic() {
    reads_and_prunes(&["init"], |repo, args| judges::old_restic(repo, PASSWORD, args), 2, TARGET).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_restic() {
    reads_and_prunes(&["init"], |repo, args| judges::restic(repo, PASSWORD, args), 2, RAW_TARGET).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rustic() {
    reads_and_prunes(&["init"], |repo, args| judges::rustic(repo, PASSWORD, args), 2, RAW_TARGET).await;
}

/// Our encoder is restic's, byte for byte, on everything that restic itself encodes.
#[tokio::test(flavor = "multi_thread")]
async fn trees_of_restic_encode_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (repo_dir, source) = (dir.path().join("repo"), dir.path().join("source"));
    std::fs::create_dir(&source).unwrap();
    hostile(&source, RAW_TARGET);
    for (file, time) in
        [("plain", "1970-01-01T00:00:00Z"), ("large", "2200-06-01T12:00:00.123456789Z"), ("<&>", "1969-12-31T23:59:59.5Z")]
    {
        assert!(std::process::Command::new("touch").args(["-d", time]).arg(source.join(file)).status().unwrap().success());
    }
    rustix::fs::setxattr(source.join("plain"), "user.<binary>", b"\x00\xff\n", rustix::fs::XattrFlags::empty())
        .expect("a file system with user attributes");
    judges::restic(&repo_dir, PASSWORD, &["init"]);
    judges::restic(&repo_dir, PASSWORD, &["backup", source.to_str().unwrap(), "/dev/null", "/dev/zero"]);
    let repo = open(&repo_dir).await;
    let index = repo.load_index().await.unwrap();
    let reader = repo.reader(index.clone());
    blocking(move || {
        let mut trees = 0;
        for entry in index.entries(BlobType::Tree) {
            let bytes = reader.blob(BlobType::Tree, &entry.id).unwrap();
            let again = encode_tree(&decode_tree(&bytes).unwrap()).unwrap();
            assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&bytes));
            trees += 1;
        }
        assert!(trees >= 5, "{trees}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restic_reads_config_and_keys_of_ours() {
    let f = Fixture::new().await;
    let config: serde_json::Value = serde_json::from_str(&judges::restic(f.path(), PASSWORD, &["cat", "config"])).unwrap();
    assert_eq!((&config["version"], &config["id"]), (&2.into(), &f.repo.id().to_hex().into()));
    let second = SecretText::new("another password, with ünïcode".into());
    let added = f.repo.add_key(&second, &holder()).await.unwrap();
    let listed = judges::restic(f.path(), second.expose(), &["key", "list"]);
    assert!(listed.contains(&format!("*{}", added.short())) && listed.contains("test-host"), "{listed}");
    assert_eq!(f.repo.load_keys().await.unwrap().len(), 2);
    assert!(f.repo.remove_key(&f.repo.key_id()).await.is_err(), "the key in use stays");
    let with_second = Repository::open(local(f.path()), &second, &env()).await.unwrap();
    with_second.remove_key(&f.repo.key_id()).await.unwrap();
    let refused = judges::restic_command(f.path(), PASSWORD, &["snapshots"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(12));
    let e = Repository::open(local(f.path()), &SecretText::new(PASSWORD.into()), &env()).await.err().unwrap();
    assert_eq!(e.kind(), strongroom::error::Kind::WrongPassword, "{}", e.report());
}
