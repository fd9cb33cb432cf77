//! Strongroom backs up the PostgreSQL databases, volumes and command output of many tenants to S3, Azure Blob or a
//! local directory as restic-v2 snapshots, and restores them. The folders tell the story; imports go down only.

pub mod app;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod error;
pub mod http;
pub mod model;
pub mod postgres;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod runtime;
pub mod schedule;
pub mod source;
pub mod store;
pub mod wal;
