use std::collections::BTreeMap;

use super::*;
use crate::model::Ancestor;

const MIB: u64 = 1 << 20;

fn time(minutes: i64) -> Time {
    Time::new(1_800_000_000 + minutes * 60, 0)
}

/// A base backup whose stop lies at `stop` MiB (start 1 MiB before) and `minutes`.
pub(in crate::restore::cluster) fn base(n: u8, timeline: u32, stop: u64, minutes: i64) -> Base {
    let facts = BaseBackup {
        cluster: "main".into(),
        system_identifier: 1,
        major: 17,
        server_version: "17.2".into(),
        segment_size: SegmentSize::DEFAULT,
        timeline: Timeline(timeline),
        start: Lsn((stop - 1) * MIB),
        stop: Lsn(stop * MIB),
        started: time(minutes - 1),
        stopped: time(minutes),
        from_standby: false,
        wal_included: true,
        tablespaces: Vec::new(),
        checksums: true,
        bad_pages: Vec::new(),
        collation_versions: BTreeMap::new(),
        outside_files: BTreeMap::new(),
    };
    Base { snapshot: Id([n; 32]), facts, bytes: None }
}

fn stretch(timeline: u32, from: u64, to: u64, newest: Option<i64>) -> Stretch {
    Stretch {
        timeline: Timeline(timeline),
        from: Lsn(from * MIB),
        to: Lsn(to * MIB),
        newest: newest.map(time),
        quiet_after: None,
        last: newest.map(|_| last_before(to)),
    }
}

/// Where the last record of a stretch begins whose end was looked at.
fn last_before(to: u64) -> Lsn {
    Lsn(to * MIB - 100)
}

fn history(timeline: u32, ancestors: &[(u32, u64)]) -> TimelineHistory {
    let ancestors = ancestors.iter().map(|(t, s)| Ancestor { timeline: Timeline(*t), switch: Lsn(s * MIB) }).collect();
    TimelineHistory { timeline: Timeline(timeline), ancestors }
}

fn archived(histories: &[TimelineHistory], stretches: &[Stretch]) -> Vec<Archived> {
    vec![Archived { system_identifier: 1, histories: histories.to_vec(), stretches: stretches.to_vec(), followed: None }]
}

fn wish(target: Target) -> Wish {
    Wish { target, inclusive: true, timeline: FollowTimeline::Latest, pinned: None, now: time(10_000) }
}

fn chosen(bases: &[Base], archived: &[Archived], wish: &Wish) -> (u8, Target, u32, Vec<String>) {
    let plan = plan(bases, archived, wish).unwrap_or_else(|e| panic!("{e:?}"));
    (plan.base.snapshot.0[0], plan.target, plan.timeline.0, plan.notes)
}

#[track_caller]
fn refused(bases: &[Base], archived: &[Archived], wish: &Wish, words: &[&str]) {
    let e = plan(bases, archived, wish).expect_err("a refusal");
    for word in words {
        assert!(e.report().contains(word), "no `{word}` in: {}", e.report());
    }
}

/// Two base backups, an unbroken log whose newest commit is at minute 300.
fn simple() -> (Vec<Base>, Vec<Archived>) {
    let all = archived(&[history(1, &[])], &[stretch(1, 0, 320, Some(300))]);
    (vec![base(1, 1, 100, 100), base(2, 1, 200, 200)], all)
}

#[test]
fn the_newest_base_backup_before_the_target_is_taken() {
    let (bases, all) = simple();
    for (target, expected) in [
        (Target::End, 2),
        (Target::Immediate, 2),
        (Target::Time(time(200)), 2),
        (Target::Time(time(199)), 1),
        (Target::Time(time(100)), 1),
        (Target::Lsn(Lsn(200 * MIB)), 2),
        (Target::Lsn(Lsn(200 * MIB - 1)), 1),
        (Target::Xid(5), 2),
        (Target::Name("x".into()), 2),
    ] {
        let (base, planned, timeline, _) = chosen(&bases, &all, &wish(target.clone()));
        assert_eq!((base, timeline), (expected, 1), "{target}");
        assert_eq!(planned, target);
    }
    let pinned = Wish { pinned: Some(Id([1; 32])), ..wish(Target::Time(time(250))) };
    assert_eq!(chosen(&bases, &all, &pinned).0, 1);
}

#[test]
fn what_cannot_be_reached_is_refused_with_what_can() {
    let (bases, all) = simple();
    let windows = ["What can be reached", "(0/6400000, snapshot 01010101)", "to 0/14000000", "timeline 1"];
    refused(&bases, &all, &wish(Target::Time(time(99))), &windows);
    refused(&bases, &all, &wish(Target::Lsn(Lsn(100 * MIB - 1))), &windows);
    refused(&bases, &all, &wish(Target::Lsn(Lsn(321 * MIB))), &["the archive ends at 0/14000000", "What can be reached"]);
    // A named base backup is not exchanged for a better one.
    let late = Wish { pinned: Some(Id([2; 32])), ..wish(Target::Time(time(150))) };
    refused(&bases, &all, &late, &["the named base backup", "01010101"]);
    let e = plan(&bases, &all, &wish(Target::Time(time(10_001)))).expect_err("the future");
    assert_eq!(e.kind(), Kind::Usage);
    assert_eq!(plan(&[], &all, &wish(Target::End)).expect_err("nothing").kind(), Kind::NotFound);
}

#[test]
fn a_gap_ends_a_window() {
    let (bases, _) = simple();
    let all = archived(&[history(1, &[])], &[stretch(1, 80, 144, Some(150)), stretch(1, 160, 320, Some(300))]);
    assert_eq!(chosen(&bases, &all, &wish(Target::Time(time(149)))).0, 1);
    refused(&bases, &all, &wish(Target::Time(time(150))), &["from 0/9000000 to 0/A000000 is missing", "newest commit before it"]);
    refused(&bases, &all, &wish(Target::Lsn(Lsn(150 * MIB))), &["is missing", "snapshot 02020202"]);
    // Behind the second base backup all is well.
    assert_eq!(chosen(&bases, &all, &wish(Target::Time(time(250)))).0, 2);
    let windows = recoverable(&bases, &all, FollowTimeline::Latest);
    assert_eq!(windows.iter().map(|w| (w.to.0 / MIB, w.gap)).collect::<Vec<_>>(), [(144, true), (320, false)]);
    // The older one, named, ends before the gap and says so.
    let older = Wish { pinned: Some(Id([1; 32])), ..wish(Target::End) };
    assert!(chosen(&bases, &all, &older).3[0].contains("recovery ends at 0/9000000"));
}

#[test]
fn a_time_after_the_last_commit_means_everything_there_is_now() {
    let (bases, all) = simple();
    let (_, target, _, notes) = chosen(&bases, &all, &wish(Target::Time(time(300))));
    assert_eq!(target, Target::Lsn(last_before(320)));
    assert!(notes[0].contains("everything is recovered"), "{notes:?}");
    assert_eq!(chosen(&bases, &all, &wish(Target::Lsn(Lsn(320 * MIB)))).1, Target::Lsn(last_before(320)));
    // Its last record is in, whatever was asked for.
    for (target, everything) in
        [(Target::Time(time(300)), true), (Target::Lsn(Lsn(320 * MIB)), true), (Target::Time(time(299)), false)]
    {
        let plan = plan(&bases, &all, &Wish { inclusive: false, ..wish(target) }).expect("a plan");
        assert_eq!((plan.inclusive, plan.everything), (everything, everything));
        assert_eq!(plan.log.expect("log").to, Lsn(320 * MIB));
    }
    // Nobody looked when the last commit was: PostgreSQL decides, and the note prepares for it.
    let unknown = archived(&[history(1, &[])], &[stretch(1, 0, 320, None)]);
    let (_, target, _, notes) = chosen(&bases, &unknown, &wish(Target::Time(time(300))));
    assert_eq!((target, notes.len()), (Target::Time(time(300)), 1));
    assert_eq!(chosen(&bases, &unknown, &wish(Target::Lsn(Lsn(320 * MIB)))).1, Target::Lsn(Lsn(320 * MIB)));
    // Somebody looked, and there is none.
    let mut quiet = unknown.clone();
    quiet[0].stretches[0].quiet_after = Some(time(300));
    quiet[0].stretches[0].last = Some(last_before(320));
    assert_eq!(chosen(&bases, &quiet, &wish(Target::Time(time(300)))).1, Target::Lsn(last_before(320)));
    // Without a place to end at, the server fails rather than go on into what is archived later.
    quiet[0].stretches[0].last = None;
    assert_eq!(chosen(&bases, &quiet, &wish(Target::Time(time(300)))).1, Target::Time(time(300)));
    // Nothing at all after the base backup, or nothing whole.
    let short = archived(&[history(1, &[])], &[stretch(1, 0, 200, None)]);
    assert_eq!(chosen(&bases, &short, &wish(Target::Time(time(300)))).1, Target::Immediate);
    quiet[0].stretches[0].last = Some(last_before(200));
    assert_eq!(chosen(&bases, &quiet, &wish(Target::Time(time(300)))).1, Target::Immediate);
}

#[test]
fn without_an_archive_only_the_base_backups_own_end_is_there() {
    let (bases, _) = simple();
    assert_eq!(chosen(&bases, &[], &wish(Target::End)).1, Target::End);
    assert_eq!(chosen(&bases, &[], &wish(Target::Immediate)).1, Target::End);
    assert!(plan(&bases, &[], &wish(Target::End)).expect("a plan").log.is_none());
    refused(&bases, &[], &wish(Target::Time(time(250))), &["no WAL archive", "snapshot 02020202"]);
    // Not even that, if the log is not in the snapshot.
    let mut bare = base(3, 1, 250, 250);
    bare.facts.wal_included = false;
    refused(&[bare.clone()], &[], &wish(Target::End), &["cannot be followed"]);
    let gap = archived(&[history(1, &[])], &[stretch(1, 0, 249, None), stretch(1, 250, 260, None)]);
    refused(&[bare.clone()], &gap, &wish(Target::Immediate), &["cannot be reached"]);
    let whole = archived(&[history(1, &[])], &[stretch(1, 240, 260, None)]);
    assert_eq!(chosen(&[bare], &whole, &wish(Target::Immediate)).0, 3);
}

#[test]
fn timelines_are_followed_where_they_lead() {
    // Timeline 2 left 1 at 150 MiB; 3 left 1 at 120 MiB. The switch lies inside a segment, which the successor has whole.
    let histories = [history(1, &[]), history(2, &[(1, 150)]), history(3, &[(1, 120)])];
    let all = archived(&histories, &[stretch(1, 0, 144, None), stretch(2, 144, 320, Some(300)), stretch(3, 112, 200, Some(400))]);
    let bases = [base(1, 1, 100, 100), base(2, 2, 200, 200)];
    // The latest is 3, and the newer base backup is not on its history.
    assert_eq!(chosen(&bases, &all, &wish(Target::End)).0, 1);
    assert_eq!(chosen(&bases, &all, &wish(Target::End)).2, 3);
    let on = |timeline, target| Wish { timeline, ..wish(target) };
    let two = FollowTimeline::Number(Timeline(2));
    assert_eq!(chosen(&bases, &all, &on(two, Target::End)).0, 2);
    assert_eq!(chosen(&bases, &all, &on(two, Target::Lsn(Lsn(160 * MIB)))).0, 1);
    assert_eq!(chosen(&bases, &all, &on(FollowTimeline::Current, Target::End)).0, 2);
    // Along timeline 1 the archive ends before the switch.
    let one = FollowTimeline::Number(Timeline(1));
    assert_eq!(chosen(&bases, &all, &on(one, Target::Lsn(Lsn(143 * MIB)))).0, 1);
    refused(&bases, &all, &on(one, Target::Lsn(Lsn(145 * MIB))), &["the archive ends at 0/9000000"]);
    refused(&bases, &all, &on(FollowTimeline::Number(Timeline(9)), Target::End), &["no timeline 9", "1, 2, 3"]);
    let plan = plan(&bases, &all, &on(two, Target::Lsn(Lsn(160 * MIB)))).expect("a plan");
    let log = plan.log.expect("log");
    assert_eq!(log.last().to_string(), "00000002000000000000000A");
    assert_eq!((log.segments, log.first(Timeline(1)).to_string().as_str()), (5, "000000010000000000000006"));
    // A base backup made on timeline 1 after 2 had left it is of no use for 2.
    let abandoned = [base(5, 1, 151, 151)];
    refused(&abandoned, &all, &on(two, Target::End), &["no base backup", "--target-timeline current"]);
}

#[test]
fn an_upgraded_cluster_is_two_systems() {
    let mut new = base(9, 1, 50, 500);
    new.facts.system_identifier = 2;
    let (mut bases, mut all) = simple();
    let none = Archived { system_identifier: 2, histories: vec![history(1, &[])], ..Archived::default() };
    all[0].followed = Some(time(400));
    // Its last commit is older than both; only one of them is of its own life.
    assert_eq!(chosen(&bases, &all, &wish(Target::Time(time(350)))).1, Target::Lsn(last_before(320)));
    refused(&bases, &all, &wish(Target::Time(time(450))), &["another system took the place of 1"]);
    assert!(chosen(&bases, &all, &wish(Target::End)).3[0].contains("before another system took its place"));
    bases.push(new);
    all.push(Archived { stretches: vec![stretch(1, 0, 90, Some(600))], ..none });
    assert_eq!(chosen(&bases, &all, &wish(Target::End)).0, 9);
    assert_eq!(chosen(&bases, &all, &wish(Target::Time(time(550)))).0, 9);
    assert_eq!(chosen(&bases, &all, &wish(Target::Time(time(250)))).0, 2);
    // A position means the newest system.
    refused(&bases, &all, &wish(Target::Lsn(Lsn(210 * MIB))), &["the archive ends at 0/5A00000"]);
}
