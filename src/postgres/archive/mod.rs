//! `pg_dump`'s custom archive format, read as it streams by: is the archive whole, and what is in it?
//!
//! An archive is a header, a table of contents, then one block of data for each entry that has data, and nothing else.
//! It carries no checksums, so what can be told is its structure: every length adds up, every entry that has data has
//! exactly one block, every block is ended by its zero mark, and the file ends right after the last. A dump cut off at
//! any byte fails this check. Chunk bodies are skipped, not looked at, so the check costs next to nothing.
//!
//! Versions: 1.10 (PostgreSQL 8.x) to 1.16 (17 and 18). 1.11 added the section of an entry, 1.14 the table access
//! method, 1.15 a compression algorithm in place of a level, 1.16 the relation kind. The fields are those that
//! `WriteHead` and `WriteToc` of PostgreSQL's `pg_backup_archiver.c` write.

mod blocks;
mod check;
mod facts;
mod token;

#[cfg(test)]
mod tests;

pub use check::ArchiveCheck;
pub use facts::{DataPlace, Header, Summary, TocEntry};
