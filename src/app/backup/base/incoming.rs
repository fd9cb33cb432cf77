//! One file of a cluster on its way into the writer: relations in chunks of one size, small files whole, others by content.

use std::io::Write as _;

use bytes::Bytes;

use crate::error::{Context, Result};
use crate::repository::{Chunking, FileWriter, PendingFile, SMALL_FILE, Writer};
use crate::source::pg_base::FileClass;

/// Receives a file's bytes in order.
pub(super) struct Incoming {
    out: FileWriter,
    /// Length of a blob; `None`: cut by content.
    fixed: Option<usize>,
    /// Less than a blob.
    rest: Vec<u8>,
}

impl Incoming {
    /// `size` is what the file is expected to have; `chunk` is for relations.
    pub(super) fn new(writer: &Writer, class: FileClass, size: u64, chunk: u32) -> Self {
        let fixed = match class {
            FileClass::Relation { .. } => Some(chunk as usize),
            FileClass::Other if size <= SMALL_FILE => usize::try_from(SMALL_FILE).ok(),
            FileClass::Other => None,
        };
        Self { out: writer.file(Chunking::Content), fixed, rest: Vec::new() }
    }

    /// The next bytes. Whole chunks in them are not copied.
    ///
    /// # Errors
    /// The run's first failure.
    pub(super) fn push(&mut self, mut data: Bytes) -> Result<()> {
        let Some(chunk) = self.fixed else { return self.out.write_all(&data).context(|| "store a file") };
        if !self.rest.is_empty() {
            self.rest.reserve_exact(chunk.saturating_sub(self.rest.len()));
            let missing = data.split_to(chunk.saturating_sub(self.rest.len()).min(data.len()));
            self.rest.extend_from_slice(&missing);
            if self.rest.len() == chunk {
                self.out.push_blob(Bytes::from(std::mem::take(&mut self.rest)))?;
            }
        }
        while data.len() >= chunk {
            self.out.push_blob(data.split_to(chunk))?;
        }
        self.rest.extend_from_slice(&data);
        Ok(())
    }

    /// There is nothing more.
    ///
    /// # Errors
    /// The run's first failure.
    pub(super) fn end(mut self) -> Result<PendingFile> {
        if !self.rest.is_empty() {
            self.out.push_blob(Bytes::from(self.rest))?;
        }
        self.out.end()
    }
}
