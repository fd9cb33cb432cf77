//! CRC-32C (Castagnoli), which PostgreSQL guards its control file, its WAL records and its backup manifest with.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of these bytes.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the library answers 32 bits in 64")]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The checksum of bytes that come piece by piece.
#[derive(Clone)]
pub struct Crc32c(Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of everything so far.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the library answers 32 bits in 64")]
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_castagnoli_in_any_number_of_pieces() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(b""), 0);
        let mut crc = Crc32c::default();
        for piece in [&b"1234"[..], b"", b"56789"] {
            crc.update(piece);
        }
        assert_eq!(crc.value(), 0xE306_9283);
    }
}
