//! Hashing, sealing and key derivation. Pure computation: no store, no clock.

mod hash;
mod seal;

pub use hash::{LANES, Sha256, sha256, sha256_many};
pub use seal::{MasterKey, OpenError, OpenReader, SEAL_OVERHEAD, random};
