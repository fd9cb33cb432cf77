//! One job: its source, when it runs, what it keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::mistake::{Collector, nearest};
use super::super::raw::{RawCommand, RawHook, RawJob, RawKeep, RawOnChange, RawPgDump, RawPolicy, RawSecretOrText, RawVolume};
use super::super::settings::Job;
use super::super::text::join;
use super::count;
use super::secret::Names;
use crate::model::JobName;
use crate::retention::{self, Keep};
use crate::runtime::Secret;
use crate::schedule::{self, Spec, parse_duration};
use crate::source::{SourceSettings, command, pg_dump, volume};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// The policies by name: built in and the file's own.
pub(super) struct Policies(BTreeMap<String, Policy>);

struct Policy {
    raw: RawPolicy,
    /// Where it was written; `None` for a built-in one.
    path: Option<String>,
    keep: Option<Keep>,
}

/// Checks every policy, used or not.
pub(super) fn policies(raw: &BTreeMap<String, RawPolicy>, out: &mut Collector<'_>) -> Policies {
    let mut all = BTreeMap::new();
    for name in ["hourly", "daily", "gfs"] {
        let schedule = schedule::built_in(name).map(|s| s.to_string());
        all.insert(name.to_owned(), Policy { raw: RawPolicy { schedule, ..RawPolicy::default() }, path: None, keep: retention::built_in(name) });
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
pub(super) fn job(raw: &RawJob, name: JobName, path: &str, policies: &Policies, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<Job> {
    let timeout = duration(raw.timeout.as_ref(), &format!("{path}.timeout"), out).unwrap_or(DEFAULT_TIMEOUT);
    if timeout.is_zero() {
        out.add_hint(format!("{path}.timeout"), "a run needs time", "Leave `timeout` out for the default of 24h.");
    }
    let source = source(raw, path, names, out);
    let policy = raw.policy.as_ref().and_then(|p| {
        let found = policies.0.get(p);
        if found.is_none() {
            let known = policies.0.keys().map(String::as_str);
            let hint = nearest(p, known.clone()).map_or_else(|| format!("Known: {}.", known.collect::<Vec<_>>().join(", ")), |n| format!("Did you mean `{n}`?"));
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
    let retries = count(raw.retries, &format!("{path}.retries"), 0, 100, out).unwrap_or(3);
    Some(Job {
        tenant: names.tenant.clone(),
        name,
        source: source?,
        schedule: schedule?,
        jitter,
        keep,
        timeout,
        retries,
    })
}

fn source(raw: &RawJob, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<SourceSettings> {
    let given: Vec<&str> = [
        ("pg_dump", raw.pg_dump.is_some()),
        ("pg_base", raw.pg_base.is_some()),
        ("pg_wal", raw.pg_wal.is_some()),
        ("volume", raw.volume.is_some()),
        ("command", raw.command.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is)| is.then_some(name))
    .collect();
    match given.as_slice() {
        [one] => {
            if matches!(*one, "pg_base" | "pg_wal") {
                let hint = "Use `pg_dump` for this database until then.";
                out.add_hint(format!("{path}.{one}"), format!("`{one}` is not available in this version"), hint);
            }
        }
        [] if out.is_bad(path) => {}
        [] => out.add_hint(path, "the job has no source", "Add one of `pg_dump`, `volume` and `command`."),
        several => out.add(path, format!("a job has one source, and this one has {}", several.join(", "))),
    }
    for (field, is) in [("on_change", raw.on_change.is_some()), ("hooks", raw.hooks.is_some())] {
        if is && raw.volume.is_none() && !given.is_empty() {
            out.add(format!("{path}.{field}"), "belongs to `volume` jobs only");
        }
    }
    let mut made = None;
    if let Some(v) = &raw.volume {
        made = volume(raw, v, path, names, out).map(SourceSettings::Volume);
    }
    if let Some(d) = &raw.pg_dump {
        made = pg_dump(d, &format!("{path}.pg_dump"), names, out).map(SourceSettings::PgDump);
    }
    if let Some(c) = &raw.command {
        made = command(c, &format!("{path}.command"), names, out).map(SourceSettings::Command);
    }
    made
}

fn volume(job: &RawJob, raw: &RawVolume, job_path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<volume::Settings> {
    let path = format!("{job_path}.volume");
    let at = format!("{path}.path");
    let globs = |globs: &Option<Vec<String>>, field: &str, out: &mut Collector<'_>| {
        for (i, g) in globs.iter().flatten().enumerate() {
            if let Err(e) = crate::model::Globs::build(std::slice::from_ref(g)) {
                out.add_error(format!("{path}.{field}[{i}]"), &e);
            }
        }
        globs.clone().unwrap_or_default()
    };
    let include = globs(&raw.include, "include", out);
    let exclude = globs(&raw.exclude, "exclude", out);
    let hooks = job.hooks.clone().unwrap_or_default();
    let hooks = volume::hooks::Hooks {
        pre: each_hook(hooks.pre, &format!("{job_path}.hooks.pre"), names, out),
        post: each_hook(hooks.post, &format!("{job_path}.hooks.post"), names, out),
    };
    let Some(dir) = &raw.path else {
        out.add(at, "there is no directory to back up");
        return None;
    };
    let dir = PathBuf::from(names.expand(dir, &at, out));
    if !dir.is_absolute() || dir.components().any(|c| c == std::path::Component::ParentDir) {
        out.add_hint(at, "not an absolute path", "Write the whole path, without `..`.");
        return None;
    }
    Some(volume::Settings {
        path: dir,
        include,
        exclude,
        exclude_caches: raw.exclude_caches.unwrap_or(true),
        one_file_system: raw.one_file_system.unwrap_or(false),
        with_atime: raw.with_atime.unwrap_or(false),
        on_change: match job.on_change {
            Some(RawOnChange::Incomplete) => volume::OnChange::Incomplete,
            _ => volume::OnChange::Warn,
        },
        allow_empty: raw.allow_empty.unwrap_or(false),
        hooks,
    })
}

fn each_hook(hooks: Option<Vec<RawHook>>, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Vec<volume::hooks::Hook> {
    let mut made = Vec::new();
    for (i, hook) in hooks.into_iter().flatten().enumerate() {
        let at = format!("{path}[{i}]");
        let timeout = duration(hook.timeout.as_ref(), &format!("{at}.timeout"), out).unwrap_or(DEFAULT_HOOK_TIMEOUT);
        let run = names.program(&hook.run.unwrap_or_default(), &format!("{at}.run"), out);
        made.extend(run.map(|run| volume::hooks::Hook { run, timeout }));
    }
    made
}

fn pg_dump(raw: &RawPgDump, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<pg_dump::Settings> {
    let at = format!("{path}.url");
    let password = raw.password.as_ref().and_then(|p| names.secret(p, &format!("{path}.password"), out));
    let lock_timeout = duration(raw.lock_timeout.as_ref(), &format!("{path}.lock_timeout"), out);
    for (field, list) in [("databases", &raw.databases), ("exclude_databases", &raw.exclude_databases)] {
        for (i, name) in list.iter().flatten().enumerate() {
            if name.is_empty() || name.len() > 255 || name.contains('\0') {
                out.add(format!("{path}.{field}[{i}]"), "not the name of a database");
            }
        }
    }
    if raw.databases.as_ref().is_some_and(Vec::is_empty) {
        out.add_hint(format!("{path}.databases"), "the list is empty", "Leave it out for the URL's database, or write `[\"*\"]` for all.");
    }
    let Some(url) = &raw.url else {
        out.add_hint(at, "there is no server", "Add `url: postgres://user@host/database` or `url: { env: NAME }`.");
        return None;
    };
    let url = names.secret_or_text(url, &at, out)?;
    if let Secret::Value(text) = &url {
        let text = text.expose();
        if !["postgres://", "postgresql://"].iter().any(|s| text.starts_with(s)) && !text.contains('=') {
            out.add_hint(at, "not the URL of a PostgreSQL server", "Write `postgres://user@host:5432/database`.");
            return None;
        }
    }
    let databases = match raw.databases.as_deref() {
        None | Some([]) => pg_dump::Databases::OfUrl,
        Some([all]) if all == "*" => pg_dump::Databases::All,
        Some(some) => pg_dump::Databases::Patterns(some.to_vec()),
    };
    let arguments = raw.arguments.clone().unwrap_or_default();
    for (i, argument) in arguments.iter().enumerate() {
        if let Err(e) = pg_dump::check_arguments(std::slice::from_ref(argument)) {
            out.add_error(format!("{path}.arguments[{i}]"), &e);
        }
    }
    let usual = pg_dump::Settings::new(url);
    Some(pg_dump::Settings {
        password,
        databases,
        exclude: raw.exclude_databases.clone().unwrap_or_default(),
        globals: raw.globals.unwrap_or(true),
        lock_timeout: lock_timeout.unwrap_or(usual.lock_timeout),
        arguments,
        client_dirs: raw.client_dirs.iter().flatten().map(PathBuf::from).collect(),
        ..usual
    })
}

fn command(raw: &RawCommand, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<command::Settings> {
    let at = format!("{path}.run");
    let run = match &raw.run {
        Some(run) => names.program(run, &at, out),
        None => {
            out.add_hint(at, "there is no program", "Add `run: [\"program\", \"argument\"]`.");
            None
        }
    };
    let file = raw.file.clone().unwrap_or_else(|| "output".into());
    if let Err(e) = command::check_file(&file) {
        out.add_error(format!("{path}.file"), &e);
    } else if file.split('/').next() == Some(".strongroom") {
        out.add(format!("{path}.file"), "the directory `.strongroom` is taken");
    }
    let mut env = BTreeMap::new();
    for (name, value) in raw.env.iter().flatten() {
        let at = join(&format!("{path}.env"), name);
        if name.is_empty() || name.contains(['=', '\0']) {
            out.add(at, "not the name of an environment variable");
            continue;
        }
        if let RawSecretOrText::Text(t) = value
            && t.contains('\0')
        {
            out.add(at, "the value holds a zero byte");
            continue;
        }
        if let Some(v) = names.secret_or_text(value, &at, out) {
            env.insert(name.clone(), v);
        }
    }
    // The job's own limit ends the program too.
    Some(command::Settings { env, allow_empty: raw.allow_empty.unwrap_or(false), ..command::Settings::new(run?, file) })
}

/// The four settings of time, each with the path it was written at.
struct When<'a> {
    schedule: Option<(&'a str, String)>,
    every: Option<(&'a str, String)>,
    timezone: Option<(&'a str, String)>,
    jitter: Option<(&'a str, String)>,
    /// Where both `schedule` and `every` of one block are complained about.
    path: String,
}

impl<'a> When<'a> {
    fn of_policy(p: &'a RawPolicy, path: &str) -> Self {
        let at = |field: &'a Option<String>, name: &str| field.as_deref().map(|v| (v, format!("{path}.{name}")));
        Self {
            schedule: at(&p.schedule, "schedule"),
            every: at(&p.every, "every"),
            timezone: at(&p.timezone, "timezone"),
            jitter: at(&p.jitter, "jitter"),
            path: path.to_owned(),
        }
    }

    fn of_job(job: &'a RawJob, path: &str, policy: Option<&'a Policy>) -> Self {
        let at = |field: &'a Option<String>, name: &str| field.as_deref().map(|v| (v, format!("{path}.{name}")));
        let from = policy.map(|p| Self::of_policy(&p.raw, p.path.as_deref().unwrap_or(path)));
        let own = Self {
            schedule: at(&job.schedule, "schedule"),
            every: at(&job.every, "every"),
            timezone: at(&job.timezone, "timezone"),
            jitter: at(&job.jitter, "jitter"),
            path: path.to_owned(),
        };
        let Some(from) = from else { return own };
        // A schedule of the job's own replaces both ways to say it in the policy.
        let timed = own.schedule.is_some() || own.every.is_some();
        Self {
            schedule: if timed { own.schedule } else { from.schedule },
            every: if timed { own.every } else { from.every },
            timezone: own.timezone.or(from.timezone),
            jitter: own.jitter.or(from.jitter),
            path: own.path,
        }
    }

    fn spec(&self, out: &mut Collector<'_>) -> Option<Spec> {
        let zone = self.timezone.as_ref().and_then(|(zone, path)| {
            // A schedule that is always valid, so that only the zone can be wrong.
            Spec::parse("@daily", Some(zone)).map_err(|e| out.add_error(path.clone(), &e)).ok().map(|_| *zone)
        });
        match (&self.schedule, &self.every) {
            (Some(_), Some(_)) => {
                out.add(self.path.clone(), "`schedule` and `every` exclude each other");
                None
            }
            (Some((text, path)), None) => Spec::parse(text, zone).map_err(|e| out.add_error(path.clone(), &e)).ok(),
            (None, Some((text, path))) => {
                parse_duration(text).and_then(Spec::every).map_err(|e| out.add_error(path.clone(), &e)).ok()
            }
            (None, None) => Some(Spec::Never),
        }
    }

    fn jitter(&self, out: &mut Collector<'_>) -> Duration {
        let jitter = self.jitter.as_ref().and_then(|(text, path)| parse_duration(text).map_err(|e| out.add_error(path.clone(), &e)).ok());
        jitter.unwrap_or_default()
    }
}

fn duration(text: Option<&String>, path: &str, out: &mut Collector<'_>) -> Option<Duration> {
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
    };
    let within = duration(raw.within.as_ref(), &format!("{path}.within"), out);
    let keep = Keep { within, ..keep };
    if let Err(e) = keep.validate() {
        out.add_error(path, &e);
    }
    if keep.is_empty() && !out.is_bad(path) {
        out.add_hint(path, "it keeps nothing by any rule", "Write at least one, e.g. `keep: { daily: 14 }`; leave `keep` out to keep everything.");
    }
    (!keep.is_empty()).then_some(keep)
}
