//! The use cases, one file each: what each command does, readable as prose.

mod altered;
pub mod backup;
mod base_facts;
pub mod cat;
pub mod check;
pub mod collect;
mod context;
pub mod coverage;
pub mod daemon;
pub mod diff;
pub mod doctor;
pub mod drill;
pub mod expire_wal;
pub mod facts;
mod heartbeat;
pub mod hold;
pub mod init;
pub mod job;
pub mod keys;
pub mod ls;
pub mod prune;
mod read_lock;
pub mod restore;
pub mod restore_base;
pub mod restore_command;
pub mod restore_dump;
pub mod restore_volume;
pub mod retention;
pub mod select;
mod server;
pub mod snapshots;
pub mod status;
mod store;
mod stored_files;
mod tree_path;
pub mod unlock;
pub mod wal;

use std::path::PathBuf;

pub use context::{Context, check_commands, lock_holder};
pub use store::trust_endpoints;

use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::runtime::memory;

/// Runs work that blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::new(Kind::Bug, "a thread ended abnormally").because(e))?
}

/// Where indexes and trees are cached: as configured, else the user's cache directory, else nowhere.
fn cache_dir(settings: &Settings) -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let user = || of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    settings.cache_dir.clone().or_else(|| Some(user()?.join("strongroom")))
}

/// The memory budget of each of `jobs` that run at once, in bytes.
#[must_use]
pub fn memory_share(settings: &Settings, jobs: usize) -> u64 {
    memory::budget(settings.limits.memory.unwrap_or(memory::DEFAULT_BUDGET)) / jobs.max(1) as u64
}

/// `3m20s`, `2h5m`, `14d3h`: the two largest units.
#[must_use]
pub fn format_age(seconds: f64) -> String {
    let mut rest = seconds.max(0.0) as u64;
    let mut out = String::new();
    let mut units = 0;
    for (name, length) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= length && units < 2 {
            out.push_str(&format!("{}{name}", rest / length));
            rest %= length;
            units += 1;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}
