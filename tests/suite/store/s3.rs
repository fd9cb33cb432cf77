//! S3 against SeaweedFS, over http and https.

use std::sync::Arc;

use strongroom::runtime::SystemClock;
use strongroom::store::{Checksum, Counts, ErrorKind, OpenOptions, Payload, PutMode, Settings, Store};

use super::conformance::{Fixture, conformance, key, keys, pattern};
use crate::support::seaweedfs::{self, login};

async fn open(settings: &Settings) -> Arc<dyn Store> {
    strongroom::store::open(settings, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap()
}

/// Starts the server where it may block.
async fn server() -> &'static seaweedfs::SeaweedFs {
    tokio::task::spawn_blocking(seaweedfs::shared).await.unwrap()
}

/// With parts from 5 MiB on, so that large objects go that way.
async fn http() -> Fixture {
    let mut settings = server().await.settings();
    (settings.s3.multipart_above, settings.s3.part_size) = (5 << 20, 5 << 20);
    Fixture::shared(open(&settings).await, ())
}

async fn https_with_checksums() -> Fixture {
    let mut settings = server().await.https_settings();
    (settings.s3.multipart_above, settings.s3.part_size) = (5 << 20, 5 << 20);
    settings.s3.checksum = Checksum::Always;
    Fixture::shared(open(&settings).await, ())
}

conformance!(http_contract, http());
conformance!(https_contract, https_with_checksums());
