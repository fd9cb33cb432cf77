//! Copying needed blobs out of packs that go. Blobs keep their encryption and compression; each is opened and checked on
//! the way, so that damage is never copied on as if it were sound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::{Prune, PruneProgress};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::repository::by_pack::PackedBlob;
use crate::repository::index::{BlobType, IndexFile, IndexedPack};
use crate::repository::lock::RepoLock;
use crate::repository::pack::{Codec, PackBuilder, SealedBlob};
use crate::repository::writer::INDEX_BLOBS;
use crate::runtime::Cancel;
use crate::store::{Payload, PutMode};

/// Bytes read with one request, unless a single blob is larger.
const RANGE: u64 = 4 << 20;
/// Bytes read in vain rather than ask again.
const GAP: u64 = 128 << 10;
/// For trees that were stored raw.
const LEVEL: i32 = 3;
/// Far below what the header of a pack can list, for quick rebuilds of an index.
const PACK_BLOBS: usize = 20_000;

pub(super) struct Repacker<'a> {
    prune: &'a Prune,
    lock: &'a RepoLock,
    progress: &'a Arc<PruneProgress>,
    cancel: &'a Cancel,
    open: [Mutex<PackBuilder>; 2],
    /// One upload at a time, which bounds the memory: while it runs the next pack fills, and then has to wait. Holds
    /// the memory of the pack before.
    turn: Mutex<Vec<u8>>,
    /// Packs that the store acknowledged and no index names yet.
    pending: Mutex<Vec<IndexedPack>>,
}

impl<'a> Repacker<'a> {
    pub(super) fn new(prune: &'a Prune, lock: &'a RepoLock, progress: &'a Arc<PruneProgress>, cancel: &'a Cancel) -> Self {
        // With room for the blob that fills it, so that growing never doubles it.
        let room = |kind| prune.options.size(kind) as usize + (4 << 20);
        let open =
            [BlobType::Data, BlobType::Tree].map(|kind| Mutex::new(PackBuilder::new(kind, Vec::with_capacity(room(kind)))));
        Self {
            prune,
            lock,
            progress,
            cancel,
            open,
            turn: Mutex::new(Vec::with_capacity(room(BlobType::Data))),
            pending: Mutex::default(),
        }
    }

    /// Copies what is needed of these packs into new ones and writes the index of all new packs but the last few, which
    /// are returned.
    pub(super) fn run(self, packs: &[u32]) -> Result<Vec<IndexedPack>> {
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..self.prune.options.threads().clamp(1, packs.len().max(1)) {
                scope.spawn(|| {
                    let run = || -> Result<()> {
                        let mut codec = Codec::for_writing(LEVEL, self.prune.repo.format_version())?;
                        while let Some(&number) = packs.get(next.fetch_add(1, Relaxed)) {
                            if failure.lock().is_some() {
                                return Ok(());
                            }
                            self.pack(number, &mut codec)?;
                            self.progress.packs_repacked.fetch_add(1, Relaxed);
                        }
                        Ok(())
                    };
                    if let Err(e) = run() {
                        failure.lock().get_or_insert(e);
                    }
                });
            }
        });
        if let Some(e) = failure.into_inner() {
            return Err(e);
        }
        for (open, kind) in self.open.iter().zip([BlobType::Data, BlobType::Tree]) {
            let pack = std::mem::replace(&mut *open.lock(), PackBuilder::new(kind, Vec::new()));
            if !pack.is_empty() {
                self.upload(pack)?;
            }
        }
        Ok(self.pending.into_inner())
    }

    fn pack(&self, number: u32, codec: &mut Codec) -> Result<()> {
        let (index, repo) = (&self.prune.survey.index, &self.prune.repo);
        let id = index.pack_id(number).ok_or_else(|| Error::new(Kind::Bug, "a pack without a number"))?;
        let doing = || format!("copy needed blobs of pack {}", id.short());
        let blobs: Vec<PackedBlob> =
            self.prune.by_pack.blobs(index, number).filter(|b| self.prune.plan.keeps(b.kind, b.position)).collect();
        let key = repo.pack_key(&id)?;
        for range in ranges(&blobs) {
            self.cancel.check()?;
            let run = blobs.get(range).unwrap_or(&[]);
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let start = u64::from(first.entry.place.offset);
            let end = u64::from(last.entry.place.offset) + u64::from(last.entry.place.length);
            let bytes = repo.runtime().block_on(repo.store().get(&key, Some(start..end))).map_err(Error::from).context(doing)?;
            for blob in run {
                let from = (u64::from(blob.entry.place.offset) - start) as usize;
                let stored = bytes.get(from..from + blob.entry.place.length as usize);
                let stored = stored.ok_or_else(|| Error::new(Kind::Corrupt, "it is cut short")).context(doing)?;
                self.blob(blob, stored, codec).context(doing)?;
            }
        }
        Ok(())
    }

    fn blob(&self, blob: &PackedBlob, stored: &[u8], codec: &mut Codec) -> Result<()> {
        let (id, place) = (blob.entry.id, blob.entry.place);
        let key = self.prune.repo.key();
        let raw_tree = blob.kind == BlobType::Tree && place.uncompressed == 0 && self.prune.repo.format_version() >= 2;
        self.progress.bytes_repacked.fetch_add(stored.len() as u64, Relaxed);
        if raw_tree {
            let plain = codec.open(key, &id, stored, place.uncompressed)?.to_vec();
            let sealed = codec.seal(key, &id, &plain, true)?;
            return self.add(blob.kind, id, &sealed);
        }
        codec.check(key, &id, stored, &place)?;
        self.add(blob.kind, id, &SealedBlob { bytes: stored, uncompressed: place.uncompressed })
    }

    fn add(&self, kind: BlobType, id: Id, blob: &SealedBlob<'_>) -> Result<()> {
        let [data, trees] = &self.open;
        let (open, limit) = match kind {
            BlobType::Data => (data, self.prune.options.pack_size),
            BlobType::Tree => (trees, self.prune.options.tree_pack_size),
        };
        let mut pack = open.lock();
        pack.add(id, blob)?;
        if pack.len() < limit && pack.count() < PACK_BLOBS {
            return Ok(());
        }
        let mut turn = self.turn.lock();
        let full = std::mem::replace(&mut *pack, PackBuilder::new(kind, std::mem::take(&mut *turn)));
        drop(pack);
        *turn = self.upload(full)?;
        Ok(())
    }

    /// Returns the memory of the pack, to be used again.
    fn upload(&self, pack: PackBuilder) -> Result<Vec<u8>> {
        let repo = &self.prune.repo;
        let sealed = pack.finish(repo.key())?;
        let key = repo.pack_key(&sealed.index.id)?;
        repo.runtime()
            .block_on(repo.store().put(&key, Payload::from(sealed.bytes.clone()), PutMode::Overwrite))
            .map_err(Error::from)
            .context(|| format!("upload pack {}", sealed.index.id.short()))?;
        let memory = sealed.bytes.try_into_mut().map(Vec::from).unwrap_or_default();
        let due = {
            let mut pending = self.pending.lock();
            pending.push(sealed.index);
            let blobs: usize = pending.iter().map(|p| p.blobs.len()).sum();
            if blobs < INDEX_BLOBS {
                return Ok(memory);
            }
            std::mem::take(&mut *pending)
        };
        // The old index still names the old copies: for a while these blobs are simply there twice.
        repo.runtime().block_on(async {
            self.lock.verify().await?;
            repo.save_index(IndexFile { packs: due }).await.map(drop).context(|| "write the index of new packs")
        })?;
        Ok(memory)
    }
}

/// Neighbours are read together, as long as gap and whole stay small.
fn ranges(blobs: &[PackedBlob]) -> Vec<std::ops::Range<usize>> {
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    let (mut start, mut end) = (0u64, 0u64);
    for (i, blob) in blobs.iter().enumerate() {
        let from = u64::from(blob.entry.place.offset);
        let to = from + u64::from(blob.entry.place.length);
        match out.last_mut() {
            Some(range) if from <= end + GAP && to - start <= RANGE => {
                range.end = i + 1;
                end = end.max(to);
            }
            _ => {
                out.push(i..i + 1);
                (start, end) = (from, to);
            }
        }
    }
    out
}
