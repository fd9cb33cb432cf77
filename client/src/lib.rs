//! The protocol between the daemon and those who hand it WAL, and what a PostgreSQL server tells about itself in files.
//!
//! Used by the daemon and by `strongroom-client`, so that both speak the same. Needs nothing but the standard library and
//! a way to pass open files.

pub mod call;
pub mod cluster;
pub mod message;
pub mod wire;
