//! One test for each way in which a file may not be there. Only proof is an end of the archive.

use strongroom::error::Kind;
use strongroom::store::fault::{Fault, Op, Rule, When};
use strongroom::store::{ErrorKind, Payload, PutMode, Store as _};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_costs_one_request() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    let folder = place.folder();
    let before = place.store.log().len();
    assert_delivered(&folder, 1, 2).await;
    let asked = place.store.log().split_off(before);
    assert!(asked.len() == 1 && asked[0].op == Op::Get, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_archive_is_proven() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    place.folder().flush().await;
    for mode in [Mode::Recovery, Mode::Rewind] {
        assert_missing(fetch(&place.folder(), &segment_file(1, 4), mode).await);
        assert_missing(fetch(&place.folder(), &segment_file(1, 400), mode).await);
    }
    // Other timelines with longer numbers are no later WAL of this one.
    push_history(&place.folder(), 2, &[(1, 3 << 20)]).await;
    push_some(&place.folder(), 2, 3..9).await;
    assert_missing(fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await);
    for other in
        ["000000010000000000000002.00000028.backup", "000000010000000000000002.partial", "00000003.history", "00000001.history"]
    {
        assert_missing(fetch(&place.folder(), &other.parse().unwrap(), Mode::Recovery).await);
    }
}

/// A standby asks every few seconds: no listing for it, and no proof.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_answered_without_a_listing() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    let before = place.store.log().len();
    let (done, bytes) = fetch(&place.folder(), &segment_file(1, 4), Mode::Standby).await;
    assert!(matches!(done.unwrap(), Fetched::Missing { proven: false, .. }) && bytes.is_empty());
    let asked = place.store.log().split_off(before);
    assert!(asked.len() == 1 && asked[0].op == Op::Get, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_not_the_end() {
    let holes = |place: &Place| {
        let folder = place.folder();
        async move {
            for mode in [Mode::Recovery, Mode::Rewind] {
                let (done, bytes) = fetch(&folder, &segment_file(1, 4), mode).await;
                assert_says(done, "000000010000000000000004 is missing, but it is not the end of the archive");
                assert!(bytes.is_empty());
            }
        }
    };
    // A later segment is listed, be it far away in another folder.
    for later in [5, 9000] {
        let place = Place::new();
        push_some(&place.folder(), 1, [1, 2, 3, later]).await;
        holes(&place).await;
    }
    // Only the identity object knows of it: the listing is of a store that forgot, or was tidied up by hand.
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, 1..7).await;
    folder.flush().await;
    for number in 4..7 {
        place.store.delete(&key(&key_of(1, number))).await.unwrap();
    }
    holes(&place).await;
    // A timeline that left this one later: the segment was written once, and its server may still have it.
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    push_history(&place.folder(), 2, &[(1, 6 << 20)]).await;
    holes(&place).await;
    // The unfinished part of a later one, and the last one of an old timeline.
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    let tip = Bytes::from(segment(1, 5, 0)).slice(..5000);
    place.folder().push_tip(name(1, 5), 0, tip).await.unwrap();
    holes(&place).await;
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    place.folder().push(&WalFile::Partial(name(1, 5)), file(&segment(1, 5, 0))).await.unwrap();
    holes(&place).await;
    // What is known of the reason is said.
    place.folder().record_gap(Timeline(1), Lsn(4 << 20), Lsn(5 << 20), "the slot was dropped").await.unwrap();
    let (done, _) = fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await;
    assert_says(done, "it was never archived (the slot was dropped)");
}

/// Refusals and outages are never an answer, whichever request they strike.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_an_error() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    for kind in [ErrorKind::Denied, ErrorKind::Unavailable, ErrorKind::NoSuchStore, ErrorKind::Other] {
        for n in 1..=3 {
            place.store.add(Rule::new(Fault::Error(kind)).when(When::Nth(n)));
            let (done, bytes) = fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await;
            assert!(done.is_err() && bytes.is_empty(), "{kind:?} at {n}: {done:?}");
            place.store.clear();
        }
        place.store.add(Rule::new(Fault::Error(kind)));
        for file in [segment_file(1, 2), "00000002.history".parse().unwrap(), WalFile::Partial(name(1, 3))] {
            for mode in [Mode::Recovery, Mode::Standby, Mode::Rewind] {
                assert!(fetch(&place.folder(), &file, mode).await.0.is_err(), "{kind:?} {file}");
            }
        }
        place.store.clear();
    }
    assert_missing(fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await);
    // Nothing was ever archived there: most likely the wrong place.
    let empty = Place::new();
    for file in [segment_file(1, 2), "00000002.history".parse().unwrap()] {
        let (done, _) = fetch(&empty.folder(), &file, Mode::Recovery).await;
        assert_eq!(assert_says(done, "there is no WAL of system").kind(), Kind::NotFound);
    }
    let lost = Place::new();
    push_some(&lost.folder(), 1, 1..4).await;
    lost.store.delete(&key(&format!("{ROOT}/identity"))).await.unwrap();
    assert!(fetch(&lost.folder(), &segment_file(1, 4), Mode::Recovery).await.0.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_and_damaged_objects_are_found() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    let (one, two) = (place.path(&key_of(1, 1)), place.path(&key_of(1, 2)));
    let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
    std::fs::write(&one, &second).unwrap();
    std::fs::write(&two, &first).unwrap();
    for number in [1, 2] {
        let (done, _) = fetch(&place.folder(), &segment_file(1, number), Mode::Recovery).await;
        assert_eq!(assert_says(done, "damaged, or was put there under a wrong name").kind(), Kind::Corrupt);
        // Nor is a swapped one taken for what is pushed now.
        let pushed = place.folder().push(&segment_file(1, number), file(&segment(1, number, 0))).await;
        assert_eq!(pushed.unwrap_err().kind(), Kind::Corrupt);
    }
    std::fs::write(&two, &second).unwrap();
    assert_delivered(&place.folder(), 1, 2).await;
    for damage in [&first[..first.len() - 1], &first[..70], &first[..64], &first[..3], b""] {
        std::fs::write(&one, damage).unwrap();
        assert!(fetch(&place.folder(), &segment_file(1, 1), Mode::Recovery).await.0.is_err());
    }
    std::fs::write(&one, [&first[..], b"x"].concat()).unwrap();
    assert!(fetch(&place.folder(), &segment_file(1, 1), Mode::Recovery).await.0.is_err());
    // A reply that is cut or changed on the way.
    for fault in [Fault::Truncate(1000), Fault::Corrupt] {
        place.store.add(Rule::new(fault).on([Op::Get]));
        assert_eq!(fetch(&place.folder(), &segment_file(1, 2), Mode::Recovery).await.0.unwrap_err().kind(), Kind::Corrupt);
        place.store.clear();
    }
    let swapped = format!("{ROOT}/identity");
    let other = place.store.get(&key("wal/main/systems"), None).await.unwrap();
    place.store.put(&key(&swapped), Payload::from(other), PutMode::Overwrite).await.unwrap();
    assert_eq!(place.folder().identity().await.unwrap_err().kind(), Kind::Corrupt);
}

/// A server asks for history files until one is missing: a missing one in the middle would hide all later ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_history_file_is_made_from_its_successors() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    // Timeline 2 never archived anything.
    push_history(&place.folder(), 3, &[(1, 3 << 20), (2, 5 << 20)]).await;
    let (done, bytes) = fetch(&place.folder(), &"00000002.history".parse().unwrap(), Mode::Recovery).await;
    assert!(matches!(done.unwrap(), Fetched::Delivered { .. }));
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(TimelineHistory::parse(Timeline(2), &text).unwrap(), history(2, &[(1, 3 << 20)]).2);
    assert_missing(fetch(&place.folder(), &"00000004.history".parse().unwrap(), Mode::Recovery).await);
    // The file itself was lost, and a number that nothing descends from.
    place.store.delete(&key(&format!("{ROOT}/history/00000003.history"))).await.unwrap();
    let (_, bytes) = fetch(&place.folder(), &"00000003.history".parse().unwrap(), Mode::Recovery).await;
    assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 2);
    push_history(&place.folder(), 7, &[(1, 3 << 20)]).await;
    let (done, _) = fetch(&place.folder(), &"00000005.history".parse().unwrap(), Mode::Recovery).await;
    assert_says(done, "there is a later timeline: 7");
}
