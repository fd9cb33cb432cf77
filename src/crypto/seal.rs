//! The restic format's authenticated encryption: `IV(16) ‖ AES-256-CTR ciphertext ‖ Poly1305-AES tag(16)`.
//!
//! The IV is random and is both the counter's first block and the authenticator's nonce. The one-time Poly1305 key is
//! `r ‖ AES-128(k, IV)`; only the ciphertext is authenticated, so an object is bound to its name by the SHA-256 in it.

use std::io::Read;

use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use poly1305::Poly1305;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that sealing adds.
pub const SEAL_OVERHEAD: usize = 32;
const HALF: usize = SEAL_OVERHEAD / 2;
/// How many of them stand in front: room for [`MasterKey::seal_in_place`].
pub const SEAL_FRONT: usize = HALF;

/// The three keys that protect a repository (or, derived from a password, a key file). Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    /// AES-256 key.
    pub encrypt: [u8; 32],
    /// AES-128 key of the authenticator.
    pub mac_k: [u8; 16],
    /// Poly1305's `r`, masked or not.
    pub mac_r: [u8; 16],
}

/// The bytes were not sealed with this key, or were changed: the two cannot be told apart.
#[derive(Debug, thiserror::Error)]
#[error("wrong key or damaged data")]
pub struct OpenError;

impl MasterKey {
    /// New random keys.
    #[must_use]
    pub fn generate() -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        random(&mut key.encrypt);
        random(&mut key.mac_k);
        random(&mut key.mac_r);
        key
    }

    /// Appends the sealed form of `plain` to `out`: 32 bytes more than `plain`.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) {
        let mut iv = [0; HALF];
        random(&mut iv);
        out.reserve(plain.len() + SEAL_OVERHEAD);
        out.extend_from_slice(&iv);
        let start = out.len();
        out.extend_from_slice(plain);
        let body = out.get_mut(start..).unwrap_or_default();
        ctr::Ctr128BE::<aes::Aes256>::new(&self.encrypt.into(), &iv.into()).apply_keystream(body);
        let tag = self.tag(&iv, body);
        out.extend_from_slice(&tag);
    }

    /// Seals without a copy: `bytes` is [`SEAL_FRONT`] bytes of room and then what is to be sealed.
    pub fn seal_in_place(&self, bytes: &mut Vec<u8>) {
        let mut iv = [0; HALF];
        random(&mut iv);
        if bytes.len() < HALF {
            bytes.resize(HALF, 0);
        }
        let (room, body) = bytes.split_at_mut(HALF);
        room.copy_from_slice(&iv);
        ctr::Ctr128BE::<aes::Aes256>::new(&self.encrypt.into(), &iv.into()).apply_keystream(body);
        let tag = self.tag(&iv, body);
        bytes.extend_from_slice(&tag);
    }

    /// Checks what was sealed, and decrypts it piece by piece while it is read.
    ///
    /// # Errors
    /// As [`MasterKey::open_into`]. Reading does not fail.
    pub fn open_reader<'a>(&self, sealed: &'a [u8]) -> Result<OpenReader<'a>, OpenError> {
        let (iv, body) = self.checked(sealed)?;
        Ok(OpenReader { cipher: ctr::Ctr128BE::new(&self.encrypt.into(), iv.into()), rest: body })
    }

    /// Appends what was sealed to `out`. `out` is unchanged on failure.
    ///
    /// # Errors
    /// Too short, changed, or sealed with another key.
    pub fn open_into(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        let (iv, body) = self.checked(sealed)?;
        let start = out.len();
        out.extend_from_slice(body);
        let plain = out.get_mut(start..).unwrap_or_default();
        ctr::Ctr128BE::<aes::Aes256>::new(&self.encrypt.into(), iv.into()).apply_keystream(plain);
        Ok(())
    }

    /// Splits what was sealed into IV and ciphertext, if nothing of it was changed.
    fn checked<'a>(&self, sealed: &'a [u8]) -> Result<(&'a [u8; HALF], &'a [u8]), OpenError> {
        let (iv, rest) = sealed.split_first_chunk::<HALF>().ok_or(OpenError)?;
        let (body, tag) = rest.split_last_chunk::<HALF>().ok_or(OpenError)?;
        // Every byte is looked at, so that the time tells nothing about where they differ.
        let differ = self.tag(iv, body).iter().zip(tag).fold(0, |d, (a, b)| d | (a ^ b));
        if differ == 0 { Ok((iv, body)) } else { Err(OpenError) }
    }

    fn tag(&self, iv: &[u8; HALF], body: &[u8]) -> [u8; HALF] {
        let mut one_time = [0; 32];
        let (r, s) = one_time.split_at_mut(HALF);
        r.copy_from_slice(&self.mac_r);
        let mut block = (*iv).into();
        aes::Aes128::new(&self.mac_k.into()).encrypt_block(&mut block);
        s.copy_from_slice(&block);
        // Poly1305 clamps `r` itself.
        let tag = Poly1305::new(&one_time.into()).compute_unpadded(body);
        one_time.zeroize();
        tag.into()
    }
}

/// What was sealed, being decrypted; see [`MasterKey::open_reader`].
pub struct OpenReader<'a> {
    cipher: ctr::Ctr128BE<aes::Aes256>,
    rest: &'a [u8],
}

impl Read for OpenReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.rest.read(out)?;
        self.cipher.apply_keystream(out.get_mut(..n).unwrap_or_default());
        Ok(n)
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// Fills `out` from the system's random source.
///
/// # Panics
/// If the system has none, in which case nothing may be encrypted.
pub fn random(out: &mut [u8]) {
    #[allow(clippy::expect_used, reason = "without randomness no promise of this module holds, and Linux always has it")]
    SystemRandom::new().fill(out).expect("the system's random source");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> MasterKey {
        let bytes = |s: &str| hex::decode(s).expect("hex");
        MasterKey {
            encrypt: bytes("303e8687b1d7db18421bdc6bb8588ccadac4d59ee87b8ff70c44e635790cafef").try_into().expect("32"),
            mac_k: bytes("ef4d8824cb80b2bcc5fbff8a9b12a42c").try_into().expect("16"),
            mac_r: bytes("cc8d4b948ee0ebfe1d415de921d10353").try_into().expect("16"),
        }
    }

    /// restic, `internal/crypto/crypto_int_test.go`.
    #[test]
    fn opens_the_published_vector() {
        let sealed =
            hex::decode("69fb41c62d12def4593bd71757138606338f621aeaeb39da0fe4f99233f8037a54ea63338a813bcf3f75d8c3cc75dddf8750")
                .expect("hex");
        let mut out = Vec::new();
        key().open_into(&sealed, &mut out).expect("opens");
        assert_eq!(out, b"Dies ist ein Test!");
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_any_changed_bit_is_noticed(plain in proptest::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (mut sealed, mut opened) = (Vec::new(), Vec::new());
            key().seal_into(&plain, &mut sealed);
            prop_assert_eq!(sealed.len(), plain.len() + SEAL_OVERHEAD);
            key().open_into(&sealed, &mut opened).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(&opened, &plain);
            let mut in_place = [&[0; HALF][..], &plain].concat();
            key().seal_in_place(&mut in_place);
            let mut read = Vec::new();
            let mut reader = key().open_reader(&in_place).map_err(|e| TestCaseError::fail(e.to_string()))?;
            while let n @ 1.. = { let mut piece = [0; 7]; let n = reader.read(&mut piece)?; read.extend_from_slice(&piece[..n]); n } {
                prop_assert!(n <= 7);
            }
            prop_assert_eq!(&read, &plain);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(key().open_into(&sealed, &mut opened).is_err());
            prop_assert_eq!(&opened, &plain);
        }
    }
}
