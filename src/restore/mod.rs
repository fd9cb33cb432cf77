//! The mirror of the source room: what a snapshot holds goes back where it is needed, into directories, databases,
//! files and programs.
//!
//! [`directory`] writes a tree of files. It knows nothing of repositories: whoever calls it hands in a
//! [`directory::Blobs`], so that tests restore from a map in memory.

pub mod cluster;
pub mod command;
pub mod database;
pub mod directory;
pub mod file;
