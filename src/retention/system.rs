//! Rules, applied to the history of each database system on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::keep::{Keep, text};
use super::plan::{Candidate, Guards, Lines};
use crate::model::{Id, SystemId, Time, Timeline};
use jiff::tz::TimeZone;

/// Snapshots of one system, newest first.
type History<'a> = Vec<&'a Candidate>;

/// Which rules keep which of the complete snapshots, given newest first.
pub(super) fn kept_by_rules(counted: &[&Candidate], keep: &Keep, guards: &Guards) -> BTreeMap<Id, Vec<String>> {
    let mut kept: BTreeMap<Id, Vec<String>> = BTreeMap::new();
    if keep.is_empty() {
        kept.extend(counted.iter().map(|c| (c.id, vec!["the job has no retention rule".to_owned()])));
        return kept;
    }
    // What no calendar can place is never removed.
    let unplaced = counted.iter().filter(|c| c.time.to_jiff().is_none());
    kept.extend(unplaced.map(|c| (c.id, vec!["its date is outside the calendar".to_owned()])));
    let systems = histories(counted);
    for (name, count) in keep.counts() {
        let Some(count) = count else { continue };
        // When newer systems keep something by this rule.
        let mut newer: Vec<Time> = Vec::new();
        for history in &systems {
            let Some(own) = history.first() else { continue };
            if newer.iter().filter(|t| **t > own.time).count() >= count as usize {
                continue;
            }
            let mut filled = 0;
            for (used, c) in heads(name, history, &guards.zone).into_iter().filter(|(used, _)| *used <= count) {
                kept.entry(c.id).or_default().push(format!("{name} {used} of {count}{}", of(history, &systems)));
                if used > filled {
                    filled = used;
                    newer.push(c.time);
                }
            }
        }
    }
    if let (Some(within), Some(newest)) = (keep.within, counted.first()) {
        for history in &systems {
            let Some(own) = history.first().filter(|own| !is_longer(newest.time, own.time, within)) else { continue };
            for c in history.iter().take_while(|c| !is_longer(own.time, c.time, within)) {
                kept.entry(c.id).or_default().push(format!("within {}{}", text(within), of(history, &systems)));
            }
        }
    }
    if let Some(window) = keep.recovery_window {
        for (id, why) in window_needs(&systems, window, guards) {
            kept.entry(id).or_default().push(why);
        }
    }
    kept
}

/// The systems, that with the newest snapshot first.
fn histories<'a>(counted: &[&'a Candidate]) -> Vec<History<'a>> {
    let mut order = Vec::new();
    let mut by_system: BTreeMap<Option<SystemId>, History<'a>> = BTreeMap::new();
    for c in counted {
        if !by_system.contains_key(&c.system) {
            order.push(c.system);
        }
        by_system.entry(c.system).or_default().push(c);
    }
    order.into_iter().filter_map(|system| by_system.remove(&system)).collect()
}

/// Which system a reason is about, where there are several.
fn of(history: &History<'_>, systems: &[History<'_>]) -> String {
    match history.first().and_then(|c| c.system) {
        Some(system) if systems.len() > 1 => format!(" of system {system}"),
        _ => String::new(),
    }
}

/// The newest snapshot of each period, with the period's number, from 1. A period is recognised by its number in the
/// calendar; snapshots are sorted, so the first of a period is its newest. For `last` each backup is a period of its own:
/// while a snapshot is rewritten, it is there twice, and both stay for one.
fn heads<'a>(name: &str, history: &History<'a>, zone: &TimeZone) -> Vec<(u32, &'a Candidate)> {
    if name == "last" {
        let mut backups: BTreeMap<Id, u32> = BTreeMap::new();
        let number = |c: &&'a Candidate| {
            let next = u32::try_from(backups.len()).map_or(u32::MAX, |before| before.saturating_add(1));
            (*backups.entry(c.origin).or_insert(next), *c)
        };
        return history.iter().map(number).collect();
    }
    let mut seen = BTreeSet::new();
    let heads = history.iter().copied().filter(|c| period(name, c.time, zone).is_some_and(|p| seen.insert(p)));
    (1..).zip(heads).collect()
}

/// What recovery to any time of the window needs: of each system what ended in it, and the newest that ended before.
/// Times before the newer systems began are covered by the older ones only.
fn window_needs(systems: &[History<'_>], window: Duration, guards: &Guards) -> Vec<(Id, String)> {
    let mut needed = Vec::new();
    let is_inside = |t: Time| !is_longer(guards.store_now, t, window);
    // Of newer systems: when snapshots were made, and the first time they can be recovered to.
    let mut newer: Vec<(Time, Time)> = Vec::new();
    for history in systems {
        let Some(own) = history.first() else { continue };
        if newer.iter().any(|(made, end)| *made > own.time && !is_inside(*end)) {
            continue;
        }
        let mut by_end = history.clone();
        by_end.sort_by_key(|c| std::cmp::Reverse((end(c), c.id)));
        let at = of(history, systems);
        let (inside, before) = by_end.split_at(by_end.partition_point(|c| is_inside(end(c))));
        needed.extend(inside.iter().map(|c| (c.id, format!("in the recovery window of {}{at}", text(window)))));
        if let Some(c) = before.first() {
            needed.push((c.id, format!("where the recovery window of {} begins{at}", text(window))));
        }
        let lines = own.system.and_then(|system| guards.lines.get(&system));
        for (id, timeline) in lines.map(|lines| lines_need(before, lines)).unwrap_or_default() {
            needed.push((id, format!("where the recovery window of {} begins on timeline {timeline}{at}", text(window))));
        }
        newer.extend(history.iter().map(|c| (c.time, end(c))));
    }
    needed
}

/// Of what ended before the window, newest first: the newest that leads to each timeline. The newest of all may lie behind the
/// point where a timeline left. Timelines before that one's had ended when the window began. Where a history is not known,
/// everything may lead there.
fn lines_need(before: &[&Candidate], lines: &Lines) -> Vec<(Id, Timeline)> {
    let Some(newest) = before.first() else { return Vec::new() };
    let mut needed = Vec::new();
    for (timeline, history) in lines.iter().filter(|(t, _)| newest.stop.is_none_or(|(first, _)| **t >= first)) {
        let leads = |c: &&Candidate| match (c.stop, history) {
            (Some((on, _)), _) if on == *timeline => true,
            (Some((on, at)), Some(history)) => history.contains(on, at),
            _ => false,
        };
        match before.iter().copied().find(leads) {
            Some(c) if c.id == newest.id => {}
            Some(c) => needed.push((c.id, *timeline)),
            None if history.is_none() && timeline.0 > 1 => needed.extend(before.iter().map(|c| (c.id, *timeline))),
            None => {}
        }
    }
    needed
}

/// The earliest time it can be recovered to.
fn end(c: &Candidate) -> Time {
    c.end.unwrap_or(c.time)
}

fn is_longer(later: Time, earlier: Time, than: Duration) -> bool {
    later.seconds_since(earlier) > than.as_secs_f64()
}

/// A number that is the same for all times of one period and different for neighbouring periods.
fn period(name: &str, time: Time, zone: &TimeZone) -> Option<i64> {
    let civil = zone.to_datetime(time.to_jiff()?);
    let (year, month, day) = (i64::from(civil.year()), i64::from(civil.month()), i64::from(civil.day()));
    Some(match name {
        "hourly" => ((year * 12 + month) * 31 + day) * 24 + i64::from(civil.hour()),
        "daily" => (year * 12 + month) * 31 + day,
        "weekly" => {
            let week = civil.date().iso_week_date();
            i64::from(week.year()) * 53 + i64::from(week.week())
        }
        "monthly" => year * 12 + month,
        _ => year,
    })
}
