//! From settings to a store that counts, retries and stays within its rates.

use std::sync::Arc;

use super::azure::AzureStore;
use super::local::LocalStore;
use super::s3::S3Store;
use super::{Counted, Counter, Error, ErrorKind, Limited, Result, Retrier, Retry, RetryPolicy, Settings, Store, StoreUrl};
use crate::runtime::Clock;

/// What a store needs of its surroundings.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The wall clock; a local store's own clock.
    pub clock: Arc<dyn Clock>,
    /// Where requests and bytes are added up. Keep a clone to read it.
    pub counter: Arc<Counter>,
    /// Whether the root directory of a local store is made where it is missing. Only for creating a repository:
    /// otherwise a missing root (a disk that is not mounted) is an error. Buckets and containers are never made.
    pub create_root: bool,
    /// Seed of the random part of waits between tries.
    pub seed: u64,
}

impl OpenOptions {
    /// A counter of its own, a random seed, nothing created.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, counter: Arc::default(), create_root: false, seed: rand::random() }
    }
}

/// Opens a store. Checks the settings and reads files they name (certificates); asks the store nothing yet.
///
/// Every operation of the result is retried as [`super::retry`] says and counted in `options.counter`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for settings that cannot work.
pub async fn open(settings: &Settings, options: &OpenOptions) -> Result<Arc<dyn Store>> {
    settings.check()?;
    let retrier = Retrier::new(RetryPolicy::within(settings.deadline), options.counter.clone(), options.seed);
    let store = unlimited(settings, options, retrier).await?;
    match (settings.upload_rate, settings.download_rate) {
        (0, 0) => Ok(store),
        (upload, download) => Ok(Arc::new(Limited::new(store, upload, download))),
    }
}

async fn unlimited(settings: &Settings, options: &OpenOptions, retrier: Retrier) -> Result<Arc<dyn Store>> {
    match &settings.url {
        StoreUrl::File { path, prefix } => {
            if options.create_root {
                let (root, shown) = (path.clone(), path.display().to_string());
                let made = tokio::task::spawn_blocking(move || super::local::create_root(&root)).await;
                let made = made.map_err(std::io::Error::other).and_then(|done| done);
                made.map_err(|e| Error::new(ErrorKind::Denied, format!("create the directory {shown}")).because(e))?;
            }
            let local = LocalStore::below(path.clone(), prefix, options.clock.clone())?;
            Ok(Arc::new(Retry::new(Counted::new(local, options.counter.clone()), retrier)))
        }
        StoreUrl::S3 { .. } => {
            let s3 = S3Store::new(settings, options.counter.clone(), retrier.clone()).await?;
            Ok(Arc::new(Retry::new(s3, retrier)))
        }
        StoreUrl::Azure { .. } => {
            let azure = AzureStore::open(settings, options.clock.clone(), retrier.clone()).await?;
            Ok(Arc::new(Retry::new(Counted::new(azure, options.counter.clone()), retrier)))
        }
    }
}
