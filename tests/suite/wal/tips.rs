//! The unfinished segment: deltas go up, recovery puts them together, and they never get in the way of the whole one.

use strongroom::error::Kind;
use strongroom::store::ErrorKind;
use strongroom::store::fault::{Fault, Op, Rule};
use strongroom::wal::Pushed;

use super::*;

fn part(number: u64, range: std::ops::Range<usize>) -> Bytes {
    Bytes::from(segment(1, number, 0)).slice(range)
}

/// `until` bytes of a segment, then zeros.
fn padded(number: u64, until: usize) -> Vec<u8> {
    let mut bytes = segment(1, number, 0);
    bytes[until..].fill(0);
    bytes
}

async fn place() -> Place {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    place
}

async fn assert_unfinished(place: &Place, until: u64) {
    let (done, bytes) = fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await;
    assert_eq!(done.unwrap(), Fetched::Unfinished { until: Lsn((4 << 20) + until) });
    assert!(bytes == padded(4, usize::try_from(until).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn tips_are_put_together_and_padded() {
    let place = place().await;
    let folder = place.folder();
    let mut at = 0;
    for end in [100, 8192, 8193, 300_000, 1 << 20] {
        assert_eq!(folder.push_tip(name(1, 4), at as u64, part(4, at..end)).await.unwrap(), Pushed::Stored);
        assert_unfinished(&place, end as u64).await;
        assert_eq!(place.folder().tip_end(name(1, 4)).await.unwrap(), end as u64);
        at = end;
    }
    for mode in [Mode::Rewind, Mode::Standby] {
        let (done, bytes) = fetch(&place.folder(), &segment_file(1, 4), mode).await;
        assert!(matches!(done.unwrap(), Fetched::Missing { .. }) && bytes.is_empty());
    }
    // The whole segment takes their place.
    push_some(&folder, 1, [4]).await;
    assert!(!place.keys().await.iter().any(|k| k.contains(".tip/")), "{:?}", place.keys().await);
    assert_delivered(&place.folder(), 1, 4).await;
}

/// Between the listing and the reading the segment was completed and its tips removed. That proves nothing about its end.
#[tokio::test(flavor = "multi_thread")]
async fn tips_that_go_meanwhile_are_no_proof() {
    let place = place().await;
    place.folder().push_tip(name(1, 4), 0, part(4, 0..1000)).await.unwrap();
    place.folder().push_tip(name(1, 4), 1000, part(4, 1000..2000)).await.unwrap();
    let tips: Vec<_> = place.keys().await.into_iter().filter(|k| k.contains(".tip/")).collect();
    for tip in tips {
        place.store.add(Rule::new(Fault::Error(ErrorKind::NotFound)).on([Op::Get]).prefix(tip));
        let (done, _) = fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await;
        assert_eq!(done.unwrap_err().kind(), Kind::Unavailable);
        place.store.clear();
    }
    assert_unfinished(&place, 2000).await;
}

/// A new process begins at the beginning, with other borders.
#[tokio::test(flavor = "multi_thread")]
async fn other_borders_after_a_restart_change_nothing() {
    let place = place().await;
    place.folder().push_tip(name(1, 4), 0, part(4, 0..1000)).await.unwrap();
    place.folder().push_tip(name(1, 4), 1000, part(4, 1000..2000)).await.unwrap();
    assert_eq!(place.folder().push_tip(name(1, 4), 0, part(4, 0..500)).await.unwrap(), Pushed::Same);
    assert_eq!(place.folder().push_tip(name(1, 4), 0, part(4, 0..2000)).await.unwrap(), Pushed::Same);
    assert_eq!(place.folder().push_tip(name(1, 4), 0, part(4, 0..3000)).await.unwrap(), Pushed::Stored);
    // One that overlaps what is there.
    assert_eq!(place.folder().push_tip(name(1, 4), 2500, part(4, 2500..4000)).await.unwrap(), Pushed::Stored);
    assert_unfinished(&place, 4000).await;
    let tips = place.keys().await.into_iter().filter(|k| k.contains(".tip/")).count();
    assert_eq!(tips, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_hole_is_served() {
    let place = place().await;
    place.folder().push_tip(name(1, 4), 5000, part(4, 5000..6000)).await.unwrap();
    assert_missing(fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await);
    assert_eq!(place.folder().tip_end(name(1, 4)).await.unwrap(), 0);
    place.folder().push_tip(name(1, 4), 0, part(4, 0..4000)).await.unwrap();
    assert_unfinished(&place, 4000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_is_found_out() {
    let place = place().await;
    place.folder().push_tip(name(1, 4), 0, part(4, 0..1000)).await.unwrap();
    let other = Bytes::from(segment(1, 4, 9));
    for bytes in [other.slice(..1000), other.slice(..500), other.slice(..2000)] {
        assert_says(place.folder().push_tip(name(1, 4), 0, bytes).await, "another content");
    }
    // With other borders it is found when they are put together.
    place.folder().push_tip(name(1, 4), 500, other.slice(500..1500)).await.unwrap();
    assert!(fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await.0.is_err());
    for (segment, offset, bytes) in [
        (name(2, 4), 0, other.slice(..100)),
        (name(1, 5), 0, other.slice(..100)),
        (name(1, 4), 1 << 20, other.slice(..1)),
        (name(1, 4), 9, Bytes::new()),
    ] {
        assert!(place.folder().push_tip(segment, offset, bytes).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tips_never_hide_a_hole() {
    let place = place().await;
    let folder = place.folder();
    folder.push_tip(name(1, 4), 0, part(4, 0..1000)).await.unwrap();
    push_some(&folder, 1, [5]).await;
    let (done, bytes) = fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await;
    assert_says(done, "000000010000000000000005 is there");
    assert!(bytes.is_empty());
}

/// What the old primary wrote behind the place where the new one left is no part of the new one's past.
#[tokio::test(flavor = "multi_thread")]
async fn a_tip_ends_where_a_later_timeline_left() {
    let place = place().await;
    place.folder().push_tip(name(1, 4), 0, part(4, 0..9000)).await.unwrap();
    push_history(&place.folder(), 2, &[(1, (4 << 20) + 5000)]).await;
    assert_unfinished(&place, 5000).await;
    // The new one's own copy is there: only a recovery that stays on the old timeline asks for this, and gets all of it.
    let copy = {
        let mut s = segment(2, 4, 0);
        s[4] = 1;
        Bytes::from(s)
    };
    place.folder().push_tip(name(2, 4), 0, copy.slice(..6000)).await.unwrap();
    assert_unfinished(&place, 9000).await;
    // One that left where the segment begins has nothing of it.
    push_history(&place.folder(), 3, &[(1, 4 << 20)]).await;
    assert_missing(fetch(&place.folder(), &segment_file(1, 4), Mode::Recovery).await);
    // One that left long before is no concern of it.
    let place = self::place().await;
    place.folder().push_tip(name(1, 4), 0, part(4, 0..9000)).await.unwrap();
    push_history(&place.folder(), 2, &[(1, 2 << 20)]).await;
    assert_unfinished(&place, 9000).await;
}
