//! `strongroom unlock`

use super::Done;
use super::args::Place;
use super::output;
use super::session::Session;
use crate::app::unlock;
use crate::error::{Error, Kind, Result};
use crate::model::{Selector, TenantName};

/// Remove locks proven dead
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose repository; not needed with --repository
    tenant: Option<TenantName>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(s: &Session, a: Args) -> Result<Done> {
    let selector = a.tenant.map(|tenant| Selector { tenant, job: None });
    let ctx = s.context(&a.place, selector.as_ref())?;
    let tenants = ctx.tenants(selector.as_ref())?;
    let [tenant] = tenants.as_slice() else {
        return Err(Error::new(Kind::Usage, "whose repository?").hint("Name the tenant."));
    };
    let done = unlock::run(&ctx, &tenant.name).await?;
    s.out.print(&done, |t| {
        output::say!(t, "{} locks removed, {} remain", done.removed, done.remaining.len());
        for l in &done.remaining {
            output::say!(t, "held by {}@{} (pid {}), refreshed {}", l.username, l.hostname, l.pid, output::time(l.time));
        }
    })?;
    Ok(Done::Ok)
}
