//! Pushing and fetching many at once: faster, and never a different answer.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use strongroom::store::ErrorKind;
use strongroom::store::fault::{Fault, Logged, Op, Rule, When};
use strongroom::wal::{PrefetchOptions, Prefetcher, PushOptions, Pushed, Pusher, ready_files};

use super::*;

/// A `pg_wal` with segments that are ready.
fn pg_wal(place: &Place, numbers: impl IntoIterator<Item = u64>) -> std::path::PathBuf {
    let dir = place.dir.path().join("pg_wal");
    std::fs::create_dir_all(dir.join("archive_status")).unwrap();
    for number in numbers {
        add(&dir, &name(1, number).to_string(), &segment(1, number, 0));
    }
    dir
}

fn add(dir: &Path, name: &str, content: &[u8]) {
    std::fs::write(dir.join(name), content).unwrap();
    std::fs::write(dir.join(format!("archive_status/{name}.ready")), "").unwrap();
}

async fn ask(pusher: &Pusher, dir: &Path, number: u64) -> Result<Pushed> {
    let source = File::open(dir.join(name(1, number).to_string())).unwrap();
    let done = pusher.push(&segment_file(1, number), source, Some(dir)).await;
    if done.is_ok() {
        let status = dir.join("archive_status").join(name(1, number).to_string());
        std::fs::rename(status.with_extension("ready"), status.with_extension("done")).unwrap();
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_ready_is_stored_in_order() {
    let place = Place::new();
    let dir = pg_wal(&place, 1..30);
    add(&dir, "00000002.history", &history(2, &[(1, 40 << 20)]).1);
    add(&dir, "000000010000000000000003.00000028.backup", b"label");
    std::fs::write(dir.join("archive_status/000000010000000000000001.done"), "").unwrap();
    std::fs::write(dir.join("archive_status/junk.ready"), "").unwrap();
    let names: Vec<String> = ready_files(&dir).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!((names.len(), &names[0][..], &names[4][..]), (31, "00000002.history", "000000010000000000000003.00000028.backup"));
    // A history file that comes first of all needs a cluster to belong to.
    let pusher = Pusher::new(place.folder(), PushOptions { parallel: 4, memory: 64 << 20, ahead: 8 });
    for (again, expected) in [(false, Pushed::Stored), (true, Pushed::Same)] {
        for file in ready_files(&dir).unwrap() {
            let source = File::open(dir.join(file.to_string())).unwrap();
            let pushed = pusher.push(&file, source, Some(&dir).filter(|_| !again).map(|d| &**d)).await.unwrap();
            assert_eq!(pushed, expected, "{file}");
        }
    }
    for number in 1..30 {
        assert_delivered(&place.folder(), 1, number).await;
    }
}

/// With a store that takes its time, several are under way at once, and none is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_sent_ahead_and_answered_in_order() {
    let place = Place::new();
    let dir = pg_wal(&place, 1..41);
    push_some(&place.folder(), 1, [1]).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (entered, left, seen) = (now.clone(), now, most.clone());
    let enter = move |_: &Logged| {
        seen.fetch_max(entered.fetch_add(1, SeqCst) + 1, SeqCst);
    };
    let leave = move |_: &Logged| {
        left.fetch_sub(1, SeqCst);
    };
    for fault in [Fault::Before(Arc::new(enter)), Fault::Slow(Duration::from_millis(50)), Fault::After(Arc::new(leave))] {
        place.store.add(Rule::new(fault).on([Op::Put]));
    }
    let pusher = Pusher::new(place.folder(), PushOptions { parallel: 8, memory: 64 << 20, ahead: 16 });
    for number in 1..41 {
        ask(&pusher, &dir, number).await.unwrap();
    }
    assert!((3..=8).contains(&most.load(SeqCst)), "puts at once: {most:?}");
    let puts = place.store.log().iter().filter(|l| l.op == Op::Put && l.key.ends_with("0D")).count();
    assert_eq!(puts, 1, "nothing is sent twice");
    place.store.clear();
    for number in 1..41 {
        assert_delivered(&place.folder(), 1, number).await;
    }
}

/// What fails ahead is told to nobody, and tried again when it is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn failures_ahead_are_found_again_or_pass() {
    let place = Place::new();
    let dir = pg_wal(&place, 1..13);
    push_some(&place.folder(), 1, [1]).await;
    // Passes; stays; is another server's.
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Put]).prefix(key_of(1, 4)).when(When::First(1)));
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Put]).prefix(key_of(1, 6)));
    place.folder().push(&segment_file(1, 9), file(&segment(1, 9, 5))).await.unwrap();
    let pusher = Pusher::new(place.folder(), PushOptions { parallel: 3, memory: 64 << 20, ahead: 8 });
    for number in 1..6 {
        ask(&pusher, &dir, number).await.unwrap();
    }
    for _ in 0..3 {
        assert!(ask(&pusher, &dir, 6).await.is_err());
    }
    assert!(!place.folder().has(name(1, 6)).await.unwrap());
    place.store.clear();
    for number in 6..9 {
        ask(&pusher, &dir, number).await.unwrap();
    }
    for _ in 0..3 {
        assert_says(ask(&pusher, &dir, 9).await, "another content");
    }
}

/// An answer belongs to a file, not to its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_replaced_is_looked_at_again() {
    let place = Place::new();
    let dir = pg_wal(&place, 1..5);
    let pusher = Pusher::new(place.folder(), PushOptions { parallel: 4, memory: 64 << 20, ahead: 8 });
    ask(&pusher, &dir, 1).await.unwrap();
    let path = dir.join(name(1, 2).to_string());
    crate::faults::until("the second one is sent ahead", || place.path(&key_of(1, 2)).exists());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, segment(1, 2, 9)).unwrap();
    assert_says(ask(&pusher, &dir, 2).await, "another content");
}

fn prefetcher(place: &Place, folder: Folder, segments: u64) -> Prefetcher {
    let options = PrefetchOptions { dir: place.dir.path().join("spool"), most: segments << 20, parallel: 3 };
    Prefetcher::open(folder, options).unwrap()
}

async fn fetch_through(prefetcher: &Prefetcher, number: u64, mode: Mode) -> (Result<Fetched>, Vec<u8>) {
    let mut out = tempfile::tempfile().unwrap();
    let done = prefetcher.fetch(&segment_file(1, number), out.try_clone().unwrap(), mode).await;
    let mut bytes = Vec::new();
    out.rewind().unwrap();
    out.read_to_end(&mut bytes).unwrap();
    (done, bytes)
}

fn spooled(place: &Place) -> usize {
    std::fs::read_dir(place.dir.path().join("spool")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_fetched_ahead() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..31).await;
    std::fs::create_dir_all(place.dir.path().join("spool")).unwrap();
    std::fs::write(place.dir.path().join("spool/wal-000000010000000000000002"), "an old one").unwrap();
    let ahead = prefetcher(&place, place.folder(), 8);
    place.store.add(Rule::new(Fault::Slow(Duration::from_millis(50))).on([Op::Get]));
    let before = place.store.log().len();
    for number in 1..31 {
        let (done, bytes) = fetch_through(&ahead, number, Mode::Recovery).await;
        assert_eq!(done.unwrap(), Fetched::Delivered { bytes: 1 << 20 });
        assert!(bytes == segment(1, number, 0));
        assert!(spooled(&place) <= 8 + 3);
    }
    let gets = place.store.log().split_off(before).iter().filter(|l| l.op == Op::Get && l.key.contains("/0000")).count();
    assert!(gets <= 30 + 3, "each is fetched once, and what is not there is asked for once: {gets}");
    place.store.clear();
    // The end is proven, as without it.
    assert_missing(fetch_through(&ahead, 31, Mode::Recovery).await);
    drop(ahead);
    // Another one, elsewhere: what is not needed any more is removed.
    let ahead = prefetcher(&place, place.folder(), 4);
    assert_eq!(spooled(&place), 0);
    fetch_through(&ahead, 3, Mode::Recovery).await.0.unwrap();
    fetch_through(&ahead, 20, Mode::Recovery).await.0.unwrap();
    crate::faults::until("the next four are there", || {
        (21..25).all(|n| place.dir.path().join("spool").join(format!("wal-{}", name(1, n))).exists())
    });
    crate::faults::until("nothing else is", || spooled(&place) == 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_ahead_harms_nobody() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..11).await;
    let ahead = prefetcher(&place, place.folder(), 4);
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Get]).prefix(key_of(1, 3)).when(When::First(1)));
    place.store.add(Rule::new(Fault::Corrupt).on([Op::Get]).prefix(key_of(1, 5)).when(When::First(1)));
    for number in 1..11 {
        // The asked one may meet the fault itself, if it is asked for before it is fetched ahead; then it is an error, not an end.
        let (mut done, mut bytes) = fetch_through(&ahead, number, Mode::Recovery).await;
        if done.is_err() {
            (done, bytes) = fetch_through(&ahead, number, Mode::Recovery).await;
        }
        done.unwrap();
        assert!(bytes == segment(1, number, 0));
    }
    // A spool that somebody damages.
    fetch_through(&ahead, 1, Mode::Recovery).await.0.unwrap();
    let two = place.dir.path().join("spool").join(format!("wal-{}", name(1, 2)));
    crate::faults::until("the second one is there", || two.exists());
    std::fs::write(&two, "short").unwrap();
    let (done, bytes) = fetch_through(&ahead, 2, Mode::Recovery).await;
    done.unwrap();
    assert!(bytes == segment(1, 2, 0));
    // An outage is an error for who asks, also where the next ones are there.
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Get]));
    assert!(fetch_through(&ahead, 9, Mode::Recovery).await.0.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_fetches_nothing_ahead() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..11).await;
    let ahead = prefetcher(&place, place.folder(), 4);
    let before = place.store.log().len();
    for number in [9, 8, 7] {
        fetch_through(&ahead, number, Mode::Rewind).await.0.unwrap();
    }
    assert_eq!((place.store.log().len() - before, spooled(&place)), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_read_at_once_share_what_is_fetched_ahead() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..41).await;
    let ahead = prefetcher(&place, place.folder(), 8);
    for number in [1, 21, 2, 22] {
        fetch_through(&ahead, number, Mode::Recovery).await.0.unwrap();
    }
    let there = |number| place.dir.path().join("spool").join(format!("wal-{}", name(1, number))).exists();
    crate::faults::until("the next four of both are there", || (3..7).chain(23..27).all(there));
    crate::faults::until("nothing else is", || spooled(&place) == 8);
    // What is there for one of them stays there, whatever the other one asks for.
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Get]));
    for number in [3, 23, 4, 24, 5, 6, 25, 26] {
        let (done, bytes) = fetch_through(&ahead, number, Mode::Recovery).await;
        assert_eq!(done.unwrap(), Fetched::Delivered { bytes: 1 << 20 }, "{number}");
        assert!(bytes == segment(1, number, 0));
    }
}
