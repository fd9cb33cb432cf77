//! One thread of the pipeline: takes chunks in batches, names them, stores the new ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::Receiver;

use super::{Job, Saved, Shared};
use crate::crypto::{LANES, sha256, sha256_many};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node};
use crate::repository::index::BlobType;
use crate::repository::pack::Codec;
use crate::repository::tree;

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
        // A batch may hold this lane's share of the queue, so that the other lanes are not left without work.
        let share = (3 * self.shared.gate.limit() as usize / (4 * self.shared.options.lanes)).max(1);
        let mut batch = Vec::with_capacity(LANES);
        while let Ok(first) = jobs.recv() {
            let mut bytes = first.data.len();
            batch.push(first);
            while batch.len() < LANES && bytes < share {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += job.data.len();
                batch.push(job);
            }
            let bytes: u64 = batch.iter().map(|j| j.data.len() as u64).sum();
            // A bug must end the run with an error, not leave everybody waiting for this lane.
            let stored = catch_unwind(AssertUnwindSafe(|| self.store(&mut batch)));
            if stored.is_err() {
                self.shared.fail(Error::new(Kind::Bug, "a thread of the writer ended abnormally"));
                batch.clear();
                // What of it was given back already does not matter: the count never goes below zero.
                self.shared.gate.leave(bytes);
            }
        }
    }

    fn store(&mut self, batch: &mut Vec<Job>) {
        let messages: Vec<&[u8]> = batch.iter().map(|j| &j.data[..]).collect();
        let ids = if self.shared.has_failed() { vec![Id::default(); messages.len()] } else { sha256_many(&messages) };
        for (job, id) in batch.drain(..).zip(ids) {
            let bytes = job.data.len() as u64;
            let saved = self.save_named(job.kind, id, &job.data);
            drop(job.data);
            self.shared.gate.leave(bytes);
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
        let [data_names, tree_names] = &self.shared.fresh;
        let (names, counter) = match kind {
            BlobType::Data => (data_names, &stats.data_blobs),
            BlobType::Tree => (tree_names, &stats.tree_blobs),
        };
        if self.shared.index.contains(kind, &id) || !names.insert(&id) {
            return Ok(0);
        }
        counter.fetch_add(1, Relaxed);
        stats.bytes_added.fetch_add(data.len() as u64, Relaxed);
        // Stock prune repacks trees that are not compressed, so trees always are.
        let sealed = self.codec.seal(self.shared.repo.key(), &id, data, kind == BlobType::Tree)?;
        let stored = sealed.bytes.len() as u64;
        stats.bytes_stored.fetch_add(stored, Relaxed);
        self.shared.packer.add(&self.shared, kind, id, &sealed)?;
        Ok(stored)
    }
}
