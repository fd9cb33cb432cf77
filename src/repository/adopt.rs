//! Packs that a killed or failed run uploaded and no index names: found, described in a new index, and so used again.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};

use super::Repository;
use super::index::{Index, IndexFile, IndexedPack};
use super::lock::RepoLock;
use super::pack::{expected_pack_size, parse_header};
use super::writer::write_index;
use crate::error::{Context, Result};
use crate::model::Id;
use crate::store::{Key, ObjectMeta};

/// Headers are at the end; this much is read first, which is all of it for packs of up to 1,500 blobs.
const TAIL: u64 = 64 << 10;

/// Lists all packs, reads the header of each that is in no index, and writes an index for those that are whole.
/// Returns how many were adopted. Only for callers that know that no other writer is at work: its packs would be
/// described twice.
///
/// Costs one listing, and one or two small reads for each orphan. A pack that is damaged is left alone.
///
/// # Errors
/// The store's failures; [`crate::error::Kind::Locked`] if the lock was lost, and then nothing is adopted.
pub async fn adopt_orphans(repo: &Repository, index: &Index, lock: &RepoLock) -> Result<usize> {
    let known: HashSet<Id> = index.packs().iter().copied().collect();
    let listed: Vec<ObjectMeta> = repo.store().list("data/").try_collect().await.context(|| "list packs")?;
    let orphans: Vec<(Id, ObjectMeta)> = listed
        .into_iter()
        .filter_map(|meta| Some((meta.key.as_str().rsplit('/').next()?.parse::<Id>().ok()?, meta)))
        .filter(|(id, _)| !known.contains(id))
        .collect();
    let read = futures::stream::iter(orphans).map(|(id, meta)| async move { read_pack(repo, id, &meta.key, meta.size).await });
    let packs: Vec<IndexedPack> = read.buffer_unordered(8).filter_map(|pack| async move { pack }).collect().await;
    let adopted = packs.len();
    if adopted > 0 {
        write_index(repo, Some(lock), IndexFile { packs }).await.context(|| "write an index of packs that a broken run left")?;
    }
    repo.forget_orphans();
    Ok(adopted)
}

/// A pack by its header; `None` if it is not whole.
pub(crate) async fn read_pack(repo: &Repository, id: Id, key: &Key, size: u64) -> Option<IndexedPack> {
    let tail = repo.store().get(key, Some(size.saturating_sub(TAIL)..size)).await.ok()?;
    let (rest, length) = tail.split_last_chunk::<4>()?;
    let length = u64::from(u32::from_le_bytes(*length));
    let header = if length <= rest.len() as u64 {
        bytes::Bytes::copy_from_slice(rest.get(rest.len() - length as usize..)?)
    } else {
        let end = size.checked_sub(4)?;
        repo.store().get(key, Some(end.checked_sub(length)?..end)).await.ok()?
    };
    let blobs = parse_header(repo.key(), &header).ok()?;
    let whole = expected_pack_size(blobs.iter().map(|b| (b.length, b.uncompressed_length != 0))) == size;
    (whole && !blobs.is_empty()).then_some(IndexedPack { id, blobs })
}
