//! The mirror of the sources: from the bytes of a snapshot's files back into databases, files and programs.

pub mod command;
pub mod database;
pub mod file;
