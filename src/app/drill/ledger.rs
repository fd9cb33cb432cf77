//! Reports in the repository: `strongroom/reports/<job>/<time>.json`, sealed, each written once.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;

use super::report::Report;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::Time;
use crate::repository::Repository;
use crate::store::{ErrorKind, Key, Payload, PutMode};

const FOLDER: &str = "strongroom/reports/";
/// So many are kept of each job.
const KEPT: usize = 100;

fn folder(job: &str) -> String {
    format!("{FOLDER}{job}/")
}

/// Names order by time: `20261121T020000.123456789Z`.
fn key(job: &str, at: Time) -> Result<Key> {
    let whole = Time { nanos: 0, ..at }.to_string().replace(['-', ':', 'Z'], "");
    Ok(Key::new(format!("{}{whole}.{:09}Z.json", folder(job), at.nanos))?)
}

/// Stores a report and lets the oldest go beyond the newest 100.
///
/// # Errors
/// The store's failures.
pub(super) async fn write(repo: &Repository, report: &Report) -> Result<()> {
    let doing = || format!("write the drill's report of job {}", report.job);
    let json = serde_json::to_vec_pretty(report).map_err(|e| Error::new(Kind::Bug, "write JSON").because(e))?;
    let key = key(&report.job, report.started)?;
    let sealed = repo.object_seal()?.seal(key.as_str(), &json)?;
    repo.store().put(&key, Payload::from(sealed), PutMode::Overwrite).await.context(doing)?;
    let mut names = names(repo, &folder(&report.job)).await.context(doing)?;
    let extra = names.len().saturating_sub(KEPT);
    for old in names.drain(..extra) {
        repo.store().delete(&old).await.context(doing)?;
    }
    Ok(())
}

/// The newest report of each job that has one, by job. One that cannot be read is an error in its place.
///
/// # Errors
/// When the reports cannot be listed.
pub async fn newest(repo: &Repository, job: Option<&str>) -> Result<BTreeMap<String, Result<Report>>> {
    let doing = || "look for reports of drills";
    let prefix = job.map_or_else(|| FOLDER.to_owned(), folder);
    let mut last: BTreeMap<String, Key> = BTreeMap::new();
    for key in names(repo, &prefix).await.context(doing)? {
        if let Some((job, _)) = key.as_str().strip_prefix(FOLDER).and_then(|rest| rest.split_once('/')) {
            last.insert(job.to_owned(), key);
        }
    }
    let mut out = BTreeMap::new();
    for (job, key) in last {
        out.insert(job, read(repo, &key).await);
    }
    Ok(out)
}

/// The newest report of a job's drill that passed; looks at no more than the newest 20.
///
/// # Errors
/// When that could not be found out.
pub async fn newest_good(repo: &Repository, job: &str) -> Result<Option<Report>> {
    let names = names(repo, &folder(job)).await.context(|| format!("look for reports of drills of job {job}"))?;
    for key in names.iter().rev().take(20) {
        match read(repo, key).await {
            Ok(report) if report.ok => return Ok(Some(report)),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => tracing::warn!("passed over: {}", e.chain()),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// Keys of reports, oldest first.
async fn names(repo: &Repository, prefix: &str) -> Result<Vec<Key>> {
    let listed: Result<Vec<_>, crate::store::Error> = repo.store().list(prefix).try_collect().await;
    let mut keys: Vec<Key> = match listed {
        Ok(listed) => listed.into_iter().map(|m| m.key).filter(|k| k.as_str().ends_with(".json")).collect(),
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    keys.sort();
    Ok(keys)
}

async fn read(repo: &Repository, key: &Key) -> Result<Report> {
    let doing = || format!("read the report {key}");
    let sealed = repo.store().get(key, None).await.context(doing)?;
    let json = repo.object_seal()?.open(key.as_str(), &sealed).context(doing)?;
    serde_json::from_slice(&json).map_err(|e| Error::new(Kind::Corrupt, doing()).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_order_by_time() {
        let at = |secs, nanos| key("main", Time::new(secs, nanos)).unwrap().to_string();
        assert_eq!(at(0, 5), "strongroom/reports/main/19700101T000000.000000005Z.json");
        let mut sorted = vec![at(1, 0), at(0, 999_999_999), at(1_800_000_000, 0), at(1, 1)];
        sorted.sort();
        assert_eq!(sorted, [at(0, 999_999_999), at(1, 0), at(1, 1), at(1_800_000_000, 0)]);
    }
}
