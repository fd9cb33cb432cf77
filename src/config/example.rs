//! The file that `strongroom config example` prints.

/// A commented configuration that works as it is: a directory is backed up into a local store next to it.
pub const EXAMPLE: &str = include_str!("example.yaml");
