use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::model::{Ancestor, Id, Lsn, SystemId, Time, Timeline, TimelineHistory};

const NOW: &str = "2026-11-21T12:00:00Z";

fn t(text: &str) -> Time {
    text.parse().unwrap()
}

fn id(n: u32) -> Id {
    let mut out = [0; 32];
    out[..4].copy_from_slice(&n.to_be_bytes());
    Id(out)
}

fn snapshot(n: u32, time: Time) -> Candidate {
    Candidate {
        id: id(n),
        origin: id(n),
        time,
        end: None,
        job: Some("main".into()),
        complete: true,
        altered: false,
        hold: false,
        size: 1,
        system: None,
        stop: None,
    }
}

fn all(times: &[&str]) -> Vec<Candidate> {
    (0..).zip(times).map(|(n, text)| snapshot(n, t(text))).collect()
}

fn guards() -> Guards {
    Guards::new(t(NOW), t(NOW))
}

/// No breaker, so that rules can be looked at alone.
fn forced() -> Guards {
    Guards { force: true, ..guards() }
}

fn kept(snapshots: &[Candidate], keep: &Keep, guards: &Guards) -> Vec<String> {
    plan("main", snapshots, keep, guards)
        .decisions
        .iter()
        .filter(|d| d.action == Action::Keep)
        .map(|d| d.snapshot.time.to_string())
        .collect()
}

fn none() -> Keep {
    Keep::default()
}

#[test]
fn each_rule_keeps_the_newest_of_each_of_its_periods() {
    // The list of restic's documentation, cut down, and dates around ISO years and months.
    let list = all(&[
        "2026-11-21T11:40:00Z",
        "2026-11-21T11:20:00Z",
        "2026-11-21T09:00:00Z",
        "2026-11-20T23:59:59Z",
        "2026-11-16T00:00:00Z",
        "2026-11-15T23:00:00Z",
        "2026-10-31T12:00:00Z",
        "2026-01-01T00:00:00Z",
        "2025-12-31T00:00:00Z",
        "2025-12-28T00:00:00Z",
        "2024-02-29T00:00:00Z",
    ]);
    for (keep, want) in [
        (Keep { last: Some(2), ..none() }, &["11-21T11:40", "11-21T11:20"][..]),
        (Keep { hourly: Some(3), ..none() }, &["11-21T11:40", "11-21T09:00", "11-20T23:59"]),
        (Keep { daily: Some(3), ..none() }, &["11-21T11:40", "11-20T23:59", "11-16T00:00"]),
        // Weeks begin on Monday the 16th; 2026-01-01 is a Thursday in week 1 together with 2025-12-31.
        (Keep { weekly: Some(5), ..none() }, &["2026-11-21", "2026-11-15", "2026-10-31", "2026-01-01", "2025-12-28"]),
        (Keep { monthly: Some(4), ..none() }, &["2026-11-21", "2026-10-31", "2026-01-01", "2025-12-31"]),
        (Keep { yearly: Some(9), ..none() }, &["2026-11-21", "2025-12-31", "2024-02-29"]),
        (
            Keep { within: Some(Duration::from_secs(5 * 86_400 + 11 * 3600 + 40 * 60)), ..none() },
            &["11-21T11:40", "11-21T11:20", "11-21T09:00", "11-20T23:59", "11-16T00:00"],
        ),
        (Keep { last: Some(1), yearly: Some(2), ..none() }, &["2026-11-21", "2025-12-31"]),
    ] {
        let got = kept(&list, &keep, &forced());
        assert_eq!(got.len(), want.len(), "{keep:?}: {got:?}");
        assert!(got.iter().zip(want).all(|(g, w)| g.contains(w)), "{keep:?}: {got:?}");
    }
    assert_eq!(kept(&list, &none(), &guards()).len(), list.len(), "no rule keeps everything");
}

/// While one is rewritten, and after that was cut short, both are there.
#[test]
fn a_rewritten_snapshot_counts_once() {
    let mut list = all(&["2026-11-21T11:00:00Z", "2026-11-21T11:00:00Z", "2026-11-20T11:00:00Z", "2026-11-19T11:00:00Z"]);
    // Whichever of the two has the greater id.
    for (rewritten, first) in [(0, 1), (1, 0)] {
        list[rewritten].origin = list[first].id;
        list[first].origin = list[first].id;
        let plan = plan("main", &list, &Keep { last: Some(2), ..none() }, &forced());
        let last = |at: usize| plan.decisions[at].reasons.last().unwrap().as_str();
        assert_eq!([last(0), last(1), last(2)], ["last 1 of 2", "last 1 of 2", "last 2 of 2"]);
        assert_eq!(plan.removals().unwrap(), [id(3)]);
    }
}

#[test]
fn periods_without_a_snapshot_do_not_count() {
    // restic: "keep-daily 7" keeps 7 days that have a snapshot, however far apart.
    let list: Vec<Candidate> = (0..20).map(|n| snapshot(n, Time::new(t(NOW).secs - i64::from(n) * 9 * 86_400, 0))).collect();
    assert_eq!(kept(&list, &Keep { daily: Some(7), ..none() }, &forced()).len(), 7);
}

#[test]
fn the_calendar_is_that_of_the_time_zone() {
    let list = all(&["2026-11-20T23:30:00Z", "2026-11-20T22:30:00Z", "2026-11-20T10:00:00Z"]);
    let keep = Keep { daily: Some(5), ..none() };
    assert_eq!(kept(&list, &keep, &forced()).len(), 1);
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    assert_eq!(kept(&list, &keep, &Guards { zone, ..forced() }).len(), 2);
}

#[test]
fn reasons_name_rule_and_place() {
    let list = all(&["2026-11-21T11:00:00Z", "2026-11-20T11:00:00Z", "2026-11-20T10:00:00Z"]);
    let keep = Keep { last: Some(1), daily: Some(7), within: Some(Duration::from_secs(3600)), ..none() };
    let reasons: Vec<Vec<String>> = plan("main", &list, &keep, &guards()).decisions.into_iter().map(|d| d.reasons).collect();
    assert_eq!(reasons[0], ["newest complete snapshot of the job", "last 1 of 1", "daily 1 of 7", "within 1h"]);
    assert_eq!(reasons[1], ["daily 2 of 7"]);
    assert_eq!(reasons[2], ["no rule keeps it"]);
}

#[test]
fn incomplete_ones_count_for_nothing_and_go_when_a_newer_complete_one_exists() {
    let mut list = all(&["2026-11-21T11:00:00Z", "2026-11-20T11:00:00Z", "2026-11-19T11:00:00Z", "2026-11-18T11:00:00Z"]);
    list[0].complete = false;
    list[2].complete = false;
    let plan = plan("main", &list, &Keep { last: Some(2), ..none() }, &guards());
    let actions: Vec<Action> = plan.decisions.iter().map(|d| d.action).collect();
    // The newest is incomplete and all there is of that day; the third is superseded; last: 2 are the two complete ones.
    assert_eq!(actions, [Action::Keep, Action::Keep, Action::Remove, Action::Keep]);
    assert_eq!(plan.decisions[0].reasons, ["incomplete, and there is no newer complete one"]);
    assert_eq!(plan.removals().unwrap(), [id(2)]);
}

#[test]
fn altered_ones_push_nothing_out_and_go_when_they_would() {
    let mut list = all(&[
        "2026-11-21T11:00:00Z",
        "2026-11-20T11:00:00Z",
        "2026-11-19T11:00:00Z",
        "2026-11-18T11:00:00Z",
        "2026-11-17T11:00:00Z",
    ]);
    list[1].altered = true;
    list[3].altered = true;
    let plan = plan("main", &list, &Keep { last: Some(3), ..none() }, &guards());
    let actions: Vec<Action> = plan.decisions.iter().map(|d| d.action).collect();
    assert_eq!(actions, [Action::Keep, Action::Keep, Action::Keep, Action::Remove, Action::Keep]);
    assert!(plan.decisions[1].reasons[0].contains("altered by another program"));
    list.iter_mut().for_each(|c| c.altered = true);
    assert_eq!(kept(&list, &Keep { last: Some(3), ..none() }, &guards()).len(), 3);
}

#[test]
fn a_job_with_only_incomplete_ones_keeps_them() {
    let mut list = all(&["2026-11-21T11:00:00Z", "2026-11-20T11:00:00Z"]);
    list.iter_mut().for_each(|c| c.complete = false);
    assert_eq!(kept(&list, &Keep { last: Some(1), ..none() }, &guards()).len(), 2);
}

#[test]
fn the_future_is_reported_and_ignored() {
    let mut list = all(&[
        "2027-01-01T00:00:00Z",
        "2026-11-21T12:04:59Z",
        "2026-11-21T11:00:00Z",
        "2026-11-20T11:00:00Z",
        "2026-11-19T11:00:00Z",
    ]);
    list[4].end = Some(t("2027-01-01T00:00:00Z"));
    list[3].complete = false;
    let plan = plan("main", &list, &Keep { last: Some(1), ..none() }, &guards());
    let actions: Vec<Action> = plan.decisions.iter().map(|d| d.action).collect();
    assert_eq!(actions, [Action::Ignore, Action::Keep, Action::Remove, Action::Remove, Action::Ignore]);
    assert_eq!(plan.alarms.len(), 2, "{:?}", plan.alarms);
    assert!(plan.alarms[0].contains("00000000") && plan.alarms[0].contains("2027-01-01") && plan.alarms[0].contains("main"));
    // A store clock that fell back makes everything future: nothing goes, and the clocks are complained about.
    let back = Guards { store_now: t("1970-01-01T00:00:00Z"), ..forced() };
    let plan = super::plan("main", &list, &Keep { last: Some(1), ..none() }, &back);
    assert_eq!(plan.count(Action::Ignore), 5);
    assert!(plan.removals().is_err());
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let mut list = all(&["2026-11-21T11:00:00Z", "2026-11-20T11:00:00Z", "2026-11-19T11:00:00Z", "2026-11-18T11:00:00Z"]);
    list[1].job = None;
    list[2].job = Some("other".into());
    list[3].hold = true;
    let plan = plan("main", &list, &Keep { last: Some(1), ..none() }, &guards());
    let actions: Vec<Action> = plan.decisions.iter().map(|d| d.action).collect();
    assert_eq!(actions, [Action::Keep, Action::Ignore, Action::Ignore, Action::Keep]);
    assert_eq!(plan.decisions[2].reasons, ["it belongs to job other"]);
    assert_eq!(plan.decisions[3].reasons, ["held"]);
}

#[test]
fn the_breaker_trips_on_an_unusual_share_and_names_the_way_past() {
    let list =
        |n: u32| -> Vec<Candidate> { (0..n).map(|i| snapshot(i, Time::new(t(NOW).secs - i64::from(i) * 86_400, 0))).collect() };
    let keep = |n| Keep { last: Some(n), ..none() };
    // Half is usual, more is not; ten are few.
    assert_eq!(plan("main", &list(40), &keep(20), &guards()).removals().unwrap().len(), 20);
    assert_eq!(plan("main", &list(11), &keep(1), &guards()).removals().unwrap().len(), 10);
    let tripped = plan("main", &list(40), &keep(19), &guards());
    assert_eq!(tripped.count(Action::Remove), 21, "the plan itself stays visible");
    let error = tripped.removals().unwrap_err().report();
    assert!(
        error.contains("21 of 40")
            && error.contains("job main")
            && error.contains("prune --force")
            && error.contains("--dry-run"),
        "{error}"
    );
    assert_eq!(plan("main", &list(40), &keep(19), &forced()).removals().unwrap().len(), 21);
}

#[test]
fn clocks_that_differ_remove_nothing_even_by_force() {
    let list = all(&["2026-11-20T11:00:00Z", "2026-11-19T11:00:00Z"]);
    for (local, refused) in [
        ("2026-11-21T12:05:00Z", false),
        ("2026-11-21T12:05:01Z", true),
        ("2026-11-21T11:54:59Z", true),
        ("2036-11-21T12:00:00Z", true),
    ] {
        let guards = Guards { local_now: t(local), ..forced() };
        let plan = plan("main", &list, &Keep { last: Some(1), ..none() }, &guards);
        assert_eq!(plan.refusal().is_some(), refused, "{local}");
        assert_eq!(plan.removals().is_err(), refused, "{local}");
    }
}

#[test]
fn removals_begin_with_the_oldest() {
    let list = all(&["2026-11-18T11:00:00Z", "2026-11-20T11:00:00Z", "2026-11-19T11:00:00Z"]);
    assert_eq!(plan("main", &list, &Keep { last: Some(1), ..none() }, &guards()).removals().unwrap(), [id(0), id(2)]);
}

#[test]
fn rules_are_checked_and_described() {
    assert!(none().is_empty() && none().validate().is_ok());
    let error = Keep { daily: Some(0), ..none() }.validate().unwrap_err().report();
    assert!(error.contains("keep.daily") && error.contains("hint"), "{error}");
    assert!(Keep { within: Some(Duration::ZERO), ..none() }.validate().is_err());
    assert_eq!(none().describe(), "everything");
    assert_eq!(built_in("gfs").unwrap().describe(), "7 daily, 4 weekly, 12 monthly");
    assert_eq!(
        Keep { last: Some(3), within: Some(Duration::from_secs(1_209_600)), ..none() }.describe(),
        "3 last, all within 14d"
    );
    assert_eq!(built_in("hourly").unwrap().describe(), "24 hourly, 7 daily");
    assert!(built_in("daily").is_some() && built_in("nightly").is_none());
}

/// Backups of system `n` at these times, each whole an hour after it began.
fn of_system(n: u64, first: u32, times: &[&str]) -> Vec<Candidate> {
    let made = |(n, text): (u32, &&str)| snapshot(n, t(text));
    let with = |c: Candidate| Candidate {
        system: Some(SystemId { major: 16, identifier: n }),
        end: Some(Time::new(c.time.secs + 3600, 0)),
        ..c
    };
    (first..).zip(times).map(made).map(with).collect()
}

#[test]
fn the_snapshot_that_a_recovery_window_begins_with_stays() {
    let list = of_system(1, 0, &["2026-11-01T02:00:00Z", "2026-11-08T02:00:00Z", "2026-11-15T02:00:00Z", "2026-11-20T02:00:00Z"]);
    let keep = |days: u64| Keep { recovery_window: Some(Duration::from_secs(days * 86_400)), ..none() };
    // The window of 10 days begins on the 11th, which only the backup of the 8th leads to.
    assert_eq!(kept(&list, &keep(10), &guards()), ["2026-11-20T02:00:00Z", "2026-11-15T02:00:00Z", "2026-11-08T02:00:00Z"]);
    assert_eq!(kept(&list, &keep(1), &guards()), ["2026-11-20T02:00:00Z"], "which ended before the window began");
    // What ended in the window does not lead to its begin, whenever it was begun.
    let mut list = list;
    list[3].end = Some(t("2026-11-20T12:00:01Z"));
    assert_eq!(kept(&list, &keep(1), &guards()), ["2026-11-20T02:00:00Z", "2026-11-15T02:00:00Z"]);
    let why = &plan("main", &list, &keep(1), &guards()).decisions[1].reasons;
    assert_eq!(why, &["where the recovery window of 1d begins"]);
    assert_eq!(keep(14).describe(), "any time of the last 14d");
    assert!(keep(0).validate().unwrap_err().report().contains("keep.recovery_window"));
}

#[test]
fn after_a_recovery_in_place_the_base_before_the_switch_stays_until_the_new_timeline_has_one() {
    // Timeline 2 left timeline 1 on the 11th, at a position before the second backup of the 10th.
    let base = |n: u32, text: &str, timeline: u32, stop: u64| Candidate {
        stop: Some((Timeline(timeline), Lsn(stop))),
        ..of_system(1, n, &[text]).remove(0)
    };
    let (one, two) = (base(1, "2026-10-22T02:00:00Z", 1, 100), base(2, "2026-11-10T02:00:00Z", 1, 400));
    let mut list = vec![one, two, base(3, "2026-11-17T02:00:00Z", 2, 600)];
    let two = TimelineHistory { timeline: Timeline(2), ancestors: vec![Ancestor { timeline: Timeline(1), switch: Lsn(300) }] };
    let system = SystemId { major: 16, identifier: 1 };
    let knowing = |two: Option<TimelineHistory>| {
        let lines = [(Timeline(1), None), (Timeline(2), two)].into();
        Guards { lines: [(system, lines)].into(), ..guards() }
    };
    let keep = |days: u64| Keep { recovery_window: Some(Duration::from_secs(days * 86_400)), ..none() };
    let all = ["2026-11-17T02:00:00Z", "2026-11-10T02:00:00Z", "2026-10-22T02:00:00Z"];
    assert_eq!(kept(&list, &keep(10), &knowing(Some(two.clone()))), all);
    let plan = plan("main", &list, &keep(10), &knowing(Some(two.clone())));
    assert_eq!(plan.decisions[2].reasons, ["where the recovery window of 10d begins on timeline 2"]);
    assert_eq!(kept(&list, &keep(10), &knowing(None)), all, "what a history that is not known may need");
    // Once the window begins behind the new timeline's own backup, that one leads everywhere.
    for history in [Some(two.clone()), None] {
        assert_eq!(kept(&list, &keep(2), &knowing(history)), all[..1]);
    }
    // A switch behind the newest backup before the window needs nothing more, nor does a single timeline.
    list[1].stop = Some((Timeline(1), Lsn(200)));
    assert_eq!(kept(&list, &keep(10), &knowing(Some(two))), all[..2]);
    let one = [(system, Lines::from([(Timeline(1), None)]))].into();
    assert_eq!(kept(&list, &keep(10), &Guards { lines: one, ..guards() }), all[..2]);
}

#[test]
fn an_upgrade_pushes_nothing_out_until_the_new_system_fills_the_rule() {
    let old = of_system(1, 0, &["2026-11-01T02:00:00Z", "2026-11-08T02:00:00Z", "2026-11-15T02:00:00Z"]);
    let with = |times: &[&str]| [old.clone(), of_system(2, 10, times)].concat();
    let last = Keep { last: Some(2), ..none() };
    let one = with(&["2026-11-16T02:00:00Z"]);
    assert_eq!(kept(&one, &last, &guards()), ["2026-11-16T02:00:00Z", "2026-11-15T02:00:00Z", "2026-11-08T02:00:00Z"]);
    let why = &plan("main", &one, &last, &guards()).decisions[1].reasons;
    assert_eq!(why, &["last 1 of 2 of system 16-1"]);
    let two = with(&["2026-11-16T02:00:00Z", "2026-11-17T02:00:00Z"]);
    assert_eq!(kept(&two, &last, &guards()), ["2026-11-17T02:00:00Z", "2026-11-16T02:00:00Z"]);
    // Of a window, the old system's part stays as long as the window reaches back to it.
    let window = |days: u64| Keep { recovery_window: Some(Duration::from_secs(days * 86_400)), ..none() };
    assert_eq!(
        kept(&two, &window(6), &guards()),
        ["2026-11-17T02:00:00Z", "2026-11-16T02:00:00Z", "2026-11-15T02:00:00Z"],
        "the window begins on the 15th"
    );
    assert_eq!(kept(&two, &window(5), &guards()), ["2026-11-17T02:00:00Z", "2026-11-16T02:00:00Z"]);
    let within = Keep { within: Some(Duration::from_secs(86_400)), ..none() };
    assert_eq!(kept(&one, &within, &guards()), ["2026-11-16T02:00:00Z", "2026-11-15T02:00:00Z"]);
    assert_eq!(kept(&two, &within, &guards()), ["2026-11-17T02:00:00Z", "2026-11-16T02:00:00Z"]);
}

fn keeps() -> impl Strategy<Value = Keep> {
    let n = || prop::option::weighted(0.4, 1u32..6);
    let d = || prop::option::weighted(0.3, 1u64..40 * 86_400).prop_map(|d| d.map(Duration::from_secs));
    (n(), n(), n(), n(), n(), n(), d(), d()).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within, recovery_window)| Keep {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
            recovery_window,
        },
    )
}

/// Mostly complete, mostly ours, mostly past; clustered so that periods are shared.
fn snapshots() -> impl Strategy<Value = Vec<Candidate>> {
    let age = prop_oneof![4 => 0i64..30 * 86_400, 3 => 0i64..900 * 86_400, 1 => -86_400i64..0];
    let job = prop_oneof![8 => Just(Some("main".to_owned())), 1 => Just(Some("other".to_owned())), 1 => Just(None)];
    let system = prop::option::weighted(0.5, (0u64..2).prop_map(|identifier| SystemId { major: 17, identifier }));
    let one = (age, job, prop::bool::weighted(0.8), prop::bool::weighted(0.1), prop::bool::weighted(0.1), system);
    prop::collection::vec(one, 0..40).prop_map(|list| {
        let now = t(NOW).secs;
        (0..)
            .zip(list)
            .map(|(n, (age, job, complete, hold, altered, system))| Candidate {
                system,
                job,
                complete,
                hold,
                altered,
                ..snapshot(n, Time::new(now - age, 0))
            })
            .collect()
    })
}

fn removed(list: &[Candidate], keep: &Keep) -> BTreeSet<Id> {
    plan("main", list, keep, &forced()).removals().unwrap().into_iter().collect()
}

fn without(list: &[Candidate], gone: &BTreeSet<Id>) -> Vec<Candidate> {
    list.iter().filter(|c| !gone.contains(&c.id)).cloned().collect()
}

proptest! {
    #[test]
    fn planning_again_removes_nothing(list in snapshots(), keep in keeps()) {
        let rest = without(&list, &removed(&list, &keep));
        prop_assert_eq!(removed(&rest, &keep), BTreeSet::new());
    }

    #[test]
    fn a_plan_cut_short_ends_the_same(list in snapshots(), keep in keeps(), share in 0.0f64..1.0) {
        let order = plan("main", &list, &keep, &forced()).removals().unwrap();
        let all: BTreeSet<Id> = order.iter().copied().collect();
        let some: BTreeSet<Id> = order[..(order.len() as f64 * share) as usize].iter().copied().collect();
        let later = removed(&without(&list, &some), &keep);
        prop_assert_eq!(some.union(&later).copied().collect::<BTreeSet<_>>(), all);
    }

    #[test]
    fn a_looser_rule_removes_no_more(list in snapshots(), keep in keeps(), more in 1u32..4, which in 0usize..8) {
        prop_assume!(!keep.is_empty());
        let mut looser = keep;
        let counts = [&mut looser.last, &mut looser.hourly, &mut looser.daily, &mut looser.weekly, &mut looser.monthly, &mut looser.yearly];
        match counts.into_iter().nth(which) {
            Some(n) => *n = Some(n.unwrap_or(0) + more),
            None if which == 6 => looser.recovery_window = Some(looser.recovery_window.unwrap_or_default() + Duration::from_secs(u64::from(more) * 86_400)),
            None => looser.within = Some(looser.within.unwrap_or_default() + Duration::from_secs(u64::from(more) * 86_400)),
        }
        prop_assert!(removed(&list, &looser).is_subset(&removed(&list, &keep)));
    }

    #[test]
    fn an_older_snapshot_makes_no_newer_one_go(list in snapshots(), keep in keeps(), age in 901i64..2000, complete in any::<bool>()) {
        let before = removed(&list, &keep);
        let mut more = list.clone();
        more.push(Candidate { complete, ..snapshot(999, Time::new(t(NOW).secs - age * 86_400, 0)) });
        let mut after = removed(&more, &keep);
        after.remove(&id(999));
        prop_assert_eq!(after, before);
    }

    #[test]
    fn guards_hold(list in snapshots(), keep in keeps()) {
        let gone = removed(&list, &keep);
        let future = |c: &Candidate| c.time.secs > t(NOW).secs + 300;
        for c in &list {
            if c.hold || c.job.as_deref() != Some("main") || future(c) {
                prop_assert!(!gone.contains(&c.id), "{:?}", c);
            }
        }
        let complete = |c: &&Candidate| c.job.as_deref() == Some("main") && c.complete && !future(c);
        let whole = list.iter().filter(|c| complete(c) && !c.altered).max_by_key(|c| (c.time, c.id));
        if let Some(newest) = whole.or(list.iter().filter(complete).max_by_key(|c| (c.time, c.id))) {
            prop_assert!(!gone.contains(&newest.id));
        } else {
            prop_assert!(gone.is_empty());
        }
        if keep.is_empty() {
            prop_assert!(list.iter().all(|c| !c.complete || !gone.contains(&c.id)));
        }
    }

    #[test]
    fn only_complete_past_snapshots_of_the_job_matter(list in snapshots(), keep in keeps()) {
        // Without the others, the same complete ones go.
        let alone: Vec<Candidate> = list.iter().filter(|c| c.job.as_deref() == Some("main") && c.complete && !c.altered && c.time.secs <= t(NOW).secs + 300).cloned().collect();
        let complete: BTreeSet<Id> = list.iter().filter(|c| c.complete && !c.altered).map(|c| c.id).collect();
        let gone: BTreeSet<Id> = removed(&list, &keep).intersection(&complete).copied().collect();
        prop_assert_eq!(gone, removed(&alone, &keep));
    }

    #[test]
    fn a_hold_changes_nothing_but_its_own_snapshot(list in snapshots(), keep in keeps(), which in any::<prop::sample::Index>()) {
        prop_assume!(!list.is_empty());
        let mut held = list.clone();
        let at = which.index(list.len());
        held[at].hold = true;
        let mut want = removed(&list, &keep);
        want.remove(&list[at].id);
        prop_assert_eq!(removed(&held, &keep), want);
    }

    #[test]
    fn every_decision_has_a_reason_and_order_does_not_matter(list in snapshots(), keep in keeps()) {
        let a = plan("main", &list, &keep, &forced());
        let reversed: Vec<Candidate> = list.iter().rev().cloned().collect();
        let b = plan("main", &reversed, &keep, &forced());
        prop_assert!(a.decisions.iter().all(|d| !d.reasons.is_empty()));
        prop_assert_eq!(a.decisions, b.decisions);
    }
}
