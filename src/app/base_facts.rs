//! What base backups say about themselves.

use std::collections::HashMap;

use super::{blocking, stored_files};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BaseBackup, Id};
use crate::repository::{Reader, Repository, Snapshot};

/// Whether a snapshot is a base backup, or says so.
pub(super) fn is_base(snapshot: &Snapshot) -> bool {
    snapshot.file.tag("source") == Some("pg_base")
}

/// The facts of every base backup among these snapshots, or why they cannot be read. Costs nothing where there is none.
///
/// # Errors
/// The index cannot be read; the store's failures other than damage of one snapshot.
pub(super) async fn of(repo: &Repository, snapshots: &[Snapshot]) -> Result<HashMap<Id, Result<BaseBackup>>> {
    let bases: Vec<Snapshot> = snapshots.iter().filter(|s| is_base(s)).cloned().collect();
    if bases.is_empty() {
        return Ok(HashMap::new());
    }
    let reader = repo.reader(repo.load_index().await?);
    blocking(move || Ok(bases.iter().map(|s| (s.id, read(&reader, s))).collect())).await
}

/// Those of one. Blocks.
///
/// # Errors
/// [`Kind::Corrupt`] where the manifest is missing or of another form; the store's failures.
pub(super) fn read(reader: &Reader, snapshot: &Snapshot) -> Result<BaseBackup> {
    let doing = || format!("read what snapshot {} says about itself", snapshot.id.short());
    let manifest = stored_files::manifest(reader, snapshot.file.tree).context(doing)?;
    let facts = manifest.and_then(|mut m| m.facts.remove("pg_base"));
    let facts = facts.ok_or_else(|| Error::new(Kind::Corrupt, "it has lost its manifest").context(doing()))?;
    serde_json::from_value(facts)
        .map_err(|e| Error::new(Kind::Corrupt, "the facts of a base backup are damaged").because(e).context(doing()))
}
