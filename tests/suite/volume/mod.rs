//! Volumes: what the source room reads, the restore room writes back; between them a map in memory instead of a
//! repository.

mod attacks;
mod backup;
mod if_empty;
pub mod memory;
mod restore;
mod small_memory;
mod unprivileged;
mod whole;
