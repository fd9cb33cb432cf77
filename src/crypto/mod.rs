//! Hashing, sealing and key derivation. Pure computation: no store, no clock.

mod hash;
pub mod object;
mod seal;
#[cfg(target_arch = "x86_64")]
mod sha_units;

pub use hash::{LANES, Sha256, equal_messages, sha256, sha256_many};
pub use object::{Codec, Content, ObjectSeal};
pub use seal::{MasterKey, OpenError, OpenReader, SEAL_FRONT, SEAL_OVERHEAD, random};
