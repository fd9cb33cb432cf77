//! `pg_dump` backups and restores against real servers of every supported major.

mod dump;
