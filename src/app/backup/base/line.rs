//! A replication connection for blocking code: a small runtime of its own, so that each piece costs no change of threads.

use std::future::Future;

use crate::error::{Error, Kind, Result};
use crate::runtime::Cancel;

/// Waits for what a connection brings. The connection must be opened on it, and used on one thread at a time.
pub(super) struct Line {
    runtime: tokio::runtime::Runtime,
    cancel: Cancel,
}

impl Line {
    pub(super) fn new(cancel: &Cancel) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::new(Kind::Failed, "start a runtime for a replication connection").because(e))?;
        Ok(Self { runtime, cancel: cancel.clone() })
    }

    /// The result, or [`Kind::Cancelled`] as soon as the run is ended.
    pub(super) fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                done = work => done,
                () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "cancelled")),
            }
        })
    }
}
