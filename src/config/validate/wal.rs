//! `pg_wal` jobs.

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use std::time::Duration;

use super::super::mistake::Collector;
use super::super::raw::{RawJob, RawPgWal, RawWalCompression, RawWalMode};
use super::super::settings::{Tenant, WalCompression, WalJob, WalMode, WalSettings};
use super::job::duration;
use super::secret::Names;
use super::{count, size};
use crate::model::{JobName, TenantName};
use crate::runtime::Secret;

const DEFAULT_SOCKET: &str = "/run/strongroom/{tenant}.sock";
const DEFAULT_PREFETCH: u64 = 256 << 20;
const DEFAULT_MAX_LAG: Duration = Duration::from_secs(5);
const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Whether the job is a WAL archive. One with a second source is left to those who count sources.
pub(super) fn is_wal_only(raw: &RawJob) -> bool {
    raw.pg_wal.is_some() && raw.pg_base.is_none() && raw.pg_dump.is_none() && raw.volume.is_none() && raw.command.is_none()
}

/// `None` after a mistake.
pub(super) fn job(raw: &RawJob, name: JobName, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<WalJob> {
    for (field, is) in [
        ("policy", raw.policy.is_some()),
        ("schedule", raw.schedule.is_some()),
        ("every", raw.every.is_some()),
        ("timezone", raw.timezone.is_some()),
        ("jitter", raw.jitter.is_some()),
        ("timeout", raw.timeout.is_some()),
        ("retries", raw.retries.is_some()),
    ] {
        if is {
            out.add(format!("{path}.{field}"), "a `pg_wal` job runs all the time, not by a schedule");
        }
    }
    if raw.keep.is_some() {
        out.add_hint(
            format!("{path}.keep"),
            "WAL has no retention of its own",
            "It stays for as long as a base backup needs it: write `keep` at the `pg_base` job.",
        );
    }
    for (field, is) in [("on_change", raw.on_change.is_some()), ("hooks", raw.hooks.is_some())] {
        if is {
            out.add(format!("{path}.{field}"), "belongs to `volume` jobs only");
        }
    }
    let none = RawPgWal::default();
    let settings = settings(raw.pg_wal.as_ref().unwrap_or(&none), &format!("{path}.pg_wal"), names, out);
    Some(WalJob { tenant: names.tenant.clone(), name, settings: settings? })
}

fn settings(raw: &RawPgWal, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<WalSettings> {
    let at = |field: &str| format!("{path}.{field}");
    let url = raw.url.as_ref().and_then(|u| names.secret_or_text(u, &at("url"), out));
    if let Some(Secret::Value(text)) = &url {
        let text = text.expose();
        if !["postgres://", "postgresql://"].iter().any(|s| text.starts_with(s)) && !text.contains('=') {
            out.add_hint(at("url"), "not the URL of a PostgreSQL server", "Write `postgres://user@host:5432/database`.");
        }
    }
    let password = raw.password.as_ref().and_then(|p| names.secret(p, &at("password"), out));
    let mode = match raw.mode {
        Some(RawWalMode::Archive) => WalMode::Archive,
        Some(RawWalMode::Receive) => WalMode::Receive,
        None if raw.url.is_some() => WalMode::Receive,
        None => WalMode::Archive,
    };
    if mode == WalMode::Receive && raw.url.is_none() {
        out.add_hint(at("url"), "there is no server to stream from", "Add `url: postgres://user@host/` or `url: { env: NAME }`.");
    }
    let cluster = raw.cluster.clone().unwrap_or_else(|| "main".into());
    check_cluster(&cluster, &at("cluster"), out);
    let slot = raw.slot.clone().unwrap_or_else(|| "strongroom".into());
    if slot.is_empty() || slot.len() > 63 || !slot.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
        out.add_hint(at("slot"), "not the name of a slot", "Use lower-case letters, digits and underscores, at most 63.");
    }
    let max_lag = duration(raw.max_lag.as_ref(), &at("max_lag"), out).unwrap_or(DEFAULT_MAX_LAG);
    if max_lag < Duration::from_millis(100) {
        out.add_hint(at("max_lag"), "too short", "Every lag costs a request to the store: `1s` is little, `5s` is the default.");
    }
    let fetch_timeout = duration(raw.fetch_timeout.as_ref(), &at("fetch_timeout"), out).unwrap_or(DEFAULT_FETCH_TIMEOUT);
    let max_slot_size = size(raw.max_slot_size.as_ref(), &at("max_slot_size"), false, out);
    if max_slot_size.is_some_and(|s| s < 64 << 20) {
        out.add_hint(at("max_slot_size"), "too small", "Give it at least 64MiB; leave it out for no limit.");
    }
    let prefetch = size(raw.prefetch.as_ref(), &at("prefetch"), false, out).unwrap_or(DEFAULT_PREFETCH);
    let parallel = count(raw.parallel, &at("parallel"), 1, 64, out).map_or(4, |n| n as usize);
    let socket = match raw.socket.as_deref() {
        Some("none") => None,
        text => absolute(Some(text.unwrap_or(DEFAULT_SOCKET)), &at("socket"), names, out),
    };
    if socket.as_ref().is_some_and(|s| s.as_os_str().len() > 100) {
        out.add(at("socket"), "longer than the 100 bytes that fit into the address of a socket");
    }
    Some(WalSettings {
        url,
        password,
        mode,
        cluster,
        slot,
        max_lag,
        max_slot_size,
        data_directory: absolute(raw.data_directory.as_deref(), &at("data_directory"), names, out),
        compression: match raw.compression {
            None | Some(RawWalCompression::Zstd) => WalCompression::Zstd,
            Some(RawWalCompression::Gzip) => WalCompression::Gzip,
            Some(RawWalCompression::Lz4) => WalCompression::Lz4,
            Some(RawWalCompression::None) => WalCompression::None,
        },
        parallel,
        prefetch,
        fetch_timeout,
        socket,
        socket_uids: ids(raw.socket_uids.as_deref(), &at("socket_uids"), out),
        socket_gids: ids(raw.socket_gids.as_deref(), &at("socket_gids"), out),
        spool: absolute(raw.spool.as_deref(), &at("spool"), names, out),
    })
}

/// The name of a cluster is a folder of the repository: a DNS label.
fn check_cluster(cluster: &str, path: &str, out: &mut Collector<'_>) {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edges = cluster.starts_with('-') || cluster.ends_with('-');
    if cluster.is_empty() || cluster.len() > 63 || edges || !cluster.bytes().all(inner) {
        out.add_hint(
            path,
            "not the name of a cluster",
            "Use 1 to 63 characters a-z, 0-9 and '-', not starting or ending with '-'.",
        );
    }
}

fn absolute(text: Option<&str>, path: &str, names: &Names<'_>, out: &mut Collector<'_>) -> Option<PathBuf> {
    let made = PathBuf::from(names.expand(text?, path, out));
    if !made.is_absolute() || made.components().any(|c| c == Component::ParentDir) {
        out.add_hint(path, "not an absolute path", "Write the whole path, without `..`.");
        return None;
    }
    Some(made)
}

fn ids(raw: Option<&[i64]>, path: &str, out: &mut Collector<'_>) -> Vec<u32> {
    let mut made = Vec::new();
    for (i, n) in raw.unwrap_or_default().iter().enumerate() {
        match u32::try_from(*n) {
            Ok(n) if n != u32::MAX => made.push(n),
            _ => out.add(format!("{path}[{i}]"), format!("{n} is not the number of a user or group")),
        }
    }
    made
}

/// Two jobs must not feed one archive: neither could tell the other's WAL from a conflict.
pub(super) fn check_clusters(jobs: &BTreeMap<JobName, WalJob>, path: &str, out: &mut Collector<'_>) {
    let mut seen: BTreeMap<&str, &JobName> = BTreeMap::new();
    for (name, job) in jobs {
        if let Some(other) = seen.insert(&job.settings.cluster, name) {
            out.add_hint(
                format!("{path}.jobs.{name}.pg_wal"),
                format!("job `{other}` archives the cluster `{}` already", job.settings.cluster),
                "Give each `pg_wal` job of a tenant a `cluster` of its own.",
            );
        }
    }
}

/// A socket belongs to one tenant, and who may use it is said once.
pub(super) fn check_sockets(tenants: &BTreeMap<TenantName, Tenant>, out: &mut Collector<'_>) {
    let mut seen: BTreeMap<&PathBuf, &WalJob> = BTreeMap::new();
    for job in tenants.values().flat_map(|t| t.wal.values()) {
        let Some(socket) = &job.settings.socket else { continue };
        let Some(other) = seen.insert(socket, job) else { continue };
        let path = format!("tenants.{}.jobs.{}.pg_wal.socket", job.tenant, job.name);
        if other.tenant != job.tenant {
            let message = format!("{} is the socket of tenant `{}`", socket.display(), other.tenant);
            out.add_hint(path, message, "Give every tenant a socket of its own: keep `{tenant}` in `socket`.");
        } else if (&other.settings.socket_uids, &other.settings.socket_gids)
            != (&job.settings.socket_uids, &job.settings.socket_gids)
        {
            let message = format!("job `{}` shares {} and lets in others", other.name, socket.display());
            out.add_hint(
                path,
                message,
                "Write the same `socket_uids` and `socket_gids`, or give each job a `socket` of its own.",
            );
        }
    }
}
