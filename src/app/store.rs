//! Settings → a store that retries and counts.

use std::sync::Arc;

use crate::config::settings::{Limits, StoreSettings};
use crate::error::{Error, Kind, Result};
use crate::runtime::{Cancel, Clock};
use crate::store::{LocalStore, Store};

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
pub(super) async fn open(settings: &StoreSettings, _limits: &Limits, clock: Arc<dyn Clock>, _cancel: &Cancel) -> Result<Opened> {
    let store: Arc<dyn Store> = match settings {
        StoreSettings::Local { path } => Arc::new(LocalStore::open(path.clone(), clock)?),
        StoreSettings::S3(_) | StoreSettings::Azure(_) => {
            return Err(Error::new(Kind::Failed, "this kind of store is not available yet"));
        }
    };
    Ok(Opened { store })
}
