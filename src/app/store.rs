//! Settings → a store that retries and counts.

use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::runtime::Clock;
use crate::store::{self, OpenOptions, Settings, Store};

static TRUSTED: OnceLock<Vec<String>> = OnceLock::new();

/// Decides once, at start, which endpoints beside the cloud's own may be given tokens. Later calls change nothing, so that a
/// reloaded configuration cannot send them elsewhere.
pub fn trust_endpoints(endpoints: Vec<String>) {
    // The first call wins on purpose.
    TRUSTED.get_or_init(|| endpoints);
}

fn is_trusted(endpoint: &str) -> bool {
    let plain = |e: &str| e.trim_end_matches('/').to_lowercase();
    TRUSTED.get().is_some_and(|t| t.iter().any(|e| plain(e) == plain(endpoint)))
}

/// Opens a store: retried, counted, within its rates. Nothing is requested yet, except that with `create_root` the directory
/// of a local store is made, which is for creating repositories only.
///
/// # Errors
/// Unreadable credentials or certificates.
pub(super) async fn open(settings: &Settings, clock: Arc<dyn Clock>, create_root: bool) -> Result<Arc<dyn Store>> {
    let mut settings = settings.clone();
    settings.azure.trust_endpoint = settings.azure.endpoint.as_deref().is_some_and(is_trusted);
    let options = OpenOptions { create_root, ..OpenOptions::new(clock) };
    Ok(store::open(&settings, &options).await?)
}
