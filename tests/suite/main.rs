//! Every integration test, in one binary: it links once. `support/` starts servers and asks the judges.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing step should stop the test")]
#![allow(unreachable_pub, dead_code, reason = "one binary: helpers are shared by modules, and nothing outside sees them")]

mod azure;
mod backup;
mod cli;
mod command;
mod config;
mod daemon;
mod documents;
mod drill;
mod engine;
mod faults;
mod judges;
mod pg_base;
mod pg_dump;
mod pg_files;
mod pg_replication;
mod pitr;
mod repository;
mod store;
mod support;
mod volume;
mod wal;
mod wal_cli;
