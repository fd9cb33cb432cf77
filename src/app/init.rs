//! Creates repositories. Safe to repeat, and safe when two processes do it at once.

use serde::Serialize;

use super::Context;
use super::context::lock_holder;
use crate::error::{Context as _, Result};
use crate::model::{Id, TenantName};
use crate::repository::{InitOutcome, Repository};

/// One tenant's repository.
#[derive(Debug, Clone, Serialize)]
pub struct Initialised {
    /// Whose.
    pub tenant: TenantName,
    /// Where it is, without credentials.
    pub location: String,
    /// `true`: made now. `false`: it was there and the password opens it.
    pub created: bool,
    /// The repository's random id.
    pub id: Id,
}

/// Creates the tenant's repository, or checks that the password opens the one that is there.
///
/// # Errors
/// [`crate::error::Kind::WrongPassword`] if there is one that the password does not open; the store's failures.
pub async fn run(ctx: &Context, tenant: &TenantName) -> Result<Initialised> {
    let store = ctx.store_for_init(tenant).await?;
    let password = ctx.password(tenant).await?;
    let env = ctx.repository_env(tenant)?;
    let (repo, outcome) =
        Repository::init(store.clone(), &password, &env, &lock_holder()).await.context(|| format!("tenant {tenant}"))?;
    ctx.keep(tenant, &repo).await;
    Ok(Initialised {
        tenant: tenant.clone(),
        location: store.location(),
        created: outcome == InitOutcome::Created,
        id: repo.id(),
    })
}
