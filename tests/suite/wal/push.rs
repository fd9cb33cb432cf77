//! What is stored, what is refused, and what survives a store that breaks.

use std::os::unix::fs::FileExt as _;

use futures::future::join_all;
use strongroom::crypto::Codec;
use strongroom::error::Kind;
use strongroom::store::fault::{Fault, Op, Rule, When};
use strongroom::store::{ErrorKind, Store as _};
use strongroom::wal::Pushed;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_stored_once_and_never_replaced() {
    let place = Place::new();
    let folder = place.folder();
    let (one, content) = (segment_file(1, 5), segment(1, 5, 0));
    assert_eq!(folder.push(&one, file(&content)).await.unwrap(), Pushed::Stored);
    let stored = place.store.get(&key(&key_of(1, 5)), None).await.unwrap();
    for folder in [&folder, &place.folder()] {
        assert_eq!(folder.push(&one, file(&content)).await.unwrap(), Pushed::Same);
        let other = segment(1, 5, 9);
        let error = assert_says(folder.push(&one, file(&other)).await, "stored already with another content");
        assert_eq!(error.kind(), Kind::Failed);
        // Both are named, and what to do.
        for content in [&content, &other] {
            let told = strongroom::crypto::Content::of(content).to_string();
            assert!(error.report().contains(&told) && error.report().contains("Nothing was overwritten"), "{}", error.report());
        }
    }
    assert_eq!(place.store.get(&key(&key_of(1, 5)), None).await.unwrap(), stored);
    assert_delivered(&folder, 1, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_its_name_says_is_refused() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, [5]).await;
    let before = place.keys().await;
    let good = segment(1, 6, 0);
    let changed = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    for (content, words) in [
        (good[..good.len() - 1].to_vec(), "it has 1048575 bytes, and a segment of its cluster 1048576"),
        ([&good[..], &[0]].concat(), "it has 1048577 bytes"),
        (Vec::new(), "too short"),
        (vec![0; 1 << 20], "does not begin like a WAL segment"),
        (segment(1, 7, 0), "its first page is that of position 0/700000, its name is that of 0/600000"),
        (segment(2, 6, 0), "timeline 2, which is later than its name's"),
        (changed(24, &[1]), "strongroom wal adopt"),
        (changed(0, &0xD113u16.to_le_bytes()), "it was written by PostgreSQL 16"),
        (changed(2, &[0]), "short header"),
        (changed(32, &(3u32 << 20).to_le_bytes()), "cannot be the size of a WAL segment"),
    ] {
        let refused = folder.push(&segment_file(1, 6), file(&content)).await;
        assert_eq!(assert_says(refused, words).kind(), Kind::Failed);
    }
    // Of another size than the archive's.
    let large = SegmentSize::new(2 << 20).unwrap();
    let other = SegmentName::at(Timeline(1), Lsn(6 << 20), large);
    let refused = folder.push(&WalFile::Segment(other), file(&segment_of(other, large, SYSTEM, 0))).await;
    assert_says(refused, "segments of 1048576 bytes in the archive, and this one has 2097152");
    assert_says(folder.push(&WalFile::History(Timeline(2)), file(b"nonsense")).await, "not a line of a timeline's history");
    assert_says(folder.push(&WalFile::History(Timeline(2)), file(b"# x\n")).await, "names no ancestors");
    assert_eq!(place.keys().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_in_pg_wal_is_stored_beside_the_segments() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, [5]).await;
    for (file_name, content) in [
        ("000000010000000000000005.00000028.backup", b"START WAL LOCATION: 0/500028".to_vec()),
        ("000000010000000000000006.partial", segment(1, 6, 0)),
        ("00000002.history", b"1\t0/600100\tno recovery target specified\n".to_vec()),
    ] {
        let wal: WalFile = file_name.parse().unwrap();
        assert_eq!(folder.push(&wal, file(&content)).await.unwrap(), Pushed::Stored);
        assert_eq!(folder.push(&wal, file(&content)).await.unwrap(), Pushed::Same);
        let (done, bytes) = fetch(&folder, &wal, Mode::Recovery).await;
        assert_eq!(done.unwrap(), Fetched::Delivered { bytes: content.len() as u64 });
        assert_eq!(bytes, content);
    }
    let wal: WalFile = "000000010000000000000005.00000028.backup".parse().unwrap();
    assert_says(folder.push(&wal, file(b"START WAL LOCATION: 0/500029")).await, "another content");
}

/// One request for each segment, once the timeline is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_costs_one_request() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, [1]).await;
    let before = place.store.log().len();
    push_some(&folder, 1, 2..22).await;
    let asked = place.store.log().split_off(before);
    assert!(asked.len() == 20 && asked.iter().all(|l| l.op == Op::Put), "{asked:?}");
}

/// The put took effect and nobody was told: the next try finds its own content.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_no_conflict() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, [1]).await;
    place.store.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::First(1)));
    let (two, content) = (segment_file(1, 2), segment(1, 2, 0));
    assert_eq!(folder.push(&two, file(&content)).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(folder.push(&two, file(&content)).await.unwrap(), Pushed::Same);
    // A refusal that is lost is one of another server's object, too.
    place.store.clear();
    place.store.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::First(1)));
    let other = segment(1, 2, 7);
    assert_eq!(folder.push(&two, file(&other)).await.unwrap_err().kind(), Kind::Unavailable);
    assert_says(folder.push(&two, file(&other)).await, "another content");
    assert_delivered(&folder, 1, 2).await;
}

/// Whichever operation of the first push fails or loses its reply: the next push, of a new process, succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_a_first_push_may_fail() {
    for fault in [Fault::LostReply, Fault::Error(ErrorKind::Unavailable), Fault::Error(ErrorKind::Denied)] {
        for n in 1.. {
            let place = Place::new();
            place.store.add(Rule::new(fault.clone()).when(When::Nth(n)));
            let folder = place.folder();
            let first = folder.push(&segment_file(1, 3), file(&segment(1, 3, 0))).await;
            let asked = place.store.log().len() as u64;
            place.store.clear();
            if let Err(e) = first {
                let kind = e.kind();
                assert!(matches!(kind, Kind::Unavailable | Kind::Denied), "{kind:?}");
            }
            for folder in [folder, place.folder()] {
                folder.push(&segment_file(1, 3), file(&segment(1, 3, 0))).await.unwrap();
                assert_delivered(&folder, 1, 3).await;
            }
            let identity = place.folder().identity().await.unwrap().unwrap();
            assert_eq!(identity.timelines.len(), 1);
            if n > asked {
                break;
            }
        }
    }
}

/// Killed between the identity object and the segment: the archive knows a timeline without WAL, and that is all.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_is_listed_before_its_first_segment() {
    let place = Place::new();
    place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Put]).prefix(format!("{ROOT}/0")));
    let folder = place.folder();
    folder.push(&segment_file(1, 3), file(&segment(1, 3, 0))).await.unwrap_err();
    assert_eq!(place.keys().await, [format!("{ROOT}/identity"), "wal/main/systems".to_owned()]);
    assert!(place.folder().identity().await.unwrap().unwrap().known(Timeline(1)).is_some());
    place.store.clear();
    assert_missing(fetch(&place.folder(), &segment_file(1, 3), Mode::Recovery).await);
    push_some(&place.folder(), 1, [3]).await;
    assert_delivered(&place.folder(), 1, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_pushers_with_other_content_one_wins() {
    let place = Place::new();
    let one = segment_file(1, 5);
    let pushes = (0..8).map(|seed| {
        let (folder, one) = (place.folder(), one.clone());
        async move { folder.push(&one, file(&segment(1, 5, seed))).await }
    });
    let mut won = 0;
    for done in join_all(pushes).await {
        match done {
            Ok(pushed) => won += usize::from(pushed == Pushed::Stored),
            Err(e) => assert!(e.chain().contains("another content"), "{}", e.chain()),
        }
    }
    assert_eq!(won, 1);
    let same = (0..8).map(|_| {
        let folder = place.folder();
        async move { folder.push(&segment_file(1, 6), file(&segment(1, 6, 0))).await.unwrap() }
    });
    let done = join_all(same).await;
    assert_eq!(done.iter().filter(|p| **p == Pushed::Stored).count(), 1, "{done:?}");
}

/// Stored in parts beside it, which are never seen without it.
#[tokio::test(flavor = "multi_thread")]
async fn large_segments_come_and_go_in_parts() {
    let place = Place::new();
    let size = SegmentSize::new(128 << 20).unwrap();
    let one = SegmentName::at(Timeline(1), Lsn(3 * (128 << 20)), size);
    let wal = WalFile::Segment(one);
    let content = segment_of(one, size, SYSTEM, 0);
    let archive = || Archive::with_codec(Arc::new(place.store.clone()), seal(1), "main", Codec::None).unwrap();
    let folder = archive().folder(SYSTEM);
    // The file changes after its first part was sent.
    let source = file(&content);
    let writer = source.try_clone().unwrap();
    let change = move |_: &_| writer.write_at(b"x", 100 << 20).map(drop).unwrap();
    place.store.add(Rule::new(Fault::After(Arc::new(change))).on([Op::Put]).prefix(format!("{ROOT}/0")).when(When::Nth(1)));
    assert_says(folder.push(&wal, source).await, "changed while it was read");
    assert_eq!(place.keys().await, [format!("{ROOT}/identity"), "wal/main/systems".to_owned()], "its parts are gone");
    place.store.clear();
    // The store gave no answer to the last put, and may carry it out yet: what that object names has to stay.
    let commit = Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Put]).prefix(format!("{ROOT}/0")).when(When::Nth(5));
    place.store.add(commit);
    assert_eq!(folder.push(&wal, file(&content)).await.unwrap_err().kind(), Kind::Unavailable);
    place.store.clear();
    let left: Vec<_> = place.keys().await.into_iter().filter(|k| k.contains(".part/")).collect();
    assert_eq!(left.len(), 4);
    for part in left {
        place.store.delete(&key(&part)).await.unwrap();
    }
    assert_eq!(folder.push(&wal, file(&content)).await.unwrap(), Pushed::Stored);
    let parts = place.keys().await.iter().filter(|k| k.contains(".part/")).count();
    assert_eq!(parts, 4);
    assert_eq!(archive().folder(SYSTEM).push(&wal, file(&content)).await.unwrap(), Pushed::Same);
    assert_eq!(place.keys().await.iter().filter(|k| k.contains(".part/")).count(), 4, "the second try left nothing");
    let (done, bytes) = fetch(&archive().folder(SYSTEM), &wal, Mode::Recovery).await;
    assert_eq!(done.unwrap(), Fetched::Delivered { bytes: size.bytes() });
    assert!(bytes == content);
    // Parts are part of what is checked.
    let part = place.keys().await.into_iter().find(|k| k.ends_with("-0001")).unwrap();
    place.store.delete(&key(&part)).await.unwrap();
    let (done, _) = fetch(&folder, &wal, Mode::Recovery).await;
    assert_eq!(assert_says(done, "lacks its part").kind(), Kind::Corrupt);
    // Nobody is told that it is stored.
    let again = archive().folder(SYSTEM).push(&wal, file(&content)).await;
    assert_eq!(assert_says(again, "lacks its part").kind(), Kind::Corrupt);
}
