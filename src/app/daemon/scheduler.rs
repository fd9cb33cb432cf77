//! Which job starts when, within the limits. No I/O, no tasks, no clock: told the time and what ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::Time;
use crate::schedule::{Schedule, Start};

/// While another process runs a job, it is asked for again after this long.
const ELSEWHERE_PAUSE: Duration = Duration::from_secs(15);
/// A run that ended and is due all the same is started again after this long, so that clocks that disagree cost no loop.
const STILL_DUE_PAUSE: Duration = Duration::from_secs(60);

/// A job as the configuration has it. `T` is what runs it.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    /// `tenant/job`.
    pub(super) name: String,
    /// Jobs with the same text share a store and its limit.
    pub(super) store: String,
    /// The repository with its place in the store: another one knows of other runs.
    pub(super) history: String,
    /// When it runs.
    pub(super) schedule: Schedule,
    /// Runs it.
    pub(super) task: T,
}

/// How many jobs may run at the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Altogether.
    pub(super) total: usize,
    /// On one store.
    pub(super) per_store: usize,
}

/// A job to start now.
#[derive(Debug)]
pub(super) struct Due<T> {
    pub(super) name: String,
    /// The time that the schedule named.
    pub(super) due: Time,
    pub(super) task: T,
}

/// How a run ended, as far as the schedule cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It ran, here or elsewhere, and began at that time; or it failed for good and its next time comes.
    At(Time),
    /// Another process is at it: ask again soon.
    Elsewhere,
}

/// What became of the job while it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meanwhile {
    /// It is as it was.
    Same,
    /// It has another repository now, where this run is not.
    Moved,
    /// It is not in the configuration any more.
    Gone,
}

/// The state of all jobs.
#[derive(Debug)]
pub(super) struct Scheduler<T> {
    jobs: BTreeMap<String, State<T>>,
    limits: Limits,
}

#[derive(Debug)]
struct State<T> {
    entry: Entry<T>,
    /// Begin of the last run that is known of.
    last: Option<Time>,
    /// Until the repository has told, runs that were missed before this time are not known of, and not caught up.
    unknown_since: Option<Time>,
    running: Option<Running>,
    not_before: Option<Time>,
    /// Somebody needs a run that begins after this time, whatever the schedule says.
    wanted: Option<Time>,
    /// Not in the configuration any more; forgotten when it ends.
    gone: bool,
}

#[derive(Debug)]
struct Running {
    store: String,
    history: String,
    /// What `last` was before.
    before: Option<Time>,
    /// The time that the schedule named.
    due: Time,
}

impl<T: Clone> Scheduler<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { jobs: BTreeMap::new(), limits }
    }

    /// Puts a configuration in force. Jobs that are running go on as they are. Returns the new jobs, whose history has
    /// to be [`Scheduler::learned`], and those that are gone.
    pub(super) fn replace(&mut self, entries: Vec<Entry<T>>, limits: Limits, now: Time) -> (Vec<String>, Vec<String>) {
        self.limits = limits;
        let (mut new, mut names) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            names.insert(entry.name.clone());
            match self.jobs.get_mut(&entry.name) {
                // Elsewhere means another history.
                Some(state) if state.entry.history == entry.history => {
                    // What was shown of one that was gone was forgotten.
                    if std::mem::take(&mut state.gone) {
                        new.push(entry.name.clone());
                    }
                    state.entry = entry;
                }
                Some(state) => {
                    new.push(entry.name.clone());
                    state.entry = entry;
                    (state.gone, state.last, state.unknown_since, state.not_before) = (false, None, Some(now), None);
                }
                None => {
                    new.push(entry.name.clone());
                    let name = entry.name.clone();
                    let state = State {
                        entry,
                        last: None,
                        unknown_since: Some(now),
                        running: None,
                        not_before: None,
                        wanted: None,
                        gone: false,
                    };
                    self.jobs.insert(name, state);
                }
            }
        }
        let gone: Vec<String> =
            self.jobs.iter().filter(|(n, s)| !s.gone && !names.contains(*n)).map(|(n, _)| n.clone()).collect();
        for name in &gone {
            match self.jobs.get_mut(name) {
                Some(state) if state.running.is_some() => state.gone = true,
                _ => drop(self.jobs.remove(name)),
            }
        }
        (new, gone)
    }

    /// The repository told when the last complete backup of a job began; `None`: there is none.
    pub(super) fn learned(&mut self, name: &str, last: Option<Time>) {
        if let Some(state) = self.jobs.get_mut(name) {
            state.unknown_since = None;
            state.last = state.last.max(last);
        }
    }

    /// Begin of the last run that is known of.
    pub(super) fn last(&self, name: &str) -> Option<Time> {
        self.jobs.get(name).and_then(|state| state.last)
    }

    /// The jobs to start now; they count as running from here on.
    pub(super) fn due(&mut self, now: Time) -> Vec<Due<T>> {
        let mut ready: Vec<(Start, String)> =
            self.plans(now).filter(|(_, start)| start.at <= now).map(|(name, start)| (start, name.to_owned())).collect();
        // The longest overdue first.
        ready.sort_by(|(a, an), (b, bn)| (a.due, an).cmp(&(b.due, bn)));
        let mut out = Vec::new();
        for (start, name) in ready {
            if self.running() >= self.limits.total {
                break;
            }
            let store = self.jobs.get(&name).map(|s| s.entry.store.clone()).unwrap_or_default();
            let on_store = self.jobs.values().filter(|s| s.running.as_ref().is_some_and(|r| r.store == store)).count();
            if on_store >= self.limits.per_store {
                continue;
            }
            if let Some(state) = self.jobs.get_mut(&name) {
                state.running = Some(Running { store, history: state.entry.history.clone(), before: state.last, due: start.due });
                (state.last, state.not_before, state.wanted) = (Some(now), None, None);
                out.push(Due { name, due: start.due, task: state.entry.task.clone() });
            }
        }
        out
    }

    /// A run is needed that begins after this time: it is due now, whatever the schedule says. Returns whether there is such a job.
    pub(super) fn want(&mut self, name: &str, since: Time) -> bool {
        let Some(state) = self.jobs.get_mut(name).filter(|s| !s.gone) else { return false };
        state.wanted = state.wanted.max(Some(since));
        true
    }

    /// A run ended. Returns what became of its job meanwhile.
    pub(super) fn settled(&mut self, name: &str, how: Settled, now: Time) -> Meanwhile {
        let Some(state) = self.jobs.get_mut(name) else { return Meanwhile::Gone };
        let ran = state.running.take();
        if state.gone {
            self.jobs.remove(name);
            return Meanwhile::Gone;
        }
        if ran.as_ref().is_some_and(|r| r.history != state.entry.history) {
            // What is known, or asked for, is of the new repository.
            return Meanwhile::Moved;
        }
        match how {
            Settled::At(begun) => {
                // Another process's clock may be ahead of this one; what is ahead counts as unknown.
                let begun = begun.min(now);
                state.last = Some(begun);
                let missed = state.entry.schedule.missed(Some(begun), now);
                if let (Some(ran), Some(missed)) = (ran, missed)
                    && missed <= ran.due
                {
                    state.not_before = Some(later(now, STILL_DUE_PAUSE));
                }
            }
            Settled::Elsewhere => {
                state.last = ran.and_then(|r| r.before);
                state.not_before = Some(later(now, ELSEWHERE_PAUSE));
            }
        }
        Meanwhile::Same
    }

    /// When [`Scheduler::due`] has to be asked again if nothing else happens.
    pub(super) fn wake(&self, now: Time) -> Option<Time> {
        // What is overdue waits for something to end.
        self.plans(now).map(|(_, start)| start.at).filter(|at| *at > now).min()
    }

    /// When each job that is not running starts next.
    pub(super) fn plans(&self, now: Time) -> impl Iterator<Item = (&str, Start)> {
        self.jobs.iter().filter(|(_, s)| s.running.is_none()).filter_map(move |(name, state)| {
            let mut start = match state.wanted {
                Some(since) => Start { due: since, at: now },
                None => state.entry.schedule.next_start(state.last.or(state.unknown_since), now)?,
            };
            start.at = start.at.max(state.not_before.unwrap_or(start.at));
            Some((name.as_str(), start))
        })
    }

    /// How many jobs run.
    pub(super) fn running(&self) -> usize {
        self.jobs.values().filter(|s| s.running.is_some()).count()
    }
}

fn later(t: Time, d: Duration) -> Time {
    Time::new(t.secs.saturating_add(d.as_secs().cast_signed()), t.nanos.saturating_add(d.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{START, schedule, t};
    use super::*;

    #[test]
    fn waking_is_planned_for_what_is_not_held_up() {
        let now = t(START);
        let mut s = Scheduler::new(Limits { total: 1, per_store: 1 });
        let entry = |name: &str, text: &str| Entry {
            name: name.into(),
            store: "s".into(),
            history: "h".into(),
            schedule: schedule(text, name),
            task: (),
        };
        let (new, gone) =
            s.replace(vec![entry("a/x", "0 2 * * *"), entry("a/y", "0 3 * * *")], Limits { total: 1, per_store: 1 }, now);
        assert_eq!((new.len(), gone.len()), (2, 0));
        assert_eq!(s.wake(now), Some(t("2026-11-21T02:00:00Z")));
        s.learned("a/x", None);
        s.learned("a/y", None);
        let due = s.due(now);
        // x was due yesterday at 2, y at 3.
        assert_eq!((due.len(), due[0].name.as_str(), due[0].due), (1, "a/x", t("2026-11-20T02:00:00Z")));
        assert_eq!(s.wake(now), None, "y waits for x");
        assert_eq!(s.settled("a/x", Settled::Elsewhere, now), Meanwhile::Same);
        assert_eq!(s.wake(now), Some(Time::new(now.secs + 15, 0)));
        assert_eq!(s.due(now)[0].name, "a/y");
        let (_, gone) = s.replace(vec![entry("a/x", "0 2 * * *")], Limits { total: 1, per_store: 1 }, now);
        assert_eq!(gone, ["a/y"]);
        assert_eq!(s.running(), 1);
        assert_eq!(s.settled("a/y", Settled::At(now), now), Meanwhile::Gone);
        assert_eq!(s.running(), 0);
        // One that went and came back while it runs is told of as if it were new: what was shown of it was forgotten.
        s.settled("a/x", Settled::Elsewhere, now);
        s.due(t("2026-11-22T02:30:00Z"));
        let none: Vec<Entry<()>> = Vec::new();
        assert_eq!(s.replace(none, Limits { total: 1, per_store: 1 }, now), (vec![], vec!["a/x".to_owned()]));
        let (new, _) = s.replace(vec![entry("a/x", "0 2 * * *")], Limits { total: 1, per_store: 1 }, now);
        assert_eq!((s.running(), new), (1, vec!["a/x".to_owned()]));
        let (new, _) = s.replace(vec![entry("a/x", "0 2 * * *")], Limits { total: 1, per_store: 1 }, now);
        assert!(new.is_empty(), "{new:?}");
        // The same job in another repository has another history.
        let moved = Entry { history: "elsewhere".into(), ..entry("a/x", "0 2 * * *") };
        let (new, _) = s.replace(vec![moved], Limits { total: 1, per_store: 1 }, now);
        assert_eq!(new, ["a/x"]);
    }

    #[test]
    fn a_run_that_ends_and_is_due_all_the_same_makes_no_loop() {
        let (now, limits) = (t(START), Limits { total: 1, per_store: 1 });
        let mut s = Scheduler::new(limits);
        let entry = Entry {
            name: "a/x".into(),
            store: "s".into(),
            history: "h".into(),
            schedule: schedule("0 1 * * *", "a/x"),
            task: (),
        };
        s.replace(vec![entry], limits, now);
        s.learned("a/x", None);
        // Begun before the time that was named, by whatever clock.
        assert_eq!(s.due(now)[0].due, t("2026-11-21T01:00:00Z"));
        s.settled("a/x", Settled::At(t("2026-11-21T00:59:59Z")), now);
        assert!(s.due(now).is_empty());
        assert_eq!(s.wake(now), Some(Time::new(now.secs + 60, 0)));
        let now = Time::new(now.secs + 60, 0);
        assert_eq!(s.due(now).len(), 1);
        // Begun tomorrow: it was done, and the next time comes.
        s.settled("a/x", Settled::At(t("2026-11-22T01:00:00Z")), now);
        assert!(s.due(now).is_empty());
        assert_eq!(s.wake(now), Some(t("2026-11-22T01:00:00Z")));
    }
}
