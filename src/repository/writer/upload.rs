//! Open packs, uploads and the index that follows them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{INDEX_BLOBS, INDEX_SECONDS, Shared, WriterOptions};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::repository::Repository;
use crate::repository::index::{BlobType, IndexFile, IndexedPack};
use crate::repository::lock::RepoLock;
use crate::repository::pack::{PackBuilder, SealedBlob};
use crate::repository::snapshot::SnapshotFile;
use crate::store::{Key, Payload, PutMode};

/// A header of a stock client's limit holds 409,199 blobs; ours stay far below, for quick rebuilds of an index.
const PACK_BLOBS: usize = 20_000;
/// What a pack's memory has beyond its limit, for the header and to begin at a page: enough for 6,000 blobs.
const HEADER_ROOM: usize = 256 << 10;

pub(super) struct Packer {
    open: [Mutex<PackBuilder>; 2],
    spare: Arc<Mutex<Vec<Vec<u8>>>>,
    uploads: Arc<Semaphore>,
    uploads_max: u32,
    pending: Arc<Mutex<Pending>>,
    lock: Option<RepoLock>,
}

/// Packs that the store acknowledged and no index names yet.
struct Pending {
    packs: Vec<IndexedPack>,
    blobs: usize,
    bytes: u64,
    since: Instant,
}

impl Pending {
    fn new() -> Self {
        Self { packs: Vec::new(), blobs: 0, bytes: 0, since: Instant::now() }
    }

    fn is_due(&self, bytes: u64) -> bool {
        self.blobs >= INDEX_BLOBS || self.bytes >= bytes || self.since.elapsed() >= Duration::from_secs(INDEX_SECONDS)
    }

    /// Empties it. The clock starts anew.
    fn take(&mut self) -> IndexFile {
        IndexFile { packs: std::mem::replace(self, Self::new()).packs }
    }

    /// Takes back what could not be written, or may not have been: the end of the run tries again, so that the next one
    /// finds what was uploaded. Described twice, a pack is as good.
    fn put_back(&mut self, file: IndexFile) {
        self.packs.extend(file.packs);
    }
}

impl Packer {
    pub(super) fn new(lock: Option<RepoLock>, options: &WriterOptions) -> Self {
        // As large as it will be: memory that grows ends half as large again.
        let first = Vec::with_capacity(options.pack_size + HEADER_ROOM);
        Self {
            open: [Mutex::new(PackBuilder::new(BlobType::Data, first)), Mutex::new(PackBuilder::new(BlobType::Tree, Vec::new()))],
            spare: Arc::default(),
            uploads: Arc::new(Semaphore::new(options.uploads)),
            uploads_max: u32::try_from(options.uploads).unwrap_or(1),
            pending: Arc::new(Mutex::new(Pending::new())),
            lock,
        }
    }

    /// Places a blob; closes and uploads the pack if it is full, waiting while too many uploads run.
    pub(super) fn add(&self, shared: &Arc<Shared>, kind: BlobType, id: Id, blob: &SealedBlob<'_>) -> Result<()> {
        let [data, tree] = &self.open;
        let (open, limit) = match kind {
            BlobType::Data => (data, shared.options.pack_size),
            BlobType::Tree => (tree, shared.options.tree_pack_size),
        };
        let mut pack = open.lock();
        let full = pack.len() + blob.bytes.len() > limit || pack.count() >= PACK_BLOBS;
        if full && !pack.is_empty() {
            // Waited for inside the pack's lock: one pack is open and `uploads` are under way, and no lane holds another.
            let permit = self.permit(shared)?;
            let memory = self.spare.lock().pop().unwrap_or_else(|| Vec::with_capacity(limit + HEADER_ROOM));
            let closed = std::mem::replace(&mut *pack, PackBuilder::new(kind, memory));
            pack.add(id, blob)?;
            drop(pack);
            return self.upload(shared, closed, permit);
        }
        pack.add(id, blob)
    }

    /// The right to one upload, when one is free.
    fn permit(&self, shared: &Shared) -> Result<OwnedSemaphorePermit> {
        let permit = shared.repo.runtime().block_on(self.uploads.clone().acquire_owned());
        permit.map_err(|e| Error::new(Kind::Bug, "uploads were closed").because(e))
    }

    /// Uploads a pack that is no lane's open one, waiting first while too many uploads run.
    pub(super) fn upload_apart(&self, shared: &Arc<Shared>, pack: PackBuilder) -> Result<()> {
        let permit = self.permit(shared)?;
        self.upload(shared, pack, permit)
    }

    fn upload(&self, shared: &Arc<Shared>, pack: PackBuilder, permit: OwnedSemaphorePermit) -> Result<()> {
        let sealed = pack.finish(shared.repo.key())?;
        let runtime = shared.repo.runtime().clone();
        let (shared, spare, pending, lock) = (shared.clone(), self.spare.clone(), self.pending.clone(), self.lock.clone());
        runtime.spawn(async move {
            // A task that ends in any other way than by its end leaves a pack that nobody has acknowledged.
            let answer = Answer { shared: &shared, due: true };
            let id = sealed.index.id;
            let bytes = sealed.bytes;
            let put = async {
                let key = shared.repo.pack_key(&id)?;
                shared.repo.store().put(&key, Payload::from(bytes.clone()), PutMode::Overwrite).await?;
                Ok::<_, Error>(())
            };
            match put.await.context(|| format!("upload pack {}", id.short())) {
                Ok(()) => {
                    let due = {
                        let mut pending = pending.lock();
                        pending.blobs += sealed.index.blobs.len();
                        pending.bytes += bytes.len() as u64;
                        pending.packs.push(sealed.index);
                        pending.is_due(shared.options.index_bytes).then(|| pending.take())
                    };
                    // Not that of a pack that was larger than any other will be.
                    if let Ok(mut memory) = bytes.try_into_mut()
                        && memory.capacity() <= shared.options.pack_size + (4 << 20)
                    {
                        // With nothing in it, there is nothing to be moved to its beginning.
                        memory.clear();
                        spare.lock().push(memory.into());
                    }
                    if let Some(due) = due
                        && let Err(e) = write_index(&shared.repo, lock.as_ref(), due.clone()).await
                    {
                        pending.lock().put_back(due);
                        shared.fail(e);
                    }
                }
                Err(e) => {
                    // It may be there all the same.
                    shared.repo.note_orphans();
                    shared.fail(e);
                }
            }
            answer.given();
            drop::<OwnedSemaphorePermit>(permit);
        });
        Ok(())
    }

    /// Uploads what is open, waits for every upload, writes the index of what was acknowledged. After a failure it may be
    /// called again, which tries again what is left.
    pub(super) fn finish(&self, shared: &Arc<Shared>) -> Result<()> {
        if !shared.has_failed() {
            for (open, kind) in self.open.iter().zip([BlobType::Data, BlobType::Tree]) {
                let pack = std::mem::replace(&mut *open.lock(), PackBuilder::new(kind, Vec::new()));
                if !pack.is_empty() {
                    self.upload_apart(shared, pack)?;
                }
            }
        }
        let runtime = shared.repo.runtime().clone();
        runtime.block_on(async {
            let all = self.uploads.acquire_many(self.uploads_max).await;
            let file = self.pending.lock().take();
            let written = match file.packs.is_empty() {
                true => Ok(()),
                false => write_index(&shared.repo, self.lock.as_ref(), file.clone()).await,
            };
            if written.is_err() {
                self.pending.lock().put_back(file);
                shared.repo.note_orphans();
            }
            drop(all);
            written
        })
    }

    pub(super) fn commit(&self, shared: &Arc<Shared>, snapshot: &SnapshotFile) -> Result<Id> {
        let repo = &shared.repo;
        repo.runtime().block_on(async {
            verify(self.lock.as_ref()).await?;
            let id = repo.save_snapshot(snapshot).await?;
            // Frozen between the check and the put, this process may have lost its lock and a stock client may have
            // pruned what the snapshot refers to. Then there must be no snapshot.
            if let Err(lost) = verify(self.lock.as_ref()).await {
                repo.remove_snapshot(id)
                    .await
                    .context(|| format!("take back snapshot {}, whose data may have been pruned", id.short()))?;
                return Err(lost);
            }
            Ok(id)
        })
    }
}

/// Fails the run when it is dropped before the answer to an upload was dealt with, as by a panic.
struct Answer<'a> {
    shared: &'a Shared,
    due: bool,
}

impl Answer<'_> {
    fn given(mut self) {
        self.due = false;
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.due {
            self.shared.repo.note_orphans();
            self.shared.fail(Error::new(Kind::Bug, "an upload ended without an answer"));
        }
    }
}

async fn verify(lock: Option<&RepoLock>) -> Result<()> {
    match lock {
        Some(lock) => lock.verify().await,
        None => Ok(()),
    }
}

/// Writes an index under the lock, and takes it back if the lock was lost meanwhile: a process frozen between the check
/// and the put may find its packs pruned by others, and an index must not name what is gone.
pub(in crate::repository) async fn write_index(repo: &Repository, lock: Option<&RepoLock>, file: IndexFile) -> Result<()> {
    verify(lock).await?;
    let id = repo.save_index(file).await.context(|| "write the index")?;
    if let Err(lost) = verify(lock).await {
        let what = || format!("take back index {}, whose packs may have been pruned", id.short());
        repo.store().delete(&Key::new(format!("index/{id}"))?).await.context(what)?;
        return Err(lost);
    }
    Ok(())
}
