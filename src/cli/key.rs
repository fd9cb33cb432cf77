//! `strongroom key`

use std::path::PathBuf;

use clap::Subcommand;

use super::Done;
use super::args::Place;
use super::output::{self, Table};
use super::session::Session;
use crate::app::{Context, keys};
use crate::error::{Error, Kind, Result};
use crate::model::{Selector, TenantName};
use crate::runtime::Secret;

/// The passwords that open a repository
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the keys
    List {
        /// Whose repository; not needed with --repository
        tenant: Option<TenantName>,
        #[command(flatten)]
        place: Place,
    },
    /// Add a password; the others keep working
    Add {
        /// Whose repository; not needed with --repository
        tenant: Option<TenantName>,
        /// File that holds the new password
        #[arg(long, value_name = "FILE", required_unless_present = "new_password_env")]
        new_password_file: Option<PathBuf>,
        /// Environment variable that holds the new password
        #[arg(long, value_name = "NAME", conflicts_with = "new_password_file")]
        new_password_env: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a key, but for the one in use
    Remove {
        /// Whose repository; not needed with --repository
        tenant: Option<TenantName>,
        /// Its id or the beginning of it
        #[arg(long, value_name = "ID")]
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    match a.what {
        What::List { tenant, place } => {
            let (ctx, tenant) = one(s, &place, tenant)?;
            let keys = keys::list(&ctx, &tenant).await?;
            s.out.print(&serde_json::json!({ "tenant": tenant, "keys": keys }), |t| {
                let mut table = Table::new(&["ID", "CREATED (UTC)", "BY", ""]);
                for k in &keys {
                    let current = if k.current { "in use" } else { "" };
                    table.row(vec![
                        k.id.short(),
                        output::time(k.created),
                        format!("{}@{}", k.username, k.hostname),
                        current.into(),
                    ]);
                }
                table.write(t);
            })?;
        }
        What::Add { tenant, new_password_file, new_password_env, place } => {
            let (ctx, tenant) = one(s, &place, tenant)?;
            let secret = match (new_password_file, new_password_env) {
                (Some(file), _) => Secret::File(file),
                (None, Some(name)) => Secret::Env(name),
                (None, None) => {
                    return Err(Error::new(Kind::Usage, "there is no new password").hint("Add --new-password-file FILE."));
                }
            };
            let id = keys::add(&ctx, &tenant, secret).await?;
            s.out.print(&serde_json::json!({ "tenant": tenant, "id": id }), |t| {
                output::say!(t, "added key {}", id.short());
            })?;
        }
        What::Remove { tenant, id, place } => {
            let (ctx, tenant) = one(s, &place, tenant)?;
            let id = keys::remove(&ctx, &tenant, &id).await?;
            s.out.print(&serde_json::json!({ "tenant": tenant, "id": id }), |t| {
                output::say!(t, "removed key {}", id.short());
            })?;
        }
    }
    Ok(Done::Ok)
}

fn one(s: &Session, place: &Place, tenant: Option<TenantName>) -> Result<(Context, TenantName)> {
    let selector = tenant.map(|tenant| Selector { tenant, job: None });
    let ctx = s.context(place, selector.as_ref())?;
    let tenants: Vec<TenantName> = ctx.tenants(selector.as_ref())?.iter().map(|t| t.name.clone()).collect();
    match tenants.as_slice() {
        [tenant] => Ok((ctx, tenant.clone())),
        _ => Err(Error::new(Kind::Usage, "whose repository?").hint("Name the tenant.")),
    }
}
