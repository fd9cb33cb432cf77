//! A backup dies at each of its writes in turn, or one of them fails.

use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;

use strongroom::app::backup::{self, Report, Request};
use strongroom::error::Result;
use strongroom::repository::{CheckOptions, LockHolder, ReadData, Repository, WriterOptions};
use strongroom::runtime::{Cancel, SystemClock};
use strongroom::source::{SourceSettings, volume};
use strongroom::store::fault::{Fault, FaultStore, Logged, Op, Rule, When};
use strongroom::store::{ErrorKind, LocalStore};

use super::{bytes_in, files_of, noise, restic_check};
use crate::backup::PASSWORD;

/// What a rerun may store again: its manifest and the trees above it differ from those of the run that died.
const SLACK: u64 = 15_000;

/// An empty repository to be copied, and a volume.
struct World {
    template: tempfile::TempDir,
    data: tempfile::TempDir,
    repo: Repository,
}

impl World {
    async fn new() -> Self {
        let (template, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for d in 0..4 {
            let dir = data.path().join(format!("dir-{d}"));
            std::fs::create_dir(&dir).unwrap();
            for f in 0..6 {
                std::fs::write(dir.join(format!("file-{f}")), noise(20_000, d * 10 + f)).unwrap();
            }
        }
        let repo = crate::backup::init(template.path()).await;
        Self { template, data, repo }
    }

    /// A repository of one's own.
    fn copy(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        assert!(Command::new("cp").arg("-r").arg(self.template.path().join(".")).arg(dir.path()).status().unwrap().success());
        dir
    }

    fn store(&self, dir: &Path) -> FaultStore {
        FaultStore::new(LocalStore::open(dir.to_owned(), Arc::new(SystemClock)).unwrap(), 1)
    }

    fn request(&self, holder: LockHolder) -> Request {
        let volume = volume::Settings { path: self.data.path().to_owned(), ..volume::Settings::default() };
        // Data in about ten packs, trees in some, an index for every three.
        let writer = WriterOptions { pack_size: 40_000, tree_pack_size: 4_000, index_bytes: 120_000, ..WriterOptions::default() };
        Request { writer, holder, ..crate::backup::request(SourceSettings::Volume(volume)) }
    }

    async fn run(&self, store: &FaultStore, holder: LockHolder) -> Result<Report> {
        let repo = self.repo.with_store(Arc::new(store.clone()));
        backup::run(&repo, self.request(holder), Arc::new(SystemClock), &Cancel::new()).await
    }
}

/// A process whose death is proven once it was killed.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn holder(&self) -> LockHolder {
        LockHolder { pid: self.0.id(), ..crate::backup::holder() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

fn uploaded(writes: &[Logged]) -> u64 {
    writes.iter().filter(|w| w.op == Op::Put && w.key.starts_with("data/")).map(|w| w.bytes).sum()
}

/// What happens at one write.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Breaks {
    /// The process is killed before it.
    DeadBefore,
    /// It is killed after it took effect.
    DeadAfter,
    /// This one fails, and everything after it works.
    Once,
    /// This one takes effect and is believed to have failed.
    ReplyLost,
}

impl Breaks {
    fn at(self, store: &FaultStore, n: u64) {
        let all = store.clone();
        // As the store sees it: nothing is heard of a killed process any more.
        let dead = Arc::new(move |_: &Logged| all.add(Rule::new(Fault::Error(ErrorKind::Other))));
        let rule = |fault| Rule::new(fault).writes().when(When::Nth(n));
        match self {
            Self::DeadBefore => {
                store.add(rule(Fault::Before(dead)));
                store.add(rule(Fault::Error(ErrorKind::Other)));
            }
            Self::DeadAfter => {
                store.add(rule(Fault::After(dead)));
                store.add(rule(Fault::LostReply));
            }
            Self::Once => store.add(rule(Fault::Error(ErrorKind::Unavailable))),
            Self::ReplyLost => store.add(rule(Fault::LostReply)),
        }
    }
}

async fn at_every_write(breaks: Breaks) {
    let world = World::new().await;
    let undisturbed = world.copy();
    let store = world.store(undisturbed.path());
    world.run(&store, crate::backup::holder()).await.unwrap();
    let writes = store.writes();
    let of = |folder: &str| writes.iter().filter(|w| w.op == Op::Put && w.key.starts_with(folder)).count();
    assert!(of("data/") >= 10 && of("index/") >= 3 && of("snapshots/") == 1 && of("locks/") == 1, "{writes:#?}");
    let whole = uploaded(&writes);

    let mut n = 0;
    loop {
        n += 1;
        let dir = world.copy();
        let store = world.store(dir.path());
        breaks.at(&store, n);
        let process = Process::start();
        let died = world.run(&store, process.holder()).await;
        drop(process);
        let log = store.writes();
        if (log.len() as u64) < n {
            died.unwrap();
            break;
        }
        let struck = log[n as usize - 1].clone();
        let at = format!("{breaks:?} at write {n} ({struck:?})");
        let there = bytes_in(&dir.path().join("data"));

        // Whole as it lies there.
        restic_check(dir.path(), PASSWORD, n % 6 == 0);
        let before = world.repo.with_store(Arc::new(world.store(dir.path()))).load_snapshots().await.unwrap().len();
        if !struck.key.starts_with("snapshots/") {
            // Once it is committed, a lock that stays is all that can go wrong.
            assert_eq!((died.is_ok(), before), if struck.op == Op::Delete { (true, 1) } else { (false, 0) }, "{at}");
        }

        // The next run takes over what is there.
        let store = world.store(dir.path());
        let report = world.run(&store, crate::backup::holder()).await.unwrap_or_else(|e| panic!("{at}: {}", e.report()));
        assert!(report.complete, "{at}");
        let again = uploaded(&store.writes());
        assert!(again + there <= whole + SLACK, "{at}: {there} bytes were there, {again} uploaded again, {whole} are all");
        assert_eq!(bytes_in(&dir.path().join("locks")), 0, "{at}: a lock is left");

        let repo = world.repo.with_store(Arc::new(world.store(dir.path())));
        let (snapshots, index) = (repo.load_snapshots().await.unwrap(), repo.load_index().await.unwrap());
        assert_eq!(snapshots.len(), before + 1, "{at}");
        let data = world.data.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let checked = strongroom::repository::check(
                &repo,
                &CheckOptions { read_data: ReadData::All, ..CheckOptions::default() },
                &Cancel::new(),
            )
            .unwrap();
            assert!(checked.is_sound(), "{at}: {:#?}", checked.findings);
            for snapshot in snapshots {
                let files = files_of(&repo, index.clone(), snapshot.file.tree);
                let mut seen = 0;
                for (path, content) in files.iter().filter(|(path, _)| !path.starts_with("/.strongroom/")) {
                    assert!(std::fs::read(path).unwrap() == *content, "{at}: {path}");
                    assert!(Path::new(path).starts_with(&data));
                    seen += 1;
                }
                assert_eq!(seen, 24, "{at}");
            }
        })
        .await
        .unwrap();
        if n % 6 == 3 {
            restic_check(dir.path(), PASSWORD, true);
        }
    }
    assert!(n > 15, "only {n} writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_before_any_of_its_writes_leaves_a_whole_repository_and_is_continued() {
    at_every_write(Breaks::DeadBefore).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_after_any_of_its_writes_leaves_a_whole_repository_and_is_continued() {
    at_every_write(Breaks::DeadAfter).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_which_any_one_write_fails_leaves_a_whole_repository_and_is_continued() {
    at_every_write(Breaks::Once).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_which_any_one_reply_is_lost_leaves_a_whole_repository_and_is_continued() {
    at_every_write(Breaks::ReplyLost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_whose_index_could_not_be_written_are_used_by_the_next_run_of_the_process() {
    let world = World::new().await;
    let dir = world.copy();
    let store = world.store(dir.path());
    store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Put]).prefix("index/"));
    world.run(&store, crate::backup::holder()).await.unwrap_err();
    let there = bytes_in(&dir.path().join("data"));
    assert!(there > 80_000 && bytes_in(&dir.path().join("index")) == 0, "{there}");
    store.clear();
    let before = uploaded(&store.writes());
    world.run(&store, crate::backup::holder()).await.unwrap();
    let again = uploaded(&store.writes()) - before;
    assert!(again + there <= 24 * 21_000 + SLACK, "{there} bytes were there, {again} uploaded again");
    restic_check(dir.path(), PASSWORD, true);
}
