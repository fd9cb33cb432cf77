//! Our own objects, sealed and bound to their names: WAL, holds, reports, everything below `wal/` and `strongroom/` but leases.
//!
//! # Format, version 1
//! `header ‖ frame … frame ‖ last frame`, all numbers little-endian unless said otherwise.
//!
//! | header (64 bytes) | |
//! | --- | --- |
//! | 8 | `STRGROOM` |
//! | 1 | version: 1 |
//! | 1 | codec: 0 none, 1 zstd, 2 gzip, 3 lz4 |
//! | 2 | number of parts, usually 0 (below) |
//! | 4 | zero |
//! | 32 | id of the repository |
//! | 16 | random salt |
//!
//! A frame is `index (4) ‖ length (4) ‖ ciphertext ‖ tag (16)`; the highest bit of the length marks the last frame, the rest is
//! the length of ciphertext and tag. Each holds up to 1 MiB of content, compressed by itself. The last frame holds
//! `length of the content (8) ‖ BLAKE3 of the content (32) ‖ number of parts (2)`, never compressed, so it can be read by
//! itself: it is always the last [`TAIL`] bytes.
//!
//! **Keys**: one an object, HKDF-SHA256 of the repository's master key with the object's salt and, as context, the repository's
//! id and the object's name. So an object that was swapped with another, or came from another repository, does not open.
//! **Encryption**: AES-256-GCM; the nonce is `last (1) ‖ 0 (7) ‖ index (4, big-endian)`, the header (its number of parts taken as
//! zero) is authenticated with every frame. So frames cannot be left out, repeated, reordered or appended to unnoticed.
//!
//! **Parts**: the frames of a large object may lie in up to 65,535 objects beside it, of whole frames each, numbered from 0, which
//! are read before the frames of the object itself. Where they are kept is for the caller to say; they are written first, so
//! that the object itself is the commit point.
//!
//! Version history: 1 = this.

mod codec;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use ring::{aead, hkdf};
use zeroize::Zeroizing;

pub use codec::Codec;
pub use decode::Decoder;
pub use encode::{Encoder, Finished};

use super::{MasterKey, random};
use crate::error::{Error, Kind, Result};
use crate::model::Id;

/// Content of a frame, in bytes: all frames but the one before the last are full.
pub const FRAME: usize = 1 << 20;
/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes of the last frame: reading so many from the end of an object is enough for [`ObjectSeal::content`].
pub const TAIL: usize = FRAME_HEADER + TRAILER + TAG;

const MAGIC: [u8; 8] = *b"STRGROOM";
const VERSION: u8 = 1;
const SALT: usize = 16;
const FRAME_HEADER: usize = 8;
const TRAILER: usize = 8 + 32 + 2;
const TAG: usize = 16;
const LAST: u32 = 1 << 31;

/// What is inside an object: two objects with equal `Content` hold the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Content {
    /// Length in bytes.
    pub length: u64,
    /// BLAKE3 of all of it.
    pub blake3: [u8; 32],
}

impl Content {
    /// Of bytes that are at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len() as u64, blake3: *blake3::hash(bytes).as_bytes() }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: &[u8] = self.blake3.get(..8).unwrap_or_default();
        write!(f, "{} bytes, BLAKE3 {}…", self.length, hex::encode(short))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Seals and opens the objects of one repository. Cheap to clone; wiped when the last clone is dropped.
#[derive(Clone)]
pub struct ObjectSeal {
    key: Arc<Zeroizing<[u8; 32]>>,
    repository: Id,
}

impl fmt::Debug for ObjectSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectSeal({})", self.repository.short())
    }
}

impl ObjectSeal {
    /// Derives a key of its own from the repository's.
    ///
    /// # Errors
    /// None in practice: the derivation refuses only impossible lengths.
    pub fn new(master: &MasterKey, repository: Id) -> Result<Self> {
        let mut secret = Zeroizing::new([0; 64]);
        let (encrypt, mac) = secret.split_at_mut(32);
        encrypt.copy_from_slice(&master.encrypt);
        let (k, r) = mac.split_at_mut(16);
        k.copy_from_slice(&master.mac_k);
        r.copy_from_slice(&master.mac_r);
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"")
            .extract(&secret[..])
            .expand(&[b"strongroom objects v1"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key[..]))
            .map_err(|_| Error::new(Kind::Bug, "derive the key of objects"))?;
        Ok(Self { key: Arc::new(key), repository })
    }

    /// The repository whose objects these are.
    #[must_use]
    pub fn repository(&self) -> Id {
        self.repository
    }

    /// Begins an object that will be stored as `name`: the whole key in the repository's store.
    ///
    /// # Errors
    /// A codec that cannot be set up.
    pub fn encoder(&self, name: &str, codec: Codec) -> Result<Encoder> {
        let mut salt = [0; SALT];
        random(&mut salt);
        let header = Header { codec: codec.number(), parts: 0, repository: self.repository, salt };
        Encoder::new(self.object_key(name, &salt)?, header, codec)
    }

    /// Begins to read the object `name`, whose first [`HEADER`] bytes are `header` (more are ignored).
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if this is no object, or another repository's; [`Kind::Failed`] if a newer program wrote it.
    pub fn decoder(&self, name: &str, header: &[u8]) -> Result<Decoder> {
        let header = Header::parse(name, header)?;
        if header.repository != self.repository {
            return Err(Error::new(
                Kind::Corrupt,
                format!("{name} belongs to repository {}, not to {}", header.repository.short(), self.repository.short()),
            )
            .hint("Objects were copied between repositories, or two repositories share one place."));
        }
        Decoder::new(self.object_key(name, &header.salt)?, header, name)
    }

    /// What is in the object `name`, from its header and its last [`TAIL`] bytes alone. It proves that these belong together, not
    /// that the rest is undamaged.
    ///
    /// # Errors
    /// As [`ObjectSeal::decoder`]; [`Kind::Corrupt`] if it does not open.
    pub fn content(&self, name: &str, header: &[u8], tail: &[u8]) -> Result<Content> {
        self.decoder(name, header)?.only_tail(tail)
    }

    /// A small object in one piece.
    ///
    /// # Errors
    /// As [`ObjectSeal::encoder`].
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let mut encoder = self.encoder(name, Codec::default())?;
        let mut out = vec![0; HEADER];
        for chunk in plain.chunks(FRAME) {
            out.extend_from_slice(&encoder.frame(chunk)?);
        }
        let finished = encoder.finish(0)?;
        out.splice(..HEADER, finished.header.iter().copied());
        out.extend_from_slice(&finished.last);
        Ok(out)
    }

    /// The content of a small object.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is damaged, cut, another object's or has parts; as [`ObjectSeal::decoder`].
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let mut decoder = self.decoder(name, sealed)?;
        if decoder.parts() > 0 {
            return Err(corrupt(name, "it has parts, which an object of its kind never has"));
        }
        let mut plain = Vec::new();
        decoder.frames(sealed.get(HEADER..).unwrap_or_default(), &mut plain)?;
        decoder.finish()?;
        Ok(plain)
    }

    fn object_key(&self, name: &str, salt: &[u8; SALT]) -> Result<aead::LessSafeKey> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&self.key[..]);
        let context = [b"object".as_slice(), &self.repository.0, name.as_bytes()];
        let okm =
            prk.expand(&context, &aead::AES_256_GCM).map_err(|_| Error::new(Kind::Bug, format!("derive the key of {name}")))?;
        Ok(aead::LessSafeKey::new(aead::UnboundKey::from(okm)))
    }
}

fn corrupt(name: &str, why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("{name} is damaged, or was put there under a wrong name: {why}"))
}

/// The first bytes of an object.
#[derive(Debug, Clone)]
struct Header {
    codec: u8,
    parts: u16,
    repository: Id,
    salt: [u8; SALT],
}

impl Header {
    fn bytes(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let fields: [&[u8]; 6] =
            [&MAGIC, &[VERSION, self.codec], &self.parts.to_le_bytes(), &[0; 4], &self.repository.0, &self.salt];
        let bytes = fields.into_iter().flatten();
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        out
    }

    /// What is authenticated with every frame: the number of parts is not known while they are made, and lies in the last one.
    fn bound(&self) -> [u8; HEADER] {
        Self { parts: 0, ..self.clone() }.bytes()
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk().ok_or_else(|| corrupt(name, "it is too short"))?;
        let [m0, m1, m2, m3, m4, m5, m6, m7, version, codec, p0, p1, z0, z1, z2, z3, rest @ ..] = bytes;
        if [*m0, *m1, *m2, *m3, *m4, *m5, *m6, *m7] != MAGIC {
            return Err(corrupt(name, "it does not begin like one of our objects"));
        }
        if *version != VERSION || [*z0, *z1, *z2, *z3] != [0; 4] {
            return Err(Error::new(Kind::Failed, format!("{name} has format version {version}; version {VERSION} is known"))
                .hint("Use a newer strongroom."));
        }
        let (repository, salt) = rest.split_first_chunk::<32>().ok_or_else(|| corrupt(name, "it is too short"))?;
        let salt = *salt.first_chunk().ok_or_else(|| corrupt(name, "it is too short"))?;
        Ok(Self { codec: *codec, parts: u16::from_le_bytes([*p0, *p1]), repository: Id(*repository), salt })
    }
}

fn nonce(last: bool, index: u32) -> aead::Nonce {
    let [a, b, c, d] = index.to_be_bytes();
    aead::Nonce::assume_unique_for_key([u8::from(last), 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}
