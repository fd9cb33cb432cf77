//! Recovery lands exactly: what was committed before the target is there, what came after is not.

use strongroom::model::Lsn;
use strongroom::postgres::commits::ends;
use strongroom::postgres::recovery::{Action, FollowTimeline, Target};

use super::origin::{Origin, await_true, listing, recovery, rows_after_promotion, time};
use crate::support::postgres::Server;

/// Every kind of target on one major.
fn lands_exactly(major: u32) {
    let origin = Origin::start(major);
    origin.sql("INSERT INTO t VALUES (1)");
    let backup = origin.backup();
    origin.sql("INSERT INTO t VALUES (2)");
    let between = origin.time();
    let before_three: Lsn = origin.sql("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    let xid: u64 = origin.sql("INSERT INTO t VALUES (3) RETURNING pg_current_xact_id()").parse().unwrap();
    let commit_of_three = time(&origin.sql("SELECT pg_xact_commit_timestamp(xmin) FROM t WHERE n = 3"));
    let after_three: Lsn = origin.sql("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    origin.sql("SELECT pg_create_restore_point('here''s one')");
    origin.sql("INSERT INTO t VALUES (4)");
    let commit_of_four = time(&origin.sql("SELECT pg_xact_commit_timestamp(xmin) FROM t WHERE n = 4"));
    let segment = origin.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    origin.settle();
    let archived = listing(&origin.archive());

    // What the archive is asked for when a target is a time.
    let start: strongroom::model::SegmentName = segment.parse().unwrap();
    let file = std::fs::File::open(origin.archive().join(&segment)).unwrap();
    let ends = ends(std::io::BufReader::new(file), start.start(backup.facts.segment_size)).unwrap();
    assert_eq!(ends.newest, Some(commit_of_four));
    let last = ends.last.unwrap().begin;

    for (target, inclusive, rows) in [
        (Target::Immediate, true, "1"),
        (Target::Time(between), true, "1,2"),
        (Target::Time(commit_of_three), true, "1,2,3"),
        (Target::Time(commit_of_three), false, "1,2"),
        (Target::Lsn(before_three), false, "1,2"),
        (Target::Lsn(after_three), true, "1,2,3"),
        (Target::Xid(xid), true, "1,2,3"),
        (Target::Xid(xid), false, "1,2"),
        (Target::Name("here's one".into()), true, "1,2,3"),
        (Target::Lsn(last), true, "1,2,3,4"),
        (Target::End, true, "1,2,3,4"),
    ] {
        let what = format!("{target}, inclusive {inclusive}");
        let server = Server::unborn(major);
        let mut request = backup.request(&server);
        let mut recovery = recovery(&origin, target);
        recovery.inclusive = inclusive;
        recovery.timeline = FollowTimeline::Current;
        request.recovery = Some(recovery);
        backup.restore(&request);
        server.restart();
        assert_eq!(rows_after_promotion(&server), rows, "{what}:\n{}", server.log());
        // Writing, switching and stopping it archives nothing.
        server.sql("postgres", "INSERT INTO t VALUES (99); SELECT pg_switch_wal(); CHECKPOINT");
        assert_eq!(server.sql("postgres", "SHOW archive_mode"), "off");
        server.stop();
    }
    assert_eq!(listing(&origin.archive()), archived);
}

#[test]
fn every_target_of_version_14_is_exact() {
    lands_exactly(14);
}

#[test]
fn every_target_of_version_15_is_exact() {
    lands_exactly(15);
}

#[test]
fn every_target_of_version_16_is_exact() {
    lands_exactly(16);
}

#[test]
fn every_target_of_version_17_is_exact() {
    lands_exactly(17);
}

#[test]
fn every_target_of_version_18_is_exact() {
    lands_exactly(18);
}

#[test]
fn a_server_can_wait_at_its_target() {
    let origin = Origin::start(17);
    let backup = origin.backup();
    origin.sql("INSERT INTO t VALUES (1); SELECT pg_create_restore_point('a'); INSERT INTO t VALUES (2)");
    origin.settle();
    let server = Server::unborn(17);
    let mut request = backup.request(&server);
    let mut recovery = recovery(&origin, Target::Name("a".into()));
    recovery.action = Action::Pause;
    request.recovery = Some(recovery);
    backup.restore(&request);
    server.restart();
    await_true(&server, "SELECT pg_get_wal_replay_pause_state() = 'paused'");
    assert_eq!(server.sql("postgres", "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1");
    server.sql("postgres", "SELECT pg_wal_replay_resume()");
    assert_eq!(rows_after_promotion(&server), "1");
}

#[test]
fn a_standby_follows_the_archive_until_it_is_promoted() {
    let origin = Origin::start(16);
    origin.sql("INSERT INTO t VALUES (1)");
    let backup = origin.backup();
    origin.sql("INSERT INTO t VALUES (2)");
    origin.settle();
    let server = Server::unborn(16);
    let mut request = backup.request(&server);
    request.recovery = Some(recovery(&origin, Target::End));
    request.standby = true;
    backup.restore(&request);
    server.restart();
    await_true(&server, "SELECT count(*) = 2 FROM t");
    origin.sql("INSERT INTO t VALUES (3)");
    origin.settle();
    await_true(&server, "SELECT count(*) = 3 FROM t");
    assert_eq!(server.sql("postgres", "SELECT pg_is_in_recovery()"), "t");
    server.sql("postgres", "SELECT pg_promote()");
    assert_eq!(rows_after_promotion(&server), "1,2,3");
}
