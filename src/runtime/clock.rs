//! Time as a dependency: nothing but this file asks the system for it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::Time;

/// Tells the time and the passing of it.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, by this machine's wall clock.
    fn now(&self) -> Time;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Time {
        std::time::SystemTime::now().into()
    }
}

/// A clock that tests set.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<Mutex<Time>>);

impl TestClock {
    /// Starts at `now` and stands still.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Moves it, in either direction.
    pub fn set(&self, now: Time) {
        *self.0.lock() = now;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        *self.0.lock()
    }
}
