//! How a job's backups are drilled.

use std::path::PathBuf;
use std::time::Duration;

use super::super::mistake::Collector;
use super::super::raw::{RawAssertion, RawDrill, RawHeartbeat, RawJob};
use super::super::settings::{Assertion, Drill, Heartbeat};
use super::super::text::join;
use super::job::duration;
use super::secret::Names;
use crate::schedule::{Spec, parse_duration};
use crate::source::SourceSettings;

const DEFAULT_BEAT: Duration = Duration::from_secs(30);

/// A drill as it was written, and where.
pub(super) type Written<'a> = (&'a RawDrill, String);

/// Fields of the job's own block win over those of its policy's.
pub(super) fn drill(
    own: Option<Written<'_>>,
    policy: Option<Written<'_>>,
    job: &RawJob,
    source: Option<&SourceSettings>,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Drill {
    let mut made = Drill::default();
    for (raw, path) in policy.into_iter().chain(own) {
        lay_over(&mut made, raw, &path, job, source, names, out);
    }
    made
}

fn lay_over(
    made: &mut Drill,
    raw: &RawDrill,
    path: &str,
    job: &RawJob,
    source: Option<&SourceSettings>,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) {
    let at = |field: &str| format!("{path}.{field}");
    if let Some(spec) = schedule(raw, path, out) {
        made.schedule = spec;
    }
    made.max_age = duration(raw.max_age.as_ref(), &at("max_age"), out).or(made.max_age);
    made.timeout = duration(raw.timeout.as_ref(), &at("timeout"), out).or(made.timeout);
    for (field, time) in [("max_age", made.max_age), ("timeout", made.timeout)] {
        if time.is_some_and(|t| t.is_zero()) {
            out.add(at(field), "is zero");
        }
    }
    if let Some(dir) = &raw.scratch {
        made.scratch = directory(dir, &at("scratch"), names, out).or(made.scratch.take());
    }
    if let Some(dirs) = &raw.server_dirs {
        made.server_dirs = dirs.iter().map(PathBuf::from).collect();
    }
    if let Some(settings) = &raw.settings {
        for name in settings.keys().filter(|n| !is_setting(n)) {
            out.add(join(&at("settings"), name), "not the name of a PostgreSQL setting");
        }
        made.settings = settings.clone();
    }
    made.user = raw.user.clone().or(made.user.take());
    made.amcheck = raw.amcheck.unwrap_or(made.amcheck);
    let is_database = job.pg_dump.is_some() || job.pg_base.is_some();
    for (field, is) in [("assertions", raw.assertions.is_some()), ("heartbeat", raw.heartbeat.is_some())] {
        if is && !is_database {
            out.add(at(field), "belongs to jobs that back up PostgreSQL");
        }
    }
    if let Some(all) = &raw.assertions {
        made.assertions =
            all.iter().enumerate().filter_map(|(i, a)| assertion(a, &format!("{path}.assertions[{i}]"), out)).collect();
    }
    if let Some(beat) = &raw.heartbeat {
        made.heartbeat = heartbeat(beat, &at("heartbeat"), source, names, out).or(made.heartbeat.take());
    }
}

fn schedule(raw: &RawDrill, path: &str, out: &mut Collector<'_>) -> Option<Spec> {
    match (&raw.schedule, &raw.every) {
        (Some(_), Some(_)) => {
            out.add(path, "`schedule` and `every` exclude each other");
            None
        }
        (Some(text), None) => {
            Spec::parse(text, raw.timezone.as_deref()).map_err(|e| out.add_error(format!("{path}.schedule"), &e)).ok()
        }
        (None, Some(text)) => {
            parse_duration(text).and_then(Spec::every).map_err(|e| out.add_error(format!("{path}.every"), &e)).ok()
        }
        (None, None) => None,
    }
}

fn directory(text: &str, path: &str, names: &Names<'_>, out: &mut Collector<'_>) -> Option<PathBuf> {
    let dir = PathBuf::from(names.expand(text, path, out));
    if dir.is_absolute() && !dir.components().any(|c| c == std::path::Component::ParentDir) {
        return Some(dir);
    }
    out.add_hint(path, "not an absolute path", "Write the whole path, without `..`.");
    None
}

fn is_setting(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
}

fn assertion(raw: &RawAssertion, path: &str, out: &mut Collector<'_>) -> Option<Assertion> {
    let (database, sql) = match raw {
        RawAssertion::Text(sql) => (None, sql.clone()),
        RawAssertion::In(of) => (of.database.clone(), of.sql.clone().unwrap_or_default()),
    };
    if sql.trim().is_empty() {
        out.add_hint(path, "there is no query", "Write one that returns true: `SELECT count(*) > 0 FROM orders`.");
        return None;
    }
    Some(Assertion { database, sql })
}

fn heartbeat(
    raw: &RawHeartbeat,
    path: &str,
    source: Option<&SourceSettings>,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<Heartbeat> {
    let every = duration(raw.every.as_ref(), &format!("{path}.every"), out).unwrap_or(DEFAULT_BEAT);
    if every < Duration::from_secs(1) {
        out.add(format!("{path}.every"), "below one second");
    }
    let of_job = match source {
        Some(SourceSettings::PgDump(s)) => Some((s.url.clone(), s.password.clone())),
        Some(SourceSettings::PgBase(s)) => Some((s.url.clone(), s.password.clone())),
        _ => None,
    };
    let (url, password) = match &raw.url {
        Some(url) => (names.secret_or_text(url, &format!("{path}.url"), out)?, None),
        None => of_job?,
    };
    Some(Heartbeat { every, url, password, database: raw.database.clone() })
}
