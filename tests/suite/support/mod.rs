//! What the tests share: servers, judges, comparisons.

pub mod judges;
