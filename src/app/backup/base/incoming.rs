//! One file of a cluster on its way into the writer: relations by pages, small files whole, others by content.

use std::io::Write as _;

use bytes::Bytes;

use super::layout::Layout;
use crate::error::{Context, Result};
use crate::repository::{Chunking, FileWriter, PendingFile, SMALL_FILE, Writer};
use crate::source::pg_base::FileClass;

/// Receives a file's bytes in order.
pub(super) struct Incoming {
    out: FileWriter,
    cut: Cut,
    /// Less than what is looked at together.
    rest: Vec<u8>,
}

enum Cut {
    Pages(Layout),
    Whole,
    Content,
}

impl Incoming {
    /// `size` is what the file is expected to have; `layout` is for relations.
    pub(super) fn new(writer: &Writer, class: FileClass, size: u64, layout: Layout) -> Self {
        let cut = match class {
            FileClass::Relation { .. } => Cut::Pages(layout),
            FileClass::Other if size <= SMALL_FILE => Cut::Whole,
            FileClass::Other => Cut::Content,
        };
        Self { out: writer.file(Chunking::Content), cut, rest: Vec::new() }
    }

    /// The next bytes. Whole chunks in them are not copied.
    ///
    /// # Errors
    /// The run's first failure.
    pub(super) fn push(&mut self, mut data: Bytes) -> Result<()> {
        loop {
            let need = match &self.cut {
                Cut::Pages(layout) => layout.need(),
                Cut::Whole => usize::try_from(SMALL_FILE).unwrap_or(usize::MAX),
                Cut::Content => return self.out.write_all(&data).context(|| "store a file"),
            };
            if self.rest.is_empty() && data.len() >= need {
                if !self.choose(data.get(..need)) {
                    let next = data.split_to(need);
                    self.store(next)?;
                }
                continue;
            }
            let missing = data.split_to(need.saturating_sub(self.rest.len()).min(data.len()));
            if self.rest.is_empty() {
                self.rest.reserve_exact(if data.is_empty() && missing.len() < need { missing.len() } else { need });
            }
            self.rest.extend_from_slice(&missing);
            if self.rest.len() < need {
                return Ok(());
            }
            if !self.choose(None) {
                let next = Bytes::from(std::mem::take(&mut self.rest));
                self.store(next)?;
            }
        }
    }

    /// Looks at the beginning of a file, in hand or kept.
    fn choose(&mut self, beginning: Option<&[u8]>) -> bool {
        match &mut self.cut {
            Cut::Pages(layout) => layout.choose(beginning.unwrap_or(&self.rest)),
            _ => false,
        }
    }

    fn store(&mut self, mut bytes: Bytes) -> Result<()> {
        let length = match &mut self.cut {
            Cut::Pages(layout) => layout.cut(&bytes),
            _ => bytes.len(),
        };
        while bytes.len() > length {
            self.out.push_blob(bytes.split_to(length))?;
        }
        self.out.push_blob(bytes)
    }

    /// There is nothing more.
    ///
    /// # Errors
    /// The run's first failure.
    pub(super) fn end(mut self) -> Result<PendingFile> {
        if !self.rest.is_empty() {
            let rest = Bytes::from(std::mem::take(&mut self.rest));
            self.store(rest)?;
        }
        self.out.end()
    }
}
