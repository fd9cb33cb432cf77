//! No repository inside another one.

use std::collections::BTreeMap;

use super::super::mistake::Collector;
use super::super::settings::Tenant;
use crate::model::TenantName;
use crate::store::{Settings, StoreUrl};

/// Two tenants must never share a place, nor lie inside each other.
pub(super) fn check(tenants: &BTreeMap<TenantName, Tenant>, out: &mut Collector<'_>) {
    let mut places: Vec<(Vec<String>, &TenantName)> = tenants.iter().map(|(n, t)| (segments(&t.repository.store), n)).collect();
    places.sort();
    // After sorting, everything inside a place follows it directly, so a stack of the open ones is enough.
    let mut open: Vec<&(Vec<String>, &TenantName)> = Vec::new();
    for place in &places {
        while open.last().is_some_and(|o| !place.0.starts_with(&o.0)) {
            open.pop();
        }
        if let Some((outer, other)) = open.last() {
            let how = if *outer == place.0 { "is the repository of" } else { "lies inside the repository of" };
            out.add_hint(
                format!("tenants.{}", place.1),
                format!("its repository {how} tenant `{other}`"),
                "Give every tenant a place of its own: keep `{tenant}` in `layout`, or use another `url`.",
            );
        }
        open.push(place);
    }
}

/// What tells one place from another, from the outside in.
fn segments(store: &Settings) -> Vec<String> {
    let (mut out, path) = match &store.url {
        StoreUrl::File { path, prefix } => (vec!["local".to_owned()], path.join(prefix).to_string_lossy().into_owned()),
        StoreUrl::S3 { bucket, prefix } => {
            let endpoint = store.s3.endpoint.as_deref().unwrap_or("aws").trim_end_matches('/').to_lowercase();
            (vec!["s3".to_owned(), endpoint, bucket.clone()], prefix.clone())
        }
        StoreUrl::Azure { container, prefix } => {
            let endpoint = store.azure.endpoint.as_deref().unwrap_or("azure").trim_end_matches('/').to_lowercase();
            (vec!["azure".to_owned(), endpoint, store.azure.account.clone(), container.clone()], prefix.clone())
        }
    };
    out.extend(path.split('/').filter(|s| !s.is_empty()).map(str::to_owned));
    out
}
