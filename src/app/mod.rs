//! The use cases, one file each: what each command does, readable as prose.

pub mod backup;
mod context;
mod collect;
pub mod daemon;
pub mod facts;
pub mod init;
pub mod job;
pub mod ls;
pub mod prune;
pub mod retention;
pub mod select;
pub mod snapshots;
mod store;
mod tree_path;

use std::path::PathBuf;

pub use context::{Context, check_commands, lock_holder};

use crate::config::Settings;
use crate::error::{Error, Kind, Result};

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
