use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use strongroom::error::Kind;
use strongroom::repository::RepoLock;
use strongroom::runtime::{Clock as _, TestClock};
use strongroom::store::fault::{Fault, FaultStore, Logged, Op, Rule, When};

use super::*;
use crate::support::judges;
use crate::support::namespace::{Need, is_root_or_passed_as_root};

/// Now, because the local store compares its clock with the file system's.
static START: LazyLock<i64> = LazyLock::new(|| SystemClock.now().secs);

impl Fixture {
    /// A repository whose writers and store tell the time by one clock that the test sets.
    async fn with_clock() -> (Self, TestClock) {
        let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new(Time::new(*START, 0)));
        let store = Arc::new(LocalStore::open(dir.path().to_owned(), Arc::new(clock.clone())).unwrap());
        let env = RepoEnv { clock: Arc::new(clock.clone()), cache_dir: None };
        let (repo, _) = Repository::init(store, &SecretText::new(PASSWORD.into()), &env, &holder()).await.unwrap();
        (Self { dir, repo }, clock)
    }

    async fn lock(&self, mode: LockMode) -> strongroom::error::Result<RepoLock> {
        self.repo.lock(mode, &holder(), &Cancel::new()).await
    }
}

fn minutes(n: i64) -> Time {
    Time::new(*START + 60 * n, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_locks_go_together_an_exclusive_one_stands_alone() {
    let f = Fixture::new().await;
    let (a, b) = (f.lock(LockMode::Shared).await.unwrap(), f.lock(LockMode::Shared).await.unwrap());
    let refused = f.lock(LockMode::Exclusive).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::Locked);
    assert!(
        refused.report().contains("tester@test-host") && refused.report().contains("strongroom unlock"),
        "{}",
        refused.report()
    );
    a.release().await.unwrap();
    b.release().await.unwrap();
    b.release().await.unwrap();
    let alone = f.lock(LockMode::Exclusive).await.unwrap();
    assert_eq!(f.lock(LockMode::Shared).await.err().unwrap().kind(), Kind::Locked);
    assert_eq!(f.objects("locks").len(), 1);
    alone.release().await.unwrap();
    assert!(f.objects("locks").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_want_it_alone_at_most_one_gets_it() {
    let f = Fixture::new().await;
    for _ in 0..3 {
        let locks: Vec<_> = futures::future::join_all((0..6).map(|_| f.lock(LockMode::Exclusive))).await;
        assert!(locks.iter().filter(|l| l.is_ok()).count() <= 1);
        for lock in locks.into_iter().flatten() {
            lock.release().await.unwrap();
        }
        assert!(f.objects("locks").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_it_when_it_is_free() {
    let f = Fixture::new().await;
    let held = f.lock(LockMode::Exclusive).await.unwrap();
    let (repo, cancel, me) = (&f.repo, Cancel::new(), holder());
    let wait = |time| repo.lock_within(LockMode::Shared, &me, time, &cancel);
    assert_eq!(wait(Duration::from_millis(300)).await.err().unwrap().kind(), Kind::Locked);
    let (waited, released) = tokio::join!(wait(Duration::from_secs(6)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        held.release().await
    });
    released.unwrap();
    waited.unwrap().release().await.unwrap();
    let held = f.lock(LockMode::Exclusive).await.unwrap();
    cancel.cancel();
    let stopped = wait(Duration::from_secs(60)).await.err().unwrap();
    assert_eq!(stopped.kind(), Kind::Cancelled);
    held.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_not_refreshed_is_not_relied_on() {
    let (f, clock) = Fixture::with_clock().await;
    let lock = f.lock(LockMode::Shared).await.unwrap();
    let first = f.objects("locks");
    clock.set(minutes(22));
    lock.verify().await.unwrap();
    assert_eq!(f.objects("locks"), first, "fresh enough");
    // Asleep, but nobody took it away: it is written anew and goes on.
    clock.set(minutes(40));
    lock.verify().await.unwrap();
    let second = f.objects("locks");
    assert!(second.len() == 1 && second != first);
    assert!(!f.repo.load_locks().await.unwrap()[0].1.is_stale(minutes(40)));
    // Taken away meanwhile: lost, fresh or not, and it stays lost.
    for time in [41, 80] {
        clock.set(minutes(time));
        for object in f.objects("locks") {
            std::fs::remove_file(object).unwrap();
        }
        let lost = lock.verify().await.err().unwrap();
        assert_eq!(lost.kind(), Kind::Locked, "{}", lost.report());
        assert!(f.objects("locks").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_lock_a_writer_leaves_no_snapshot() {
    let f = Fixture::new().await;
    let lock = f.lock(LockMode::Shared).await.unwrap();
    let (repo, index, held) = (f.repo.clone(), f.repo.load_index().await.unwrap(), lock.clone());
    let locks = f.path().join("locks");
    let failed = blocking(move || {
        let writer = Writer::start(&repo, index, Some(held), WriterOptions::default()).unwrap();
        let tree = writer.tree(&[]).unwrap();
        std::fs::remove_dir_all(&locks).unwrap();
        writer.commit(&SnapshotFile { tree, ..SnapshotFile::default() }).unwrap_err()
    })
    .await;
    assert_eq!(failed.kind(), Kind::Locked);
    assert!(f.objects("snapshots").is_empty() && f.objects("index").is_empty());
}

/// Nobody has acknowledged the pack then.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_without_an_answer_leaves_no_snapshot() {
    let f = Fixture::new().await;
    let store = FaultStore::new(local(f.path()), 1);
    let hook = |_: &Logged| panic!("on purpose");
    store.add(Rule::new(Fault::Before(Arc::new(hook))).on([Op::Put]).prefix("data/").when(When::Nth(2)));
    let repo = Repository::open(Arc::new(store), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
    let failed = super::store(&repo, 1, &files(&[("a", 500_000, 1)])).await.unwrap_err();
    assert!(failed.chain().contains("an upload ended without an answer"), "{}", failed.chain());
    assert!(f.objects("snapshots").is_empty());
    f.backup(2, &files(&[("a", 500_000, 1)])).await;
    f.assert_sound().await;
}

/// A repository with one exclusive lock of a client that keeps to no protocol: it appears right after our own is written.
/// Returns a handle whose store does that, and the intruder's object.
async fn intruded(f: &Fixture, slow: Option<Duration>) -> (Repository, PathBuf) {
    let theirs = f.lock(LockMode::Exclusive).await.unwrap();
    let object = f.objects("locks").pop().unwrap();
    let bytes = std::fs::read(&object).unwrap();
    theirs.release().await.unwrap();
    let store = Arc::new(FaultStore::new(local(f.path()), 1));
    let repo = Repository::open(store.clone(), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
    let to = object.clone();
    let appear = Fault::After(Arc::new(move |_: &Logged| std::fs::write(&to, &bytes).unwrap()));
    for fault in slow.map(Fault::Slow).into_iter().chain([appear]) {
        store.add(Rule::new(fault).on([Op::Put]).prefix("locks/"));
    }
    (repo, object)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_conflicts_is_found_before_the_first_commit() {
    let f = Fixture::new().await;
    let (repo, object) = intruded(&f, None).await;
    let found = match repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await {
        // It took so long on this machine that it was looked again at once.
        Err(e) => e,
        Ok(lock) => {
            let found = lock.verify().await.unwrap_err();
            assert_eq!(lock.verify().await.unwrap_err().kind(), Kind::Locked, "and again");
            std::fs::remove_file(&object).unwrap();
            lock.verify().await.unwrap();
            // From now on it is known that whoever comes sees ours.
            lock.release().await.unwrap();
            found
        }
    };
    assert_eq!(found.kind(), Kind::Locked, "{}", found.report());
    assert!(found.report().contains("locked exclusively"), "{}", found.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_long_in_coming_is_not_worked_under_before_a_second_look() {
    let f = Fixture::new().await;
    let (repo, object) = intruded(&f, Some(Duration::from_millis(150))).await;
    let found = repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.err().unwrap();
    assert_eq!(found.kind(), Kind::Locked, "{}", found.report());
    assert_eq!(f.objects("locks"), [object], "ours is gone");
}

/// The holder of an exclusive lock writes it anew and deletes the old one while we look: we have seen the old name only.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_refreshed_while_it_is_looked_at_is_seen() {
    let f = Fixture::new().await;
    let elsewhere = LockHolder { hostname: "elsewhere".into(), ..holder() };
    let mut theirs = Vec::new();
    for _ in 0..2 {
        let lock = f.repo.lock(LockMode::Exclusive, &elsewhere, &Cancel::new()).await.unwrap();
        let object = f.objects("locks").pop().unwrap();
        theirs.push((object.clone(), std::fs::read(&object).unwrap()));
        lock.release().await.unwrap();
    }
    // Whoever looks first looks for dead locks, and then for those that conflict.
    for look in [1, 2] {
        let [(old, bytes), (new, fresh)] = &theirs[..] else { unreachable!() };
        std::fs::write(old, bytes).unwrap();
        let store = Arc::new(FaultStore::new(local(f.path()), 1));
        let repo = Repository::open(store.clone(), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
        let refresh = {
            let (old, new, fresh) = (old.clone(), new.clone(), fresh.clone());
            Fault::Before(Arc::new(move |_: &Logged| {
                std::fs::write(&new, &fresh).unwrap();
                std::fs::remove_file(&old).unwrap();
            }))
        };
        store.add(Rule::new(refresh).on([Op::Get]).prefix("locks/").when(When::Nth(look)));
        let found = repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.err().unwrap();
        assert_eq!(found.kind(), Kind::Locked, "{}", found.report());
        assert_eq!(f.objects("locks"), std::slice::from_ref(new));
        std::fs::remove_file(new).unwrap();
    }
    // One that the store always lists and never gives is no reason to go on.
    let (object, bytes) = &theirs[0];
    std::fs::write(object, bytes).unwrap();
    let store = Arc::new(FaultStore::new(local(f.path()), 1));
    let repo = Repository::open(store.clone(), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
    store.add(Rule::new(Fault::Error(ErrorKind::NotFound)).on([Op::Get]).prefix("locks/"));
    let lost = repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.err().unwrap();
    assert_eq!(lost.kind(), Kind::Unavailable, "{}", lost.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_lock_is_removed() {
    let f = Fixture::new().await;
    drop(f.lock(LockMode::Exclusive).await.unwrap());
    crate::faults::until("it is gone", || f.objects("locks").is_empty());
}

/// An outage when a run ended: its lock names a process that lives on, and no longer cares for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_could_not_be_deleted_is_in_nobodys_way() {
    let f = Fixture::new().await;
    let store = Arc::new(FaultStore::new(local(f.path()), 1));
    let repo = Repository::open(store.clone(), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
    store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Delete]).prefix("locks/").when(When::First(2)));
    let left = repo.lock(LockMode::Exclusive, &holder(), &Cancel::new()).await.unwrap();
    assert_eq!(f.lock(LockMode::Shared).await.err().unwrap().kind(), Kind::Locked, "it is relied on");
    assert_eq!(left.release().await.unwrap_err().kind(), Kind::Unavailable);
    drop(left);
    crate::faults::until("it was tried once more", || store.writes().iter().filter(|w| w.op == Op::Delete).count() == 2);
    assert_eq!(f.objects("locks").len(), 1);
    let lock = repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.unwrap();
    assert!(!lock.follows_a_killed_run());
    assert_eq!(f.objects("locks").len(), 1);
    // What is in use stays, also by the word of another handle of this process.
    assert_eq!(f.repo.remove_dead_locks("test-host", &|_| false).await.unwrap().0, 0);
    lock.verify().await.unwrap();
    lock.release().await.unwrap();
    assert!(f.objects("locks").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_killed_processes_are_removed_and_others_are_not() {
    let f = Fixture::new().await;
    let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let theirs = LockHolder { pid: process.id(), ..holder() };
    let left = f.repo.lock(LockMode::Shared, &theirs, &Cancel::new()).await.unwrap();
    assert_eq!(f.lock(LockMode::Exclusive).await.err().unwrap().kind(), Kind::Locked, "it lives");
    process.kill().unwrap();
    process.wait().unwrap();
    let elsewhere = LockHolder { hostname: "elsewhere".into(), ..holder() };
    assert_eq!(f.repo.lock(LockMode::Exclusive, &elsewhere, &Cancel::new()).await.err().unwrap().kind(), Kind::Locked);
    let lock = f.lock(LockMode::Exclusive).await.unwrap();
    assert!(lock.follows_a_killed_run());
    lock.release().await.unwrap();
    std::mem::forget(left);
}

/// What is mounted there; unmounted when dropped.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(&self.0).status().unwrap();
    }
}

/// `/proc` may hide other users' processes: here it hides one behind an empty directory.
#[test]
fn a_process_that_is_hidden_is_not_dead() {
    let name = "a_process_that_is_hidden_is_not_dead";
    if !is_root_or_passed_as_root(module_path!(), name, Need::Mounts) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let f = Fixture::new().await;
        let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let theirs = LockHolder { pid: process.id(), ..holder() };
        let held = f.repo.lock(LockMode::Shared, &theirs, &Cancel::new()).await.unwrap();
        let place = Mounted(format!("/proc/{}", process.id()));
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "none", &place.0]).status().unwrap();
        assert!(mounted.success() && !Path::new(&place.0).join("stat").exists());
        assert_eq!(f.lock(LockMode::Exclusive).await.err().unwrap().kind(), Kind::Locked);
        drop(place);
        process.kill().unwrap();
        process.wait().unwrap();
        f.lock(LockMode::Exclusive).await.unwrap().release().await.unwrap();
        std::mem::forget(held);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn of_stale_locks_only_those_known_to_be_dead_are_removed() {
    let (f, clock) = Fixture::with_clock().await;
    let of = |hostname: &str| LockHolder { hostname: hostname.into(), ..holder() };
    let mut leaked = Vec::new();
    for hostname in ["gone-pod", "living-pod"] {
        leaked.push(f.repo.lock(LockMode::Shared, &of(hostname), &Cancel::new()).await.unwrap());
    }
    let is_ours = |file: &strongroom::repository::LockFile| file.hostname == "gone-pod";
    clock.set(minutes(29));
    assert_eq!(f.repo.remove_dead_locks("test-host", &is_ours).await.unwrap().0, 0, "not yet stale");
    clock.set(minutes(31));
    let (removed, left) = f.repo.remove_dead_locks("test-host", &is_ours).await.unwrap();
    assert_eq!((removed, left.len(), left[0].hostname.as_str()), (1, 1, "living-pod"));
    leaked.into_iter().for_each(std::mem::forget);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_may_only_read_are_told_apart() {
    let f = Fixture::new().await;
    f.backup(1, &files(&[("a", 1000, 1)])).await;
    let repo =
        Repository::open(failing(f.path(), 0, ErrorKind::Denied), &SecretText::new(PASSWORD.into()), &env()).await.unwrap();
    assert_eq!(repo.lock(LockMode::Shared, &holder(), &Cancel::new()).await.err().unwrap().kind(), Kind::Denied);
    assert!(contents(&repo).await == f.contents().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_restic_respects_our_locks() {
    let f = Fixture::new().await;
    f.backup(1, &files(&[("a", 1000, 1)])).await;
    let run = |args: &[&str]| judges::restic_command(f.path(), PASSWORD, args).output().unwrap();
    let shared = f.lock(LockMode::Shared).await.unwrap();
    let listed = judges::restic(f.path(), PASSWORD, &["list", "locks", "--no-lock"]);
    let json = judges::restic(f.path(), PASSWORD, &["cat", "lock", listed.trim(), "--no-lock"]);
    let lock: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&lock["hostname"], &lock["exclusive"], &lock["pid"]),
        (&"test-host".into(), &false.into(), &std::process::id().into())
    );
    assert_eq!(run(&["prune"]).status.code(), Some(11));
    assert_eq!(run(&["backup", "/etc/hostname"]).status.code(), Some(0));
    // Not stale: a plain unlock leaves it alone.
    judges::restic(f.path(), PASSWORD, &["unlock"]);
    shared.verify().await.unwrap();
    shared.release().await.unwrap();
    let exclusive = f.lock(LockMode::Exclusive).await.unwrap();
    assert_eq!(run(&["backup", "/etc/hostname"]).status.code(), Some(11));
    exclusive.release().await.unwrap();
    assert_eq!(run(&["prune"]).status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn we_respect_the_locks_of_stock_restic() {
    let f = Fixture::new().await;
    let mut backup = stdin_backup(f.path());
    // What it is still writing has a longer name, and is not a lock yet.
    let written = |p: &PathBuf| p.file_name().is_some_and(|name| name.len() == 64);
    crate::faults::until("restic holds a lock", || f.objects("locks").iter().any(written));
    let refused = f.lock(LockMode::Exclusive).await.err().unwrap();
    assert_eq!(refused.kind(), Kind::Locked);
    // restic on this machine lives, or may live elsewhere under our hostname: it is never ours to judge.
    assert_eq!(f.repo.remove_dead_locks("test-host", &|_| false).await.unwrap().1.len(), 1);
    f.backup(1, &files(&[("a", 1000, 1)])).await;
    let mut input = backup.stdin.take().unwrap();
    input.write_all(b"the end").unwrap();
    drop(input);
    let mut said = String::new();
    BufReader::new(backup.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(backup.wait().unwrap().success(), "{said}");
    f.lock(LockMode::Exclusive).await.unwrap().release().await.unwrap();
    assert_eq!(f.repo.load_snapshots().await.unwrap().len(), 2);
    f.assert_sound().await;
}

/// A backup by restic that holds its lock until its standard input ends.
fn stdin_backup(repo: &Path) -> Child {
    let mut command = judges::restic_command(repo, PASSWORD, &["backup", "--stdin"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}
