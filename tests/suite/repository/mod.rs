//! Repositories as a whole: checks that see every kind of damage, prunes that lose nothing, locks, repositories of others.

mod check;
mod foreign;
mod golden;
mod init;
mod locks;
mod prune;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures::stream::BoxStream;
use strongroom::model::{Id, Metadata, Node, NodeKind, Time};
use strongroom::repository::{
    BlobType, CheckOptions, CheckReport, Chunking, LockHolder, LockMode, ReadData, RepoEnv, Repository, SnapshotFile, Writer,
    WriterOptions,
};
use strongroom::runtime::{Cancel, SecretText, SystemClock};
use strongroom::store::{Error, ErrorKind, Key, LocalStore, ObjectMeta, Payload, PutMode, Store, Version};
use tempfile::TempDir;

use crate::support::tree::{noise, objects};

const PASSWORD: &str = "repository tests";

type Files = BTreeMap<String, Vec<u8>>;

/// A repository in a directory of its own.
struct Fixture {
    dir: TempDir,
    repo: Repository,
}

fn holder() -> LockHolder {
    LockHolder { hostname: "test-host".into(), username: "tester".into(), pid: std::process::id() }
}

fn env() -> RepoEnv {
    RepoEnv { clock: Arc::new(SystemClock), cache_dir: None }
}

fn local(dir: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::open(dir.to_owned(), Arc::new(SystemClock)).unwrap())
}

async fn open(dir: &Path) -> Repository {
    Repository::open(local(dir), &SecretText::new(PASSWORD.into()), &env()).await.unwrap()
}

fn files(names_and_seeds: &[(&str, usize, u64)]) -> Files {
    names_and_seeds.iter().map(|(name, len, seed)| ((*name).to_owned(), noise(*len, *seed))).collect()
}

fn dir_node(name: &str, subtree: Id) -> Node {
    Node {
        name: name.into(),
        kind: NodeKind::Dir { subtree: Some(subtree) },
        meta: Metadata { mode: 0o755, ..Metadata::default() },
        error: None,
    }
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (repo, _) = Repository::init(local(dir.path()), &SecretText::new(PASSWORD.into()), &env(), &holder()).await.unwrap();
        Self { dir, repo }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Stores files below `files/`, in packs of 100 kB, as a snapshot made at second `time`.
    async fn backup(&self, time: i64, files: &Files) -> Id {
        store(&self.repo, time, files).await.unwrap()
    }

    async fn check(&self, read_data: ReadData) -> CheckReport {
        check_with(&self.repo, read_data).await
    }

    /// Sound, down to the last byte.
    async fn assert_sound(&self) {
        let report = self.check(ReadData::All).await;
        assert!(report.is_sound(), "{:#?}", report.findings);
        assert_eq!(report.packs_read, report.packs);
    }

    /// Every snapshot, newest last, with the files in it.
    async fn contents(&self) -> Vec<(Id, Files)> {
        contents(&self.repo).await
    }

    /// Object names below a folder.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        objects(&self.path().join(folder))
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}

async fn check_with(repo: &Repository, read_data: ReadData) -> CheckReport {
    let repo = repo.clone();
    blocking(move || {
        strongroom::repository::check(&repo, &CheckOptions { read_data, ..CheckOptions::default() }, &Cancel::new()).unwrap()
    })
    .await
}

async fn store(repo: &Repository, time: i64, files: &Files) -> strongroom::error::Result<Id> {
    let lock = repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await?;
    let index = repo.load_index().await?;
    let (repo, files, held) = (repo.clone(), files.clone(), lock.clone());
    let id = blocking(move || {
        let options = WriterOptions { pack_size: 100_000, tree_pack_size: 20_000, ..WriterOptions::default() };
        let writer = Writer::start(&repo, index, Some(held), options)?;
        let mut nodes = Vec::new();
        for (name, data) in &files {
            let mut out = writer.file(Chunking::Stream);
            out.write_all(data).unwrap();
            let content = out.finish()?;
            let kind = NodeKind::File { size: content.size, content: content.content };
            nodes.push(Node {
                name: name.clone().into(),
                kind,
                meta: Metadata { mode: 0o644, links: 1, ..Metadata::default() },
                error: None,
            });
        }
        let below = writer.tree(&nodes)?;
        let tree = writer.tree(&[dir_node("files", below)])?;
        let file = SnapshotFile {
            time: Time::new(time, 0),
            tree,
            paths: vec!["/files".into()],
            hostname: "acme.files".into(),
            ..SnapshotFile::default()
        };
        writer.commit(&file)
    })
    .await;
    lock.release().await?;
    id
}

async fn contents(repo: &Repository) -> Vec<(Id, Files)> {
    let snapshots = repo.load_snapshots().await.unwrap();
    let reader = repo.reader(repo.load_index().await.unwrap());
    blocking(move || {
        let read = |content: &[Id]| {
            let mut data = Vec::new();
            reader.file(content).read_to_end(&mut data).unwrap();
            data
        };
        let files = |tree: Id| {
            let mut files = Files::new();
            let mut open = vec![(String::new(), tree)];
            while let Some((path, tree)) = open.pop() {
                for node in reader.tree(tree).unwrap() {
                    let path = format!("{path}/{}", node.name.escape_ascii());
                    match node.kind {
                        NodeKind::Dir { subtree } => open.push((path, subtree.unwrap())),
                        NodeKind::File { content, .. } => drop(files.insert(path, read(&content))),
                        NodeKind::Symlink { target } => drop(files.insert(path, [b"-> ", target.as_slice()].concat())),
                        _ => drop(files.insert(path, b"special".to_vec())),
                    }
                }
            }
            files
        };
        snapshots.iter().map(|s| (s.id, files(s.file.tree))).collect()
    })
    .await
}

/// Stores bytes as a tree or data blob as they are: for trees that no sane writer makes.
fn raw_blob(writer: &Writer, kind: BlobType, bytes: Vec<u8>) -> Id {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    writer.submit(kind, bytes.into(), Box::new(move |_, saved| sender.send(saved.unwrap().id).unwrap()));
    receiver.recv().unwrap()
}

fn in_files(files: &Files) -> Files {
    files.iter().map(|(name, data)| (format!("/files/{name}"), data.clone())).collect()
}

/// Fails every change after the first `left` ones, as a killed process would, or one that may not.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn Store>,
    left: AtomicI64,
    kind: ErrorKind,
}

impl Dying {
    fn change(&self) -> strongroom::store::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) > 0 { Ok(()) } else { Err(Error::new(self.kind, "no more changes")) }
    }
}

#[async_trait::async_trait]
impl Store for Dying {
    fn location(&self) -> String {
        self.inner.location()
    }
    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> strongroom::store::Result<Version> {
        self.change()?;
        self.inner.put(key, payload, mode).await
    }
    async fn get(&self, key: &Key, range: Option<std::ops::Range<u64>>) -> strongroom::store::Result<Bytes> {
        self.inner.get(key, range).await
    }
    async fn get_versioned(&self, key: &Key) -> strongroom::store::Result<(Bytes, Version)> {
        self.inner.get_versioned(key).await
    }
    async fn head(&self, key: &Key) -> strongroom::store::Result<ObjectMeta> {
        self.inner.head(key).await
    }
    async fn delete(&self, key: &Key) -> strongroom::store::Result<()> {
        self.change()?;
        self.inner.delete(key).await
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, strongroom::store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn now(&self) -> strongroom::store::Result<Time> {
        self.inner.now().await
    }
}

fn failing(dir: &Path, left: i64, kind: ErrorKind) -> Arc<dyn Store> {
    Arc::new(Dying { inner: local(dir), left: AtomicI64::new(left), kind })
}
