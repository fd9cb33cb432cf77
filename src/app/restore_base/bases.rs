//! The base backups of a job, with what they say about themselves.

use super::super::facts::{is_complete, is_future};
use super::super::select::Found;
use super::super::{altered, blocking, stored_files};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BaseBackup, Id, Time};
use crate::repository::{Reader, Snapshot};
use crate::restore::cluster::plan::Base;

/// Base backups of one cluster.
pub(super) struct Bases {
    /// The cluster's name.
    pub(super) cluster: String,
    /// Oldest first.
    pub(super) list: Vec<Base>,
    snapshots: Vec<Snapshot>,
}

impl Bases {
    /// The same repository's snapshot with this id.
    pub(super) fn found(self, asked: Found, id: Id) -> Found {
        let snapshot = self.snapshots.into_iter().find(|s| s.id == id).unwrap_or(asked.snapshot);
        Found { snapshot, ..asked }
    }
}

/// The complete base backups of the job and the cluster that `found` is of. If that one is `pinned` it is among them
/// whatever its state.
///
/// # Errors
/// A manifest that cannot be read; the store's failures.
pub(super) async fn load(found: &Found, pinned: bool, now: Time) -> Result<Bases> {
    let job = found.snapshot.file.tag("job");
    let all = found.repository.load_snapshots().await?;
    let mut candidates: Vec<Snapshot> = all
        .into_iter()
        .filter(|s| s.file.tag("source") == Some("pg_base") && s.file.tag("job") == job)
        .filter(|s| is_complete(&s.file) && !is_future(&s.file, now))
        .collect();
    let altered = altered::find(&found.repository, &candidates).await?;
    candidates.retain(|s| !altered.contains(&s.id));
    if pinned && !candidates.iter().any(|s| s.id == found.snapshot.id) {
        candidates.push(found.snapshot.clone());
    }
    let reader = found.repository.reader(found.repository.load_index().await?);
    let asked = found.snapshot.clone();
    blocking(move || {
        let own = facts(&reader, &asked)?;
        let mut bases = Bases { cluster: own.cluster, list: Vec::new(), snapshots: Vec::new() };
        for snapshot in candidates {
            let facts = match facts(&reader, &snapshot) {
                Ok(facts) => facts,
                // A damaged one must not keep the others from being restored.
                Err(e) if e.kind() == Kind::Corrupt && snapshot.id != asked.id => {
                    tracing::warn!("snapshot {} was passed over: {}", snapshot.id.short(), e.chain());
                    continue;
                }
                Err(e) => return Err(e),
            };
            if facts.cluster != bases.cluster {
                continue;
            }
            let bytes = snapshot.file.summary.as_ref().map(|s| s.total_bytes_processed);
            bases.list.push(Base { snapshot: snapshot.id, facts, bytes });
            bases.snapshots.push(snapshot);
        }
        Ok(bases)
    })
    .await
}

/// Reads what a base backup says about itself. Blocks.
///
/// # Errors
/// [`Kind::Corrupt`] where the manifest is missing or of another form.
pub(super) fn facts(reader: &Reader, snapshot: &Snapshot) -> Result<BaseBackup> {
    let doing = || format!("read what snapshot {} says about itself", snapshot.id.short());
    let manifest = stored_files::manifest(reader, snapshot.file.tree).context(doing)?;
    let facts = manifest.and_then(|mut m| m.facts.remove("pg_base"));
    let facts = facts.ok_or_else(|| Error::new(Kind::Corrupt, "it is no base backup, or lost its manifest").context(doing()))?;
    serde_json::from_value(facts)
        .map_err(|e| Error::new(Kind::Corrupt, "the facts of a base backup are damaged").because(e).context(doing()))
}
