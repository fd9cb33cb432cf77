//! The base backups that a cluster's WAL is for.

use crate::app::facts::{is_complete, is_future};
use crate::app::{Context, blocking, stored_files};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{BaseBackup, Id, TenantName};
use crate::repository::{Reader, Snapshot};

/// One base backup.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) snapshot: Id,
    /// The job that made it.
    pub(super) job: String,
    pub(super) facts: BaseBackup,
}

/// The complete base backups of a tenant's cluster, oldest first. Those whose manifest cannot be read are told in the log and left out.
///
/// # Errors
/// The repository's failures.
pub(super) async fn of(ctx: &Context, tenant: &TenantName, cluster: &str) -> Result<Vec<Base>> {
    let repo = ctx.repository(tenant).await?;
    let now = ctx.store_time(repo.store()).await?;
    let mut snapshots = repo.load_snapshots().await?;
    snapshots.retain(|s| s.file.tag("source") == Some("pg_base") && is_complete(&s.file) && !is_future(&s.file, now));
    if snapshots.is_empty() {
        return Ok(Vec::new());
    }
    snapshots.sort_by_key(|s| (s.file.time, s.id));
    let reader = repo.reader(repo.load_index().await?);
    let cluster = cluster.to_owned();
    blocking(move || {
        let mut found = Vec::new();
        for snapshot in snapshots {
            match facts(&reader, &snapshot) {
                Ok(facts) if facts.cluster == cluster => {
                    let job = snapshot.file.tag("job").unwrap_or_default().to_owned();
                    found.push(Base { snapshot: snapshot.id, job, facts });
                }
                Ok(_) => {}
                Err(e) if e.kind() == Kind::Corrupt => {
                    tracing::warn!("base backup {} is passed over: {}", snapshot.id.short(), e.chain());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    })
    .await
}

fn facts(reader: &Reader, snapshot: &Snapshot) -> Result<BaseBackup> {
    let doing = || format!("read what snapshot {} says about itself", snapshot.id.short());
    let manifest = stored_files::manifest(reader, snapshot.file.tree).context(doing)?;
    let facts = manifest.and_then(|mut m| m.facts.remove("pg_base"));
    let facts = facts.ok_or_else(|| Error::new(Kind::Corrupt, "it has lost the facts of its base backup"))?;
    serde_json::from_value(facts).map_err(|e| Error::new(Kind::Corrupt, "its facts are damaged").because(e))
}
