//! Trees: the entries of one directory as canonical JSON, `{"nodes":[…]}` and a line feed, which is hashed too.
//!
//! Canonical means byte for byte what stock clients write for the same entries: the same directory then has the same
//! id whoever wrote it, and clients that rewrite snapshots do not refuse ours. The rules are in `encode`; reading
//! (`decode`) is tolerant of everything that stock clients read, rustic's form included.
//!
//! Times are written in UTC (stock restic writes local offsets, which changes ids with the time zone). Years outside
//! 0..=9999 are moved to the nearest of these, as restic does. Not kept on reading: `generic_attributes` (Windows).

mod decode;
mod encode;
mod mode;
mod name;
mod printable;
#[cfg(test)]
mod tests;

pub use decode::{Decoded, decode, decode_tree};
pub use encode::encode_tree;

/// Whether an entry of a directory can have this name on a file system.
#[must_use]
pub fn is_file_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, b'/' | 0))
}
