//! What nobody backs up: databases that no job dumps, jobs that never run or never succeeded, tenants without jobs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Context, drill, server, status};
use crate::error::Result;
use crate::model::Selector;
use crate::schedule::Spec;
use crate::source::{SourceSettings, pg_dump};

/// The answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Coverage {
    /// What is not protected, or less than it seems.
    pub gaps: Vec<Gap>,
    /// What could not be found out. Not the same as "no gap".
    pub unknown: Vec<Gap>,
    /// Databases seen on the servers of the jobs that were looked at.
    pub databases: usize,
    /// Of these, how many some job backs up.
    pub databases_covered: usize,
    /// What drills that are not stale have proven.
    pub proven: Vec<Proven>,
}

/// What a job's last drill has proven.
#[derive(Debug, Clone, Serialize)]
pub struct Proven {
    /// Whose.
    pub tenant: String,
    /// Which job.
    pub job: String,
    /// Recovery point: how much would have been lost, in seconds.
    pub rpo_seconds: f64,
    /// Recovery time: how long until everything was back and checked, in seconds.
    pub rto_seconds: f64,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Gap {
    /// Whose.
    pub tenant: String,
    /// Which job, where it is about one.
    pub job: Option<String>,
    /// `no_job`, `no_schedule`, `no_retention`, `never_succeeded`, `drill`, `database`, `server`, `repository`.
    pub kind: &'static str,
    /// One sentence.
    pub message: String,
}

/// Looks at the configuration, the repositories and the servers of `pg_dump` and `pg_base` jobs.
///
/// # Errors
/// Only for a selector that names nothing; what could not be looked at is in [`Coverage::unknown`].
pub async fn run(ctx: &Context, selector: Option<&Selector>) -> Result<Coverage> {
    let mut out = Coverage::default();
    for tenant in ctx.tenants(selector)? {
        if tenant.jobs.is_empty() {
            out.gaps.push(Gap {
                tenant: tenant.name.to_string(),
                job: None,
                kind: "no_job",
                message: "the tenant has no job".into(),
            });
        }
    }
    let jobs = ctx.jobs(selector)?;
    for job in &jobs {
        let gap = |kind, message: &str| Gap {
            tenant: job.tenant.to_string(),
            job: Some(job.name.to_string()),
            kind,
            message: message.into(),
        };
        if job.schedule == Spec::Never {
            out.gaps.push(gap("no_schedule", "runs only when somebody asks for it"));
        }
        if job.keep.is_none() {
            out.gaps.push(gap("no_retention", "keeps every snapshot forever"));
        }
    }
    for s in status::run(ctx, selector).await? {
        let gap = |kind, message| Gap { tenant: s.tenant.clone(), job: Some(s.job.clone()), kind, message };
        match s.state {
            status::State::Unknown => out.unknown.push(gap("repository", s.error.clone().unwrap_or_default())),
            _ if s.last.is_none() => out.gaps.push(gap("never_succeeded", "there is no complete snapshot of it".to_owned())),
            _ => {}
        }
        let proven = s.drill.as_ref().filter(|d| d.state == drill::DrillState::Ok);
        match (&s.drill, proven.and_then(|d| Some((d.rpo_seconds?, d.rto_seconds?)))) {
            (_, Some((rpo_seconds, rto_seconds))) => {
                out.proven.push(Proven { tenant: s.tenant.clone(), job: s.job.clone(), rpo_seconds, rto_seconds });
            }
            (Some(d), None) => out.gaps.extend(d.problem.clone().map(|problem| gap("drill", problem))),
            (None, None) => {}
        }
    }
    databases(ctx, &jobs, &mut out).await?;
    Ok(out)
}

/// Each server is judged by all jobs that reach it together.
async fn databases(ctx: &Context, jobs: &[&crate::config::settings::Job], out: &mut Coverage) -> Result<()> {
    let mut servers: BTreeMap<(String, String), (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for job in jobs {
        // A base backup has every database.
        let (settings, physical) = match &job.source {
            SourceSettings::PgDump(settings) => (settings.clone(), false),
            SourceSettings::PgBase(base) => {
                (pg_dump::Settings { password: base.password.clone(), ..pg_dump::Settings::new(base.url.clone()) }, true)
            }
            SourceSettings::Volume(_) | SourceSettings::Command(_) => continue,
        };
        let cancel = ctx.cancel().clone();
        let gap = |kind, message: String| Gap { tenant: job.tenant.to_string(), job: Some(job.name.to_string()), kind, message };
        match super::blocking(move || server::look(&settings, &cancel)).await {
            Ok(seen) => {
                let real: Vec<String> = seen
                    .databases
                    .iter()
                    .filter(|d| !d.template && d.connectable && !d.invalid)
                    .map(|d| d.name.clone())
                    .collect();
                let (all, covered) = servers.entry((job.tenant.to_string(), seen.identity)).or_default();
                all.extend(real.iter().cloned());
                match seen.chosen {
                    _ if physical => covered.extend(real),
                    Ok(names) => covered.extend(names),
                    Err(e) => out.gaps.push(gap("database", e.chain())),
                }
            }
            Err(e) => out.unknown.push(gap("server", e.chain())),
        }
    }
    for ((tenant, server), (all, covered)) in servers {
        out.databases += all.len();
        out.databases_covered += all.intersection(&covered).count();
        for name in all.difference(&covered) {
            // Every cluster has it, and it is empty nearly everywhere.
            if name != "postgres" {
                out.gaps.push(Gap {
                    tenant: tenant.clone(),
                    job: None,
                    kind: "database",
                    message: format!("database {name} of server {server} is backed up by no job"),
                });
            }
        }
    }
    Ok(())
}
