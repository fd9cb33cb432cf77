//! Removes the WAL that no retained base backup, recovery window or running restore needs.
//!
//! Order: the snapshots that retention let go are gone → the facts of all that are left are read → holds are read → what is needed
//! is decided ([`crate::retention::wal_need`]) → the rest goes, oldest first. A crash leaves WAL that the next run removes.
//! **What could not be found out keeps all WAL of the cluster**, with an alarm.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::Context;
use super::facts::is_complete;
use super::restore_base::hold;
use super::{altered, base_facts};
use crate::config::settings::Tenant;
use crate::error::{Context as _, Result};
use crate::model::{BaseBackup, Id, Lsn, SystemId, Time, Timeline};
use crate::repository::{Repository, Snapshot};
use crate::retention::{self, Base, Cluster, Need, System, wal_need};
use crate::source::SourceSettings;
use crate::wal::{self, Archive, Folder, Survey};

/// What happened to the WAL of one cluster. Part of the `--json` output of `prune`.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterWal {
    /// Its name.
    pub cluster: String,
    /// One for each system that has WAL in the archive.
    pub systems: Vec<SystemWal>,
    /// What a person should look at. Each is one sentence.
    pub alarms: Vec<String>,
}

/// What happened to the WAL of one system.
#[derive(Debug, Clone, Serialize)]
pub struct SystemWal {
    /// `<major>-<system identifier>`.
    pub system: String,
    /// Segments in the archive before.
    pub segments: usize,
    /// Segments that went; in a dry run those that would.
    pub removed_segments: usize,
    /// Objects that went, segments included.
    pub removed_objects: usize,
    /// Their bytes in the store.
    pub removed_bytes: u64,
    /// What stays, and why.
    pub needed: Vec<Kept>,
}

/// A stretch of WAL that stays.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// On which timeline; absent: on all of them.
    pub timeline: Option<Timeline>,
    /// From here; absent: from the beginning.
    pub from: Option<Lsn>,
    /// To here; absent: to the end.
    pub to: Option<Lsn>,
    /// For this reason.
    pub reason: String,
}

/// Removes what is not needed of all clusters of the tenant, or of the one named `only`. `snapshots` are all that the
/// repository holds; those in `gone` count as removed. With `dry_run` nothing is removed.
///
/// # Errors
/// The store's failures. What could not be decided is an alarm instead.
pub async fn run(
    ctx: &Context,
    repo: &Repository,
    tenant: &Tenant,
    snapshots: &[Snapshot],
    gone: &HashSet<Id>,
    only: Option<&str>,
    dry_run: bool,
) -> Result<Vec<ClusterWal>> {
    let what = || format!("expire the WAL of tenant {}", tenant.name);
    let left: Vec<Snapshot> = snapshots.iter().filter(|s| !gone.contains(&s.id)).cloned().collect();
    let mut clusters = clusters(tenant, &left);
    clusters.retain(|c| only.is_none_or(|o| o == c));
    if clusters.is_empty() {
        return Ok(Vec::new());
    }
    let known = Known {
        facts: base_facts::of(repo, &left).await.context(what)?,
        altered: altered::find(repo, &left).await.context(what)?,
        holds: hold::load(repo).await.map(|all| all.into_iter().map(|(key, hold)| (key.to_string(), hold)).collect()),
        windows: windows(tenant),
        snapshots: left,
    };
    let now = ctx.store_time(repo.store()).await.context(what)?;
    if !dry_run && known.holds.as_ref().is_ok_and(|all| all.iter().any(|(_, h)| h.expires <= now)) {
        hold::sweep(repo).await.context(what)?;
    }
    let mut out = Vec::new();
    for name in clusters {
        let archive = Archive::open(repo.store().clone(), repo.object_seal()?, &name)?;
        let done = expire(ctx, &archive, &known, now, dry_run).await;
        let done = done.context(|| format!("expire the WAL of cluster {name} of tenant {}", tenant.name))?;
        for alarm in done.iter().flat_map(|c| &c.alarms) {
            tracing::warn!("{}: cluster {name}: {alarm}", tenant.name);
        }
        out.extend(done);
    }
    Ok(out)
}

/// What the repository holds, read once for all clusters.
struct Known {
    snapshots: Vec<Snapshot>,
    facts: HashMap<Id, Result<BaseBackup>>,
    altered: HashSet<Id>,
    holds: Result<Vec<(String, hold::Hold)>>,
    /// By cluster and job.
    windows: BTreeMap<String, BTreeMap<String, std::time::Duration>>,
}

/// Names of clusters: of the configuration, and of the base backups that are there.
fn clusters(tenant: &Tenant, snapshots: &[Snapshot]) -> BTreeSet<String> {
    let bases = tenant.jobs.values().filter_map(|j| match &j.source {
        SourceSettings::PgBase(s) => Some(s.cluster.clone()),
        _ => None,
    });
    let shipped = tenant.wal.values().map(|j| j.settings.cluster.clone());
    let made = snapshots.iter().filter(|s| base_facts::is_base(s)).filter_map(|s| s.file.tag("cluster").map(str::to_owned));
    bases.chain(shipped).chain(made).collect()
}

/// Recovery windows, by cluster and job.
pub(super) fn windows(tenant: &Tenant) -> BTreeMap<String, BTreeMap<String, std::time::Duration>> {
    let mut out: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
    for job in tenant.jobs.values() {
        if let (SourceSettings::PgBase(s), Some(window)) = (&job.source, job.keep.and_then(|k| k.recovery_window)) {
            out.entry(s.cluster.clone()).or_default().insert(job.name.to_string(), window);
        }
    }
    out
}

/// `None` for a cluster without WAL in the archive.
async fn expire(ctx: &Context, archive: &Archive, known: &Known, now: Time, dry_run: bool) -> Result<Option<ClusterWal>> {
    let mut folders: Vec<(Folder, Survey)> = Vec::new();
    let mut systems = Vec::new();
    for admitted in archive.systems().await? {
        let folder = archive.folder(admitted.system);
        let Some(identity) = folder.identity().await? else { continue };
        let survey = folder.survey().await?;
        systems.push(system(&identity, &survey));
        folders.push((folder, survey));
    }
    if folders.is_empty() {
        return Ok(None);
    }
    let needs = wal_need(&gather(archive.cluster(), known, systems), now);
    let mut out = ClusterWal { cluster: archive.cluster().to_owned(), systems: Vec::new(), alarms: needs.alarms };
    for ((folder, survey), (id, need)) in folders.iter().zip(&needs.systems) {
        let mut done = SystemWal {
            system: id.to_string(),
            segments: survey.segments().len(),
            removed_segments: 0,
            removed_objects: 0,
            removed_bytes: 0,
            needed: kept(need),
        };
        if let Some(need) = of_room(need, survey) {
            let plan = wal::plan_expiry(survey, &need, now)?;
            done.removed_segments = plan.segments.len();
            done.removed_objects = plan.objects();
            done.removed_bytes = plan.bytes;
            if !dry_run {
                ctx.cancel().check()?;
                folder.expire(&plan).await?;
            }
        }
        out.systems.push(done);
    }
    Ok(Some(out))
}

/// What the archive knows of a system's timelines.
pub(super) fn system(identity: &wal::Identity, survey: &Survey) -> System {
    let listed = identity.timelines.iter().map(|k| k.timeline);
    let timelines: BTreeSet<Timeline> = survey.coverage().iter().map(|c| c.timeline).chain(listed).collect();
    let lineage = timelines.iter().filter_map(|t| Some((*t, identity.history(*t)?))).collect();
    let id = identity.system;
    System { id, timelines, lineage, newest_wal: survey.segments().iter().map(|s| s.stored).max() }
}

/// Everything that may need WAL of this cluster. What cannot be read may.
fn gather(name: &str, known: &Known, systems: Vec<System>) -> Cluster {
    let mut cluster = Cluster { systems, windows: known.windows.get(name).cloned().unwrap_or_default(), ..Cluster::default() };
    for snapshot in known.snapshots.iter().filter(|s| base_facts::is_base(s)) {
        let facts = match known.facts.get(&snapshot.id) {
            Some(Ok(facts)) if facts.cluster == name => facts,
            Some(Ok(_)) => continue,
            Some(Err(e)) => {
                // Its tag may have been lost with the rest.
                if snapshot.file.tag("cluster").is_none_or(|c| c == name) {
                    cluster.doubts.push(e.chain());
                }
                continue;
            }
            None => {
                cluster.doubts.push(format!("snapshot {} was not looked into", snapshot.id.short()));
                continue;
            }
        };
        cluster.bases.push(Base {
            id: snapshot.id,
            job: snapshot.file.tag("job").unwrap_or_default().to_owned(),
            system: SystemId { major: facts.major, identifier: facts.system_identifier },
            timeline: facts.timeline,
            start: facts.start,
            stop: facts.stop,
            stopped: facts.stopped,
            complete: is_complete(&snapshot.file) && !known.altered.contains(&snapshot.id),
        });
    }
    match &known.holds {
        Err(e) => cluster.doubts.push(e.chain()),
        Ok(holds) => {
            for (key, hold) in holds.iter().filter(|(_, h)| h.cluster == name) {
                match hold.system_identifier.parse() {
                    Ok(identifier) => cluster.holds.push(retention::Hold {
                        name: key.rsplit('/').next().unwrap_or(key).to_owned(),
                        identifier,
                        timeline: hold.timeline,
                        from: hold.from,
                        expires: hold.expires,
                    }),
                    Err(_) => cluster.doubts.push(format!("{key} names no system")),
                }
            }
        }
    }
    cluster
}

/// For the WAL room; `None`: everything stays.
fn of_room(need: &Need, survey: &Survey) -> Option<wal::Need> {
    let Need::Stretches(of) = need else { return None };
    let timelines: Vec<Timeline> = survey.coverage().iter().map(|c| c.timeline).collect();
    let mut stretches: Vec<wal::Stretch> = of
        .iter()
        .flat_map(|(timeline, all)| all.iter().map(|s| wal::Stretch { timeline: *timeline, from: s.from, to: s.to }))
        .collect();
    if stretches.is_empty() {
        // Of a system that was left nothing is needed but what may come yet.
        let last = survey.segments().last()?;
        let from = last.name.end(survey.segment_size());
        stretches.push(wal::Stretch { timeline: last.name.timeline, from, to: None });
    }
    Some(wal::Need { timelines, stretches })
}

fn kept(need: &Need) -> Vec<Kept> {
    match need {
        Need::Everything(why) => vec![Kept { timeline: None, from: None, to: None, reason: why.clone() }],
        Need::Stretches(of) => of
            .iter()
            .flat_map(|(timeline, all)| {
                all.iter().map(|s| Kept { timeline: Some(*timeline), from: Some(s.from), to: s.to, reason: s.reason.clone() })
            })
            .collect(),
    }
}
