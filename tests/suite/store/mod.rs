//! The store room against real servers, and its wrappers.

mod azure;
mod conformance;
mod local;
mod s3;
mod wrappers;
