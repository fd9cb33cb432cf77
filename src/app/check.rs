//! Checks repositories: is everything that snapshots refer to there, and does it read back.

use serde::Serialize;

use super::Context;
use super::read_lock::with_read_lock;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::Selector;
pub use crate::repository::ReadData;
use crate::repository::{CheckOptions, CheckReport, check};

/// One tenant's outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// Whose.
    pub tenant: String,
    /// Where it is.
    pub location: String,
    /// Whether nothing is damaged or missing.
    pub ok: bool,
    /// What was found.
    pub report: CheckReport,
}

/// Checks the repositories of the tenants that a selector names: a repository is checked as a whole, whichever job of it
/// is named. The error beside a missing report is why that one could not be looked at.
///
/// # Errors
/// [`Kind::Usage`] for a name that does not exist; cancellation.
pub async fn run(ctx: &Context, selector: Option<&Selector>, read_data: ReadData) -> Result<Vec<Result<Checked>>> {
    let mut out = Vec::new();
    for tenant in ctx.tenants(selector)? {
        ctx.cancel().check()?;
        out.push(one(ctx, &tenant.name, read_data).await.context(|| format!("check the repository of tenant {}", tenant.name)));
    }
    Ok(out)
}

async fn one(ctx: &Context, tenant: &crate::model::TenantName, read_data: ReadData) -> Result<Checked> {
    let repo = ctx.repository(tenant).await?;
    // Against a prune that would remove what is being looked at.
    let (reader, cancel) = (repo.clone(), ctx.cancel().clone());
    let options = CheckOptions { read_data, ..CheckOptions::default() };
    let report = with_read_lock(&repo, ctx.cancel(), super::blocking(move || check(&reader, &options, &cancel))).await?;
    Ok(Checked { tenant: tenant.to_string(), location: repo.store().location(), ok: report.is_sound(), report })
}

/// Damage as an error, for the exit code.
#[must_use]
pub fn damage(checked: &Checked) -> Option<Error> {
    (!checked.ok).then(|| {
        Error::new(
            Kind::Corrupt,
            format!(
                "the repository of tenant {} at {} is damaged: {} findings",
                checked.tenant, checked.location, checked.report.findings.errors
            ),
        )
        .hint("Backups rely on every pack that the index names, also on one that is lost. Where packs are missing or of another size, `restic repair index` takes them out of the index; the next backup then stores their content again. Then look at the other findings, one by one.")
    })
}
