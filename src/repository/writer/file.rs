//! One file of a run: bytes in, the names of its blobs out, in order.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{Done, Writer};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::repository::chunk::{Blocks, Chunker, Chunking};
use crate::repository::index::BlobType;

/// A file's blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileContent {
    /// Length in bytes.
    pub size: u64,
    /// Its blobs in order.
    pub content: Vec<Id>,
    /// Bytes that its new blobs take in packs.
    pub stored: u64,
}

/// Receives a file's bytes. Dropped without [`FileWriter::finish`], its blobs stay unreferenced.
pub struct FileWriter {
    writer: Writer,
    chunker: Chunker,
    cut: Vec<Bytes>,
    blobs: usize,
    size: u64,
    slots: Arc<Slots>,
}

/// A file whose last blobs are on their way.
pub struct PendingFile {
    writer: Writer,
    blobs: usize,
    size: u64,
    slots: Arc<Slots>,
}

impl PendingFile {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Waits until every blob is named and tells them.
    ///
    /// # Errors
    /// The run's first failure.
    pub fn wait(self) -> Result<FileContent> {
        let mut state = self.slots.state.lock();
        while state.done < self.blobs && !state.failed {
            // Woken by the last blob; the limit is for a lane that was lost with our blob.
            let lost =
                self.slots.changed.wait_for(&mut state, Duration::from_secs(1)).timed_out() && self.writer.check().is_err();
            state.failed |= lost;
        }
        if state.failed {
            drop(state);
            self.writer.check()?;
            return Err(Error::new(Kind::Bug, "a file was not stored"));
        }
        Ok(FileContent { size: self.size, content: std::mem::take(&mut state.content), stored: state.stored })
    }
}

#[derive(Default)]
struct Slots {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    content: Vec<Id>,
    stored: u64,
    done: usize,
    failed: bool,
}

impl FileWriter {
    pub(super) fn new(writer: Writer, chunking: Chunking) -> Self {
        let chunker = Chunker::new(chunking, writer.shared.blocks.clone());
        Self { writer, chunker, cut: Vec::new(), blobs: 0, size: 0, slots: Arc::default() }
    }

    /// Takes everything `reader` has, without a copy between. Returns its length.
    ///
    /// # Errors
    /// The reader's failure, with the kind it had, or the run's.
    pub fn read_all(&mut self, reader: &mut impl Read) -> io::Result<u64> {
        let before = self.size;
        loop {
            let n = self.chunker.read_from(reader, &mut self.cut)?;
            self.size += n as u64;
            self.hand_in()?;
            if n == 0 {
                return Ok(self.size - before);
            }
        }
    }

    /// Takes one whole blob as it is, for callers that know where to cut. A file is either written so or otherwise.
    ///
    /// # Errors
    /// The run's first failure.
    pub fn push_blob(&mut self, blob: Bytes) -> Result<()> {
        self.size += blob.len() as u64;
        self.cut.push(blob);
        self.hand_in().context(|| "store a file")
    }

    /// Waits until every blob is named and tells them.
    ///
    /// # Errors
    /// The run's first failure.
    pub fn finish(self) -> Result<FileContent> {
        self.end()?.wait()
    }

    /// Hands in the rest without waiting, so that the next file can be begun.
    ///
    /// # Errors
    /// The run's first failure.
    pub fn end(mut self) -> Result<PendingFile> {
        let chunker = std::mem::replace(&mut self.chunker, Chunker::new(Chunking::Content, Blocks::default()));
        let unused = chunker.finish(&mut self.cut);
        self.hand_in_pinning(unused as u64).context(|| "store a file")?;
        Ok(PendingFile { writer: self.writer, blobs: self.blobs, size: self.size, slots: self.slots })
    }

    fn hand_in(&mut self) -> io::Result<()> {
        self.hand_in_pinning(0)
    }

    /// `unused`: bytes of the block that the last chunks are part of, and nobody needs.
    fn hand_in_pinning(&mut self, unused: u64) -> io::Result<()> {
        if self.cut.is_empty() {
            return Ok(());
        }
        self.writer.check().map_err(io::Error::other)?;
        let mut left = self.cut.len();
        for chunk in self.cut.drain(..) {
            left -= 1;
            // The block is free when its last chunk is.
            let unused = if left == 0 { unused } else { 0 };
            let (slots, position) = (self.slots.clone(), self.blobs);
            self.blobs += 1;
            let done: Done = Box::new(move |_, saved| slots.set(position, saved));
            self.writer.submit_pinning(BlobType::Data, chunk, unused, done);
        }
        Ok(())
    }
}

impl Slots {
    fn set(&self, position: usize, saved: Option<super::Saved>) {
        let mut state = self.state.lock();
        match saved {
            Some(saved) => {
                if state.content.len() <= position {
                    state.content.resize(position + 1, Id::default());
                }
                if let Some(slot) = state.content.get_mut(position) {
                    *slot = saved.id;
                }
                state.stored += saved.stored;
            }
            None => state.failed = true,
        }
        state.done += 1;
        drop(state);
        self.changed.notify_all();
    }
}

impl Write for FileWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.chunker.push(data, &mut self.cut);
        self.size += data.len() as u64;
        self.hand_in()?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
