//! Where the chunks of a relation file begin and end.
//!
//! Large chunks compress better and cost fewer entries in trees and index; small ones follow changes better. So a file begins with
//! large ones, and a large one of which a page changed is small ones from then on: files are cut as the backup before cut them,
//! but for that. A page tells by its LSN whether it changed since. What is stored does not depend on it: an LSN that misleads
//! costs some bytes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::Run;
use super::chunks::{Chunks, Last};
use crate::app::tree_path::{At, resolve};
use crate::model::{Id, Lsn, NodeKind, TABLESPACES};
use crate::postgres::page;
use crate::repository::{BlobType, Reader, compressed_len};

/// How many small chunks a large one is.
const LARGE: usize = 4;
/// As much, where the beginning of a file shrinks to less than a sixteenth: as few bytes in the store.
const VERY_LARGE: usize = 8;
const SHRINKS: usize = 16;
/// Large chunks are not larger than this, for the memory that they take.
const MOST: usize = 1 << 20;

/// How the last backup of the job cut its files.
pub(super) struct Former {
    small: usize,
    page_size: usize,
    last: Option<(Reader, PathBuf, Id)>,
    since: Lsn,
}

/// Of the files of one directory: the lengths of their chunks as powers of two, without the last.
#[derive(Default)]
pub(super) struct Directory(HashMap<Vec<u8>, Arc<[u8]>>);

impl Former {
    /// `last`: what is known of the backup before.
    pub(super) fn of(run: &Run, last: Option<&Last>, chunks: Chunks, page_size: u32) -> Self {
        // With chunks of another size everything is stored again anyway.
        let last = last.filter(|last| last.chunks.bytes == chunks.bytes);
        let tree = run.parent.as_ref().map(|parent| parent.file.tree);
        Self {
            small: chunks.bytes as usize,
            page_size: page_size as usize,
            since: last.map_or(Lsn(u64::MAX), |last| last.start),
            last: last.zip(tree).map(|(_, tree)| (Reader::new(&run.repo, run.index.clone()), super::describe::DATA.into(), tree)),
        }
    }

    /// The directory with this path in the data directory. Empty where there was none, or it cannot be read.
    pub(super) fn directory(&self, path: &[u8]) -> Directory {
        let Some((reader, data, root)) = &self.last else { return Directory::default() };
        let path = OsStr::from_bytes(path);
        let mut at = resolve(reader, *root, &data.join(path));
        // What a tablespace's link leads to lies elsewhere in the snapshot.
        if !matches!(at, Ok(At::Dir(_)))
            && let Ok(below) = Path::new(path).strip_prefix("pg_tblspc")
        {
            at = resolve(reader, *root, &Path::new(TABLESPACES).join(below));
        }
        let mut found = Directory::default();
        let read = at.and_then(|at| match at {
            At::Dir(tree) => reader.visit_tree(tree, &mut |node| {
                if let NodeKind::File { content, .. } = &node.kind
                    && content.len() > 1
                {
                    let lengths = content.iter().map_while(|id| reader.index().get(BlobType::Data, id));
                    found.0.insert(node.name.clone(), powers(lengths.map(|place| place.plain_len()), self.small));
                }
                Ok(())
            }),
            At::Entry(_) => Ok(()),
        });
        if let Err(e) = read {
            tracing::debug!("no layout of {} in the last backup: {}", Path::new(path).display(), e.chain());
        }
        found
    }

    /// For a file of about `size` bytes.
    pub(super) fn layout(&self, directory: &Directory, name: &[u8], size: u64) -> Layout {
        let former = directory.0.get(name).cloned().unwrap_or_default();
        let large = (self.small * LARGE).clamp(self.small, MOST.max(self.small));
        let largest = former.iter().max().map(|n| 1usize << n);
        Layout {
            small: self.small,
            large: largest.map_or(large, |n| n.clamp(large, MOST.max(self.small))),
            chosen: largest.is_some() || size <= large as u64,
            page_size: self.page_size,
            since: self.since,
            former,
            next: 0,
            at: 0,
        }
    }
}

/// Lengths as powers of two, up to the first that is none or too small: the last one of a file often is, and is forgotten.
fn powers(lengths: impl Iterator<Item = u32>, small: usize) -> Arc<[u8]> {
    let usable = lengths.take_while(|n| n.is_power_of_two() && (small..=MOST.max(small)).contains(&(*n as usize)));
    usable.map(|n| u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX)).collect()
}

/// Of one file, from its beginning to its end.
pub(super) struct Layout {
    small: usize,
    large: usize,
    /// The size of large chunks is certain.
    chosen: bool,
    page_size: usize,
    since: Lsn,
    former: Arc<[u8]>,
    /// The place in `former`.
    next: usize,
    /// The position in the file.
    at: u64,
}

impl Layout {
    /// Bytes to be looked at together next.
    pub(super) fn need(&self) -> usize {
        match self.former.get(self.next) {
            Some(exponent) => 1 << exponent,
            None if !self.chosen => self.small,
            None if self.at.is_multiple_of(self.large as u64) => self.large,
            None => self.small,
        }
    }

    /// Chooses the size of large chunks by the beginning of the file, if that is still to be done. Whether it was: then
    /// [`Layout::need`] may be another.
    pub(super) fn choose(&mut self, beginning: &[u8]) -> bool {
        if self.chosen {
            return false;
        }
        self.chosen = true;
        if compressed_len(beginning).saturating_mul(SHRINKS) < beginning.len() {
            self.large = (self.small * VERY_LARGE).clamp(self.small, MOST.max(self.small));
        }
        true
    }

    /// Takes what [`Layout::need`] asked for, or less at the end of the file: the length of the chunks to make of it.
    pub(super) fn cut(&mut self, bytes: &[u8]) -> usize {
        let known = self.next < self.former.len();
        self.next += 1;
        self.at += bytes.len() as u64;
        let changed = |page: &[u8]| page::lsn(page) >= self.since;
        if known && bytes.len() > self.small && bytes.chunks(self.page_size.max(1)).any(changed) {
            self.small
        } else {
            bytes.len().max(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: usize = 1 << 10;

    fn former() -> Former {
        Former { small: 64 * K, page_size: 8 * K, last: None, since: Lsn(1000) }
    }

    /// The chunks of a file.
    fn cut(directory: &Directory, file: &[u8]) -> Vec<usize> {
        let mut layout = former().layout(directory, b"1", file.len() as u64);
        let (mut rest, mut out) = (file, Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(layout.need().min(rest.len()));
            if layout.choose(now) {
                continue;
            }
            let length = layout.cut(now);
            out.extend(now.chunks(length).map(|c| c.len() / K));
            rest = later;
        }
        out
    }

    fn directory(chunks: &[usize]) -> Directory {
        Directory([(b"1".to_vec(), powers(chunks.iter().map(|k| (k * K) as u32), 64 * K))].into())
    }

    /// Pages that do not compress, changed long ago.
    fn file(kib: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..kib as u32 * 32).flat_map(|n| crate::crypto::sha256(&n.to_le_bytes()).0).collect();
        for page in bytes.chunks_mut(8 * K) {
            page[..8].fill(0);
        }
        bytes
    }

    #[test]
    fn a_new_file_is_cut_large_and_larger_where_it_shrinks_much() {
        assert_eq!(cut(&Directory::default(), &file(600)), [256, 256, 88]);
        assert_eq!(cut(&Directory::default(), &file(200)), [200]);
        assert_eq!(cut(&Directory::default(), &vec![7; 1100 * K]), [512, 512, 76]);
    }

    #[test]
    fn what_changed_is_cut_small_and_stays_so() {
        let mut bytes = file(1000);
        let before = directory(&[256, 256, 256]);
        assert_eq!(cut(&before, &bytes), [256, 256, 256, 232]);
        bytes[300 * K + 4 * K + 7] = 1;
        bytes[304 * K + 6] = 4;
        assert_eq!(cut(&before, &bytes), [256, 64, 64, 64, 64, 256, 232]);
        bytes[304 * K + 6] = 0;
        assert_eq!(cut(&directory(&[256, 64, 64, 64, 64, 256]), &bytes), [256, 64, 64, 64, 64, 256, 232]);
    }

    #[test]
    fn a_file_that_grew_or_shrank_goes_on_as_it_was() {
        let before = directory(&[256, 64, 64]);
        assert_eq!(cut(&before, &file(900)), [256, 64, 64, 64, 64, 256, 132]);
        assert_eq!(cut(&before, &file(300)), [256, 44]);
        assert_eq!(cut(&directory(&[64]), &file(600)), [64, 64, 64, 64, 256, 88]);
        // The last chunk was short.
        assert_eq!(cut(&directory(&[256, 8]), &file(600)), [256, 256, 88]);
        assert_eq!(cut(&directory(&[256, 120]), &file(600)), [256, 256, 88]);
    }
}
