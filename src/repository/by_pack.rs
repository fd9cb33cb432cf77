//! The blobs of each pack, from an index that is sorted by blob: what checks and prunes go by. 4 bytes a blob.

use super::index::{BlobType, Index, IndexEntry};

/// A blob as a pack holds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedBlob {
    pub(super) kind: BlobType,
    /// Position in [`Index::entries`] of that type.
    pub(super) position: usize,
    pub(super) entry: IndexEntry,
}

/// Numbers of blobs (data first, then trees), grouped by pack and in order of offset.
#[derive(Debug)]
pub(super) struct ByPack {
    starts: Vec<u32>,
    order: Vec<u32>,
    data: usize,
}

impl ByPack {
    pub(super) fn new(index: &Index) -> Self {
        let (data, trees) = (index.entries(BlobType::Data), index.entries(BlobType::Tree));
        let mut starts = vec![0u32; index.packs().len() + 1];
        let all = || data.iter().chain(trees);
        for e in all() {
            if let Some(n) = starts.get_mut(e.place.pack as usize + 1) {
                *n += 1;
            }
        }
        let mut sum = 0;
        for n in &mut starts {
            sum += *n;
            *n = sum;
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; data.len() + trees.len()];
        for (number, e) in (0u32..).zip(all()) {
            if let Some(at) = next.get_mut(e.place.pack as usize)
                && let Some(slot) = order.get_mut(*at as usize)
            {
                *slot = number;
                *at += 1;
            }
        }
        let mut sorted = Self { starts, order, data: data.len() };
        let offset = |number: &u32| sorted_entry(index, data.len(), *number).map_or(0, |b| b.entry.place.offset);
        let mut rest = sorted.order.as_mut_slice();
        let mut last = 0;
        for &end in sorted.starts.iter().skip(1) {
            let (pack, after) = rest.split_at_mut(((end - last) as usize).min(rest.len()));
            pack.sort_unstable_by_key(offset);
            (rest, last) = (after, end);
        }
        sorted
    }

    /// The blobs of a pack in order of offset.
    pub(super) fn blobs<'a>(&'a self, index: &'a Index, pack: u32) -> impl Iterator<Item = PackedBlob> + 'a {
        let at = pack as usize;
        let range = match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(&from), Some(&to)) => self.order.get(from as usize..to as usize).unwrap_or(&[]),
            _ => &[],
        };
        range.iter().filter_map(move |&number| sorted_entry(index, self.data, number))
    }
}

fn sorted_entry(index: &Index, data: usize, number: u32) -> Option<PackedBlob> {
    let number = number as usize;
    let (kind, position) = if number < data { (BlobType::Data, number) } else { (BlobType::Tree, number - data) };
    index.entries(kind).get(position).map(|&entry| PackedBlob { kind, position, entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;
    use crate::repository::index::{IndexBuilder, IndexFile, IndexedBlob, IndexedPack};

    #[test]
    fn every_blob_is_in_its_pack_in_order() {
        let id = |n: u32| sha256(&n.to_le_bytes());
        let mut builder = IndexBuilder::default();
        for p in 0..20u32 {
            let kind = if p % 3 == 0 { BlobType::Tree } else { BlobType::Data };
            // Described in descending order, as other programs may.
            let blobs = (0..p)
                .rev()
                .map(|b| IndexedBlob { id: id(p * 100 + b), kind, offset: b * 10, length: 10, uncompressed_length: 0 })
                .collect();
            builder.add(id(p), IndexFile { packs: vec![IndexedPack { id: id(9000 + p), blobs }] });
        }
        let index = builder.build();
        let by_pack = ByPack::new(&index);
        for p in 0..20u32 {
            let blobs: Vec<_> = by_pack.blobs(&index, p).collect();
            assert_eq!(blobs.len(), p as usize);
            for (b, blob) in (0u32..).zip(&blobs) {
                assert_eq!((blob.entry.id, blob.entry.place.offset), (id(p * 100 + b), b * 10));
                assert_eq!(index.entries(blob.kind)[blob.position], blob.entry);
            }
        }
        assert_eq!(by_pack.blobs(&index, 20).count(), 0);
    }
}
