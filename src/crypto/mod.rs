//! Keys, sealing and hashing. Pure functions over bytes; no I/O.

pub mod seal;

pub use seal::MasterKey;
