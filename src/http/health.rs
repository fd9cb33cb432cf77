//! Whether the daemon lives and is ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use crate::runtime::Clock;

/// Set by the scheduler, asked by the probes. Clones share one state.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    /// Seconds since 1970 of the last sign of life.
    beat: AtomicI64,
    ready: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// The scheduler must beat more often than this, in seconds.
    pub const STALL_SECS: i64 = 120;

    /// Alive as of now, not ready yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let beat = AtomicI64::new(clock.now().secs);
        Self(Arc::new(Inner { clock, beat, ready: AtomicBool::new(false), draining: AtomicBool::new(false) }))
    }

    /// The scheduler turned.
    pub fn beat(&self) {
        self.0.beat.store(self.0.clock.now().secs, Relaxed);
    }

    /// The configuration was read and jobs are scheduled.
    pub fn ready(&self) {
        self.0.ready.store(true, Relaxed);
    }

    /// Shutdown began: not ready any more, and no longer expected to beat.
    pub fn draining(&self) {
        self.0.draining.store(true, Relaxed);
    }

    /// `Err` says what is wrong, in one line.
    pub(super) fn live(&self) -> Result<&'static str, String> {
        let still = self.0.clock.now().secs.saturating_sub(self.0.beat.load(Relaxed));
        if self.0.draining.load(Relaxed) {
            Ok("shutting down")
        } else if still > Self::STALL_SECS {
            Err(format!("the scheduler has not turned for {still} s"))
        } else {
            Ok("ok")
        }
    }

    /// `Err` says what is wrong, in one line.
    pub(super) fn serving(&self) -> Result<&'static str, String> {
        if self.0.draining.load(Relaxed) {
            Err("shutting down".into())
        } else if !self.0.ready.load(Relaxed) {
            Err("starting".into())
        } else {
            Ok("ok")
        }
    }
}
