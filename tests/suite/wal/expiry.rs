//! What is there, what is needed, what goes.

use strongroom::model::Time;
use strongroom::store::ErrorKind;
use strongroom::store::fault::{Fault, Rule, When};
use strongroom::store::{Payload, PutMode, Store as _};
use strongroom::wal::{Need, Stretch, plan_expiry};

use super::*;

fn now() -> Time {
    std::time::SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(4_000_000_000)).unwrap().into()
}

fn stretch(timeline: u32, from: u64, to: Option<u64>) -> Stretch {
    Stretch { timeline: Timeline(timeline), from: Lsn(from), to: to.map(Lsn) }
}

fn need(timelines: &[u32], stretches: &[Stretch]) -> Need {
    Need { timelines: timelines.iter().map(|t| Timeline(*t)).collect(), stretches: stretches.to_vec() }
}

/// Timeline 1: 1 to 9 without 6; timeline 2 leaves it in the middle of 4.
async fn forked() -> Place {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, (1..10).filter(|n| *n != 6)).await;
    push_history(&folder, 2, &[(1, (4 << 20) + 5)]).await;
    let copied = {
        let mut s = segment(2, 4, 0);
        s[4] = 1;
        s
    };
    folder.push(&segment_file(2, 4), file(&copied)).await.unwrap();
    push_some(&folder, 2, 5..8).await;
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_tells_ranges_and_gaps() {
    let place = forked().await;
    place.folder().push_tip(name(2, 8), 0, Bytes::from(segment(2, 8, 0)).slice(..100)).await.unwrap();
    let survey = place.folder().survey().await.unwrap();
    let told: Vec<_> = survey
        .coverage()
        .into_iter()
        .map(|c| {
            (
                c.timeline.0,
                c.ranges.iter().map(|r| (r.from.0 >> 20, r.to.0 >> 20, r.segments)).collect::<Vec<_>>(),
                c.gaps(),
                c.unfinished,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (1, vec![(1, 6, 5), (7, 10, 3)], vec![(Lsn(6 << 20), Lsn(7 << 20))], None),
            (2, vec![(4, 8, 4)], vec![], Some(name(2, 8)))
        ]
    );
    assert_eq!((survey.reach(Timeline(1), Lsn(2 << 20)), survey.reach(Timeline(1), Lsn(6 << 20))), (Lsn(6 << 20), Lsn(6 << 20)));
    let identity = place.folder().identity().await.unwrap().unwrap();
    let path = |to, end: u64| identity.path((Timeline(1), Lsn(2 << 20)), (Timeline(to), Some(Lsn(end << 20)))).unwrap();
    assert_eq!(survey.missing(&path(2, 8)), []);
    assert_eq!(survey.missing(&path(2, 10)), [name(2, 8), name(2, 9)]);
    assert_eq!(survey.missing(&path(1, 10)), [name(1, 6)]);
    // The last one of the old timeline is not needed: the new one has a copy of it.
    place.store.delete(&key(&key_of(1, 4))).await.unwrap();
    assert_eq!(place.folder().survey().await.unwrap().missing(&path(2, 8)), []);
    assert!(place.folder().has(name(2, 7)).await.unwrap() && !place.folder().has(name(2, 8)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_nothing_needs_goes() {
    let place = forked().await;
    place.folder().push(&"000000010000000000000002.00000028.backup".parse().unwrap(), file(b"x")).await.unwrap();
    place.folder().push(&"000000010000000000000003.00000028.backup".parse().unwrap(), file(b"y")).await.unwrap();
    let survey = place.folder().survey().await.unwrap();
    // Without a base backup nothing goes at all.
    assert_says(plan_expiry(&survey, &need(&[1, 2], &[]), now()), "no base backup needs any WAL");
    let identity = place.folder().identity().await.unwrap().unwrap();
    // A base backup at 0/300010 with a window that is open to the end, whichever way it goes.
    let all = need(&[1, 2], &identity.reachable(Timeline(1), Lsn((3 << 20) + 16)));
    let plan = plan_expiry(&survey, &all, now()).unwrap();
    assert_eq!(plan.segments, [name(1, 1), name(1, 2)]);
    assert_eq!(plan.objects(), 3);
    // An older one that is kept for itself, and one on the second timeline only.
    let kept = need(&[1, 2], &[stretch(1, 1 << 20, Some((2 << 20) + 1)), stretch(2, 6 << 20, None)]);
    let plan = plan_expiry(&survey, &kept, now()).unwrap();
    let expected: Vec<_> = [3, 4, 5, 7, 8, 9].map(|n| name(1, n)).into_iter().chain([4, 5].map(|n| name(2, n))).collect();
    assert_eq!(plan.segments, expected);
    // A timeline that began after the policy looked is left alone.
    let unaware = need(&[1], &[stretch(1, 9 << 20, None)]);
    assert!(plan_expiry(&survey, &unaware, now()).unwrap().segments.iter().all(|s| s.timeline == Timeline(1)));
    let bytes = survey.bytes();
    place.folder().expire(&plan).await.unwrap();
    let left = place.folder().survey().await.unwrap();
    assert_eq!(left.segments().iter().map(|s| s.name).collect::<Vec<_>>(), [name(1, 1), name(1, 2), name(2, 6), name(2, 7)]);
    assert_eq!(bytes - left.bytes(), plan.bytes);
    place.folder().expire(&plan).await.unwrap();
    let (done, _) = fetch(&place.folder(), &segment_file(2, 5), Mode::Recovery).await;
    assert_says(done, "it was expired");
    assert!(place.keys().await.iter().any(|k| k.ends_with("00000002.history")));
}

/// Wherever it is broken off: what is kept has no new hole, and what is left of the rest is its newest part.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_hole() {
    for n in 1.. {
        let place = Place::new();
        push_some(&place.folder(), 1, 1..30).await;
        let survey = place.folder().survey().await.unwrap();
        let plan = plan_expiry(&survey, &need(&[1], &[stretch(1, 25 << 20, None)]), now()).unwrap();
        place.store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).writes().when(When::From(n)));
        let done = place.folder().expire(&plan).await;
        place.store.clear();
        let left = place.folder().survey().await.unwrap();
        assert!((25..30).all(|number| left.has(name(1, number))));
        // Removals run side by side; in this store they are done in order.
        let ranges = left.coverage()[0].ranges.clone();
        assert_eq!((ranges.len(), ranges[0].last), (1, name(1, 29)), "write {n}: {ranges:?}");
        place.folder().expire(&plan).await.unwrap();
        assert_eq!(place.folder().survey().await.unwrap().segments().len(), 5);
        if done.is_ok() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_go_once_they_are_old() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, 1..4).await;
    let part = format!("{}.part/{}-0000", key_of(1, 5), "00".repeat(16));
    place.store.put(&key(&part), Payload::from("x"), PutMode::Create).await.unwrap();
    place.folder().push_tip(name(1, 4), 0, Bytes::from(segment(1, 4, 0)).slice(..100)).await.unwrap();
    let survey = place.folder().survey().await.unwrap();
    let all = need(&[1], &[stretch(1, 0, None)]);
    let fresh = place.store.now().await.unwrap();
    assert!(plan_expiry(&survey, &all, fresh).unwrap().is_empty());
    assert_eq!(plan_expiry(&survey, &all, now()).unwrap().objects(), 1);
    // Another process stores the segment: its tips are of no use, but it does not know of them.
    push_some(&folder, 1, [4]).await;
    let survey = place.folder().survey().await.unwrap();
    assert_eq!(survey.coverage()[0].unfinished, None);
    let plan = plan_expiry(&survey, &all, now()).unwrap();
    assert_eq!((plan.objects(), plan.segments.len()), (2, 0));
    place.folder().expire(&plan).await.unwrap();
    assert!(!place.keys().await.iter().any(|k| k.contains(".tip/") || k.contains(".part/")));
}
