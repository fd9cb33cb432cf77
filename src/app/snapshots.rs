//! Lists snapshots.

use super::Context;
use super::facts::{SnapshotFacts, facts, is_future, is_of_job};
use crate::error::{Context as _, Result};
use crate::model::Selector;

/// What there is, oldest first within a tenant.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Listing {
    /// The snapshots.
    pub snapshots: Vec<SnapshotFacts>,
    /// What deserves a look.
    pub warnings: Vec<String>,
}

/// Lists the snapshots of a tenant or job, or of everybody.
///
/// # Errors
/// A repository or a snapshot that cannot be read: a list that silently lacks something would be a lie.
pub async fn run(ctx: &Context, selector: Option<&Selector>) -> Result<Listing> {
    let mut out = Listing::default();
    let job = selector.and_then(|s| s.job.as_ref());
    for tenant in ctx.tenants(selector)? {
        let repo = ctx.repository(&tenant.name).await?;
        let snapshots = repo.load_snapshots().await.context(|| format!("list the snapshots of tenant {}", tenant.name))?;
        let now = ctx.store_time(repo.store()).await?;
        for snapshot in snapshots.iter().filter(|s| job.is_none_or(|j| is_of_job(&s.file, j))) {
            if is_future(&snapshot.file, now) {
                out.warnings.push(format!(
                    "snapshot {} is dated {}, ahead of the store's clock: `latest` and retention ignore it",
                    snapshot.id.short(),
                    snapshot.file.time
                ));
            }
            out.snapshots.push(facts(snapshot));
        }
    }
    Ok(out)
}
