//! The use cases, one file each: what each command does, readable as prose.

pub mod backup;
