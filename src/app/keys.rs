//! The passwords that open a repository.

use serde::Serialize;

use super::Context;
use super::context::lock_holder;
use crate::error::{Error, Kind, Result};
use crate::model::{Id, TenantName, Time};
use crate::runtime::Secret;

/// One key file.
#[derive(Debug, Clone, Serialize)]
pub struct KeyFacts {
    /// Its id.
    pub id: Id,
    /// Whether the configured password opens this one.
    pub current: bool,
    /// When it was made.
    pub created: Time,
    /// By whom.
    pub username: String,
    /// Where.
    pub hostname: String,
}

/// Lists the tenant's keys.
///
/// # Errors
/// As [`Context::repository`]; a key file that cannot be read.
pub async fn list(ctx: &Context, tenant: &TenantName) -> Result<Vec<KeyFacts>> {
    let repo = ctx.repository(tenant).await?;
    let keys = repo.load_keys().await?;
    let facts = keys.into_iter().map(|(id, k)| KeyFacts {
        id,
        current: id == repo.key_id(),
        created: k.created.unwrap_or_default(),
        username: k.username,
        hostname: k.hostname,
    });
    Ok(facts.collect())
}

/// Adds a password.
///
/// # Errors
/// An unreadable or empty password; the store's failures.
pub async fn add(ctx: &Context, tenant: &TenantName, password: Secret) -> Result<Id> {
    let repo = ctx.repository(tenant).await?;
    let password = super::blocking(move || password.read()).await?;
    repo.add_key(&password, &lock_holder()).await
}

/// Removes a key by its id or the beginning of it. The data is not encrypted anew: whoever held the removed password
/// and copied the key file before can still read what they can reach.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Usage`] for the key in use or several that match.
pub async fn remove(ctx: &Context, tenant: &TenantName, prefix: &str) -> Result<Id> {
    let repo = ctx.repository(tenant).await?;
    let hits: Vec<Id> =
        repo.load_keys().await?.into_iter().map(|(id, _)| id).filter(|id| id.to_hex().starts_with(prefix)).collect();
    match hits.as_slice() {
        [] => {
            Err(Error::new(Kind::NotFound, format!("tenant {tenant} has no key {prefix}"))
                .hint("`strongroom key list` shows them."))
        }
        [id] => {
            repo.remove_key(id).await?;
            Ok(*id)
        }
        _ => Err(Error::new(Kind::Usage, format!("several keys start with {prefix}")).hint("Write more of the id.")),
    }
}
