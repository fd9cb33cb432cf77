//! Where every blob is: loaded once per run into sorted columns of 48 bytes a blob.
//!
//! On disk (restic format, `index/<id>`): `{"packs":[{"id":…,"blobs":[{"id","type","offset","length","uncompressed_length"}]}]}`.
//! In memory: per blob type one vector of entries sorted by id, with a table over the leading bits, so that a look-up
//! is one cache miss and a short scan. Memory: 48 B a blob plus 32 B a pack; 48 MB for a million blobs.

use serde::{Deserialize, Serialize};

use crate::model::Id;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobType {
    /// A chunk of a file.
    Data,
    /// The entries of a directory.
    Tree,
}

/// A blob's place: which pack, where in it, how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobPlace {
    /// Number of the pack in [`Index::pack_id`].
    pub pack: u32,
    /// First byte within the pack.
    pub offset: u32,
    /// Stored length, the 32 bytes of encryption included.
    pub length: u32,
    /// Length before compression; 0 if it is stored uncompressed.
    pub uncompressed: u32,
}

impl BlobPlace {
    /// Length of the blob's content.
    #[must_use]
    pub fn plain_len(&self) -> u32 {
        if self.uncompressed == 0 { self.length.saturating_sub(32) } else { self.uncompressed }
    }
}

/// A blob of a pack with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// SHA-256 of the content.
    pub id: Id,
    /// Where it is.
    pub place: BlobPlace,
}

/// An index file as JSON.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct IndexFile {
    /// The packs it describes. Each wholly.
    #[serde(default)]
    pub packs: Vec<IndexedPack>,
}

/// All blobs of one pack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexedPack {
    /// The pack.
    pub id: Id,
    /// Its blobs; an index of others may not have them in order of offset.
    pub blobs: Vec<IndexedBlob>,
}

/// One blob in an index file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct IndexedBlob {
    /// SHA-256 of the content.
    pub id: Id,
    /// `data` or `tree`.
    #[serde(rename = "type")]
    pub kind: BlobType,
    /// First byte within the pack.
    pub offset: u32,
    /// Stored length.
    pub length: u32,
    /// Length before compression; absent if stored uncompressed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncompressed_length: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Sorted entries with a table over the first bits of the id.
#[derive(Debug, Default)]
struct Column {
    entries: Vec<IndexEntry>,
    starts: Vec<u32>,
    shift: u32,
}

impl Column {
    fn sorted(mut entries: Vec<IndexEntry>) -> Self {
        entries.sort_unstable_by_key(|e| (e.id, e.place.pack, e.place.offset));
        entries.dedup();
        // About eight entries a bucket.
        let bits = (usize::BITS - (entries.len() / 8).leading_zeros()).clamp(1, 24);
        let shift = 32 - bits;
        let mut starts = vec![0u32; (1 << bits) + 1];
        for e in &entries {
            if let Some(n) = starts.get_mut(bucket(&e.id, shift) + 1) {
                *n += 1;
            }
        }
        let mut sum = 0;
        for n in &mut starts {
            sum += *n;
            *n = sum;
        }
        Self { entries, starts, shift }
    }

    /// Every entry of this id (duplicates lie side by side).
    fn find(&self, id: &Id) -> &[IndexEntry] {
        let b = bucket(id, self.shift);
        let (Some(&from), Some(&to)) = (self.starts.get(b), self.starts.get(b + 1)) else { return &[] };
        let Some(bucket) = self.entries.get(from as usize..to as usize) else { return &[] };
        let first = bucket.partition_point(|e| e.id < *id);
        let rest = bucket.get(first..).unwrap_or(&[]);
        let n = rest.iter().take_while(|e| e.id == *id).count();
        rest.get(..n).unwrap_or(&[])
    }
}

fn bucket(id: &Id, shift: u32) -> usize {
    let [a, b, c, d, ..] = id.0;
    (u32::from_be_bytes([a, b, c, d]) >> shift) as usize
}

/// Every blob of a repository, as of when it was loaded. Immutable and shared.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<Id>,
    data: Column,
    tree: Column,
    files: Vec<Id>,
}

impl Index {
    /// Whether the blob is stored.
    #[must_use]
    pub fn contains(&self, kind: BlobType, id: &Id) -> bool {
        !self.column(kind).find(id).is_empty()
    }

    /// Where the blob is; the first place if it is stored more than once.
    #[must_use]
    pub fn get(&self, kind: BlobType, id: &Id) -> Option<BlobPlace> {
        self.column(kind).find(id).first().map(|e| e.place)
    }

    /// Every place of the blob.
    pub fn places(&self, kind: BlobType, id: &Id) -> impl Iterator<Item = BlobPlace> + '_ {
        self.column(kind).find(id).iter().map(|e| e.place)
    }

    /// The pack's id by its number.
    #[must_use]
    pub fn pack_id(&self, pack: u32) -> Option<Id> {
        self.packs.get(pack as usize).copied()
    }

    /// Every pack, by number.
    #[must_use]
    pub fn packs(&self) -> &[Id] {
        &self.packs
    }

    /// The index files this was loaded from.
    #[must_use]
    pub fn files(&self) -> &[Id] {
        &self.files
    }

    /// All blobs of a type in ascending order of id; duplicates side by side. The position is a stable number of the
    /// blob for marks and counts.
    #[must_use]
    pub fn entries(&self, kind: BlobType) -> &[IndexEntry] {
        &self.column(kind).entries
    }

    /// Position of the blob's first entry in [`Index::entries`].
    #[must_use]
    pub fn position(&self, kind: BlobType, id: &Id) -> Option<usize> {
        let column = self.column(kind);
        let found = column.find(id).first()?;
        // Entries lie in one slice, so the distance in it is the position.
        column
            .entries
            .binary_search_by(|e| (e.id, e.place.pack, e.place.offset).cmp(&(found.id, found.place.pack, found.place.offset)))
            .ok()
    }

    fn column(&self, kind: BlobType) -> &Column {
        match kind {
            BlobType::Data => &self.data,
            BlobType::Tree => &self.tree,
        }
    }
}

/// Collects index files, then sorts once.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    packs: Vec<Id>,
    known: std::collections::HashMap<Id, u32>,
    data: Vec<IndexEntry>,
    tree: Vec<IndexEntry>,
    files: Vec<Id>,
}

impl IndexBuilder {
    /// Room for this many data blobs, so that growth does not copy.
    #[must_use]
    pub fn with_capacity(blobs: usize) -> Self {
        Self { data: Vec::with_capacity(blobs), ..Self::default() }
    }

    /// Adds all packs of an index file. A pack that an earlier file described is taken once.
    pub fn add(&mut self, file: Id, index: IndexFile) {
        self.files.push(file);
        for pack in index.packs {
            self.add_pack(pack);
        }
    }

    fn add_pack(&mut self, pack: IndexedPack) {
        let Ok(number) = u32::try_from(self.packs.len()) else { return };
        // The same pack in two index files: its entries meet again in `build` and are taken once.
        let number = *self.known.entry(pack.id).or_insert(number);
        if number as usize == self.packs.len() {
            self.packs.push(pack.id);
        }
        for b in pack.blobs {
            let place = BlobPlace { pack: number, offset: b.offset, length: b.length, uncompressed: b.uncompressed_length };
            let entry = IndexEntry { id: b.id, place };
            match b.kind {
                BlobType::Data => self.data.push(entry),
                BlobType::Tree => self.tree.push(entry),
            }
        }
    }

    /// Sorts.
    #[must_use]
    pub fn build(self) -> Index {
        let index =
            Index { packs: self.packs, data: Column::sorted(self.data), tree: Column::sorted(self.tree), files: self.files };
        // What it took to read all that is not needed again.
        crate::runtime::allocator::give_back();
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> Id {
        crate::crypto::sha256(&n.to_le_bytes())
    }

    #[test]
    fn finds_every_blob_and_no_other() {
        let mut builder = IndexBuilder::default();
        for p in 0..50u32 {
            let blobs = (0..97u32)
                .map(|b| IndexedBlob {
                    id: id(p * 97 + b),
                    kind: BlobType::Data,
                    offset: b * 100,
                    length: 100,
                    uncompressed_length: b % 2 * 300,
                })
                .collect();
            builder.add(id(p), IndexFile { packs: vec![IndexedPack { id: id(1_000_000 + p), blobs }] });
        }
        let index = builder.build();
        for n in 0..50 * 97 {
            let place = index.get(BlobType::Data, &id(n)).expect("present");
            assert_eq!(index.pack_id(place.pack), Some(id(1_000_000 + n / 97)));
            assert_eq!(place.plain_len(), if n % 97 % 2 == 0 { 68 } else { 300 });
            assert_eq!(index.entries(BlobType::Data)[index.position(BlobType::Data, &id(n)).expect("position")].id, id(n));
            assert!(!index.contains(BlobType::Tree, &id(n)));
        }
        assert!(!index.contains(BlobType::Data, &id(5_000_000)));
        assert!(!Index::default().contains(BlobType::Data, &id(0)));
    }

    #[test]
    fn json_is_the_documented_one() {
        let text =
            format!(r#"{{"packs":[{{"id":"{0}","blobs":[{{"id":"{0}","type":"tree","offset":0,"length":40}}]}}]}}"#, id(1));
        let file: IndexFile = serde_json::from_str(&text).expect("parses");
        assert_eq!(serde_json::to_string(&file).expect("writes"), text);
    }
}
