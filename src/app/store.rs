//! Settings → a store that retries and counts.

use std::sync::{Arc, OnceLock};

use crate::error::{Error, Kind, Result};
use crate::runtime::Clock;
use crate::store::{LocalStore, Settings, Store, StoreUrl};

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

/// An open store.
#[derive(Clone)]
pub struct Opened {
    /// Rooted at the repository.
    pub store: Arc<dyn Store>,
}

/// Makes the client. Nothing is requested yet.
///
/// # Errors
/// Unreadable credentials or certificates.
pub(super) fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Opened> {
    let mut settings = settings.clone();
    settings.azure.trust_endpoint = settings.azure.endpoint.as_deref().is_some_and(is_trusted);
    let store: Arc<dyn Store> = match &settings.url {
        StoreUrl::File { path, prefix } => Arc::new(LocalStore::open(path.join(prefix), clock)?),
        StoreUrl::S3 { .. } | StoreUrl::Azure { .. } => {
            return Err(Error::new(Kind::Failed, "this kind of store is not available yet"));
        }
    };
    Ok(Opened { store })
}
