//! Raw → settings. Pure: no file, no network, no environment is looked at. Goes on after a mistake and reports all.

mod drill;
mod job;
mod overlap;
mod pg_base;
mod repository;
mod secret;
mod source;
mod store;
mod wal;
mod when;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::mistake::Collector;
use super::raw::{RawConfig, RawHttp, RawLimits, RawSize, RawTenant};
use super::settings::{Http, Limits, Settings, Tenant};
use super::text::join;
use crate::model::{Environment, JobName, TenantName};
use crate::runtime::memory::LEAST_BUDGET;
use crate::schedule::QuietHours;

/// `None` exactly if a mistake was found.
pub(crate) fn validate(raw: &RawConfig, out: &mut Collector<'_>) -> Option<Settings> {
    let environment = name::<Environment>(raw.environment.as_deref().unwrap_or("production"), "environment", out);
    let policies = job::policies(&raw.policies, out);
    let rates = rates(raw.limits.as_ref(), out);
    let mut commands = Vec::new();
    let mut tenants = BTreeMap::new();
    if raw.tenants.is_empty() && !out.is_bad("tenants") {
        out.add_hint("tenants", "there is no tenant", "Add one with a job: `strongroom config example` shows how.");
    }
    for (key, tenant) in &raw.tenants {
        let path = join("tenants", key);
        let tenant_name = name::<TenantName>(key, &path, out);
        // Mistakes inside a tenant with a wrong name are looked for all the same.
        let Some(stand_in) = tenant_name.clone().or_else(|| "x".parse().ok()) else { continue };
        let env = environment.as_ref().map_or("production", Environment::as_str);
        let mut names = secret::Names { environment: env, tenant: &stand_in, commands: &mut commands };
        let made = one_tenant(raw, tenant, &path, (&policies, rates), &mut names, out);
        if let (Some(name), Some(tenant)) = (tenant_name, made) {
            tenants.insert(name, tenant);
        }
    }
    repository::check_unused_default(raw, out);
    overlap::check(&tenants, out);
    wal::check_sockets(&tenants, out);
    let http = http(raw.http.as_ref(), out);
    let limits = limits(raw.limits.as_ref(), out);
    let cache_dir = raw.cache_dir.as_ref().map(PathBuf::from);
    if cache_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        out.add("cache_dir", "not an absolute path");
    }
    let settings = Settings { environment: environment?, tenants, http, limits: limits?, cache_dir, commands };
    out.is_clean().then_some(settings)
}

fn one_tenant(
    raw: &RawConfig,
    tenant: &RawTenant,
    path: &str,
    (policies, rates): (&job::Policies, store::Rates),
    names: &mut secret::Names<'_>,
    out: &mut Collector<'_>,
) -> Option<Tenant> {
    let repository = repository::repository(raw.repository.as_ref(), tenant.repository.as_ref(), path, rates, names, out);
    let (mut jobs, mut wals) = (BTreeMap::new(), BTreeMap::new());
    for (key, job) in &tenant.jobs {
        let path = join(&format!("{path}.jobs"), key);
        let job_name = name::<JobName>(key, &path, out);
        let Some(stand_in) = job_name.clone().or_else(|| "x".parse().ok()) else { continue };
        if wal::is_wal_only(job) {
            let made = wal::job(job, stand_in, &path, names, out);
            wals.extend(job_name.zip(made));
            continue;
        }
        let made = job::job(job, stand_in, &path, policies, names, out);
        if let (Some(name), Some(job)) = (job_name, made) {
            jobs.insert(name, job);
        }
    }
    wal::check_clusters(&wals, path, out);
    Some(Tenant { name: names.tenant.clone(), repository: repository?, jobs, wal: wals })
}

fn name<T: std::str::FromStr>(text: &str, path: &str, out: &mut Collector<'_>) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| out.add(path, e.to_string())).ok()
}

fn http(raw: Option<&RawHttp>, out: &mut Collector<'_>) -> Http {
    let Some(raw) = raw else { return Http::default() };
    let mut address = |field: &Option<String>, path: &str| {
        let text = field.as_deref()?;
        let made = text.parse().ok();
        if made.is_none() {
            out.add_hint(
                path,
                format!("`{}` is not an address", text.escape_debug()),
                "Write IP and port, e.g. `0.0.0.0:9390` or `[::]:9390`.",
            );
        }
        made
    };
    let metrics = address(&raw.metrics, "http.metrics");
    // Checked, so that the file stays good when the dashboard comes.
    address(&raw.dashboard, "http.dashboard");
    Http { metrics }
}

fn limits(raw: Option<&RawLimits>, out: &mut Collector<'_>) -> Option<Limits> {
    let none = RawLimits::default();
    let raw = raw.unwrap_or(&none);
    let memory = size(raw.memory.as_ref(), "limits.memory", false, out);
    if memory.is_some_and(|m| m < LEAST_BUDGET) {
        out.add_hint("limits.memory", "too small", format!("Give it at least {}MiB; the default is 256MiB.", LEAST_BUDGET >> 20));
    }
    let jobs = count(raw.jobs, "limits.jobs", 1, 1_000, out).map_or(4, |n| n as usize);
    let per_store = count(raw.jobs_per_store, "limits.jobs_per_store", 1, 1_000, out).map_or(jobs, |n| n as usize);
    let windows = raw.quiet_hours.as_deref().unwrap_or_default();
    let quiet_hours = QuietHours::parse(windows, raw.timezone.as_deref());
    let quiet_hours = quiet_hours.map_err(|e| out.add_error("limits.quiet_hours", &e)).ok();
    Some(Limits { memory, jobs, jobs_per_store: per_store, quiet_hours: quiet_hours? })
}

fn rates(raw: Option<&RawLimits>, out: &mut Collector<'_>) -> store::Rates {
    let Some(raw) = raw else { return store::Rates::default() };
    let upload = size(raw.upload.as_ref(), "limits.upload", true, out).unwrap_or(0);
    let read = size(raw.read.as_ref(), "limits.read", true, out).unwrap_or(0);
    store::Rates { upload, read }
}

fn size(raw: Option<&RawSize>, path: &str, rate: bool, out: &mut Collector<'_>) -> Option<u64> {
    let raw = raw?;
    let bytes = raw.bytes(rate);
    if bytes.is_none() {
        let example = if rate { "`200MiB/s`" } else { "`256MiB`" };
        out.add_hint(path, "not a size", format!("Write a number with a unit, e.g. {example}."));
    }
    bytes
}

fn count(n: Option<i64>, path: &str, least: u32, most: u32, out: &mut Collector<'_>) -> Option<u32> {
    let n = n?;
    let made = u32::try_from(n).ok().filter(|n| (least..=most).contains(n));
    if made.is_none() {
        out.add(path, format!("{n} is out of range: {least} to {most}"));
    }
    made
}
