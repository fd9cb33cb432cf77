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
