//! Directories with very many entries, encoded part by part as their entries are known.

use std::io::{self, Write};

use super::encode::{HEAD, TAIL, encode_list};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Node;

/// Parts live for seconds, so compressing them is worth little time.
const LEVEL: i32 = 1;

/// Some consecutive entries of a directory, encoded: about 80 bytes each.
#[derive(Debug)]
pub struct TreePart {
    first: Vec<u8>,
    last: Vec<u8>,
    plain: usize,
    packed: Box<[u8]>,
}

impl TreePart {
    /// Encodes entries, in ascending order of name; `None` if there are none.
    ///
    /// # Errors
    /// As [`super::encode_tree`].
    pub fn encode(nodes: &[Node]) -> Result<Option<Self>> {
        let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return Ok(None) };
        let plain = encode_list(nodes)?;
        // Boxed, because what is compressed into has room for what does not compress.
        let packed = zstd::bulk::compress(&plain, LEVEL).context(|| "compress a part of a directory")?.into_boxed_slice();
        Ok(Some(Self { first: first.name.clone(), last: last.name.clone(), plain: plain.len(), packed }))
    }
}

/// Writes parts as one tree blob.
#[derive(Debug)]
pub(in crate::repository) struct Joined<W> {
    out: W,
    last: Option<Vec<u8>>,
    plain: u64,
}

impl<W: Write> Joined<W> {
    pub(in crate::repository) fn begin(mut out: W) -> io::Result<Self> {
        out.write_all(HEAD)?;
        Ok(Self { out, last: None, plain: HEAD.len() as u64 })
    }

    /// Adds the next part.
    ///
    /// # Errors
    /// [`Kind::Bug`] if its entries do not come after those before; those of the output.
    pub(in crate::repository) fn add(&mut self, part: TreePart) -> Result<()> {
        let doing = || "store a part of a directory";
        if self.last.as_ref().is_some_and(|last| *last >= part.first) {
            let name = String::from_utf8_lossy(&part.first).escape_debug().to_string();
            return Err(Error::new(Kind::Bug, format!("`{name}` cannot follow as an entry of a directory")));
        }
        let comma: &[u8] = if self.last.is_some() { b"," } else { b"" };
        self.out.write_all(comma).context(doing)?;
        let plain = zstd::bulk::decompress(&part.packed, part.plain).context(doing)?;
        self.out.write_all(&plain).context(doing)?;
        self.plain += (comma.len() + plain.len()) as u64;
        self.last = Some(part.last);
        Ok(())
    }

    /// Ends the tree: what was written to, and how long the tree is.
    pub(in crate::repository) fn end(mut self) -> io::Result<(W, u64)> {
        self.out.write_all(TAIL)?;
        Ok((self.out, self.plain + TAIL.len() as u64))
    }
}
