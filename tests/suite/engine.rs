//! The engine alone: what a writer stored, a reader gives back and stock clients accept.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use strongroom::model::{Id, Metadata, Node, NodeKind};
use strongroom::repository::{
    Chunking, Fetched, FileContent, InitOutcome, LockHolder, LockMode, RepoEnv, Repository, SnapshotFile, Want, Writer,
    WriterOptions,
};
use strongroom::runtime::{Cancel, Clock as _, SecretText, SystemClock};
use strongroom::store::LocalStore;

use crate::support::judges;

const PASSWORD: &str = "correct horse";

pub fn holder() -> LockHolder {
    LockHolder { hostname: "test-host".into(), username: "tester".into(), pid: std::process::id() }
}

pub fn env() -> RepoEnv {
    RepoEnv { clock: Arc::new(SystemClock), cache_dir: None }
}

async fn init(dir: &Path) -> (Repository, InitOutcome) {
    let store = Arc::new(LocalStore::open(dir.to_owned(), Arc::new(SystemClock)).unwrap());
    Repository::init(store, &SecretText::new(PASSWORD.into()), &env(), &holder()).await.unwrap()
}

/// Compressible and not, in turns of 100 kB, different for each seed.
pub fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if out.len() / 100_000 % 2 == 0 {
            out.extend_from_slice(&x.to_le_bytes())
        } else {
            out.extend_from_slice(format!("row {} ", x % 1000).as_bytes())
        }
    }
    out.truncate(len);
    out
}

fn file(name: &str, content: FileContent) -> Node {
    let kind = NodeKind::File { size: content.size, content: content.content };
    Node { name: name.into(), kind, meta: Metadata { mode: 0o644, links: 1, ..Metadata::default() }, error: None }
}

/// Stores files as a snapshot, the way a backup does.
pub async fn store_files(repo: &Repository, files: Vec<(String, Vec<u8>)>, options: WriterOptions) -> Id {
    let lock = repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.unwrap();
    let index = repo.load_index().await.unwrap();
    let (repo, held) = (repo.clone(), lock.clone());
    let id = tokio::task::spawn_blocking(move || {
        let writer = Writer::start(&repo, index, Some(held), options).unwrap();
        let mut nodes = Vec::new();
        for (name, data) in &files {
            let mut out = writer.file(Chunking::Content);
            for piece in data.chunks(300_000) {
                out.write_all(piece).unwrap();
            }
            nodes.push(file(name, out.finish().unwrap()));
        }
        let tree = writer.tree(&nodes).unwrap();
        let snapshot = SnapshotFile {
            time: SystemClock.now(),
            tree,
            paths: vec!["/files".into()],
            hostname: "acme.files".into(),
            ..SnapshotFile::default()
        };
        writer.commit(&snapshot).unwrap()
    });
    let id = id.await.unwrap();
    lock.release().await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_comes_back_and_judges_agree() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, outcome) = init(dir.path()).await;
    assert_eq!(outcome, InitOutcome::Created);
    assert_eq!(init(dir.path()).await.1, InitOutcome::AlreadyExists);
    let mut files: Vec<(String, Vec<u8>)> =
        vec![("big".into(), content(40_000_000, 1)), ("empty".into(), vec![]), ("zeros".into(), vec![0; 9_000_000])];
    files.extend((0..300).map(|i| (format!("small-{i:03}"), content(i * 37, i as u64))));
    files.sort();
    let options = WriterOptions { pack_size: 4 << 20, ..WriterOptions::default() };
    store_files(&repo, files.clone(), options.clone()).await;

    let snapshots = repo.load_snapshots().await.unwrap();
    assert_eq!(snapshots.len(), 1);
    let index = repo.load_index().await.unwrap();
    let packs = index.packs().len();
    let reader = repo.reader(index);
    let tree = snapshots[0].file.tree;
    let expected = files.clone();
    tokio::task::spawn_blocking(move || {
        let nodes = reader.tree(tree).unwrap();
        assert_eq!(nodes.len(), expected.len());
        let (mut wants, mut targets) = (Vec::new(), Vec::new());
        for (n, (node, (name, data))) in nodes.iter().zip(&expected).enumerate() {
            assert_eq!(node.name, name.as_bytes());
            let NodeKind::File { content, size } = &node.kind else { panic!("not a file") };
            assert_eq!(*size, data.len() as u64);
            let mut read = Vec::new();
            reader.file(content).read_to_end(&mut read).unwrap();
            assert!(read == *data, "{name} in order");
            let mut offset = 0;
            for id in content {
                wants.push(Want { id: *id, file: n as u32, offset });
                offset += reader.length(&[*id]).unwrap();
            }
            targets.push(Mutex::new(vec![0u8; data.len()]));
        }
        let write = |fetched: &[Fetched<'_>]| {
            for f in fetched {
                targets[f.file as usize].lock()[f.offset as usize..f.offset as usize + f.data.len()].copy_from_slice(f.data);
            }
            Ok(())
        };
        reader.fetch(wants, 3, &write, &Cancel::new()).unwrap();
        for (target, (name, data)) in targets.iter().zip(&expected) {
            assert!(*target.lock() == *data, "{name} by pack");
        }
    })
    .await
    .unwrap();

    // The same again stores the snapshot and nothing else.
    store_files(&repo, files.clone(), options).await;
    assert_eq!(repo.load_index().await.unwrap().packs().len(), packs);

    let verdict = judges::judge(dir.path(), PASSWORD);
    for (name, data) in &files {
        for restored in [verdict.restic(0), verdict.restic(1), verdict.rustic(1)] {
            assert!(std::fs::read(restored.join(name)).unwrap() == *data, "{name} in {}", restored.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_inits_at_once_leave_one_repository() {
    for _ in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let made = futures::future::join_all((0..4).map(|_| init(dir.path()))).await;
        assert_eq!(made.iter().filter(|(_, o)| *o == InitOutcome::Created).count(), 1);
        assert!(made.iter().all(|(r, _)| r.id() == made[0].0.id()));
        assert_eq!(std::fs::read_dir(dir.path().join("keys")).unwrap().count(), 1);
        // Stock rustic wants the folders of a local repository even where nothing is in them.
        judges::restic(dir.path(), PASSWORD, &["check", "--read-data"]);
    }
}
