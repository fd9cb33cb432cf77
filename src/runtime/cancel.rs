//! One token for async and blocking code.

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Tells every part of a run that it should end. Cloned freely; children end with their parent, not the reverse.
#[derive(Debug, Clone, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// A token of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends when this one ends, and can be ended alone (a job's timeout).
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Ends this token and its children. Safe to repeat.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it has ended: for loops in blocking code.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it ends: for `select!`.
    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    /// `Err` of kind [`Kind::Cancelled`] once it has ended.
    ///
    /// # Errors
    /// Only that.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(Kind::Cancelled, "cancelled")) } else { Ok(()) }
    }
}
