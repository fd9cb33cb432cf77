//! The store room against real servers, and its wrappers.

mod azure;
pub mod conformance;
mod local;
mod s3;
mod wrappers;
