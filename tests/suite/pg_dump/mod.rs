//! `pg_dump` backups and restores against real servers of every supported major.

pub mod connect;
mod dump;
mod repository;
mod restore;
