//! One job: its source, when it runs, what it keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::mistake::{Collector, nearest};
use super::super::raw::{RawJob, RawKeep, RawPolicy};
use super::super::settings::Job;
use super::super::text::join;
use super::count;
use super::drill::drill;
use super::secret::Names;
use super::source::source;
use super::when::When;
use crate::model::JobName;
use crate::retention::{self, Keep};
use crate::schedule::{self, parse_duration};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The policies by name: built in and the file's own.
pub(super) struct Policies(BTreeMap<String, Policy>);

pub(super) struct Policy {
    pub(super) raw: RawPolicy,
    /// Where it was written; `None` for a built-in one.
    pub(super) path: Option<String>,
    keep: Option<Keep>,
}

/// Checks every policy, used or not.
pub(super) fn policies(raw: &BTreeMap<String, RawPolicy>, out: &mut Collector<'_>) -> Policies {
    let mut all = BTreeMap::new();
    for name in ["hourly", "daily", "gfs"] {
        let schedule = schedule::built_in(name).map(|s| s.to_string());
        all.insert(
            name.to_owned(),
            Policy { raw: RawPolicy { schedule, ..RawPolicy::default() }, path: None, keep: retention::built_in(name) },
        );
    }
    for (name, policy) in raw {
        let path = join("policies", name);
        let when = When::of_policy(policy, &path);
        when.spec(out);
        when.jitter(out);
        let keep = policy.keep.as_ref().and_then(|k| keep(k, &format!("{path}.keep"), out));
        all.insert(name.clone(), Policy { raw: policy.clone(), path: Some(path), keep });
    }
    Policies(all)
}

/// `None` after a mistake.
pub(super) fn job(
    raw: &RawJob,
    name: JobName,
    path: &str,
    policies: &Policies,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<Job> {
    let timeout = duration(raw.timeout.as_ref(), &format!("{path}.timeout"), out).unwrap_or(DEFAULT_TIMEOUT);
    if timeout.is_zero() {
        out.add_hint(format!("{path}.timeout"), "a run needs time", "Leave `timeout` out for the default of 24h.");
    }
    let source = source(raw, path, names, out);
    let policy = raw.policy.as_ref().and_then(|p| {
        let found = policies.0.get(p);
        if found.is_none() {
            let known = policies.0.keys().map(String::as_str);
            let hint = nearest(p, known.clone())
                .map_or_else(|| format!("Known: {}.", known.collect::<Vec<_>>().join(", ")), |n| format!("Did you mean `{n}`?"));
            out.add_hint(format!("{path}.policy"), format!("there is no policy `{}`", p.escape_debug()), hint);
        }
        found
    });
    let when = When::of_job(raw, path, policy);
    let schedule = when.spec(out);
    let jitter = when.jitter(out);
    let keep = match &raw.keep {
        Some(k) => keep(k, &format!("{path}.keep"), out),
        None => policy.and_then(|p| p.keep),
    };
    let policy_drill = policy.and_then(|p| Some((p.raw.drill.as_ref()?, format!("{}.drill", p.path.as_deref().unwrap_or(path)))));
    let own_drill = raw.drill.as_ref().map(|d| (d, format!("{path}.drill")));
    let drill = drill(own_drill, policy_drill, raw, source.as_ref(), names, out);
    let retries = count(raw.retries, &format!("{path}.retries"), 0, 100, out).unwrap_or(3);
    Some(Job { tenant: names.tenant.clone(), name, source: source?, schedule: schedule?, jitter, keep, timeout, retries, drill })
}

/// A length of time; `None` where absent or after a mistake.
pub(super) fn duration(text: Option<&String>, path: &str, out: &mut Collector<'_>) -> Option<Duration> {
    parse_duration(text?).map_err(|e| out.add_error(path, &e)).ok()
}

fn keep(raw: &RawKeep, path: &str, out: &mut Collector<'_>) -> Option<Keep> {
    let mut n = |v: Option<i64>, field: &str| count(v, &format!("{path}.{field}"), 1, 1_000_000, out);
    let keep = Keep {
        last: n(raw.last, "last"),
        hourly: n(raw.hourly, "hourly"),
        daily: n(raw.daily, "daily"),
        weekly: n(raw.weekly, "weekly"),
        monthly: n(raw.monthly, "monthly"),
        yearly: n(raw.yearly, "yearly"),
        within: None,
        recovery_window: None,
    };
    let within = duration(raw.within.as_ref(), &format!("{path}.within"), out);
    let recovery_window = duration(raw.recovery_window.as_ref(), &format!("{path}.recovery_window"), out);
    let keep = Keep { within, recovery_window, ..keep };
    if let Err(e) = keep.validate() {
        out.add_error(path, &e);
    }
    if keep.is_empty() && !out.is_bad(path) {
        out.add_hint(
            path,
            "it keeps nothing by any rule",
            "Write at least one, e.g. `keep: { daily: 14 }`; leave `keep` out to keep everything.",
        );
    }
    (!keep.is_empty()).then_some(keep)
}
