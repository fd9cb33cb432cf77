//! `strongroom init`

use super::args::Place;
use super::session::Session;
use super::{Done, output};
use crate::app::init;
use crate::error::Result;
use crate::model::{Selector, TenantName};

/// Create repositories; safe to repeat
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this tenant's; every tenant's without
    tenant: Option<TenantName>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let selector = a.tenant.map(|tenant| Selector { tenant, job: None });
    let ctx = s.context(&a.place, selector.as_ref())?;
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    for tenant in ctx.tenants(selector.as_ref())? {
        s.cancel.check()?;
        match init::run(&ctx, &tenant.name).await {
            Ok(one) => made.push(one),
            Err(e) => failed.push(e),
        }
    }
    // One tenant's failure does not keep the others from their repositories.
    if made.is_empty() && failed.len() == 1 {
        return Err(failed.remove(0));
    }
    let errors: Vec<_> = failed.iter().map(output::error_json).collect();
    s.out.print(&serde_json::json!({ "repositories": made, "errors": errors }), |t| {
        for r in &made {
            let what = if r.created { "created" } else { "exists" };
            output::say!(t, "{what}: repository {} of tenant {} at {}", r.id.short(), r.tenant, r.location);
        }
    })?;
    failed.iter().for_each(|e| output::print_error(e, false));
    Ok(output::worst(&failed))
}
