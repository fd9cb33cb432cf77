//! Trees lie side by side in small packs, so whole packs are fetched and the last few are kept.

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::repository::Repository;
use crate::repository::index::{BlobPlace, BlobType, Index};

/// Larger tree packs (other programs' mixed packs) are read blob by blob.
const WHOLE_PACK: u32 = 8 << 20;
/// Packs kept. Directories are read depth first by a few threads, so few packs serve long.
const KEPT: usize = 4;

pub(super) struct TreePacks {
    /// End of the last tree in each pack, by number; 0 for packs without trees.
    ends: Vec<u32>,
    kept: Mutex<Vec<(u32, Bytes)>>,
}

impl TreePacks {
    pub(super) fn new(index: &Index) -> Self {
        let mut ends = vec![0u32; index.packs().len()];
        for e in index.entries(BlobType::Tree) {
            if let Some(end) = ends.get_mut(e.place.pack as usize) {
                *end = (*end).max(e.place.offset.saturating_add(e.place.length));
            }
        }
        Self { ends, kept: Mutex::default() }
    }

    pub(super) fn read(&self, repo: &Repository, index: &Index, place: BlobPlace) -> Result<Bytes> {
        let (from, to) = (place.offset as usize, place.offset as usize + place.length as usize);
        let end = self.ends.get(place.pack as usize).copied().unwrap_or(0);
        let id = index.pack_id(place.pack).ok_or_else(|| Error::new(Kind::Bug, "a pack without a number"))?;
        let short = || Error::new(Kind::Corrupt, format!("pack {} is cut short", id.short()));
        if end > WHOLE_PACK {
            let key = repo.pack_key(&id)?;
            let bytes = repo.runtime().block_on(repo.store().get(&key, Some(from as u64..to as u64)))?;
            return if bytes.len() == to - from { Ok(bytes) } else { Err(short()) };
        }
        if let Some(bytes) = self.kept(place.pack) {
            return if bytes.len() >= to { Ok(bytes.slice(from..to)) } else { Err(short()) };
        }
        let bytes = repo.runtime().block_on(repo.load_tree_pack(&id, u64::from(end)))?;
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((place.pack, bytes.clone()));
        drop(kept);
        if bytes.len() >= to { Ok(bytes.slice(from..to)) } else { Err(short()) }
    }

    /// A kept pack; it becomes the last to be forgotten.
    fn kept(&self, pack: u32) -> Option<Bytes> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|(p, _)| *p == pack)?;
        let found = kept.remove(at);
        let bytes = found.1.clone();
        kept.push(found);
        Some(bytes)
    }
}
