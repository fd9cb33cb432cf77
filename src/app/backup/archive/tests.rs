//! What happens to entries that change between being listed and being read, step by step.

use std::io::Read as _;
use std::path::Path;

use super::*;
use crate::repository::{LockHolder, RepoEnv, Repository, WriterOptions};
use crate::runtime::{SecretText, SystemClock};
use crate::source::volume::Settings;
use crate::store::LocalStore;

/// An empty volume, and a repository.
struct Place {
    data: tempfile::TempDir,
    _store: tempfile::TempDir,
    repo: Repository,
    writer: Writer,
}

impl Place {
    async fn new() -> Self {
        let (data, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Arc::new(LocalStore::open(place.path().to_owned(), Arc::new(SystemClock)).unwrap());
        let env = RepoEnv { clock: Arc::new(SystemClock), cache_dir: None };
        let holder = LockHolder { hostname: "host".into(), username: "tester".into(), pid: 1 };
        let repo = Repository::init(store, &SecretText::new("secret".into()), &env, &holder).await.unwrap().0;
        let writer = Writer::start(&repo, repo.load_index().await.unwrap(), None, WriterOptions::default()).unwrap();
        Self { data, _store: place, repo, writer }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join(name)
    }

    fn walk(&self) -> Arc<Walk> {
        let volume = Volume::open(&Settings { path: self.data.path().to_owned(), ..Settings::default() }).unwrap();
        let root = volume.root().unwrap();
        Walk::new(volume, root, None, &self.writer, Arc::default(), &Cancel::new())
    }

    /// What the repository holds of a walk that was made to its end.
    async fn reader(&self, walk: Arc<Walk>) -> (Reader, Archived) {
        let writer = self.writer.clone();
        let archived = tokio::task::spawn_blocking(move || {
            let archived = walk.archived().unwrap();
            writer.flush().unwrap();
            archived
        });
        let archived = archived.await.unwrap();
        (self.repo.reader(self.repo.load_index().await.unwrap()), archived)
    }
}

fn file(reader: &Reader, tree: Id, path: &str) -> (Node, Vec<u8>) {
    let mut node = None;
    let mut tree = Some(tree);
    for name in Path::new(path) {
        let found = reader.entry(tree.unwrap(), name.as_encoded_bytes()).unwrap().unwrap();
        tree = if let NodeKind::Dir { subtree } = found.kind { subtree } else { None };
        node = Some(found);
    }
    let node = node.unwrap();
    let NodeKind::File { content, .. } = &node.kind else { panic!("{path} is no file") };
    let mut bytes = Vec::new();
    reader.file(content).read_to_end(&mut bytes).unwrap();
    (node, bytes)
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_small_when_it_was_listed_is_stored_whole() {
    let place = Place::new().await;
    std::fs::write(place.path("log"), noise(1000)).unwrap();
    let walk = place.walk();
    // Listed.
    let Some(Task::Root { dir, .. }) = walk.take() else { panic!("the first task is the root") };
    let mut names = walk.volume.names(&dir).unwrap();
    let found = walk.volume.look_at_some(&dir, &mut names).unwrap().entries.remove(0);
    let open = Arc::new(OpenDir {
        dir,
        entries: Mutex::new(Entries::new(1)),
        tree: Mutex::default(),
        pending: AtomicUsize::new(1),
        same: AtomicBool::new(false),
        was: None,
        place: None,
    });
    let node = walk.volume.to_node(&found);
    open.entries.lock().add(vec![Some(node)], 1);
    // Its turn comes later.
    let grown = noise(3 << 20);
    std::fs::write(place.path("log"), &grown).unwrap();
    let (reads, at) = (walk.clone(), Slot { part: 0, at: 0 });
    tokio::task::spawn_blocking(move || reads.small_file(&open, &found, at).unwrap()).await.unwrap();
    let (reader, archived) = place.reader(walk).await;
    tokio::task::spawn_blocking(move || {
        let (node, bytes) = file(&reader, archived.tree, "log");
        assert_eq!((node.size(), bytes.len()), (grown.len() as u64, grown.len()));
        assert!(bytes == grown);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_between_its_names_has_one_length() {
    let place = Place::new().await;
    for dir in ["a", "b"] {
        std::fs::create_dir(place.path(dir)).unwrap();
    }
    std::fs::write(place.path("a/x"), noise(1 << 20)).unwrap();
    std::fs::hard_link(place.path("a/x"), place.path("b/x")).unwrap();
    let (walk, path) = (place.walk(), place.path("a/x"));
    let walks = walk.clone();
    tokio::task::spawn_blocking(move || {
        let next = || walks.take().expect("a task");
        walks.work_on(next());
        walks.work_on(next());
        let first = next();
        assert!(matches!(&first, Task::File { open, .. } if open.dir.relative() == b"a"), "a/x is listed and waits");
        std::fs::write(path, noise(2 << 20)).unwrap();
        walks.work_on(next());
        walks.work_on(next());
        walks.work_on(first);
    })
    .await
    .unwrap();
    let (reader, archived) = place.reader(walk).await;
    tokio::task::spawn_blocking(move || {
        for name in ["a/x", "b/x"] {
            let (node, bytes) = file(&reader, archived.tree, name);
            assert_eq!((node.size(), bytes.len()), (2 << 20, 2 << 20), "{name}");
        }
    })
    .await
    .unwrap();
}
