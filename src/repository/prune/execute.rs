//! Doing it, in the one order in which nothing that is needed is ever unreachable.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures::{StreamExt, TryStreamExt};

use super::plan::Fate;
use super::repack::Repacker;
use super::{Prune, PruneProgress};
use crate::error::{Context, Error, Result};
use crate::model::Id;
use crate::repository::index::{IndexFile, IndexedBlob, IndexedPack};
use crate::repository::lock::RepoLock;
use crate::repository::writer::INDEX_BLOBS;
use crate::runtime::Cancel;
use crate::store::Key;

/// Deletes under way at the same time.
const DELETES: usize = 16;

pub(super) fn execute(prune: &Prune, lock: &RepoLock, progress: &Arc<PruneProgress>, cancel: &Cancel) -> Result<()> {
    if prune.plan.is_nothing() {
        return Ok(());
    }
    let repo = &prune.repo;
    let verify = || repo.runtime().block_on(lock.verify());
    verify()?;
    let numbered = || (0u32..).zip(&prune.plan.fates);
    let repack: Vec<u32> = numbered().filter(|(_, fate)| **fate == Fate::Repack).map(|(number, _)| number).collect();
    let copied = Repacker::new(prune, lock, progress, cancel).run(&repack)?;
    cancel.check()?;
    write_index(prune, copied, &verify)?;
    // From here on packs lose their index: what is deleted below must be exactly what was decided above.
    cancel.check()?;
    verify()?;
    let replaced = prune.survey.index_files.iter().zip(&prune.plan.replaced).filter(|(_, replaced)| **replaced);
    delete(prune, replaced.map(|(file, _)| Ok(Key::new(format!("index/{}", file.id))?)), progress, cancel)?;
    verify()?;
    delete(prune, prune.doomed_packs().iter().map(|id| repo.pack_key(id)), progress, cancel)
}

/// Describes the copies, and the packs that stay out of the index files that go.
fn write_index(prune: &Prune, copied: Vec<IndexedPack>, verify: &dyn Fn() -> Result<()>) -> Result<()> {
    let survey = &prune.survey;
    let mut packs = copied;
    let mut blobs: usize = packs.iter().map(|p| p.blobs.len()).sum();
    let write = |packs: Vec<IndexedPack>| -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        verify()?;
        prune.repo.runtime().block_on(prune.repo.save_index(IndexFile { packs })).map(drop).context(|| "write the new index")
    };
    for (number, (fate, facts)) in (0u32..).zip(prune.plan.fates.iter().zip(&survey.packs)) {
        if *fate != Fate::Keep || prune.plan.replaced.get(facts.index_file as usize) != Some(&true) {
            continue;
        }
        let pack = describe(prune, number);
        blobs += pack.blobs.len();
        packs.push(pack);
        if blobs >= INDEX_BLOBS {
            write(std::mem::take(&mut packs))?;
            blobs = 0;
        }
    }
    write(packs)
}

/// All blobs of a pack, unneeded ones and second copies too: an index that describes a pack in part is an error.
fn describe(prune: &Prune, number: u32) -> IndexedPack {
    let index = &prune.survey.index;
    let id: Id = index.pack_id(number).unwrap_or_default();
    let blob = |b: crate::repository::by_pack::PackedBlob| {
        let place = b.entry.place;
        IndexedBlob {
            id: b.entry.id,
            kind: b.kind,
            offset: place.offset,
            length: place.length,
            uncompressed_length: place.uncompressed,
        }
    };
    IndexedPack { id, blobs: prune.by_pack.blobs(index, number).map(blob).collect() }
}

fn delete(prune: &Prune, keys: impl Iterator<Item = Result<Key>>, progress: &PruneProgress, cancel: &Cancel) -> Result<()> {
    let repo = &prune.repo;
    let one = |key: Result<Key>| async move {
        cancel.check()?;
        let key = key?;
        repo.store().delete(&key).await.map_err(Error::from).context(|| format!("delete {key}"))?;
        progress.deleted.fetch_add(1, Relaxed);
        Ok::<(), Error>(())
    };
    repo.runtime().block_on(futures::stream::iter(keys).map(one).buffer_unordered(DELETES).try_collect())
}
