use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::model::Time;

fn t(text: &str) -> Time {
    text.parse().unwrap()
}

fn cron(expression: &str, zone: &str) -> Schedule {
    job(expression, zone, "acme/orders")
}

fn job(expression: &str, zone: &str, key: &str) -> Schedule {
    let spec = Spec::parse(expression, Some(zone)).unwrap();
    Schedule::new(&spec, key, Duration::ZERO, 0, QuietHours::default()).unwrap()
}

/// The next `n` runs after `from`.
fn runs(s: &Schedule, from: &str, n: usize) -> Vec<String> {
    std::iter::successors(s.next_after(t(from)), |x| s.next_after(*x)).take(n).map(|x| x.to_string()).collect()
}

#[test]
fn expressions_run_when_they_say() {
    for (expression, zone, from, want) in [
        ("0 2 * * *", "UTC", "2026-01-31T02:00:00Z", "2026-02-01T02:00:00Z"),
        ("0 2 * * *", "UTC", "2026-01-31T01:59:59.5Z", "2026-01-31T02:00:00Z"),
        ("0 2 * * *", "Europe/Berlin", "2026-01-31T02:00:00Z", "2026-02-01T01:00:00Z"),
        ("30 0 2 * * *", "UTC", "2026-01-31T02:00:00Z", "2026-01-31T02:00:30Z"),
        ("*/15 * * * *", "UTC", "2026-01-31T02:00:00Z", "2026-01-31T02:15:00Z"),
        ("*/10 * * * * *", "UTC", "2026-01-31T02:00:55Z", "2026-01-31T02:01:00Z"),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
        ("0 0 L * *", "UTC", "2026-02-01T00:00:00Z", "2026-02-28T00:00:00Z"),
        ("0 0 * * FRI#2", "UTC", "2026-02-01T00:00:00Z", "2026-02-13T00:00:00Z"),
        ("0 0 * * mon-fri", "UTC", "2026-01-30T00:00:00Z", "2026-02-02T00:00:00Z"),
        ("0 0 * * FRI-SUN", "UTC", "2026-01-30T00:00:00Z", "2026-01-31T00:00:00Z"),
        ("0 0 * * 7", "UTC", "2026-01-30T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("0 0 * * 0", "UTC", "2026-01-30T00:00:00Z", "2026-02-01T00:00:00Z"),
        // Both day fields restricted: either one matches, as in every cron.
        ("0 0 13 * FRI", "UTC", "2026-01-30T00:00:00Z", "2026-02-06T00:00:00Z"),
        ("0 0 1 JAN,jul *", "UTC", "2026-02-01T00:00:00Z", "2026-07-01T00:00:00Z"),
        ("@weekly", "UTC", "2026-01-30T00:00:00Z", "2026-02-01T00:00:00Z"),
        ("@Monthly", "UTC", "2026-01-30T00:00:00Z", "2026-02-01T00:00:00Z"),
    ] {
        let s = cron(expression, zone);
        assert_eq!(runs(&s, from, 1), [want], "{expression} {zone} after {from}");
        assert_eq!(s.last_due_before(t(want)), Some(t(want)), "{expression}: a run is at or before itself");
    }
}

#[test]
fn mistakes_are_refused_with_what_to_write_instead() {
    for (expression, says, hint) in [
        ("*/90 * * * *", "runs once per round, not every 90", "every: 90m"),
        ("0 */25 * * *", "runs once per round", "every: 25h"),
        ("0 0 30 2 *", "never runs", "February"),
        ("0 0 31 4,6,9,11 *", "never runs", "0 2 L * *"),
        ("60 * * * *", "60 is not in 0-59", "0 2 * * *"),
        ("0 24 * * *", "24 is not in 0-23", "0 2 * * *"),
        ("0 0 0 * *", "0 is not in 1-31", "0 2 * * *"),
        ("0 0 * 13 *", "13 is not in 1-12", "0 2 * * *"),
        ("0 0 * * 8", "8 is not in 0-7", "0 2 * * *"),
        ("0 22-4 * * *", "write `22-23,0-4`", "0 2 * * *"),
        ("0/15 * * * *", "write `0-59/15`", "0 2 * * *"),
        ("*/0 * * * *", "not a step of 1 or more", "0 2 * * *"),
        ("1,,2 * * * *", "nothing between two commas", "0 2 * * *"),
        ("0 2 * * FOO", "`FOO` is not a number", "0 2 * * *"),
        ("0 2 * *", "4 fields instead of 5", "0 2 * * *"),
        ("0 0 2 * * * 2026", "7 fields instead of 5", "0 2 * * *"),
        ("02:00", "1 field instead of 5", "0 2 * * *"),
        ("", "empty", "0 2 * * *"),
        ("@often", "not a schedule", "@daily"),
        ("H(30-10) * * * *", "runs backwards", "0 2 * * *"),
        ("H(1) * * * *", "H(0-29)", "0 2 * * *"),
        ("H(0-99) * * * *", "99 is not in 0-59", "0 2 * * *"),
        ("every 0s", "out of range", "1s"),
        ("every soon", "not a length of time", "90m"),
        ("every 1h 30m", "not a length of time", "1h30m"),
    ] {
        let error = Spec::parse(expression, None).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Config);
        let text = error.report();
        assert!(text.contains(says) && text.contains(hint), "{expression}: {text}");
        assert!(text.contains("\nhint: "), "{expression}: {text}");
    }
    let error = Spec::parse("0 2 * * *", Some("Mars/Olympus")).unwrap_err().report();
    assert!(error.contains("Mars/Olympus") && error.contains("Europe/Berlin"), "{error}");
}

#[test]
fn specs_say_what_they_mean() {
    let says = |text: &str, zone: &str| Spec::parse(text, Some(zone)).unwrap().describe("acme/orders");
    assert_eq!(says("0 2 * * *", "Europe/Berlin"), "at 02:00 (Europe/Berlin)");
    assert_eq!(says("@every 90m", "UTC"), "every 1h30m");
    assert_eq!(says("never", "UTC"), "only on request");
    assert!(says("H 2 * * *", "UTC").starts_with("at 02:"));
    for text in ["never", "every 1h30m", "H(0-29) 2 * * MON-FRI"] {
        assert_eq!(Spec::parse(text, None).unwrap().to_string(), text);
    }
    assert_eq!(built_in("hourly").unwrap().to_string(), "0 * * * *");
    assert_eq!(built_in("gfs"), built_in("daily"));
    assert!(built_in("nightly").is_none());
}

#[test]
fn h_spreads_jobs_and_stays_for_each() {
    // Fixed values: a change here would move the backups of everybody.
    assert_eq!(runs(&job("H 2 * * *", "UTC", "acme/orders"), "2026-01-01T00:00:00Z", 1), ["2026-01-01T02:58:00Z"]);
    assert_eq!(runs(&job("H 2 * * *", "UTC", "acme/uploads"), "2026-01-01T00:00:00Z", 1), ["2026-01-01T02:46:00Z"]);
    let minutes = |expression: &str, n: usize| -> Vec<Vec<i64>> {
        (0..n)
            .map(|i| {
                let s = job(expression, "UTC", &format!("tenant-{i}/main"));
                let from = t("2026-01-01T00:00:00Z");
                std::iter::successors(s.next_after(t("2025-12-31T23:59:59Z")), |x| s.next_after(*x))
                    .map(|x| (x.secs - from.secs) / 60)
                    .take_while(|m| *m < 60)
                    .collect()
            })
            .collect()
    };
    let quarters = minutes("H/15 * * * *", 200);
    assert!(quarters.iter().all(|m| m.len() == 4 && m[0] < 15 && m.windows(2).all(|w| w[1] - w[0] == 15)), "{quarters:?}");
    assert_eq!(quarters.iter().map(|m| m[0]).collect::<std::collections::BTreeSet<_>>().len(), 15);
    let early = minutes("H(0-29) * * * *", 400);
    assert!(early.iter().all(|m| m.len() == 1 && m[0] < 30));
    assert_eq!(early.iter().map(|m| m[0]).collect::<std::collections::BTreeSet<_>>().len(), 30);
    let tens = minutes("H(10-39)/10 * * * *", 50);
    assert!(tens.iter().all(|m| m.len() == 3 && (10..20).contains(&m[0]) && m[2] < 40), "{tens:?}");
    // Every month has the day that H picks.
    for i in 0..100 {
        assert_eq!(runs(&job("H H H * *", "UTC", &format!("t/{i}")), "2026-01-01T00:00:00Z", 24).len(), 24);
        let days = runs(&job("0 0 H * *", "UTC", &format!("t/{i}")), "2025-12-31T23:59:59Z", 12);
        assert!(days.last().unwrap().starts_with("2026-12-"), "{days:?}");
    }
}

#[test]
fn a_jump_of_the_clock_runs_once_and_right_after() {
    // 2026-03-29: 02:00 becomes 03:00 in Berlin, at 01:00 UTC.
    let day = "2026-03-28T12:00:00Z";
    assert_eq!(runs(&cron("30 2 * * *", "Europe/Berlin"), day, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    assert_eq!(runs(&cron("0 2 * * *", "Europe/Berlin"), day, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    assert_eq!(runs(&cron("*/20 2 * * *", "Europe/Berlin"), day, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    // A run of its own at the end of the jump is the same run.
    assert_eq!(runs(&cron("0 2,3 * * *", "Europe/Berlin"), day, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    assert_eq!(
        runs(&cron("30 * * * *", "Europe/Berlin"), "2026-03-29T00:00:00Z", 3),
        ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]
    );
    // Lord Howe jumps by half an hour; Apia skipped all of 2011-12-30.
    assert_eq!(runs(&cron("15 2 * * *", "Australia/Lord_Howe"), "2026-10-03T00:00:00Z", 1), ["2026-10-03T15:30:00Z"]);
    assert_eq!(runs(&cron("0 12 30 12 *", "Pacific/Apia"), "2011-12-01T00:00:00Z", 1), ["2011-12-30T10:00:00Z"]);
    assert_eq!(
        runs(&cron("0 0 * * *", "Pacific/Apia"), "2011-12-29T00:00:00Z", 3),
        ["2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"]
    );
}

#[test]
fn a_repeated_hour_runs_once_unless_every_hour_does() {
    // 2026-10-25: 03:00 becomes 02:00 in Berlin, at 01:00 UTC.
    let day = "2026-10-24T12:00:00Z";
    let daily = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(runs(&daily, day, 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    for (now, last) in [
        ("2026-10-25T00:29:00Z", "2026-10-24T00:30:00Z"),
        ("2026-10-25T00:30:00Z", "2026-10-25T00:30:00Z"),
        // 02:10 for the second time: the first 02:30 is over.
        ("2026-10-25T01:10:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T01:45:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T02:00:00Z", "2026-10-25T00:30:00Z"),
    ] {
        assert_eq!(daily.last_due_before(t(now)), Some(t(last)), "{now}");
    }
    let hourly = cron("0 * * * *", "Europe/Berlin");
    assert_eq!(
        runs(&hourly, "2026-10-24T23:30:00Z", 4),
        ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"]
    );
}

#[test]
fn missed_runs_are_caught_up_once() {
    let daily = cron("0 2 * * *", "UTC");
    let now = t("2026-01-10T12:00:00Z");
    let newest = Some(t("2026-01-10T02:00:00Z"));
    for (last, want) in [
        (None, newest),
        (Some("2026-01-01T02:00:05Z"), newest),
        (Some("2026-01-10T01:59:59Z"), newest),
        (Some("2026-01-10T02:00:00Z"), None),
        (Some("2026-01-10T11:00:00Z"), None),
        // Within the tolerance of clocks, and far beyond it.
        (Some("2026-01-10T12:04:00Z"), None),
        (Some("2027-01-10T12:04:00Z"), newest),
    ] {
        assert_eq!(daily.missed(last.map(t), now), want, "{last:?}");
    }
    let start = daily.next_start(Some(t("2026-01-01T02:00:05Z")), now).unwrap();
    assert_eq!(start, Start { due: t("2026-01-10T02:00:00Z"), at: now });
    let start = daily.next_start(Some(now), now).unwrap();
    assert_eq!(start, Start { due: t("2026-01-11T02:00:00Z"), at: t("2026-01-11T02:00:00Z") });
    assert_eq!(cron("never", "UTC").next_start(None, now), None);
}

#[test]
fn intervals_count_from_the_last_start() {
    let s = cron("every 6h", "UTC");
    let now = t("2026-01-10T12:00:00Z");
    assert_eq!(s.next_start(None, now).unwrap().at, now);
    assert_eq!(s.next_start(Some(t("2026-01-10T09:00:00Z")), now).unwrap().at, t("2026-01-10T15:00:00Z"));
    let late = s.next_start(Some(t("2026-01-01T09:00:00Z")), now).unwrap();
    assert_eq!(late, Start { due: t("2026-01-01T15:00:00Z"), at: now });
    assert_eq!(s.missed(Some(t("2026-01-10T09:00:00Z")), now), None);
}

#[test]
fn jitter_is_stable_spread_and_bounded() {
    let spec = Spec::parse("0 2 * * *", None).unwrap();
    let make = |key: &str, seed| Schedule::new(&spec, key, Duration::from_secs(1200), seed, QuietHours::default()).unwrap();
    let due = t("2026-01-10T02:00:00Z");
    let delays: Vec<u64> = (0..100).map(|i| make(&format!("t{i}/j"), 0).delay(due).as_secs()).collect();
    assert!(
        delays.iter().all(|d| *d <= 1200) && delays.iter().any(|d| *d < 200) && delays.iter().any(|d| *d > 1000),
        "{delays:?}"
    );
    assert_eq!(make("a/b", 7).delay(due), make("a/b", 7).delay(due));
    assert_ne!(make("a/b", 7).delay(due), make("a/b", 8).delay(due));
    assert_ne!(make("a/b", 7).delay(due), make("a/b", 7).delay(t("2026-01-11T02:00:00Z")));
    // A missed run whose delay is not over yet waits for the rest of it.
    let s = make("a/b", 0);
    let start = s.next_start(Some(t("2026-01-09T03:00:00Z")), due).unwrap();
    assert_eq!((start.due, start.at.secs), (due, due.secs + i64::try_from(s.delay(due).as_secs()).unwrap()));
    // Never into the next run.
    let often = Spec::parse("* * * * *", None).unwrap();
    let often = Schedule::new(&often, "a/b", Duration::from_secs(3600), 0, QuietHours::default()).unwrap();
    assert!((0..50).all(|i| often.delay(Time::new(due.secs + 60 * i, 0)).as_secs() <= 30));
}

#[test]
fn quiet_hours_put_runs_off_to_their_end() {
    let open =
        |windows: &[&str], zone: &str, at: &str| QuietHours::parse(windows, Some(zone)).unwrap().open_at(t(at)).to_string();
    for (windows, zone, at, want) in [
        (&["08:00-18:00"][..], "UTC", "2026-01-10T07:59:59Z", "2026-01-10T07:59:59Z"),
        (&["08:00-18:00"], "UTC", "2026-01-10T08:00:00Z", "2026-01-10T18:00:00Z"),
        (&["08:00-18:00"], "UTC", "2026-01-10T17:59:59.9Z", "2026-01-10T18:00:00Z"),
        (&["08:00-18:00"], "UTC", "2026-01-10T18:00:00Z", "2026-01-10T18:00:00Z"),
        (&["08:00-18:00"], "Europe/Berlin", "2026-07-10T07:00:00Z", "2026-07-10T16:00:00Z"),
        (&["22:00-06:00"], "UTC", "2026-01-10T23:00:00Z", "2026-01-11T06:00:00Z"),
        (&["22:00-06:00"], "UTC", "2026-01-10T05:00:00Z", "2026-01-10T06:00:00Z"),
        (&["22:00-24:00"], "UTC", "2026-01-10T23:00:00Z", "2026-01-11T00:00:00Z"),
        (&["22:00-00:00"], "UTC", "2026-01-10T23:00:00Z", "2026-01-11T00:00:00Z"),
        (&["06:00-12:00", "12:00-13:00", "10:00-14:00"], "UTC", "2026-01-10T06:00:00Z", "2026-01-10T14:00:00Z"),
        // The end of the window lies in the hour that does not exist, and in the one that comes twice.
        (&["01:00-02:30"], "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"),
        (&["02:00-02:30"], "Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"),
        (&[], "UTC", "2026-01-10T06:00:00Z", "2026-01-10T06:00:00Z"),
    ] {
        assert_eq!(open(windows, zone, at), want, "{windows:?} {zone} {at}");
    }
    for bad in [
        &["8-18"][..],
        &["08:00"],
        &["08:00-25:00"],
        &["08:00-08:00"],
        &["00:00-24:00"],
        &["00:00-12:00", "12:00-00:00"],
        &["24:00-01:00"],
        &["08:0-09:00"],
    ] {
        assert!(QuietHours::parse(bad, None).unwrap_err().hint_text().is_some(), "{bad:?}");
    }
    let spec = Spec::parse("0 * * * *", None).unwrap();
    let quiet = QuietHours::parse(&["08:00-18:00"], None).unwrap();
    let s = Schedule::new(&spec, "a/b", Duration::ZERO, 0, quiet).unwrap();
    let start = s.next_start(Some(t("2026-01-10T07:00:01Z")), t("2026-01-10T12:30:00Z")).unwrap();
    assert_eq!(start, Start { due: t("2026-01-10T12:00:00Z"), at: t("2026-01-10T18:00:00Z") });
}

#[test]
fn durations_read_and_write() {
    for (text, secs) in [
        ("90m", 5400),
        ("6h", 21_600),
        ("14d", 1_209_600),
        ("2w", 1_209_600),
        ("1h30m", 5400),
        ("1d1s", 86_401),
        (" 5s ", 5),
        ("0s", 0),
    ] {
        let d = parse_duration(text).unwrap();
        assert_eq!(d.as_secs(), secs, "{text}");
        assert_eq!(parse_duration(&format_duration(d)).unwrap(), d);
    }
    for bad in ["", "5", "m", "5x", "1.5h", "-5m", "30m1h", "1h1h", "5 m", "99999999999999999999s", "999999999999999999w", "1M"] {
        assert!(parse_duration(bad).unwrap_err().hint_text().is_some(), "{bad}");
    }
}

/// Expressions of all kinds, cheap to search minute by minute.
fn expressions() -> impl Strategy<Value = String> {
    let minute = prop_oneof![
        Just("*".to_owned()),
        (0..60u32).prop_map(|m| m.to_string()),
        Just("*/7".into()),
        Just("10-40/10".into()),
        Just("0,30".into())
    ];
    let hour = prop_oneof![3 => (0..24u32).prop_map(|h| h.to_string()), 1 => Just("*".to_owned()), 1 => Just("*/2".into()), 2 => Just("1-3".into())];
    let day = prop_oneof![4 => Just("* * *".to_owned()), 1 => Just("* * SUN".into()), 1 => Just("25-31 * *".into()), 1 => Just("1 * MON".into())];
    (minute, hour, day).prop_map(|(m, h, d)| format!("{m} {h} {d}"))
}

fn zones() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Africa/Casablanca",
        "Asia/Kolkata",
    ])
}

/// Any time in 2025 to 2027, half of them within three hours of a clock change of Berlin or New York.
fn times() -> impl Strategy<Value = i64> {
    let changes = [
        "2026-03-29T01:00:00Z",
        "2026-10-25T01:00:00Z",
        "2026-03-08T07:00:00Z",
        "2026-11-01T06:00:00Z",
        "2026-04-04T15:00:00Z",
        "2026-10-03T15:30:00Z",
    ];
    let near = prop::sample::select(changes.map(|c| t(c).secs).to_vec()).prop_flat_map(|c| c - 10_800..c + 10_800);
    prop_oneof![1_735_689_600i64..1_830_297_600, near]
}

/// All runs in `[from, to]`, found by asking each minute of the wall clock, by the rules in the module's documentation.
fn slow(expression: &str, zone: &TimeZone, from: i64, to: i64) -> std::collections::BTreeSet<i64> {
    let pattern: croner::Cron = expression.parse().unwrap();
    let every_hour = expression.split(' ').nth(1) == Some("*");
    let at = |secs: i64| Timestamp::from_second(secs).unwrap();
    let mut out = std::collections::BTreeSet::new();
    // Start a day early to know the wall clock's highest point so far.
    let mut shown = None;
    let mut secs = from - 86_400 - (from - 86_400).rem_euclid(60);
    while secs <= to {
        let civil = zone.to_datetime(at(secs));
        let mut hit = pattern.is_time_matching(&civil).unwrap();
        if !every_hour {
            // Shown before: a second pass. Jumped over: what lies between counts now.
            hit &= shown.is_none_or(|s| civil > s);
            let mut skipped = shown.map(|s| s + jiff::SignedDuration::from_mins(1)).filter(|s| *s < civil);
            while let Some(s) = skipped.filter(|s| *s < civil) {
                hit |= pattern.is_time_matching(&s).unwrap();
                skipped = Some(s + jiff::SignedDuration::from_mins(1));
            }
            shown = Some(shown.map_or(civil, |s: jiff::civil::DateTime| s.max(civil)));
        }
        if hit && secs >= from {
            out.insert(secs);
        }
        secs += 60;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn next_and_last_agree_with_a_slow_search(expression in expressions(), zone in zones(), at in times()) {
        let s = cron(&expression, zone);
        let tz = TimeZone::get(zone).unwrap();
        let (from, to) = (at - 2 * 86_400, at + 2 * 86_400);
        let all = slow(&expression, &tz, from, to);
        let next = s.next_after(Time::new(at, 0)).unwrap();
        let last = s.last_due_before(Time::new(at, 0)).unwrap();
        prop_assert!(next.secs > at && last.secs <= at);
        match all.range(at + 1..).next() {
            Some(want) => prop_assert_eq!(next.secs, *want),
            None => prop_assert!(next.secs > to),
        }
        match all.range(..=at).next_back() {
            Some(want) => prop_assert_eq!(last.secs, *want),
            None => prop_assert!(last.secs < from),
        }
        // Nothing lies between the two.
        prop_assert_eq!(s.next_after(last), Some(next));
        prop_assert_eq!(s.last_due_before(Time::new(next.secs - 1, 999_999_999)), Some(last));
        prop_assert_eq!(s.last_due_before(next), Some(next));
    }

    #[test]
    fn next_never_goes_back_as_time_goes_on(expression in expressions(), zone in zones(), a in times(), step in 0i64..100_000) {
        let s = cron(&expression, zone);
        prop_assert!(s.next_after(Time::new(a, 0)) <= s.next_after(Time::new(a + step, 0)));
        prop_assert!(s.last_due_before(Time::new(a, 0)) <= s.last_due_before(Time::new(a + step, 0)));
    }

    #[test]
    fn one_start_settles_all_that_was_missed(expression in expressions(), zone in zones(), now in times(), ago in 0i64..10_000_000) {
        let s = cron(&expression, zone);
        let now = Time::new(now, 0);
        let start = s.next_start(Some(Time::new(now.secs - ago, 0)), now).unwrap();
        prop_assert!(start.at >= now && start.at >= start.due);
        prop_assert_eq!(s.missed(Some(start.at), start.at), None);
        prop_assert!(s.next_start(Some(start.at), start.at).unwrap().due > start.due);
    }

    #[test]
    fn any_text_is_answered(text in "[-*/,#@?LWH()0-9A-Za-z ]{0,20}") {
        drop(Spec::parse(&text, None));
        drop(parse_duration(&text));
        drop(QuietHours::parse(&[text], None));
    }
}
