//! Who may archive where: one cluster, one line of descent.

use strongroom::error::Kind;
use strongroom::wal::Pushed;

use super::*;

const CLONE: SystemId = SystemId { major: 17, identifier: 1234 };
const UPGRADED: SystemId = SystemId { major: 18, identifier: 5678 };

async fn push_as(place: &Place, system: SystemId, number: u64) -> Result<Pushed> {
    let content = segment_of(name(1, number), mib(), system, 0);
    place.archive().folder(system).push(&segment_file(1, number), file(&content)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_system_is_refused_until_it_is_adopted() {
    let place = Place::new();
    push_as(&place, SYSTEM, 1).await.unwrap();
    let before = place.keys().await;
    for system in [CLONE, UPGRADED] {
        let error = assert_says(push_as(&place, system, 2).await, "belongs to 17-7387432087440429062");
        assert!(error.hint_text().unwrap().contains("strongroom wal adopt"), "{}", error.report());
        let label: WalFile = "000000010000000000000005.00000028.backup".parse().unwrap();
        assert_says(place.archive().folder(system).push(&label, file(b"x")).await, "may not archive");
        assert_says(
            place.archive().folder(system).push(&history(2, &[(1, 9)]).0, history(2, &[(1, 9)]).1).await,
            "may not archive",
        );
    }
    assert_eq!(place.keys().await, before);
    // An upgraded cluster goes on in a folder of its own, and the old one is still whole.
    for _ in 0..2 {
        place.archive().adopt(UPGRADED).await.unwrap();
        push_as(&place, UPGRADED, 2).await.unwrap();
    }
    push_as(&place, SYSTEM, 2).await.unwrap();
    assert_says(push_as(&place, CLONE, 2).await, "may not archive");
    let systems: Vec<SystemId> = place.archive().systems().await.unwrap().iter().map(|a| a.system).collect();
    assert_eq!(systems, [SYSTEM, UPGRADED]);
    let (done, bytes) = fetch(&place.archive().folder(UPGRADED), &segment_file(1, 2), Mode::Recovery).await;
    done.unwrap();
    assert!(bytes == segment_of(name(1, 2), mib(), UPGRADED, 0));
    assert_delivered(&place.folder(), 1, 2).await;
}

/// Two that begin at the same moment: one of them is told that it does not belong here.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_systems_that_begin_at_once_one_is_refused() {
    for _ in 0..5 {
        let place = Place::new();
        let (a, b) = tokio::join!(push_as(&place, SYSTEM, 1), push_as(&place, CLONE, 1));
        assert_eq!([&a, &b].iter().filter(|r| r.is_ok()).count(), 1, "{a:?} {b:?}");
        assert_eq!(place.archive().systems().await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_goes_on() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, 1..4).await;
    let switch = (4 << 20) + 0x100;
    // A new timeline without its history is refused: its history file comes first.
    let new = segment(2, 5, 0);
    let refused = folder.push(&segment_file(2, 5), file(&new)).await;
    assert!(assert_says(refused, "timeline 2").hint_text().unwrap().contains("00000002.history"));
    push_history(&folder, 2, &[(1, switch)]).await;
    // Its first segment begins with what the server copied from the old timeline.
    let copied = {
        let mut s = segment(2, 4, 0);
        s[4] = 1;
        s
    };
    assert_eq!(folder.push(&segment_file(2, 4), file(&copied)).await.unwrap(), Pushed::Stored);
    assert_says(
        folder
            .push(
                &segment_file(2, 5),
                file(&{
                    let mut s = new.clone();
                    s[4] = 1;
                    s
                }),
            )
            .await,
        "it should be of timeline 2",
    );
    push_some(&folder, 2, 5..7).await;
    // The old one's last segments may come late.
    push_some(&place.folder(), 1, [4]).await;
    let identity = place.folder().identity().await.unwrap().unwrap();
    assert_eq!(identity.timelines.iter().map(|k| k.timeline.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(identity.history(Timeline(2)).unwrap(), history(2, &[(1, switch)]).2);
}

/// A server restored from the same origin was promoted elsewhere: its timeline has the same number and another past.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_of_the_same_origin_is_refused() {
    let place = Place::new();
    push_some(&place.folder(), 1, 1..4).await;
    push_history(&place.folder(), 2, &[(1, 3 << 20)]).await;
    let before = place.keys().await;
    let (file_name, bytes, parsed) = history(2, &[(1, 2 << 20)]);
    assert_says(place.folder().push(&file_name, bytes).await, "does not agree with timeline 2");
    assert_says(place.folder().register(Timeline(2), Some(&parsed), mib()).await, "Two servers of the same origin");
    let (file_name, bytes, _) = history(3, &[(1, 2 << 20), (2, 5 << 20)]);
    assert_says(place.folder().push(&file_name, bytes).await, "does not agree");
    assert_eq!(place.keys().await, before);
    // One that was adopted on a timeline of its own may go on: that is a fork, not a conflict.
    push_history(&place.folder(), 3, &[(1, 2 << 20)]).await;
    push_some(&place.folder(), 3, [2]).await;
}

/// Archiving begins on a cluster that has been promoted before.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_timeline_may_be_any() {
    let place = Place::new();
    push_some(&place.folder(), 5, [7]).await;
    assert_eq!(place.folder().identity().await.unwrap().unwrap().history(Timeline(5)), None);
    push_history(&place.folder(), 5, &[(1, 100), (4, 200)]).await;
    push_some(&place.folder(), 5, [8]).await;
    assert_eq!(place.folder().identity().await.unwrap().unwrap().history(Timeline(5)).unwrap().ancestors.len(), 2);
    // A history file that comes before there is an identity object is not forgotten.
    let place = Place::new();
    push_history(&place.folder(), 5, &[(1, 100), (4, 200)]).await;
    assert_eq!(place.folder().identity().await.unwrap(), None);
    push_some(&place.folder(), 5, [8]).await;
    assert_eq!(place.folder().identity().await.unwrap().unwrap().history(Timeline(5)).unwrap().ancestors.len(), 2);
}

/// Processes that change the identity object at the same time lose nothing.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_are_all_kept() {
    let place = Place::new();
    push_some(&place.folder(), 1, [1]).await;
    let changes = (2..10).map(|timeline| {
        let folder = place.folder();
        async move {
            push_history(&folder, timeline, &[(1, 1 << 20)]).await;
            folder.record_gap(Timeline(timeline), Lsn(1), Lsn(2), "the slot was gone").await.unwrap();
            folder.record_gap(Timeline(timeline), Lsn(1), Lsn(2), "again").await.unwrap();
        }
    });
    futures::future::join_all(changes).await;
    let identity = place.folder().identity().await.unwrap().unwrap();
    assert_eq!((identity.timelines.len(), identity.gaps.len()), (9, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_segment_is_written_down() {
    let place = Place::new();
    let folder = place.folder();
    push_some(&folder, 1, 1..4).await;
    let newest = || async { place.folder().identity().await.unwrap().unwrap().known(Timeline(1)).unwrap().newest };
    assert_eq!(newest().await, None);
    folder.flush().await;
    assert_eq!(newest().await, Some(name(1, 3)));
    folder.push(&segment_file(1, 2), file(&segment(1, 2, 0))).await.unwrap();
    folder.flush().await;
    assert_eq!(newest().await, Some(name(1, 3)), "it never goes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_opens_with_another_repositorys_key() {
    let place = Place::new();
    push_some(&place.folder(), 1, [1]).await;
    let foreign = Archive::open(Arc::new(place.store.clone()), seal(2), "main").unwrap();
    assert_eq!(foreign.systems().await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(foreign.folder(SYSTEM).identity().await.unwrap_err().kind(), Kind::Corrupt);
    let refused = foreign.folder(SYSTEM).push(&segment_file(1, 2), file(&segment(1, 2, 0))).await;
    assert_says(refused, "belongs to repository");
    for bad in ["", "Main", "a/b", "-a", "..", &"a".repeat(64)] {
        assert_eq!(Archive::open(Arc::new(place.store.clone()), seal(1), bad).unwrap_err().kind(), Kind::Config, "{bad}");
    }
}
