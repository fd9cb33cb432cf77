//! The pipeline from bytes to packs: chunk → SHA-256 in batches → known? → compress → seal → pack → upload.
//!
//! **Threads.** Callers (a source's threads) cut chunks and hand them in; as many *lanes* as there are processors hash,
//! compress and seal them; uploads run on tokio. Every hand-over is bounded: chunks by a byte budget, packs by the
//! number of uploads, so memory does not depend on the input.
//!
//! **Order.** A pack is described in an index only after the store acknowledged it; an index is written every
//! [`INDEX_SECONDS`] or [`INDEX_BYTES`] or [`INDEX_BLOBS`], so that a killed run is not repeated; the snapshot comes
//! last ([`Writer::commit`]). The repository lock is checked right before an index and the snapshot are
//! written, and again right after: if it was lost in between they are taken back.
//!
//! **What leaks on a crash**: packs that no index names. [`super::adopt`] finds and uses them.

mod file;
mod lane;
mod upload;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use super::chunk::{Blocks, Chunking};
use super::gate::Gate;
use super::index::{BlobType, Index};
use super::lock::RepoLock;
use super::snapshot::SnapshotFile;
use super::streamed::LargeTree;
use super::{Repository, tree};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node};

pub use file::{FileContent, FileWriter, PendingFile};
pub use lane::Lane;
pub(super) use upload::write_index;

/// An index file is written at least this often.
pub(crate) const INDEX_SECONDS: u64 = 60;
/// …and after so many bytes of packs.
pub(crate) const INDEX_BYTES: u64 = 512 << 20;
/// …and after so many blobs: 4 MB of JSON. Stock clients take 50,000 as full, and any number.
pub(crate) const INDEX_BLOBS: usize = 20_000;

/// How a run writes.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// zstd level, or [`super::pack::LEVEL_OFF`].
    pub level: i32,
    /// Threads that hash, compress and seal. 0 = one a processor.
    pub lanes: usize,
    /// Size at which a data pack is closed, in bytes.
    pub pack_size: usize,
    /// Size at which a tree pack is closed, in bytes.
    pub tree_pack_size: usize,
    /// Bytes of chunks that may wait or be in work, and of the blocks that they are part of.
    pub queue_bytes: u64,
    /// Packs being uploaded at the same time.
    pub uploads: usize,
    /// An index is written after so many bytes of packs, or earlier.
    pub index_bytes: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            level: 1,
            lanes: 0,
            pack_size: 16 << 20,
            tree_pack_size: 4 << 20,
            queue_bytes: 24 << 20,
            uploads: 2,
            index_bytes: INDEX_BYTES,
        }
    }
}

impl WriterOptions {
    /// Options whose buffers stay within `budget` bytes for the whole process.
    ///
    /// Peak ≈ 25 MiB for the program + 48 B a known blob + 24 B a new one + (uploads + 1) packs + tree pack + queue +
    /// per lane 3 × the largest blob (2 MiB) + per walker two blocks (of 4 MiB) + 180 B an entry of each directory of more
    /// than 4,096 that is being stored: about 100 MiB on two processors, whatever the input, and as much as its client needs
    /// with a store of objects. A budget of 128 MiB and more buys larger packs, and so fewer requests, one of 512 MiB still
    /// larger ones, and more uploads at a time; more processors than there are 32 MiB in it are not used.
    #[must_use]
    pub fn for_memory(budget: u64, level: i32) -> Self {
        let small = budget < 512 << 20;
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let affordable = usize::try_from(budget / (32 << 20)).unwrap_or(usize::MAX);
        Self {
            level,
            lanes: processors.min(affordable).max(1),
            pack_size: match budget >> 20 {
                ..128 => 4 << 20,
                128..512 => 8 << 20,
                _ => 16 << 20,
            },
            queue_bytes: if small { 8 << 20 } else { 16 << 20 },
            uploads: if small { 2 } else { 4 },
            ..Self::default()
        }
    }

    /// For sources whose chunks are of one length: a queue that holds a batch of them for each lane of the writer, since many equal
    /// ones are hashed in half the time. Their readers keep that much less than those of volumes, which read in larger blocks.
    #[must_use]
    pub fn for_equal_chunks(self) -> Self {
        let lanes = if self.lanes == 0 { std::thread::available_parallelism().map_or(2, usize::from) } else { self.lanes };
        Self { queue_bytes: self.queue_bytes.max(lanes as u64 * (12 << 20)), ..self }
    }
}

/// What became of a blob.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// Its name.
    pub id: Id,
    /// Bytes it takes in a pack; 0 if it was stored already.
    pub stored: u64,
}

/// Called by a lane when a blob is done. `None` after the run failed: the error is in [`Writer::check`].
pub type Done = Box<dyn FnOnce(&mut Lane, Option<Saved>) + Send>;

struct Job {
    work: Work,
    /// Bytes of memory that are not free before it is done: at least its own.
    pinned: u64,
    done: Done,
}

/// What is to be stored.
#[allow(clippy::large_enum_variant, reason = "a box for each blob would cost more than the room does")]
enum Work {
    Blob(BlobType, Bytes),
    Tree(LargeTree),
}

impl Work {
    /// What is to be hashed. A large tree was, while it was put together.
    fn message(&self) -> &[u8] {
        match self {
            Self::Blob(_, data) => data,
            Self::Tree(_) => &[],
        }
    }
}

/// What a run added so far.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// New data blobs.
    pub data_blobs: AtomicU64,
    /// New tree blobs.
    pub tree_blobs: AtomicU64,
    /// Their bytes before compression.
    pub bytes_added: AtomicU64,
    /// Their bytes in packs.
    pub bytes_stored: AtomicU64,
    /// Bytes handed in, known or not.
    pub bytes_in: AtomicU64,
}

/// Writes blobs of one run. Cloning shares the run; drop all clones or [`Writer::commit`] to end it.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
}

/// Ends the lanes when the last writer goes.
struct Threads {
    jobs: Mutex<Option<Sender<Job>>>,
    handles: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Threads {
    fn stop(&self) {
        self.jobs.lock().take();
        let handles: Vec<_> = self.handles.lock().drain(..).collect();
        for h in handles {
            // The last writer may go with a lane's own closure; a thread cannot wait for itself.
            if h.thread().id() == std::thread::current().id() {
                continue;
            }
            // A panic of a lane's work has failed the run where it happened.
            let _panicked = h.join().is_err();
        }
    }
}

pub(crate) struct Shared {
    repo: Repository,
    index: Arc<Index>,
    options: WriterOptions,
    fresh: [Fresh; 2],
    gate: Gate,
    /// Of the lanes: who fills a batch.
    turn: Mutex<()>,
    blocks: Blocks,
    packer: upload::Packer,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
    stats: WriterStats,
}

/// Blobs that this run stores: the first 128 bits of their names, in shards so that growth copies little.
/// Two different blobs of one tenant with the same 128 bits would take 2^64 hashes to make.
struct Fresh([Mutex<HashSet<u128>>; 64]);

impl Fresh {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// `true` the first time.
    fn insert(&self, id: &Id) -> bool {
        let (high, _) = id.0.split_first_chunk::<16>().map_or(([0; 16], &[][..]), |(h, r)| (*h, r));
        let key = u128::from_be_bytes(high);
        self.0.get((key >> 122) as usize).is_some_and(|s| s.lock().insert(key))
    }
}

impl Shared {
    fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Relaxed);
    }

    /// Whether nobody has the blob yet: then it is counted, and the caller stores it.
    fn is_new(&self, kind: BlobType, id: &Id, bytes: u64) -> bool {
        let [data_names, tree_names] = &self.fresh;
        let (names, counter) = match kind {
            BlobType::Data => (data_names, &self.stats.data_blobs),
            BlobType::Tree => (tree_names, &self.stats.tree_blobs),
        };
        if self.index.contains(kind, id) || !names.insert(id) {
            return false;
        }
        counter.fetch_add(1, Relaxed);
        self.stats.bytes_added.fetch_add(bytes, Relaxed);
        true
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    fn check(&self) -> Result<()> {
        if !self.has_failed() {
            return Ok(());
        }
        let kept = self.failure.lock();
        Err(match kept.as_ref() {
            Some(e) => {
                let again = Error::new(e.kind(), e.chain());
                match e.hint_text() {
                    Some(h) => again.hint(h),
                    None => again,
                }
            }
            None => Error::new(Kind::Bug, "the run failed without saying why"),
        })
    }
}

impl Writer {
    /// Starts the lanes. Call from a thread that may block or from a task: it does not wait.
    ///
    /// # Errors
    /// An unsupported compression level; no more threads.
    pub fn start(repo: &Repository, index: Arc<Index>, lock: Option<RepoLock>, mut options: WriterOptions) -> Result<Self> {
        if options.lanes == 0 {
            options.lanes = std::thread::available_parallelism().map_or(2, usize::from);
        }
        #[allow(clippy::disallowed_methods, reason = "the gate bounds what waits here, in bytes")]
        let (sender, receiver): (Sender<Job>, Receiver<Job>) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            packer: upload::Packer::new(lock, &options),
            repo: repo.clone(),
            index,
            fresh: [Fresh::new(), Fresh::new()],
            gate: Gate::new(options.queue_bytes),
            turn: Mutex::new(()),
            blocks: Blocks::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            stats: WriterStats::default(),
            options,
        });
        let mut handles = Vec::new();
        for n in 0..shared.options.lanes {
            let lane = Lane::new(shared.clone())?;
            let jobs = receiver.clone();
            let thread = std::thread::Builder::new().name(format!("lane-{n}")).spawn(move || lane.run(&jobs));
            handles.push(thread.map_err(|e| Error::new(Kind::Failed, "start a thread").because(e))?);
        }
        Ok(Self { shared, threads: Arc::new(Threads { jobs: Mutex::new(Some(sender)), handles: Mutex::new(handles) }) })
    }

    /// Hands a blob in and returns once there is room for it; `done` is called later, on a lane.
    pub fn submit(&self, kind: BlobType, data: Bytes, done: Done) {
        self.submit_pinning(kind, data, 0, done);
    }

    /// [`Writer::submit`] for a blob that is part of memory of which so many bytes are of no use to anybody.
    fn submit_pinning(&self, kind: BlobType, data: Bytes, unused: u64, done: Done) {
        let pinned = data.len() as u64 + unused;
        self.hand_in(Job { work: Work::Blob(kind, data), pinned, done });
    }

    /// Begins a directory with very many entries (about so many), to be handed in once it has them all.
    ///
    /// # Errors
    /// A compression level that does not exist.
    pub fn large_tree(&self, entries: usize) -> Result<LargeTree> {
        LargeTree::begin(entries, self.shared.options.level, self.shared.repo.format_version())
    }

    /// [`Writer::submit`] for a directory with very many entries.
    pub fn submit_large_tree(&self, tree: LargeTree, done: Done) {
        // Its memory is taken since before it is handed in.
        self.hand_in(Job { work: Work::Tree(tree), pinned: 0, done });
    }

    fn hand_in(&self, job: Job) {
        let pinned = job.pinned;
        self.shared.gate.enter(pinned);
        let sender = self.threads.jobs.lock().clone();
        if let Some(sender) = sender {
            // Lanes live as long as the sender, so this cannot fail while one is there.
            if sender.send(job).is_err() {
                self.shared.fail(Error::new(Kind::Bug, "no lane takes work"));
                self.shared.gate.leave(pinned);
            }
        }
    }

    /// Begins a file whose bytes are pushed in.
    #[must_use]
    pub fn file(&self, chunking: Chunking) -> FileWriter {
        FileWriter::new(self.clone(), chunking)
    }

    /// Stores a directory's entries and waits for its name. Entries in ascending order of raw name.
    ///
    /// # Errors
    /// Entries out of order or with impossible names; a failed run.
    pub fn tree(&self, nodes: &[Node]) -> Result<Id> {
        let bytes = tree::encode_tree(nodes)?;
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let done: Done = Box::new(move |_, saved| {
            // The receiver waits below; it goes away only with its thread.
            let _gone = sender.send(saved).is_err();
        });
        self.submit(BlobType::Tree, Bytes::from(bytes), done);
        match receiver.recv() {
            Ok(Some(saved)) => Ok(saved.id),
            _ => Err(self.check().err().unwrap_or_else(|| Error::new(Kind::Bug, "a tree was not stored"))),
        }
    }

    /// The first failure of the run, if any: uploads fail later than the call that caused them.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Marks the run as failed, for callers that found the reason.
    pub fn fail(&self, error: Error) {
        self.shared.fail(error);
    }

    /// Counters, live.
    #[must_use]
    pub fn stats(&self) -> &WriterStats {
        &self.shared.stats
    }

    /// Whether the repository has the blob, from before or from this run's start.
    #[must_use]
    pub fn has_data(&self, id: &Id) -> bool {
        self.shared.index.contains(BlobType::Data, id)
    }

    /// Writes what is still open (packs, then index), so that nothing uploaded is lost when the run ends without a
    /// snapshot. All files and trees handed in must be done. Blocks.
    ///
    /// # Errors
    /// The first failure of the run.
    pub fn flush(&self) -> Result<()> {
        self.threads.stop();
        // What was acknowledged goes into the index even if the run failed: the next run then uses it.
        let flushed = self.shared.packer.finish(&self.shared);
        self.shared.check()?;
        flushed
    }

    /// [`Writer::flush`], then the lock check, then the snapshot: the commit point. If the lock turns out to be lost
    /// while the snapshot was being written, the snapshot is taken back. Blocks.
    ///
    /// # Errors
    /// The first failure of the run, or [`Kind::Locked`] if the lock was lost; no snapshot then.
    pub fn commit(&self, snapshot: &SnapshotFile) -> Result<Id> {
        self.flush()?;
        self.shared.packer.commit(&self.shared, snapshot)
    }
}
