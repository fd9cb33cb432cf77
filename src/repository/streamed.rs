//! Blobs that are too large to be held several times over: sealed and opened as streams. Only trees of directories with
//! very many entries are; chunks of files are bounded.

use std::io::{self, BufReader, Read, Write};

use super::index::BlobPlace;
use super::pack::LEVEL_OFF;
use super::tree::{self, Joined, TreePart};
use crate::crypto::{MasterKey, SEAL_OVERHEAD, Sha256};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Node};

/// Blobs with more bytes than this (trees of about 10,000 entries) are read as streams.
const LARGE: u32 = 4 << 20;
/// Bytes that an entry takes in a compressed tree, rather too many: room for them is taken at once, since a block that
/// grows leaves holes behind. What is not needed is never touched.
const ENTRY: usize = 96;
/// Bytes decompressed at a time.
const PIECE: usize = 64 << 10;

/// Whether the blob at this place is worth reading as a stream.
pub(super) fn is_large(place: &BlobPlace) -> bool {
    place.uncompressed > LARGE
}

/// A directory with very many entries on its way to becoming a pack of its own: named and compressed while its parts come.
/// Memory: the compressed blob, about 80 bytes an entry.
pub struct LargeTree {
    joined: Joined<Hashing>,
}

/// A tree ready to become a pack of its own.
pub(super) struct SealedTree {
    pub(super) id: Id,
    pub(super) bytes: Vec<u8>,
    pub(super) plain_len: u32,
    pub(super) is_compressed: bool,
}

impl LargeTree {
    /// Nothing is in it yet, and about `entries` will be. `version` is that of the repository: 1 knows no compression, and from 2 on stock prune repacks
    /// trees that are not compressed, so they always are.
    pub(super) fn begin(entries: usize, level: i32, version: u32) -> Result<Self> {
        let doing = || "begin a large directory";
        let mut room = Vec::with_capacity(entries * ENTRY);
        room.resize(SEAL_OVERHEAD / 2, 0);
        let out = if version < 2 {
            Out::Raw(room)
        } else {
            let level = if level == LEVEL_OFF { 1 } else { level };
            Out::Compressed(Box::new(zstd::stream::write::Encoder::new(room, level).context(doing)?))
        };
        Ok(Self { joined: Joined::begin(Hashing { hash: Sha256::default(), out }).context(doing)? })
    }

    /// Adds the next entries.
    ///
    /// # Errors
    /// [`Kind::Bug`] if they do not come after those before.
    pub fn add(&mut self, part: TreePart) -> Result<()> {
        self.joined.add(part)
    }

    /// Seals it, and proves the result by reading it back.
    ///
    /// # Errors
    /// [`Kind::Bug`] if what was sealed does not read back; [`Kind::Failed`] if there are too many entries.
    pub(super) fn seal(self, key: &MasterKey) -> Result<SealedTree> {
        let doing = || "store a large directory";
        let (Hashing { hash, out }, length) = self.joined.end().context(doing)?;
        let plain_len = u32::try_from(length)
            .map_err(|_| Error::new(Kind::Failed, "a directory has more entries than a tree can hold (4 GiB)"))?;
        let id = hash.finish();
        let (mut bytes, is_compressed) = match out {
            Out::Raw(bytes) => (bytes, false),
            Out::Compressed(encoder) => (encoder.finish().context(doing)?, true),
        };
        key.seal_in_place(&mut bytes);
        let opened = plain(key, &bytes, is_compressed).and_then(|mut plain| digest(&mut plain).context(|| "read it back"));
        if opened.ok() != Some((id, length)) {
            return Err(Error::new(Kind::Bug, format!("blob {id} changed while it was sealed"))
                .hint("This points at faulty memory or a faulty processor: check the machine."));
        }
        Ok(SealedTree { id, bytes, plain_len, is_compressed })
    }
}

/// Checks a stored blob for which [`is_large`] holds against its name.
///
/// # Errors
/// [`Kind::Corrupt`] if it is damaged.
pub(super) fn verify(key: &MasterKey, id: &Id, stored: &[u8], place: &BlobPlace) -> Result<()> {
    let mut opened = plain(key, stored, true).map_err(|e| damaged(id, "does not decrypt").because(e))?;
    let (found, length) = digest(&mut opened).map_err(|e| damaged(id, "does not decompress").because(e))?;
    if found != *id || length != u64::from(place.uncompressed) {
        return Err(damaged(id, "is not what its name says"));
    }
    Ok(())
}

/// Hands over the entries of a stored tree for which [`is_large`] holds, after it was checked against its name.
///
/// # Errors
/// [`Kind::Corrupt`] if it is damaged; the first error of `visit`.
pub(super) fn visit(
    key: &MasterKey,
    id: &Id,
    stored: &[u8],
    place: &BlobPlace,
    visit: &mut dyn FnMut(Node) -> Result<()>,
) -> Result<()> {
    verify(key, id, stored, place)?;
    let opened = plain(key, stored, true).map_err(|e| damaged(id, "does not decrypt").because(e))?;
    tree::visit_tree_from(BufReader::with_capacity(PIECE, opened), visit)
}

fn damaged(id: &Id, why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("blob {id} {why}"))
        .hint("Run `strongroom check --read-data` to see what is damaged; an older snapshot may be whole.")
}

/// Decrypts (and decompresses) while it is read.
fn plain<'a>(key: &MasterKey, sealed: &'a [u8], is_compressed: bool) -> Result<Box<dyn Read + 'a>> {
    let opened = key.open_reader(sealed).map_err(|e| Error::new(Kind::Corrupt, "it does not decrypt").because(e))?;
    if !is_compressed {
        return Ok(Box::new(opened));
    }
    let decoder = zstd::stream::read::Decoder::new(opened).context(|| "prepare decompression")?;
    // One frame is one blob: what follows it would be no part of it.
    Ok(Box::new(decoder.single_frame()))
}

/// Name and length of what is left to be read.
fn digest(plain: &mut dyn Read) -> io::Result<(Id, u64)> {
    let (mut hash, mut length, mut piece) = (Sha256::default(), 0u64, vec![0; PIECE]);
    loop {
        let n = plain.read(&mut piece)?;
        let Some(read) = piece.get(..n).filter(|r| !r.is_empty()) else { return Ok((hash.finish(), length)) };
        hash.update(read);
        length += n as u64;
    }
}

struct Hashing {
    hash: Sha256,
    out: Out,
}

enum Out {
    Raw(Vec<u8>),
    Compressed(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.hash.update(data);
        match &mut self.out {
            Out::Raw(bytes) => bytes.write_all(data)?,
            Out::Compressed(encoder) => encoder.write_all(data)?,
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
