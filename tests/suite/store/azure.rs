//! The store contract on Azurite.

use std::sync::Arc;

use strongroom::runtime::SystemClock;
use strongroom::store::{OpenOptions, open};

use super::conformance::{Fixture, conformance};
use crate::support::azurite::shared;

async fn fresh() -> Fixture {
    let server = shared();
    let mut settings = server.settings(&format!("{}/root", server.container()));
    settings.azure.block_above = 5 << 20;
    settings.azure.block_size = 2 << 20;
    Fixture::shared(open(&settings, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap(), ())
}

conformance!(contract, fresh());
