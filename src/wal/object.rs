//! Sealed objects in the store: written from a file or from memory, read into a file, in memory that does not grow with them.
//!
//! What is over [`PART`] bytes in its stored form is cut into parts (`<key>.part/<salt>-<number>`), which go first; the object
//! itself, with the rest, is the commit point. So an object is never visible before it is whole. **What leaks**: parts of a
//! writing that was killed; expiry removes them.

use std::fs::{File, Metadata};
use std::io::Write;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;

use super::names::part;
use super::room::Share;
use crate::crypto::object::{Decoder, Encoder, FRAME, HEADER, TAIL};
use crate::crypto::{Codec, Content, ObjectSeal};
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::direct;
use crate::store::{ErrorKind, Key, Payload, PutMode, Store};

/// Stored bytes of one object or part: what is held in memory at once for each object that is under way.
pub(super) const PART: usize = 32 << 20;
/// A part ends with the frame that crosses [`PART`].
const MOST: u64 = (PART + 2 * FRAME) as u64;

/// Where content comes from.
#[derive(Debug)]
pub enum Source {
    /// All of a file; its position does not matter.
    File(File),
    /// Bytes.
    Bytes(Bytes),
}

impl From<File> for Source {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl Source {
    /// Length in bytes now.
    pub(super) fn length(&self) -> Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata().context(|| "look at the file")?.len()),
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Up to `buffer.len()` bytes from `at` on; fewer only at the end.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let file = match self {
            Self::File(file) => file,
            Self::Bytes(bytes) => {
                let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let length = from.len().min(buffer.len());
                buffer.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                return Ok(length);
            }
        };
        let mut read = 0;
        while let Some(rest) = buffer.get_mut(read..).filter(|r| !r.is_empty()) {
            match file.read_at(rest, at + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context(|| "read the file"),
            }
        }
        Ok(read)
    }

    /// The same once more.
    pub(super) fn try_clone(&self) -> Result<Self> {
        match self {
            Self::File(file) => Ok(Self::File(file.try_clone().context(|| "open the file once more")?)),
            Self::Bytes(bytes) => Ok(Self::Bytes(bytes.clone())),
        }
    }

    /// Lets the system read the next part of it while its first bytes are worked on: what nobody has looked at for a while lies on
    /// the disk only.
    fn announce(&self, at: u64) {
        if let Self::File(file) = self
            && direct::is_cached(file, at) == Some(false)
        {
            // Without it everything takes longer, and that is all.
            rustix::fs::fadvise(file, at, NonZeroU64::new(PART as u64), rustix::fs::Advice::WillNeed).ok();
        }
    }

    fn state(&self) -> Result<Option<Metadata>> {
        match self {
            Self::File(file) => Ok(Some(file.metadata().context(|| "look at the file")?)),
            Self::Bytes(_) => Ok(None),
        }
    }
}

/// What a create did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Created {
    /// The object is there now, and was not before.
    New(Content),
    /// There was one. This is what would have been stored.
    Exists(Content),
}

/// Objects of one repository.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    pub(super) store: Arc<dyn Store>,
    pub(super) seal: ObjectSeal,
}

/// Reading and sealing, resumed part by part.
struct Filling {
    source: Source,
    encoder: Encoder,
    at: u64,
    before: Option<Metadata>,
}

/// The frames of one part, and whether content is left.
struct Filled {
    filling: Filling,
    frames: Vec<Bytes>,
    more: bool,
}

impl Filling {
    fn fill(mut self) -> Result<Filled> {
        self.source.announce(self.at);
        let (mut frames, mut size) = (Vec::new(), 0);
        let mut buffer = vec![0; FRAME];
        loop {
            let read = self.source.read_at(&mut buffer, self.at)?;
            self.at += read as u64;
            if read > 0 {
                let frame = self.encoder.frame(buffer.get(..read).unwrap_or_default())?;
                size += frame.len();
                frames.push(frame);
            }
            if read < FRAME {
                self.unchanged()?;
                return Ok(Filled { filling: self, frames, more: false });
            }
            if size >= PART {
                return Ok(Filled { filling: self, frames, more: true });
            }
        }
    }

    fn unchanged(&self) -> Result<()> {
        let state = |m: &Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ino());
        let now = self.source.state()?;
        if now.as_ref().map(state) == self.before.as_ref().map(state) && now.is_none_or(|m| m.len() == self.at) {
            return Ok(());
        }
        Err(Error::new(Kind::Failed, "the file changed while it was read")
            .hint("A WAL file is final before it is archived. Is something else writing to it?"))
    }
}

impl Objects {
    /// Stores an object unless there is one. What `held` has too much of is given back as soon as that is known.
    pub(super) async fn create(&self, key: &Key, source: Source, codec: Codec, held: &mut Option<Share>) -> Result<Created> {
        let before = source.state()?;
        let encoder = self.seal.encoder(key.as_str(), codec)?;
        let salt = encoder.salt();
        let mut filling = Filling { source, encoder, at: 0, before };
        let mut parts = 0;
        let failed = loop {
            let filled = blocking(move || filling.fill()).await;
            let filled = match filled {
                Ok(filled) => filled,
                Err(e) => break e,
            };
            if !filled.more {
                if let Some(held) = held {
                    held.keep(filled.frames.iter().map(Bytes::len).sum());
                }
                let done = self.commit(key, filled, parts).await;
                if matches!(done, Ok(Created::Exists(_))) {
                    self.discard(key, &salt, parts).await;
                }
                // After an error the store may yet create the object, and it must not lack its parts then. What nobody names is
                // removed when WAL is expired.
                return done;
            }
            filling = filled.filling;
            let put = self.store.put(&part(key, &salt, parts)?, Payload(filled.frames), PutMode::Create).await;
            parts += 1;
            if let Err(e) = put {
                break e.into();
            }
        };
        self.discard(key, &salt, parts).await;
        Err(failed)
    }

    async fn commit(&self, key: &Key, filled: Filled, parts: u16) -> Result<Created> {
        let Filled { filling, frames, .. } = filled;
        let end = filling.encoder.finish(parts)?;
        let mut payload = Vec::with_capacity(frames.len() + 2);
        payload.push(end.header);
        payload.extend(frames);
        payload.push(end.last);
        match self.store.put(key, Payload(payload), PutMode::Create).await {
            Ok(_) => Ok(Created::New(end.content)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists(end.content)),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes the parts of an object that did not come to be. A reply that was lost may hide that it did: then they stay.
    async fn discard(&self, key: &Key, salt: &str, parts: u16) {
        if parts == 0 {
            return;
        }
        let ours = match self.header(key).await {
            Ok(Some((_, decoder))) => decoder.salt() == salt,
            Ok(None) => false,
            Err(_) => true,
        };
        if ours {
            return;
        }
        for number in 0..parts {
            let Ok(part) = part(key, salt, number) else { continue };
            if let Err(e) = self.store.delete(&part).await {
                tracing::debug!("a part stays until WAL is expired: {}", e.chain());
            }
        }
    }

    /// Its header; `None` if the store said that there is no such object.
    async fn header(&self, key: &Key) -> Result<Option<(Bytes, Decoder)>> {
        let header = match self.store.get(key, Some(0..HEADER as u64)).await {
            Ok(header) => header,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let decoder = self.seal.decoder(key.as_str(), &header)?;
        Ok(Some((header, decoder)))
    }

    /// What is in an object, from its ends alone; its parts are there. `None`: the store said that there is no such object.
    pub(super) async fn content(&self, key: &Key) -> Result<Option<Content>> {
        let Some((header, decoder)) = self.header(key).await? else { return Ok(None) };
        let size = match self.store.head(key).await {
            Ok(meta) => meta.size,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        for number in 0..decoder.parts() {
            let part = part(key, &decoder.salt(), number)?;
            match self.store.head(&part).await {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(lacks(key, &part)),
                Err(e) => return Err(e.into()),
            }
        }
        let from = size.saturating_sub(TAIL as u64);
        let tail = self.store.get(key, Some(from..size)).await?;
        self.seal.content(key.as_str(), &header, &tail).map(Some)
    }

    /// Writes the content of an object to `out` and gives it back. `None`: the store said that there is none; nothing was
    /// written then. After an error part of the content may have been written.
    pub(super) async fn read<W: Write + Send + 'static>(&self, key: &Key, out: W) -> Result<(W, Option<Content>)> {
        let bytes = match self.store.get(key, Some(0..MOST)).await {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok((out, None)),
            Err(e) => return Err(e.into()),
        };
        let mut decoder = self.seal.decoder(key.as_str(), &bytes)?;
        let (salt, parts) = (decoder.salt(), decoder.parts());
        let mut out = out;
        for number in 0..parts {
            let part = part(key, &salt, number)?;
            let frames = match self.store.get(&part, Some(0..MOST)).await {
                Ok(frames) => frames,
                // The object names it, so this is damage and not an answer to what was asked.
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(lacks(key, &part)),
                Err(e) => return Err(e.into()),
            };
            (decoder, out) = blocking(move || decoder.frames(&frames, &mut out).map(|()| (decoder, out))).await?;
        }
        let (content, out) = blocking(move || {
            decoder.frames(bytes.get(HEADER..).unwrap_or_default(), &mut out)?;
            Ok((decoder.finish()?, out))
        })
        .await?;
        Ok((out, Some(content)))
    }

    /// All of a small object.
    pub(super) async fn bytes(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        let (out, content) = self.read(key, Vec::new()).await?;
        Ok(content.map(|_| out))
    }
}

fn lacks(key: &Key, part: &Key) -> Error {
    Error::new(Kind::Corrupt, format!("{key} lacks its part {part}"))
        .hint("While the server still has the segment: delete that object, and it is stored anew.")
}

/// Runs work that computes or waits for files where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::new(Kind::Bug, "a thread of the WAL archive ended").because(e))?
}
