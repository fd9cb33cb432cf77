//! Restores of base backups, and recovery to points in time.

mod cluster;
mod origin;
mod targets;
