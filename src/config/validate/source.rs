//! What a job backs up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::super::mistake::Collector;
use super::super::raw::{RawCommand, RawHook, RawJob, RawOnChange, RawPgDump, RawSecretOrText, RawVolume};
use super::super::text::join;
use super::job::duration;
use super::secret::Names;
use crate::runtime::Secret;
use crate::source::{SourceSettings, command, pg_dump, volume};

const DEFAULT_HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// `None` after a mistake.
pub(super) fn source(raw: &RawJob, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<SourceSettings> {
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
        [_] => {}
        [] if out.is_bad(path) => {}
        [] => out.add_hint(path, "the job has no source", "Add one of `pg_base`, `pg_wal`, `pg_dump`, `volume` and `command`."),
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
    if let Some(b) = &raw.pg_base {
        made = super::pg_base::source(b, &format!("{path}.pg_base"), names, out).map(SourceSettings::PgBase);
    }
    if let Some(c) = &raw.command {
        made = command(c, &format!("{path}.command"), names, out).map(SourceSettings::Command);
    }
    made
}

fn volume(
    job: &RawJob,
    raw: &RawVolume,
    job_path: &str,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<volume::Settings> {
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

fn each_hook(
    hooks: Option<Vec<RawHook>>,
    path: &str,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Vec<volume::hooks::Hook> {
    let mut made = Vec::new();
    for (i, hook) in hooks.into_iter().flatten().enumerate() {
        let at = format!("{path}[{i}]");
        let timeout = duration(hook.timeout.as_ref(), &format!("{at}.timeout"), out).unwrap_or(DEFAULT_HOOK_TIMEOUT);
        let run = names.program(&hook.run.unwrap_or_default(), &format!("{at}.run"), out);
        made.extend(run.map(|run| volume::hooks::Hook { run, timeout }));
    }
    made
}

/// The URL of a PostgreSQL server. `None` after a mistake.
pub(super) fn server_url(
    url: Option<&RawSecretOrText>,
    at: &str,
    names: &mut Names<'_>,
    out: &mut Collector<'_>,
) -> Option<Secret> {
    let Some(url) = url else {
        out.add_hint(at, "there is no server", "Add `url: postgres://user@host/database` or `url: { env: NAME }`.");
        return None;
    };
    let url = names.secret_or_text(url, at, out)?;
    if let Secret::Value(text) = &url {
        let text = text.expose();
        if !["postgres://", "postgresql://"].iter().any(|s| text.starts_with(s)) && !text.contains('=') {
            out.add_hint(at, "not the URL of a PostgreSQL server", "Write `postgres://user@host:5432/database`.");
            return None;
        }
    }
    Some(url)
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
        out.add_hint(
            format!("{path}.databases"),
            "the list is empty",
            "Leave it out for the URL's database, or write `[\"*\"]` for all.",
        );
    }
    let url = server_url(raw.url.as_ref(), &at, names, out)?;
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
