//! Reading an object, whole frames at a time.

use std::io::Write;

use ring::aead::{Aad, LessSafeKey};

use super::codec::Unpacker;
use super::{Content, HEADER, Header, LAST, TAG, TRAILER, corrupt, nonce};
use crate::error::{Context, Error, Kind, Result};

/// Turns frames into content. Blocks (it computes and writes), and keeps about 2 MiB whatever the length of the content.
///
/// Every byte it writes is authentic and in its place; that it was all of them is known once [`Decoder::finish`] said so.
pub struct Decoder {
    name: String,
    key: LessSafeKey,
    header: Header,
    bound: [u8; HEADER],
    unpacker: Unpacker,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    hash: blake3::Hasher,
    length: u64,
    index: u32,
    end: Option<Content>,
}

/// One frame of a longer text.
struct Frame<'a> {
    index: u32,
    last: bool,
    sealed: &'a [u8],
    rest: &'a [u8],
}

impl Decoder {
    pub(super) fn new(key: LessSafeKey, header: Header, name: &str) -> Result<Self> {
        let unpacker = Unpacker::new(header.codec)?.ok_or_else(|| {
            Error::new(Kind::Failed, format!("{name} is compressed in a way (number {}) that is not known", header.codec))
                .hint("Use a newer strongroom.")
        })?;
        let bound = header.bound();
        Ok(Self {
            name: name.to_owned(),
            key,
            header,
            bound,
            unpacker,
            sealed: Vec::new(),
            plain: Vec::new(),
            hash: blake3::Hasher::new(),
            length: 0,
            index: 0,
            end: None,
        })
    }

    /// How many objects with frames are to be read before the frames of the object itself.
    #[must_use]
    pub fn parts(&self) -> u16 {
        self.header.parts
    }

    /// The random salt, as [`super::Encoder::salt`].
    #[must_use]
    pub fn salt(&self) -> String {
        hex::encode(self.header.salt)
    }

    /// Takes the next whole frames in (without the header) and writes their content to `out`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for anything that is not the next frame, `out`'s failures.
    pub fn frames(&mut self, mut bytes: &[u8], out: &mut dyn Write) -> Result<()> {
        while !bytes.is_empty() {
            let frame = split(bytes).ok_or_else(|| self.corrupt("it is cut short"))?;
            bytes = frame.rest;
            if self.end.is_some() {
                return Err(self.corrupt("there is something behind its end"));
            }
            if frame.index != self.index {
                return Err(self.corrupt("its frames are not in order"));
            }
            if frame.last {
                let end = self.open_last(&frame)?;
                let found = Content { length: self.length, blake3: *self.hash.finalize().as_bytes() };
                if found != end {
                    return Err(self.corrupt("its content is not what was stored"));
                }
                self.end = Some(end);
                continue;
            }
            let mut sealed = std::mem::take(&mut self.sealed);
            sealed.clear();
            sealed.extend_from_slice(frame.sealed);
            let opened = self.key.open_in_place(nonce(false, frame.index), Aad::from(&self.bound), &mut sealed);
            let opened = opened.map_err(|_| corrupt(&self.name, "it does not decrypt"))?;
            let plain = self.unpacker.unpack(opened, &mut self.plain);
            let plain = plain.map_err(|e| corrupt(&self.name, "it does not decompress").because(e))?;
            self.hash.update(plain);
            self.length += plain.len() as u64;
            self.index += 1;
            out.write_all(plain).context(|| format!("write the content of {}", self.name))?;
            self.sealed = sealed;
        }
        Ok(())
    }

    /// What was read, all of it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the last frame was not seen.
    pub fn finish(self) -> Result<Content> {
        self.end.ok_or_else(|| self.corrupt("it is cut short"))
    }

    /// The last frame without those before it.
    pub(super) fn only_tail(self, tail: &[u8]) -> Result<Content> {
        match split(tail) {
            Some(frame) if frame.last && frame.rest.is_empty() => self.open_last(&frame),
            _ => Err(self.corrupt("it is cut short")),
        }
    }

    fn open_last(&self, frame: &Frame<'_>) -> Result<Content> {
        let mut sealed = frame.sealed.to_vec();
        let opened = self.key.open_in_place(nonce(true, frame.index), Aad::from(&self.bound), &mut sealed);
        let opened = opened.map_err(|_| self.corrupt("it does not decrypt"))?;
        let trailer: &[u8; TRAILER] = (&*opened).try_into().map_err(|_| self.corrupt("its end has a wrong length"))?;
        let fields = || {
            let (length, rest) = trailer.split_first_chunk::<8>()?;
            let (blake3, parts) = rest.split_first_chunk::<32>()?;
            let parts = u16::from_le_bytes(*parts.first_chunk()?);
            Some((Content { length: u64::from_le_bytes(*length), blake3: *blake3 }, parts))
        };
        match fields() {
            Some((content, parts)) if parts == self.header.parts => Ok(content),
            _ => Err(self.corrupt("its parts are not all named")),
        }
    }

    fn corrupt(&self, why: &str) -> Error {
        corrupt(&self.name, why)
    }
}

fn split(bytes: &[u8]) -> Option<Frame<'_>> {
    let (index, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let size = (length & !LAST) as usize;
    let (sealed, rest) = rest.split_at_checked(size).filter(|_| size >= TAG)?;
    Some(Frame { index: u32::from_le_bytes(*index), last: length & LAST != 0, sealed, rest })
}
