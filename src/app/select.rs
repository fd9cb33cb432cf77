//! Which snapshot is meant.

use std::collections::HashSet;
use std::str::FromStr;

use super::Context;
use super::facts::{is_complete, is_future, is_of_job};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, JobName, Selector, TenantName, Time};
use crate::repository::{Repository, Snapshot};

/// How a snapshot is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The newest complete one.
    Latest,
    /// The newest complete one that ended by this time.
    At(Time),
    /// By its id or the beginning of it, at least 4 characters; its `original` counts too. May be incomplete.
    Id(String),
}

impl FromStr for Pick {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        if s == "latest" {
            return Ok(Self::Latest);
        }
        if (4..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(Self::Id(s.to_owned()));
        }
        Err(Error::new(Kind::Usage, format!("`{}` is not a snapshot", s.escape_debug()))
            .hint("Name it by 4 to 64 hexadecimal characters of its id, or `latest`."))
    }
}

/// A snapshot on the command line: `[TENANT[/JOB]:]ID` or `…:latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where to look; every tenant when absent.
    pub selector: Option<Selector>,
    /// Which one.
    pub pick: Pick,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let (selector, pick) = match s.rsplit_once(':') {
            Some((selector, pick)) => (
                Some(
                    selector
                        .parse()
                        .map_err(|e| Error::new(Kind::Usage, format!("`{selector}` names no tenant or job")).because(e))?,
                ),
                pick,
            ),
            None => (None, s),
        };
        Ok(Self { selector, pick: pick.parse()? })
    }
}

/// A snapshot that was found, with its repository.
#[derive(Clone)]
pub struct Found {
    /// Whose it is.
    pub tenant: TenantName,
    /// Where it is.
    pub repository: Repository,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What deserves a look: incomplete, future-dated ones passed over.
    pub warnings: Vec<String>,
}

impl Found {
    /// `tenant/job` for messages.
    #[must_use]
    pub fn label(&self) -> String {
        match self.snapshot.file.tag("job") {
            Some(job) => format!("{}/{job}", self.tenant),
            None => format!("{}:{}", self.tenant, self.snapshot.id.short()),
        }
    }

    /// Bytes of everything in it, where that was recorded.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.snapshot.file.summary.as_ref().map(|s| s.total_bytes_processed)
    }
}

/// Finds the one snapshot that is meant.
///
/// # Errors
/// [`Kind::NotFound`] if every repository was read and none has it; [`Kind::Usage`] if several match.
pub async fn find(ctx: &Context, reference: &Reference) -> Result<Found> {
    find_but(ctx, reference, &HashSet::new()).await
}

/// As [`find`], as if the snapshots `but` were not there.
pub(super) async fn find_but(ctx: &Context, reference: &Reference, but: &HashSet<Id>) -> Result<Found> {
    let tenants: Vec<TenantName> = ctx.tenants(reference.selector.as_ref())?.iter().map(|t| t.name.clone()).collect();
    if tenants.len() > 1 && !matches!(reference.pick, Pick::Id(_)) {
        return Err(Error::new(Kind::Usage, "`latest` of which tenant?").hint("Write `TENANT:latest` or `TENANT/JOB:latest`."));
    }
    let job = reference.selector.as_ref().and_then(|s| s.job.as_ref());
    let mut found = Vec::new();
    for tenant in &tenants {
        let repository = ctx.repository(tenant).await?;
        let mut snapshots = repository.load_snapshots().await?;
        snapshots.retain(|s| !but.contains(&s.id));
        let now = ctx.store_time(repository.store()).await?;
        match pick(&snapshots, job, &reference.pick, now) {
            Ok((snapshot, warnings)) => found.push(Found { tenant: tenant.clone(), repository, snapshot, warnings }),
            Err(e) if e.kind() == Kind::NotFound && tenants.len() > 1 => {}
            Err(e) => return Err(e.context(format!("tenant {tenant}"))),
        }
    }
    match found.len() {
        0 => Err(Error::new(Kind::NotFound, format!("no tenant has {}", describe(&reference.pick)))
            .hint("`strongroom snapshots` lists what there is.")),
        1 => found.pop().ok_or_else(|| Error::new(Kind::Bug, "a snapshot was lost")),
        _ => {
            let ids: Vec<String> = found.iter().map(|f| format!("{}:{}", f.tenant, f.snapshot.id.short())).collect();
            Err(Error::new(Kind::Usage, format!("{} is not the only one: {}", describe(&reference.pick), ids.join(", ")))
                .hint("Write more of the id."))
        }
    }
}

/// Picks one of a repository's snapshots, of one job or of all. `now` is the store's own time.
///
/// # Errors
/// [`Kind::NotFound`] with what there is instead; [`Kind::Usage`] if several match.
pub fn pick(snapshots: &[Snapshot], job: Option<&JobName>, pick: &Pick, now: Time) -> Result<(Snapshot, Vec<String>)> {
    let of_job = || snapshots.iter().filter(|s| job.is_none_or(|j| is_of_job(&s.file, j)));
    let mut warnings = Vec::new();
    if let Pick::Id(prefix) = pick {
        let hit =
            |s: &&Snapshot| s.id.to_hex().starts_with(prefix) || s.file.original.is_some_and(|o| o.to_hex().starts_with(prefix));
        let hits: Vec<&Snapshot> = of_job().filter(hit).collect();
        return match hits.as_slice() {
            [] => Err(missing(pick, job)),
            [one] => {
                if !is_complete(&one.file) {
                    warnings
                        .push(format!("snapshot {} is incomplete: something that was asked for is not in it", one.id.short()));
                }
                Ok(((*one).clone(), warnings))
            }
            several => {
                let ids: Vec<String> = several.iter().map(|s| s.id.short()).collect();
                Err(Error::new(Kind::Usage, format!("{} is not the only one: {}", describe(pick), ids.join(", ")))
                    .hint("Write more of the id."))
            }
        };
    }
    if let Some(future) = of_job().find(|s| is_future(&s.file, now)) {
        warnings.push(format!(
            "snapshot {} is dated {}, ahead of the store's clock, and was passed over",
            future.id.short(),
            future.file.time
        ));
    }
    let believed: Vec<&Snapshot> = of_job().filter(|s| !is_future(&s.file, now)).filter(|s| is_in_time(s, pick)).collect();
    let whole: Vec<&Snapshot> = believed.iter().copied().filter(|s| is_complete(&s.file)).collect();
    let newest = whole.iter().max_by_key(|s| (s.file.time, s.id));
    let Some(newest) = newest else {
        let e = missing(pick, job);
        return Err(match believed.iter().max_by_key(|s| s.file.time) {
            Some(partial) => e.hint(format!("There is an incomplete one; name it with --snapshot {}.", partial.id.short())),
            None => e,
        });
    };
    if job.is_none() {
        let mut jobs: Vec<&str> = whole.iter().map(|s| s.file.tag("job").unwrap_or("")).collect();
        jobs.sort_unstable();
        jobs.dedup();
        if jobs.len() > 1 {
            return Err(Error::new(Kind::Usage, format!("{} of which job?", describe(pick)))
                .hint(format!("Write TENANT/JOB; there are: {}.", jobs.join(", "))));
        }
    }
    Ok(((*newest).clone(), warnings))
}

fn is_in_time(s: &Snapshot, pick: &Pick) -> bool {
    match pick {
        Pick::At(time) => s.file.end() <= *time,
        _ => true,
    }
}

fn describe(pick: &Pick) -> String {
    match pick {
        Pick::Latest => "the latest snapshot".into(),
        Pick::At(t) => format!("the latest snapshot by {t}"),
        Pick::Id(id) => format!("snapshot {id}"),
    }
}

fn missing(pick: &Pick, job: Option<&JobName>) -> Error {
    let whose = job.map_or(String::new(), |j| format!(" of job {j}"));
    let what = match pick {
        Pick::Latest => format!("there is no complete snapshot{whose}"),
        Pick::At(t) => format!("there is no complete snapshot{whose} that ended by {t}"),
        Pick::Id(id) => format!("there is no snapshot {id}{whose}"),
    };
    Error::new(Kind::NotFound, what)
}
