//! Writing an object, frame by frame.

use bytes::Bytes;
use ring::aead::{Aad, LessSafeKey};

use super::codec::Packer;
use super::{Codec, Content, FRAME, FRAME_HEADER, HEADER, Header, LAST, TAG, TRAILER, nonce};
use crate::error::{Error, Kind, Result};

/// Turns content into frames. Blocks (it computes), and keeps about 2 MiB whatever the length of the content.
pub struct Encoder {
    key: LessSafeKey,
    header: Header,
    bound: [u8; HEADER],
    packer: Packer,
    packed: Vec<u8>,
    hash: blake3::Hasher,
    length: u64,
    index: u32,
    /// A frame was not full, so it has to be the last one with content.
    ended: bool,
}

/// What completes an object: `header` goes before all frames, `last` behind them.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The header.
    pub header: Bytes,
    /// The last frame.
    pub last: Bytes,
    /// What is inside.
    pub content: Content,
}

impl Encoder {
    pub(super) fn new(key: LessSafeKey, header: Header, codec: Codec) -> Result<Self> {
        let bound = header.bound();
        let packer = Packer::new(codec)?;
        Ok(Self {
            key,
            header,
            bound,
            packer,
            packed: Vec::new(),
            hash: blake3::Hasher::new(),
            length: 0,
            index: 0,
            ended: false,
        })
    }

    /// The random salt: tells this writing of an object from every other.
    #[must_use]
    pub fn salt(&self) -> String {
        hex::encode(self.header.salt)
    }

    /// The next frame, with the next [`FRAME`] bytes of content; fewer only at its end.
    ///
    /// # Errors
    /// [`Kind::Bug`] for a frame of a wrong length.
    pub fn frame(&mut self, plain: &[u8]) -> Result<Bytes> {
        if self.ended || plain.is_empty() || plain.len() > FRAME || self.index == u32::MAX {
            return Err(Error::new(Kind::Bug, "a frame has a wrong length"));
        }
        self.ended = plain.len() < FRAME;
        self.hash.update(plain);
        self.length += plain.len() as u64;
        self.packer.pack(plain, &mut self.packed)?;
        let mut packed = std::mem::take(&mut self.packed);
        let frame = self.seal(&packed, false);
        packed.clear();
        self.packed = packed;
        self.index += 1;
        frame
    }

    /// Completes the object; its first frames lie in `parts` objects beside it.
    ///
    /// # Errors
    /// None in practice.
    pub fn finish(mut self, parts: u16) -> Result<Finished> {
        let content = Content { length: self.length, blake3: *self.hash.finalize().as_bytes() };
        let mut trailer = Vec::with_capacity(TRAILER);
        trailer.extend_from_slice(&content.length.to_le_bytes());
        trailer.extend_from_slice(&content.blake3);
        trailer.extend_from_slice(&parts.to_le_bytes());
        let last = self.seal(&trailer, true)?;
        self.header.parts = parts;
        Ok(Finished { header: Bytes::copy_from_slice(&self.header.bytes()), last, content })
    }

    fn seal(&self, plain: &[u8], last: bool) -> Result<Bytes> {
        let bug = || Error::new(Kind::Bug, "a frame cannot be sealed");
        let length = u32::try_from(plain.len() + TAG).ok().filter(|l| *l < LAST).ok_or_else(bug)?;
        let mut out = Vec::with_capacity(FRAME_HEADER + plain.len() + TAG);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&(length | if last { LAST } else { 0 }).to_le_bytes());
        out.extend_from_slice(plain);
        let body = out.get_mut(FRAME_HEADER..).ok_or_else(bug)?;
        let tag =
            self.key.seal_in_place_separate_tag(nonce(last, self.index), Aad::from(&self.bound), body).map_err(|_| bug())?;
        out.extend_from_slice(tag.as_ref());
        Ok(out.into())
    }
}
