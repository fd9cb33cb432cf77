//! What the tests share: servers, judges, comparisons.

pub mod azurite;
pub mod client;
pub mod judges;
pub mod namespace;
pub mod postgres;
pub mod proxy;
pub mod seaweedfs;
pub mod sink;
pub mod tree;
pub mod watched;

use std::path::Path;

/// Copies a program that is to be run from there. Not by this process: a child that it starts meanwhile, for another test, would hold
/// the copy open for writing, and such a file cannot be run.
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").args([from, to]).status().unwrap().success());
}
