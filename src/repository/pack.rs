//! Packs: sealed blobs one after another, then a sealed header that lists them, then the header's length.
//!
//! `Blob1 ‖ … ‖ BlobN ‖ header ‖ u32le(len(header))`, header = sealed entries of 37 (stored raw) or 41 bytes
//! (compressed). Built in memory: nothing is written twice and no temporary file exists.

use std::io::Cursor;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::index::{BlobPlace, BlobType, IndexedBlob, IndexedPack};
use super::streamed;
use crate::crypto::{MasterKey, SEAL_FRONT, sha256};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::runtime::memory::page_aligned;

/// Bytes that sealing adds: IV and authenticator.
pub(crate) const SEAL: usize = 32;
/// The largest blob that is read: the format allows more, nobody writes it.
const MAX_PLAIN: usize = 1 << 30;
/// zstd level 0 and the engine's "store everything raw" are different things.
pub const LEVEL_OFF: i32 = i32::MIN;

/// One thread's compressor with its scratch memory.
pub(crate) struct Codec {
    compressor: Option<Compressor<'static>>,
    /// Whether blobs are compressed only where they must be.
    reluctant: bool,
    decompressor: Decompressor<'static>,
    sealed: Vec<u8>,
    opened: Vec<u8>,
    plain: Vec<u8>,
    /// Blobs that were sealed.
    count: u32,
}

/// One blob of so many is hashed again before it is stored.
const SAMPLE: u32 = 128;

/// A blob ready to be placed into a pack.
pub(crate) struct SealedBlob<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) uncompressed: u32,
}

impl Codec {
    pub(crate) fn new(level: i32) -> Result<Self> {
        let compressor = if level == LEVEL_OFF {
            None
        } else {
            Some(
                Compressor::new(level)
                    .map_err(|e| Error::new(Kind::Config, format!("compression level {level} is not supported")).because(e))?,
            )
        };
        let decompressor = Decompressor::new().context(|| "prepare decompression")?;
        let (sealed, opened, plain) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { compressor, reluctant: false, decompressor, sealed, opened, plain, count: 0 })
    }

    /// For writing to a repository of this format version. Version 1 knows no compression; from 2 on trees are always
    /// compressed, because stock prune would do it else.
    pub(crate) fn for_writing(level: i32, version: u32) -> Result<Self> {
        if version < 2 {
            return Self::new(LEVEL_OFF);
        }
        let codec = Self::new(if level == LEVEL_OFF { 1 } else { level })?;
        Ok(Self { reluctant: level == LEVEL_OFF, ..codec })
    }

    /// Compresses where that helps, seals, and proves the result by opening it again: a fault in memory or processor
    /// is found now, not at a restore. That `id` is the content's is proven for the first blob and one of [`SAMPLE`]: whoever
    /// hashes wrongly, for all of them, does not go on for long.
    pub(crate) fn seal(&mut self, key: &MasterKey, id: &Id, plain: &[u8], always_compress: bool) -> Result<SealedBlob<'_>> {
        let bug = |what: &str| {
            Error::new(Kind::Bug, format!("blob {id}: {what}"))
                .hint("This points at faulty memory or a faulty processor: check the machine.")
        };
        let mut uncompressed = 0;
        self.sealed.clear();
        self.sealed.resize(SEAL_FRONT, 0);
        if let Some(compressor) = &mut self.compressor
            && (always_compress || !self.reluctant)
        {
            self.sealed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
            let mut behind = Cursor::new(std::mem::take(&mut self.sealed));
            behind.set_position(SEAL_FRONT as u64);
            let compressed = compressor.compress_to_buffer(plain, &mut behind);
            self.sealed = behind.into_inner();
            let compressed = compressed.map_err(|e| bug("cannot be compressed").because(e))?;
            // Below 2 % gained, reading back would cost more than the bytes do.
            if always_compress || compressed < plain.len() - plain.len() / 50 {
                uncompressed = u32::try_from(plain.len()).map_err(|e| bug("is too long").because(e))?;
            }
        }
        if uncompressed == 0 {
            self.sealed.truncate(SEAL_FRONT);
            self.sealed.extend_from_slice(plain);
        }
        key.seal_in_place(&mut self.sealed);
        self.opened.clear();
        key.open_into(&self.sealed, &mut self.opened).map_err(|e| bug("does not open after sealing").because(e))?;
        let same = if uncompressed == 0 {
            self.opened == plain
        } else {
            self.plain.clear();
            self.plain.reserve(plain.len());
            self.decompressor
                .decompress_to_buffer(&self.opened, &mut self.plain)
                .map_err(|e| bug("does not decompress").because(e))?;
            self.plain == plain
        };
        if !same {
            return Err(bug("changed while it was sealed"));
        }
        let sampled = self.count.is_multiple_of(SAMPLE);
        self.count = self.count.wrapping_add(1);
        if sampled && sha256(plain) != *id {
            return Err(bug("its content has another name"));
        }
        Ok(SealedBlob { bytes: &self.sealed, uncompressed })
    }

    /// Opens a stored blob into memory that is used again by the next call, and checks it against its id.
    pub(crate) fn open(&mut self, key: &MasterKey, id: &Id, stored: &[u8], uncompressed: u32) -> Result<&[u8]> {
        self.decrypt(key, id, stored, uncompressed)?;
        let plain = if uncompressed == 0 {
            &self.opened
        } else {
            self.plain.clear();
            self.plain.reserve(uncompressed as usize);
            self.decompressor
                .decompress_to_buffer(&self.opened, &mut self.plain)
                .map_err(|e| damaged(id, "does not decompress").because(e))?;
            &self.plain
        };
        if sha256(plain) != *id {
            return Err(misnamed(id));
        }
        Ok(plain)
    }

    /// Opens a stored blob into `out`, which has its length, and does **not** check it against its id: for callers that hash
    /// many at once, and use [`misnamed`].
    pub(crate) fn open_unchecked(
        &mut self,
        key: &MasterKey,
        id: &Id,
        stored: &[u8],
        uncompressed: u32,
        out: &mut [u8],
    ) -> Result<()> {
        self.decrypt(key, id, stored, uncompressed)?;
        let length = out.len();
        if uncompressed == 0 {
            if self.opened.len() != length {
                return Err(damaged(id, "is not as long as it should be"));
            }
            out.copy_from_slice(&self.opened);
            return Ok(());
        }
        match self.decompressor.decompress_to_buffer(&self.opened, out) {
            Ok(n) if n == length => Ok(()),
            Ok(_) => Err(damaged(id, "is not as long as it should be")),
            Err(e) => Err(damaged(id, "does not decompress").because(e)),
        }
    }

    /// Into `opened`.
    fn decrypt(&mut self, key: &MasterKey, id: &Id, stored: &[u8], uncompressed: u32) -> Result<()> {
        self.opened.clear();
        key.open_into(stored, &mut self.opened).map_err(|e| damaged(id, "does not decrypt").because(e))?;
        if uncompressed as usize > MAX_PLAIN {
            return Err(damaged(id, "claims to be larger than any blob"));
        }
        Ok(())
    }
}

/// The length of a blob's content, in bytes, as the index has it.
///
/// # Errors
/// [`Kind::Corrupt`] if no blob is so large: nobody should make room for it.
pub(crate) fn plausible(id: &Id, place: &BlobPlace) -> Result<usize> {
    let length = place.plain_len() as usize;
    if length > MAX_PLAIN { Err(damaged(id, "claims to be larger than any blob")) } else { Ok(length) }
}

fn damaged(id: &Id, what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("blob {id} {what}"))
        .hint("Run `strongroom check --read-data` to see what is damaged; an older snapshot may be whole.")
}

/// How many bytes these become by quick compression, for those who choose how to cut. All of them where that fails.
#[must_use]
pub fn compressed_len(bytes: &[u8]) -> usize {
    zstd::bulk::compress(bytes, 1).map_or(bytes.len(), |out| out.len())
}

/// A blob whose content has another hash than its name.
pub(crate) fn misnamed(id: &Id) -> Error {
    damaged(id, "is not what its name says")
}

impl Codec {
    /// Opens a stored blob only to see whether it is what its name says; a very large one in bounded memory.
    pub(crate) fn check(&mut self, key: &MasterKey, id: &Id, stored: &[u8], place: &BlobPlace) -> Result<()> {
        if streamed::is_large(place) {
            return streamed::verify(key, id, stored, place);
        }
        self.open(key, id, stored, place.uncompressed).map(drop)
    }
}

/// A pack that is being filled. One blob type a pack, as stock clients expect.
pub(crate) struct PackBuilder {
    kind: BlobType,
    /// The pack, from `start` on.
    bytes: Vec<u8>,
    start: usize,
    blobs: Vec<IndexedBlob>,
}

/// A finished pack: its name is the SHA-256 of its bytes.
pub(crate) struct SealedPack {
    pub(crate) bytes: Bytes,
    pub(crate) index: IndexedPack,
}

impl PackBuilder {
    /// Uses `memory` (emptied) for its bytes, which begin at a page so that a store can write them directly.
    pub(crate) fn new(kind: BlobType, memory: Vec<u8>) -> Self {
        let bytes = page_aligned(memory);
        Self { kind, start: bytes.len(), bytes, blobs: Vec::new() }
    }

    /// A pack of one blob, whose bytes become those of the pack.
    pub(crate) fn of_one(kind: BlobType, id: Id, sealed: Vec<u8>, uncompressed: u32) -> Result<Self> {
        let length = u32::try_from(sealed.len()).map_err(|e| Error::new(Kind::Bug, "pack grew past 4 GiB").because(e))?;
        let blob = IndexedBlob { id, kind, offset: 0, length, uncompressed_length: uncompressed };
        Ok(Self { kind, bytes: sealed, start: 0, blobs: vec![blob] })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn count(&self) -> usize {
        self.blobs.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    pub(crate) fn add(&mut self, id: Id, blob: &SealedBlob<'_>) -> Result<()> {
        let too_large = |e| Error::new(Kind::Bug, "pack grew past 4 GiB").because(e);
        let offset = u32::try_from(self.len()).map_err(too_large)?;
        let length = u32::try_from(blob.bytes.len()).map_err(too_large)?;
        self.bytes.extend_from_slice(blob.bytes);
        self.blobs.push(IndexedBlob { id, kind: self.kind, offset, length, uncompressed_length: blob.uncompressed });
        Ok(())
    }

    pub(crate) fn finish(mut self, key: &MasterKey) -> Result<SealedPack> {
        let mut header = Vec::with_capacity(self.blobs.len() * 41);
        for b in &self.blobs {
            let tag = match (self.kind, b.uncompressed_length) {
                (BlobType::Data, 0) => 0u8,
                (BlobType::Tree, 0) => 1,
                (BlobType::Data, _) => 2,
                (BlobType::Tree, _) => 3,
            };
            header.push(tag);
            header.extend_from_slice(&b.length.to_le_bytes());
            if b.uncompressed_length != 0 {
                header.extend_from_slice(&b.uncompressed_length.to_le_bytes());
            }
            header.extend_from_slice(&b.id.0);
        }
        let before = self.bytes.len();
        key.seal_into(&header, &mut self.bytes);
        let length =
            u32::try_from(self.bytes.len() - before).map_err(|e| Error::new(Kind::Bug, "pack header is too long").because(e))?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        let bytes = Bytes::from(self.bytes).slice(self.start..);
        Ok(SealedPack { index: IndexedPack { id: sha256(&bytes), blobs: self.blobs }, bytes })
    }
}

/// Reads a header (sealed, without the trailing length) and gives the blobs with their offsets.
///
/// # Errors
/// [`Kind::Corrupt`] if it does not open or an entry is not one of the four known.
pub(crate) fn parse_header(key: &MasterKey, sealed: &[u8]) -> Result<Vec<IndexedBlob>> {
    let damaged = || Error::new(Kind::Corrupt, "pack header is damaged");
    let mut plain = Vec::new();
    key.open_into(sealed, &mut plain).map_err(|e| damaged().because(e))?;
    let (mut rest, mut offset, mut blobs) = (plain.as_slice(), 0u32, Vec::new());
    while let Some((&tag, after)) = rest.split_first() {
        let (kind, compressed) = match tag {
            0 => (BlobType::Data, false),
            1 => (BlobType::Tree, false),
            2 => (BlobType::Data, true),
            3 => (BlobType::Tree, true),
            _ => return Err(damaged()),
        };
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_le_bytes(*length);
        let (uncompressed_length, after) = if compressed {
            let (n, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
            (u32::from_le_bytes(*n), after)
        } else {
            (0, after)
        };
        let (id, after) = after.split_first_chunk::<32>().ok_or_else(damaged)?;
        blobs.push(IndexedBlob { id: Id(*id), kind, offset, length, uncompressed_length });
        offset = offset.checked_add(length).ok_or_else(damaged)?;
        rest = after;
    }
    Ok(blobs)
}

/// The size of a pack file with these blobs: what a listing must show.
pub(crate) fn expected_pack_size(blobs: impl IntoIterator<Item = (u32, bool)>) -> u64 {
    let blobs = blobs.into_iter().map(|(length, compressed)| u64::from(length) + if compressed { 41 } else { 37 });
    blobs.sum::<u64>() + SEAL as u64 + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_under_another_name_is_not_stored() {
        let key = MasterKey { encrypt: [1; 32], mac_k: [2; 16], mac_r: [3; 16] };
        let mut codec = Codec::new(3).unwrap();
        let seal = |codec: &mut Codec, id: &Id, plain: &[u8]| codec.seal(&key, id, plain, false).map(|_| ());
        for n in 0..=SAMPLE {
            let plain = vec![7; n as usize];
            seal(&mut codec, &sha256(&plain), &plain).unwrap();
        }
        let refused = (0..SAMPLE).filter(|_| seal(&mut codec, &sha256(b"other"), b"plain").is_err()).count();
        assert_eq!(refused, 1, "one of so many is looked at");
    }
}
