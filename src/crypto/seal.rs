//! restic's authenticated encryption: `IV(16) || AES-256-CTR ciphertext || Poly1305-AES tag(16)`.
//!
//! The IV is both the first counter block and the nonce of the tag, which covers the ciphertext only. Nothing binds
//! a sealed text to its name or place: that is what the SHA-256 names of objects are for. A wrong key and damaged
//! bytes cannot be told apart.
//!
//! Processor features are found at run time by the ciphers used; about 3 GB/s on a core with VAES and AVX2.

use aes::cipher::{BlockCipherEncrypt, KeyInit as _, KeyIvInit, StreamCipher};
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash;
use rand::RngCore;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{Error, Kind, Result};

/// Length of the random start of a sealed text.
pub const IV_LEN: usize = 16;
/// Length of the tag at its end.
pub const TAG_LEN: usize = 16;
/// How many bytes longer a sealed text is than the plain one.
pub const OVERHEAD: usize = IV_LEN + TAG_LEN;

type Ctr = ctr::Ctr128BE<aes::Aes256>;

/// The three keys that seal everything in a repository but its key files. Wiped when dropped; never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    /// The AES-256 key.
    pub encrypt: [u8; 32],
    /// The AES-128 key that turns an IV into half of a one-time Poly1305 key.
    pub mac_k: [u8; 16],
    /// The other half.
    pub mac_r: [u8; 16],
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

impl MasterKey {
    /// A new random key, from the operating system's generator by way of `rand`.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 64];
        rand::rng().fill_bytes(&mut bytes);
        let key = Self::from_bytes(&bytes);
        bytes.zeroize();
        key
    }

    /// From the 64 bytes of a key derivation: encryption key, then the two halves of the tag's key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        key
    }

    /// Whether no part of it is all zeros. restic refuses such keys, and so must whoever reads one.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.encrypt != [0; 32] && self.mac_k != [0; 16] && self.mac_r != [0; 16]
    }

    /// Appends the sealed form of `plain` to `out`; it is [`OVERHEAD`] bytes longer than `plain`.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) {
        out.reserve(plain.len() + OVERHEAD);
        let start = out.len();
        out.extend_from_slice(&[0; IV_LEN]);
        out.extend_from_slice(plain);
        self.seal_from(out, start);
    }

    /// Turns a buffer that holds plain text into one that holds the sealed text. Moves it once; where the plain
    /// text is being produced anyway, leave room in front and use [`MasterKey::seal_from`].
    pub fn seal_in_place(&self, buf: &mut Vec<u8>) {
        let len = buf.len();
        buf.reserve(OVERHEAD);
        buf.extend_from_slice(&[0; IV_LEN]);
        buf.copy_within(..len, IV_LEN);
        self.seal_from(buf, 0);
    }

    /// Seals the end of `buf` without moving it: `buf[start..start + 16]` is room for the IV, what follows is plain
    /// text, and the tag is appended. With less than 16 bytes of room, room is made.
    pub fn seal_from(&self, buf: &mut Vec<u8>, start: usize) {
        let start = start.min(buf.len());
        if buf.len() < start + IV_LEN {
            buf.resize(start + IV_LEN, 0);
        }
        let (iv, text) = buf[start..].split_at_mut(IV_LEN);
        let nonce = random_iv();
        iv.copy_from_slice(&nonce);
        Ctr::new(&self.encrypt.into(), &nonce.into()).apply_keystream(text);
        let tag = self.tag(&nonce, text);
        buf.extend_from_slice(&tag);
    }

    /// The plain text of a sealed one.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is too short or its tag does not match: damaged bytes or another key.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.open_into(sealed, &mut out)?;
        Ok(out)
    }

    /// Appends the plain text of `sealed` to `out`.
    ///
    /// # Errors
    /// As [`MasterKey::open`]; `out` is unchanged then.
    pub fn open_into(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (nonce, text) = self.verify(sealed)?;
        let start = out.len();
        out.extend_from_slice(text);
        Ctr::new(&self.encrypt.into(), &nonce.into()).apply_keystream(&mut out[start..]);
        Ok(())
    }

    /// Opens inside the buffer, which then holds the plain text alone. Moves it once; see [`MasterKey::open_slice`].
    ///
    /// # Errors
    /// As [`MasterKey::open`]; the buffer is unchanged then.
    pub fn open_in_place(&self, buf: &mut Vec<u8>) -> Result<()> {
        let len = self.open_slice(buf)?.len();
        buf.copy_within(IV_LEN..IV_LEN + len, 0);
        buf.truncate(len);
        Ok(())
    }

    /// Opens inside the slice and returns the part that now is the plain text. Copies nothing.
    ///
    /// # Errors
    /// As [`MasterKey::open`]; the slice is unchanged then.
    pub fn open_slice<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8]> {
        let (nonce, text) = self.verify(sealed)?;
        let end = IV_LEN + text.len();
        let text = &mut sealed[IV_LEN..end];
        Ctr::new(&self.encrypt.into(), &nonce.into()).apply_keystream(text);
        Ok(text)
    }

    /// Whether `sealed` was sealed with this key and is undamaged, without opening it.
    #[must_use]
    pub fn is_intact(&self, sealed: &[u8]) -> bool {
        self.verify(sealed).is_ok()
    }

    fn verify<'a>(&self, sealed: &'a [u8]) -> Result<([u8; IV_LEN], &'a [u8])> {
        let failed = |why: &str| Error::new(Kind::Corrupt, format!("decryption failed: {why}"));
        let Some((nonce, rest)) = sealed.split_first_chunk::<IV_LEN>() else {
            return Err(failed("shorter than its own overhead"));
        };
        let Some((text, tag)) = rest.split_last_chunk::<TAG_LEN>() else {
            return Err(failed("shorter than its own overhead"));
        };
        // Every byte is looked at whatever the first ones are, so that the time taken tells nothing about the tag.
        let difference = self.tag(nonce, text).iter().zip(tag).fold(0, |d, (a, b)| d | (a ^ b));
        if std::hint::black_box(difference) != 0 {
            return Err(failed("the bytes are damaged or were sealed with another key"));
        }
        Ok((*nonce, text))
    }

    fn tag(&self, nonce: &[u8; IV_LEN], text: &[u8]) -> [u8; TAG_LEN] {
        let mut one_time = [0; 32];
        one_time[..16].copy_from_slice(&self.mac_r);
        let mut half = (*nonce).into();
        aes::Aes128::new(&self.mac_k.into()).encrypt_block(&mut half);
        one_time[16..].copy_from_slice(&half);
        let mut mac = Poly1305::new(&one_time.into());
        one_time.zeroize();
        // Whole blocks go through the wide path; the rest is closed with a 1 bit as Poly1305 (not AEAD) wants it.
        let (blocks, rest) = poly1305::Block::slice_as_chunks(text);
        mac.update(blocks);
        mac.compute_unpadded(rest).into()
    }
}

/// Sixteen random bytes that are not all zero (restic takes an all-zero one for a bug).
fn random_iv() -> [u8; IV_LEN] {
    let mut iv = [0; IV_LEN];
    while iv == [0; IV_LEN] {
        rand::rng().fill_bytes(&mut iv);
    }
    iv
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex<const N: usize>(s: &str) -> [u8; N] {
        hex::decode(s).expect("hex").try_into().expect("length")
    }

    #[test]
    fn opens_the_vector_from_restics_own_tests() {
        let key = MasterKey {
            encrypt: hex("303e8687b1d7db18421bdc6bb8588ccadac4d59ee87b8ff70c44e635790cafef"),
            mac_k: hex("ef4d8824cb80b2bcc5fbff8a9b12a42c"),
            mac_r: hex("cc8d4b948ee0ebfe1d415de921d10353"),
        };
        let sealed = hex::decode("69fb41c62d12def4593bd71757138606338f621aeaeb39da0fe4f99233f8037a54ea63338a813bcf3f75d8c3cc75dddf8750").expect("hex");
        assert_eq!(key.open(&sealed).expect("opens"), b"Dies ist ein Test!");
    }

    #[test]
    fn debug_prints_no_key() {
        assert_eq!(format!("{:?}", MasterKey::generate()), "MasterKey(***)");
        assert!(!MasterKey::from_bytes(&[0; 64]).is_valid());
    }

    proptest! {
        #[test]
        fn every_way_round_gives_the_same(plain in proptest::collection::vec(any::<u8>(), 0..700), prefix in proptest::collection::vec(any::<u8>(), 0..9), flip in any::<prop::sample::Index>()) {
            let key = MasterKey::generate();
            let mut a = prefix.clone();
            key.seal_into(&plain, &mut a);
            prop_assert_eq!(a.len(), prefix.len() + plain.len() + OVERHEAD);
            prop_assert_eq!(&a[..prefix.len()], &prefix[..]);
            let sealed = &a[prefix.len()..];
            prop_assert_eq!(key.open(sealed).expect("opens"), plain.clone());
            let mut b = plain.clone();
            key.seal_in_place(&mut b);
            prop_assert_ne!(&b[..], sealed);
            let mut c = b.clone();
            prop_assert_eq!(&*key.open_slice(&mut c).expect("opens"), &plain[..]);
            let mut damaged = b.clone();
            damaged[flip.index(b.len())] ^= 1;
            prop_assert!(key.open(&damaged).is_err());
            prop_assert!(!key.is_intact(&b[..b.len() - 1]));
            prop_assert!(MasterKey::generate().open(&b).is_err());
            key.open_in_place(&mut b).expect("opens");
            prop_assert_eq!(b, plain);
        }
    }
}
