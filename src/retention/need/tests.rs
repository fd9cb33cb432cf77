use proptest::prelude::*;

use super::*;
use crate::model::Ancestor;

const DAY: i64 = 86_400;
const SYSTEM: SystemId = SystemId { major: 17, identifier: 7 };
const NEXT: SystemId = SystemId { major: 18, identifier: 8 };

fn day(n: i64) -> Time {
    Time::new(n * DAY, 0)
}

fn base(n: u8, timeline: u32, start: u64, stopped: Time) -> Base {
    Base {
        id: Id([n; 32]),
        job: "main".into(),
        system: SYSTEM,
        timeline: Timeline(timeline),
        start: Lsn(start),
        stop: Lsn(start + 10),
        stopped,
        complete: true,
    }
}

fn history(timeline: u32, ancestors: &[(u32, u64)]) -> (Timeline, TimelineHistory) {
    let ancestors = ancestors.iter().map(|(t, at)| Ancestor { timeline: Timeline(*t), switch: Lsn(*at) }).collect();
    (Timeline(timeline), TimelineHistory { timeline: Timeline(timeline), ancestors })
}

fn system(timelines: &[u32], lineage: &[(Timeline, TimelineHistory)]) -> System {
    System {
        id: SYSTEM,
        timelines: timelines.iter().map(|t| Timeline(*t)).collect(),
        lineage: lineage.iter().cloned().collect(),
        newest_wal: Some(day(50)),
    }
}

fn cluster(system: System, bases: Vec<Base>) -> Cluster {
    Cluster { systems: vec![system], bases, ..Cluster::default() }
}

#[track_caller]
fn only(cluster: &Cluster, now: Time) -> (Need, Vec<String>) {
    let needs = wal_need(cluster, now);
    assert_eq!(needs.systems.len(), 1);
    (needs.systems[0].1.clone(), needs.alarms)
}

#[test]
fn without_a_window_all_wal_behind_the_oldest_base_stays() {
    let c = cluster(system(&[1], &[]), vec![base(1, 1, 100, day(1)), base(2, 1, 500, day(40))]);
    let (need, alarms) = only(&c, day(50));
    assert_eq!(need.oldest(Timeline(1)), Some(Lsn(100)));
    assert!(!need.wants(Timeline(1), Lsn(0), Lsn(100)) && need.wants(Timeline(1), Lsn(90), Lsn(101)));
    assert!(need.wants(Timeline(1), Lsn(u64::MAX - 1), Lsn(u64::MAX)));
    assert_eq!(alarms, Vec::<String>::new());
    let Need::Stretches(of) = need else { panic!() };
    assert!(of[&Timeline(1)][0].reason.contains("recovery from base backup 01010101"), "{of:?}");
}

#[test]
fn with_a_window_older_bases_keep_only_what_makes_them_consistent() {
    let mut c = cluster(
        system(&[1], &[]),
        vec![base(1, 1, 100, day(1)), base(2, 1, 500, day(30)), base(3, 1, 700, day(38)), base(4, 1, 900, day(48))],
    );
    c.windows.insert("main".into(), Duration::from_secs(10 * DAY as u64));
    let (need, _) = only(&c, day(50));
    let wants = |at: u64| need.wants(Timeline(1), Lsn(at), Lsn(at + 1));
    assert!(wants(100) && wants(109) && !wants(110) && !wants(99));
    assert!(wants(505) && !wants(511), "not the newest before the window");
    assert!(
        !wants(699) && wants(700) && wants(800) && wants(5000),
        "the window begins on day 40, so it needs the base of day 38"
    );
    // Another job of the cluster that has no window wants all since its own.
    c.bases[1].job = "other".into();
    let (need, _) = only(&c, day(50));
    assert!(need.wants(Timeline(1), Lsn(600), Lsn(601)) && !need.wants(Timeline(1), Lsn(300), Lsn(301)));
}

#[test]
fn timelines_that_came_later_are_needed_and_dead_ends_are_not() {
    let lineage = [history(2, &[(1, 300)]), history(3, &[(1, 300), (2, 600)]), history(4, &[(1, 50)])];
    let c = cluster(system(&[1, 2, 3, 4], &lineage), vec![base(1, 1, 100, day(1)), base(2, 4, 80, day(2))]);
    let (need, alarms) = only(&c, day(50));
    assert_eq!(alarms, Vec::<String>::new());
    assert_eq!([1, 2, 3, 4].map(|t| need.oldest(Timeline(t))), [Some(Lsn(100)), Some(Lsn(300)), Some(Lsn(600)), Some(Lsn(80))]);
    // A base on the newest line needs nothing of the ones before.
    let c = cluster(system(&[1, 2, 3], &lineage[..2]), vec![base(1, 3, 700, day(1))]);
    let (need, _) = only(&c, day(50));
    assert_eq!([1, 2, 3].map(|t| need.oldest(Timeline(t))), [None, None, Some(Lsn(700))]);
    // A base behind the switch is not in the later line's history.
    let c = cluster(system(&[1, 2], &lineage[..1]), vec![base(1, 1, 400, day(1)), base(2, 2, 800, day(2))]);
    let (need, _) = only(&c, day(50));
    assert_eq!([1, 2].map(|t| need.oldest(Timeline(t))), [Some(Lsn(400)), Some(Lsn(800))]);
}

#[test]
fn the_window_looks_for_a_base_on_each_line() {
    let lineage = [history(2, &[(1, 300)])];
    // The newer base is on the old line, behind the switch: recovery on the new one begins at the older base.
    let mut c = cluster(system(&[1, 2], &lineage), vec![base(1, 1, 100, day(1)), base(2, 1, 400, day(20))]);
    c.windows.insert("main".into(), Duration::from_secs(10 * DAY as u64));
    let (need, alarms) = only(&c, day(50));
    assert_eq!(alarms, Vec::<String>::new());
    assert_eq!(need.oldest(Timeline(1)), Some(Lsn(100)));
    assert!(need.wants(Timeline(1), Lsn(250), Lsn(251)) && need.wants(Timeline(2), Lsn(300), Lsn(301)));
}

#[test]
fn doubt_keeps_everything_and_raises_an_alarm() {
    let everything = |c: &Cluster| {
        let (need, alarms) = only(c, day(50));
        assert!(matches!(need, Need::Everything(_)) && need.wants(Timeline(9), Lsn(0), Lsn(1)), "{need:?}");
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        alarms[0].clone()
    };
    let mut unreadable = cluster(system(&[1], &[]), vec![base(1, 1, 100, day(1))]);
    unreadable.doubts.push("the manifest of snapshot abcd cannot be read".into());
    assert!(everything(&unreadable).contains("manifest of snapshot abcd"));
    assert!(everything(&cluster(system(&[1], &[]), vec![])).contains("no complete base backup"));
    let mut partial = base(1, 1, 100, day(1));
    partial.complete = false;
    everything(&cluster(system(&[1], &[]), vec![partial]));

    let (need, alarms) = only(&cluster(system(&[1, 2], &[]), vec![base(1, 1, 100, day(1))]), day(50));
    assert!(need.wants(Timeline(2), Lsn(0), Lsn(1)) && alarms.iter().any(|a| a.contains("history of timeline 2")), "{alarms:?}");
    let lineage = [history(2, &[(1, 50)])];
    let (need, alarms) = only(&cluster(system(&[1, 2], &lineage), vec![base(1, 1, 100, day(1))]), day(50));
    assert!(need.wants(Timeline(2), Lsn(0), Lsn(1)) && alarms[0].contains("no base backup reaches"), "{alarms:?}");
}

#[test]
fn a_running_restore_keeps_its_wal_until_its_hold_expires() {
    let lineage = [history(2, &[(1, 300)])];
    let mut c = cluster(system(&[1, 2], &lineage), vec![base(1, 2, 800, day(40))]);
    let hold =
        Hold { name: "restore-1".into(), identifier: 7, timeline: Timeline(1), from: Lsn(200), expires: Time::new(51 * DAY, 0) };
    c.holds = vec![hold.clone(), Hold { identifier: 9, from: Lsn(1), ..hold }];
    let (need, _) = only(&c, day(50));
    assert_eq!([1, 2].map(|t| need.oldest(Timeline(t))), [Some(Lsn(200)), Some(Lsn(300))]);
    let (need, _) = only(&c, day(52));
    assert_eq!([1, 2].map(|t| need.oldest(Timeline(t))), [None, Some(Lsn(800))]);
}

#[test]
fn a_system_that_was_left_needs_nothing_once_its_backups_are_gone() {
    let newer = Base { system: NEXT, ..base(3, 1, 5, day(60)) };
    let mut c = cluster(system(&[1], &[]), vec![newer.clone()]);
    let (need, alarms) = only(&c, day(70));
    assert_eq!((need, alarms), (Need::Stretches(BTreeMap::new()), vec![]));
    // Not while it still writes, nor while that is not known, nor while a backup of it is there.
    c.systems[0].newest_wal = Some(day(61));
    assert!(matches!(only(&c, day(70)).0, Need::Everything(_)));
    c.systems[0].newest_wal = None;
    assert!(matches!(only(&c, day(70)).0, Need::Everything(_)));
    c.bases.push(base(1, 1, 100, day(1)));
    assert_eq!(only(&c, day(70)).0.oldest(Timeline(1)), Some(Lsn(100)));
}

prop_compose! {
    /// A tree of timelines: each leaves an earlier one at a position behind that one's own beginning.
    fn lines()(parents in proptest::collection::vec((any::<prop::sample::Index>(), 1u64..500), 0..6)) -> Vec<TimelineHistory> {
        let mut all = vec![TimelineHistory::root(Timeline(1))];
        for (parent, length) in parents {
            let from = parent.get(&all).clone();
            let begin = from.ancestors.last().map_or(0, |a| a.switch.0);
            let mut ancestors = from.ancestors;
            ancestors.push(Ancestor { timeline: from.timeline, switch: Lsn(begin + length) });
            all.push(TimelineHistory { timeline: Timeline(all.len() as u32 + 1), ancestors });
        }
        all
    }
}

proptest! {
    /// Whatever the tree and the window: every time of the window can be recovered to on every line that any base could have
    /// reached it on, and each base keeps what makes it consistent.
    #[test]
    fn what_a_recovery_replays_is_never_let_go(
        lines in lines(),
        taken in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..600, 0i64..100, any::<bool>()), 1..8),
        window in proptest::option::of(1u64..100),
    ) {
        let now = day(100);
        let bases: Vec<Base> = taken.iter().enumerate().map(|(n, (line, at, when, complete))| {
            let line = line.get(&lines);
            let begin = line.ancestors.last().map_or(0, |a| a.switch.0);
            Base { complete: *complete || n == 0, ..base(n as u8 + 1, line.timeline.0, begin + at, day(*when)) }
        }).collect();
        let timelines: Vec<u32> = lines.iter().map(|l| l.timeline.0).collect();
        let lineage: Vec<_> = lines.iter().skip(1).map(|l| (l.timeline, l.clone())).collect();
        let mut c = cluster(system(&timelines, &lineage), bases.clone());
        if let Some(days) = window {
            c.windows.insert("main".into(), Duration::from_secs(days * DAY as u64));
        }
        let (need, _) = only(&c, now);
        for b in &bases {
            prop_assert!((b.start.0..b.stop.0).all(|at| need.wants(b.timeline, Lsn(at), Lsn(at + 1))));
        }
        let begin = window.map_or(day(0), |days| day(100 - days as i64));
        for line in &lines {
            // The base that a restore to the window's begin on this line would choose, else the first one behind it.
            let usable: Vec<&Base> = bases.iter().filter(|b| b.complete && line.contains(b.timeline, b.stop)).collect();
            let at_begin = usable.iter().filter(|b| b.stopped <= begin).max_by_key(|b| (b.stopped, b.id));
            let first = if window.is_none() { usable.iter().min_by_key(|b| (b.stopped, b.id)) } else { at_begin };
            for b in first.into_iter().chain(usable.iter().filter(|b| b.stopped > begin)) {
                for at in (b.start.0..3000).step_by(7) {
                    let on = line.timeline_at(Lsn(at));
                    prop_assert!(need.wants(on, Lsn(at), Lsn(at + 1)), "{b:?} on {line:?} at {at}: {need:?}");
                }
            }
        }
    }
}
