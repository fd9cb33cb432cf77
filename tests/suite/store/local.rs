//! The local store: the contract, and what is its own.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use strongroom::runtime::{SystemClock, TestClock};
use strongroom::store::{ErrorKind, LocalStore, Payload, PutMode, Store};

use super::conformance::{Fixture, conformance, key, keys, listings_are_in_byte_order as listings_in_order, pattern};

pub fn temp_store() -> (LocalStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (LocalStore::below(dir.path().to_owned(), "", Arc::new(SystemClock)).unwrap(), dir)
}

async fn fresh() -> Fixture {
    let (store, dir) = temp_store();
    Fixture::new(store, dir)
}

async fn below_a_prefix() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture::new(LocalStore::below(dir.path().to_owned(), "production/acme", Arc::new(SystemClock)).unwrap(), dir)
}

async fn to_be_made() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture::new(LocalStore::open(dir.path().join("new/root"), Arc::new(SystemClock)).unwrap(), dir)
}

conformance!(contract, fresh());
conformance!(contract_below_a_prefix, below_a_prefix());
conformance!(contract_of_a_new_root, to_be_made());

#[tokio::test]
async fn listings_are_in_byte_order() {
    listings_in_order(fresh().await.store.as_ref()).await;
}

#[tokio::test]
async fn a_missing_root_is_not_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::below(dir.path().join("unmounted"), "acme", Arc::new(SystemClock)).unwrap();
    let missing = |e: strongroom::store::Error| {
        assert_eq!(e.kind(), ErrorKind::NoSuchStore, "{}", e.chain());
        assert!(e.hint_text().unwrap().contains("mounted"));
    };
    missing(store.get(&key("config"), None).await.unwrap_err());
    missing(store.head(&key("config")).await.unwrap_err());
    missing(store.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap_err());
    missing(store.put(&key("config"), Payload::from("x"), PutMode::Overwrite).await.unwrap_err());
    missing(futures::TryStreamExt::try_collect::<Vec<_>>(store.list("")).await.unwrap_err());
    assert!(!dir.path().join("unmounted").exists());
}

#[tokio::test]
async fn files_are_private() {
    let (store, dir) = temp_store();
    store.put(&key("data/ab/x"), Payload::from("x"), PutMode::Create).await.unwrap();
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("data"), mode("data/ab"), mode("data/ab/x"), mode(".tmp")), (0o700, 0o700, 0o600, 0o700));
}

#[tokio::test]
async fn leftovers_are_hidden_and_go_after_a_day() {
    let (store, dir) = temp_store();
    let temp = dir.path().join(".tmp");
    std::fs::create_dir(&temp).unwrap();
    let leave = |name: &str, age: u64| {
        let file = std::fs::File::create(temp.join(name)).unwrap();
        #[allow(clippy::disallowed_methods, reason = "the file's age is against the real clock")]
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    leave("put-old", 90_000);
    leave("put-young", 80_000);
    store.put(&key("x"), Payload::from("x"), PutMode::Create).await.unwrap();
    assert!(!temp.join("put-old").exists() && temp.join("put-young").exists());
    assert_eq!(keys(&store, "").await, ["x"]);
    let reserved = store.put(&key("a/.tmp/b"), Payload::from("x"), PutMode::Create).await.unwrap_err();
    assert_eq!(reserved.kind(), ErrorKind::Invalid);
    // A failed put leaves nothing, not even there.
    let refused = store.put(&key("x"), Payload::from("y"), PutMode::Update(strongroom::store::Version("no".into()))).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let left: Vec<_> = std::fs::read_dir(&temp).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name == "lock" || name == "put-young"), "{left:?}");
}

/// As a lock is refreshed: the new object is put, then the old one is deleted. One of the two is always there.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_on_to_another_name_is_always_listed() {
    let (store, dir) = temp_store();
    let names = ["locks/a", "locks/b", "locks/c", "locks/d"];
    store.put(&key(names[0]), Payload::from("x"), PutMode::Create).await.unwrap();
    let paths = names.map(|name| dir.path().join(name));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let moving = {
        let done = done.clone();
        std::thread::spawn(move || {
            for (old, new) in paths.iter().zip(paths.iter().cycle().skip(1)).cycle() {
                std::fs::write(new, "x").unwrap();
                std::fs::remove_file(old).unwrap();
                // Faster than it is listed nothing can be followed.
                std::thread::sleep(std::time::Duration::from_millis(1));
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        })
    };
    let mut missed = 0;
    for _ in 0..3000 {
        missed += usize::from(keys(&store, "locks/").await.is_empty());
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    moving.join().unwrap();
    assert_eq!(missed, 0);
}

#[tokio::test]
async fn a_clock_that_is_ahead_makes_no_leftovers() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = Arc::new(TestClock::new(strongroom::model::Time::new(9_000_000_000, 0)));
    let store = LocalStore::open(dir.path().to_owned(), ahead).unwrap();
    std::fs::create_dir(dir.path().join(".tmp")).unwrap();
    std::fs::write(dir.path().join(".tmp/put-somebody-elses"), "under way").unwrap();
    store.put(&key("x"), Payload::from("x"), PutMode::Create).await.unwrap();
    assert!(dir.path().join(".tmp/put-somebody-elses").exists());
}

#[tokio::test]
async fn names_that_cannot_be_files_are_refused() {
    let (store, _dir) = temp_store();
    store.put(&key("a"), Payload::from("x"), PutMode::Create).await.unwrap();
    for name in ["a/b".to_owned(), "n".repeat(256)] {
        let refused = store.put(&key(&name), Payload::from("x"), PutMode::Overwrite).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{}", refused.chain());
    }
    store.put(&key("dir/x"), Payload::from("x"), PutMode::Create).await.unwrap();
    let refused = store.put(&key("dir"), Payload::from("x"), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{}", refused.chain());
}

/// Runs one test of this binary again in another environment; it must be `#[ignore]`d so that nobody else runs it.
fn rerun(test: &str, shell: &str, dir: &std::path::Path) {
    let script = format!("{shell}; exec \"$0\" --exact --ignored --nocapture {test}");
    let output =
        Command::new("sh").arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env("STORE_DIR", dir).output().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the inner test did not run");
}

#[test]
fn a_file_size_limit_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    // Blocks of 512 bytes; the signal would end the process, so that it is ignored as a daemon's supervisor would.
    rerun("store::local::inside_full_disk", "trap '' XFSZ; ulimit -f 64", dir.path());
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let dir = tempfile::tempdir().unwrap();
    // A file system of its own, in a name space that ends with the process.
    let script = "test -n \"$MOUNTED\" || MOUNTED=1 exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=256k none \"$STORE_DIR\" && exec \"$0\" --exact --ignored --nocapture store::local::inside_full_disk' \"$0\"";
    rerun("store::local::inside_full_disk", script, dir.path());
}

#[tokio::test]
#[ignore = "run by the tests above, where there is little room"]
async fn inside_full_disk() {
    let dir = std::path::PathBuf::from(std::env::var_os("STORE_DIR").unwrap());
    let store = LocalStore::below(dir.clone(), "", Arc::new(SystemClock)).unwrap();
    store.put(&key("small"), Payload::from("x"), PutMode::Create).await.unwrap();
    let full = store.put(&key("big"), Payload::from(pattern(1 << 20, 1)), PutMode::Create).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Full, "{}", full.chain());
    assert!(full.hint_text().is_some());
    assert!(full.to_string().contains("big"), "{full}");
    // Nothing of it is left, so that small things still find room.
    assert_eq!(keys(&store, "").await, ["small"]);
    store.put(&key("other"), Payload::from(pattern(10_000, 1)), PutMode::Create).await.unwrap();
}

#[test]
fn missing_permission_is_said_to_be_that() {
    let dir = tempfile::tempdir().unwrap();
    // Root may do everything but this: a file system that is mounted read-only.
    let script = "test -n \"$MOUNTED\" || MOUNTED=1 exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o ro none \"$STORE_DIR\" && exec \"$0\" --exact --ignored --nocapture store::local::inside_read_only' \"$0\"";
    rerun("store::local::inside_read_only", script, dir.path());
}

#[tokio::test]
#[ignore = "run by the test above, where nothing can be written"]
async fn inside_read_only() {
    let dir = std::path::PathBuf::from(std::env::var_os("STORE_DIR").unwrap());
    let store = LocalStore::below(dir, "", Arc::new(SystemClock)).unwrap();
    let denied = store.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied, "{}", denied.chain());
    assert!(denied.hint_text().is_some());
}

/// Many processes, one counter: the lock between updates works across processes.
#[test]
fn updates_of_many_processes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("counter"), "0").unwrap();
    let me = std::env::current_exe().unwrap();
    let run = |_| {
        Command::new(&me).args(["--exact", "--ignored", "store::local::inside_counting"]).env("STORE_DIR", dir.path()).output()
    };
    let outputs: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..4).map(|i| s.spawn(move || run(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect()
    });
    for output in outputs {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("counter")).unwrap(), "100");
}

#[tokio::test]
#[ignore = "run by the test above, several times at once"]
async fn inside_counting() {
    let dir = std::path::PathBuf::from(std::env::var_os("STORE_DIR").unwrap());
    let store = LocalStore::below(dir, "", Arc::new(SystemClock)).unwrap();
    for _ in 0..25 {
        loop {
            let (bytes, version) = store.get_versioned(&key("counter")).await.unwrap();
            let value: u32 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
            match store.put(&key("counter"), Payload::from((value + 1).to_string()), PutMode::Update(version)).await {
                Ok(_) => break,
                Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{}", e.chain()),
            }
        }
    }
}
