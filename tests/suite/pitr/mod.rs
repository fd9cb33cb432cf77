//! Restores of base backups, and recovery to points in time.

mod archive;
mod cluster;
mod origin;
mod targets;
mod upgrade;

pub use archive::run_here;
