//! The locks that this process relies on at this moment.
//!
//! A lock whose deletion failed, in an outage, names a process that is alive: this one. By this list it is told from those in
//! use, so that it does not keep everybody out for as long as the process runs.

use std::collections::HashSet;
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::model::Id;

/// Of all repositories: no two locks have the same name, since each is sealed with random bytes.
static RELIED_ON: LazyLock<Mutex<HashSet<Id>>> = LazyLock::new(Mutex::default);

/// A lock that is relied on until this is dropped.
#[derive(Debug)]
pub(super) struct Relied(Id);

impl Relied {
    /// Call it before the lock is written: as soon as others see it, it must be on the list.
    pub(super) fn on(id: Id) -> Self {
        RELIED_ON.lock().insert(id);
        Self(id)
    }

    pub(super) fn id(&self) -> Id {
        self.0
    }
}

impl Drop for Relied {
    fn drop(&mut self) {
        RELIED_ON.lock().remove(&self.0);
    }
}

/// Whether somebody in this process relies on it.
pub(super) fn is_relied_on(id: &Id) -> bool {
    RELIED_ON.lock().contains(id)
}
