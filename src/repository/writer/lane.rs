//! One thread of the pipeline: takes chunks in batches, names them, stores the new ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::{Job, Saved, Shared, Work};
use crate::crypto::{LANES, equal_messages, sha256, sha256_many};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node};
use crate::repository::index::BlobType;
use crate::repository::pack::{Codec, PackBuilder};
use crate::repository::streamed::LargeTree;
use crate::repository::tree;

/// So long a lane waits for the rest of a batch whose hashing is worth it: readers make one in less, and where they do not, lanes have
/// nothing else to do.
const PATIENCE: Duration = Duration::from_millis(2);

/// A thread's own compressor and the run it belongs to. Handed to [`super::Done`] so that a finished file can store
/// its directory at once, without waiting for another thread.
pub struct Lane {
    shared: Arc<Shared>,
    codec: Codec,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self> {
        Ok(Self { codec: Codec::for_writing(shared.options.level, shared.repo.format_version())?, shared })
    }

    /// Until the last writer is gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::with_capacity(LANES);
        while let Some(pinned) = self.collect(jobs, &mut batch) {
            // A bug must end the run with an error, not leave everybody waiting for this lane.
            let stored = catch_unwind(AssertUnwindSafe(|| self.store(&mut batch)));
            if stored.is_err() {
                self.shared.fail(Error::new(Kind::Bug, "a thread of the writer ended abnormally"));
                batch.clear();
                // What of it was given back already does not matter: the count never goes below zero.
                self.shared.gate.leave(pinned);
            }
        }
    }

    /// Fills the batch, and returns how much memory it pins. `None`: nothing will come any more.
    fn collect(&self, jobs: &Receiver<Job>, batch: &mut Vec<Job>) -> Option<u64> {
        // One lane after the other, or all of them would wait for the rest of a batch.
        let _turn = self.shared.turn.lock();
        let first = jobs.recv().ok()?;
        // A batch may hold this lane's share of the queue, so that the other lanes are not left without work.
        let part = self.shared.gate.limit() / self.shared.options.lanes as u64;
        let full = equal_messages().filter(|n| is_of_equal_chunks(&first.work) && first.pinned * *n as u64 <= part);
        let (most, share) = full.map_or((LANES, part / 4 * 3), |n| (n, part));
        let until = Instant::now() + PATIENCE;
        let mut pinned = first.pinned;
        batch.push(first);
        while batch.len() < most && pinned < share.max(1) {
            let next = jobs.try_recv().ok().or_else(|| full.and_then(|_| jobs.recv_deadline(until).ok()));
            let Some(job) = next else { break };
            pinned += job.pinned;
            batch.push(job);
        }
        Some(pinned)
    }

    fn store(&mut self, batch: &mut Vec<Job>) {
        let messages: Vec<&[u8]> = batch.iter().map(|j| j.work.message()).collect();
        let ids = if self.shared.has_failed() { vec![Id::default(); messages.len()] } else { sha256_many(&messages) };
        for (job, id) in batch.drain(..).zip(ids) {
            let saved = match job.work {
                Work::Blob(kind, data) => self.save_named(kind, id, &data),
                Work::Tree(tree) => self.save_large_tree(tree),
            };
            self.shared.gate.leave(job.pinned);
            (job.done)(self, saved);
        }
    }

    /// Stores a directory's entries. `None` after the run failed.
    pub fn save_tree(&mut self, nodes: &[Node]) -> Option<Saved> {
        match tree::encode_tree(nodes) {
            Ok(bytes) => self.save_named(BlobType::Tree, sha256(&bytes), &bytes),
            Err(e) => {
                self.shared.fail(e);
                None
            }
        }
    }

    /// [`Lane::save_tree`] for a directory with very many entries.
    pub fn save_large_tree(&mut self, tree: LargeTree) -> Option<Saved> {
        if self.shared.has_failed() {
            return None;
        }
        match self.try_save_large(tree) {
            Ok(saved) => Some(saved),
            Err(e) => {
                self.shared.fail(e);
                None
            }
        }
    }

    fn try_save_large(&mut self, tree: LargeTree) -> Result<Saved> {
        let shared = &self.shared;
        let sealed = tree.seal(shared.repo.key())?;
        let plain_len = u64::from(sealed.plain_len);
        shared.stats.bytes_in.fetch_add(plain_len, Relaxed);
        if !shared.is_new(BlobType::Tree, &sealed.id, plain_len) {
            return Ok(Saved { id: sealed.id, stored: 0 });
        }
        let stored = sealed.bytes.len() as u64;
        shared.stats.bytes_stored.fetch_add(stored, Relaxed);
        let uncompressed = if sealed.is_compressed { sealed.plain_len } else { 0 };
        let pack = PackBuilder::of_one(BlobType::Tree, sealed.id, sealed.bytes, uncompressed)?;
        shared.packer.upload_apart(shared, pack)?;
        Ok(Saved { id: sealed.id, stored })
    }

    /// Ends the run with this error.
    pub fn fail(&self, error: Error) {
        self.shared.fail(error);
    }

    fn save_named(&mut self, kind: BlobType, id: Id, data: &[u8]) -> Option<Saved> {
        if self.shared.has_failed() {
            return None;
        }
        match self.try_save(kind, id, data) {
            Ok(stored) => Some(Saved { id, stored }),
            Err(e) => {
                self.shared.fail(e);
                None
            }
        }
    }

    fn try_save(&mut self, kind: BlobType, id: Id, data: &[u8]) -> Result<u64> {
        let stats = &self.shared.stats;
        stats.bytes_in.fetch_add(data.len() as u64, Relaxed);
        if data.is_empty() {
            return Err(Error::new(Kind::Bug, "an empty blob was handed in"));
        }
        if !self.shared.is_new(kind, &id, data.len() as u64) {
            return Ok(0);
        }
        // Stock prune repacks trees that are not compressed, so trees always are.
        let sealed = self.codec.seal(self.shared.repo.key(), &id, data, kind == BlobType::Tree)?;
        let stored = sealed.bytes.len() as u64;
        stats.bytes_stored.fetch_add(stored, Relaxed);
        self.shared.packer.add(&self.shared, kind, id, &sealed)?;
        Ok(stored)
    }
}

/// Whether it looks like one of many chunks of one length: those of relation files ([`crate::repository::Chunking::Fixed`]).
fn is_of_equal_chunks(work: &Work) -> bool {
    matches!(work, Work::Blob(BlobType::Data, data) if data.len() >= 64 << 10 && data.len().is_power_of_two())
}
