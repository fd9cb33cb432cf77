//! The files of a data directory into the writer, directory by directory; the files of one in parallel.
//!
//! **Memory.** A few readers with [`READ_BYTES`] and one block of the chunker each, and the entries of the directories on the
//! way down.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::super::Run;
use super::super::stats::ArchiveStats;
use super::chunks::Chunks;
use super::entries;
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{BadPage, Metadata, Node, NodeKind};
use crate::repository::{BlobType, Chunking, Done, FileContent, FileWriter, SMALL_FILE, Saved, Writer};
use crate::runtime::Cancel;
use crate::source::pg_base::{
    Content, DataDirectory, Dir, Entry, EntryKind, Facts, FileClass, FileReader, ManifestFile, ManifestWriter, READ_BYTES, Settings,
};

/// Bad pages that are listed.
const LISTED_PAGES: usize = 1000;

/// The list of files that is written along the way.
pub(super) type Manifest = ManifestWriter<FileWriter, Digest>;

/// SHA-256 of the manifest's text.
pub(super) struct Digest(Sha256);

impl crate::source::pg_base::Digest for Digest {
    fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    fn finish(self) -> String {
        self.0.finish().to_hex()
    }
}

/// Begins the list of files.
pub(super) fn manifest(writer: &Writer, facts: &Facts) -> Result<Manifest> {
    ManifestWriter::begin(writer.file(Chunking::Stream), Digest(Sha256::default()), facts.major, facts.system_identifier)
}

/// What deserves a word at the end.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Makes the snapshot incomplete.
    pub(super) missing: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// The first of the pages with wrong checksums.
    pub(super) bad_pages: Vec<BadPage>,
}

/// The data directory as it was stored, but for what comes at the end.
pub(super) struct Root {
    /// Without `pg_wal`.
    pub(super) nodes: Vec<Node>,
    pub(super) meta: Metadata,
    /// `pg_wal` without WAL.
    pub(super) wal: Option<(Metadata, Vec<Node>)>,
}

/// Copies a data directory.
pub(super) struct Copier<'a> {
    directory: &'a DataDirectory,
    writer: &'a Writer,
    cancel: &'a Cancel,
    stats: Arc<ArchiveStats>,
    content: Content,
    chunk: u32,
    readers: usize,
    has_parent: bool,
    throttle: Throttle,
    manifest: Mutex<Manifest>,
    problems: Mutex<Problems>,
}

impl<'a> Copier<'a> {
    /// Nothing is read yet.
    #[allow(clippy::too_many_arguments, reason = "each is another side of the backup, and this is called once")]
    pub(super) fn begin(
        run: &Run,
        directory: &'a DataDirectory,
        writer: &'a Writer,
        cancel: &'a Cancel,
        settings: &Settings,
        facts: &Facts,
        content: Content,
        chunks: Chunks,
    ) -> Result<Self> {
        Ok(Self {
            directory,
            writer,
            cancel,
            stats: run.request.progress.source.clone(),
            content,
            chunk: chunks.bytes,
            readers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8),
            has_parent: run.parent.is_some(),
            throttle: Throttle::new(settings.max_rate),
            manifest: Mutex::new(manifest(writer, facts)?),
            problems: Mutex::default(),
        })
    }

    /// The list of files so far, and what went wrong.
    pub(super) fn into_parts(self) -> (Manifest, Problems) {
        (self.manifest.into_inner(), self.problems.into_inner())
    }

    /// Reads everything, `pg_control` last.
    pub(super) fn copy(&self) -> Result<Root> {
        let root = self.directory.root()?;
        let listing = self.directory.list(&root)?;
        self.problems.lock().warnings.extend(listing.warnings);
        let (mut global, mut wal, mut nodes) = (None, None, Vec::new());
        let mut files = Vec::new();
        for entry in listing.entries {
            match (entry.kind, entry.name.as_slice()) {
                (EntryKind::Dir { .. }, b"global") => global = Some(entry),
                (EntryKind::Dir { .. }, b"pg_wal") => wal = self.wal_directory(&root, &entry)?,
                (EntryKind::File(_), _) => files.push(entry),
                _ => nodes.extend(self.subdirectory(&root, &entry)?),
            }
        }
        nodes.extend(self.files(&root, files)?);
        let global = global.ok_or_else(|| Error::new(Kind::Corrupt, "the data directory has no directory `global`"))?;
        nodes.push(self.global(&root, &global)?);
        Ok(Root { nodes, meta: root.meta().clone(), wal })
    }

    /// The server changes `pg_control` last whenever it writes; so it is read last, or replay could end too early.
    fn global(&self, root: &Dir, entry: &Entry) -> Result<Node> {
        let gone = || Error::new(Kind::Corrupt, "the control file is gone").hint("Was the data directory replaced during the backup?");
        let dir = self.directory.enter(root, entry)?.ok_or_else(gone)?;
        let listing = self.directory.list(&dir)?;
        self.problems.lock().warnings.extend(listing.warnings);
        let (control, others): (Vec<_>, Vec<_>) = listing.entries.into_iter().partition(|e| e.name == b"pg_control");
        let mut nodes = self.entries(&dir, others)?;
        if control.is_empty() {
            return Err(gone());
        }
        nodes.extend(self.files(&dir, control)?);
        if nodes.iter().any(|n| n.name == b"pg_control" && n.error.is_some()) {
            return Err(Error::new(Kind::Failed, "the control file cannot be read"));
        }
        Ok(entries::directory(&entry.name, dir.meta().clone(), entries::tree(self.writer, &mut nodes)?))
    }

    /// `pg_wal` without any WAL.
    fn wal_directory(&self, root: &Dir, entry: &Entry) -> Result<Option<(Metadata, Vec<Node>)>> {
        let Some(dir) = self.directory.enter(root, entry)? else { return Ok(None) };
        let nodes = self.entries(&dir, self.directory.list(&dir)?.entries)?;
        Ok(Some((dir.meta().clone(), nodes)))
    }

    /// A directory and everything below. `None` if it is gone.
    fn subdirectory(&self, above: &Dir, entry: &Entry) -> Result<Option<Node>> {
        let (meta, mut nodes) = match entry.kind {
            EntryKind::Empty => (entry.meta.clone(), Vec::new()),
            _ => {
                let Some(dir) = self.directory.enter(above, entry)? else { return Ok(None) };
                let listing = self.directory.list(&dir)?;
                self.problems.lock().warnings.extend(listing.warnings);
                (dir.meta().clone(), self.entries(&dir, listing.entries)?)
            }
        };
        Ok(Some(entries::directory(&entry.name, meta, entries::tree(self.writer, &mut nodes)?)))
    }

    fn entries(&self, dir: &Dir, entries: Vec<Entry>) -> Result<Vec<Node>> {
        let (files, directories): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|e| matches!(e.kind, EntryKind::File(_)));
        let mut nodes = Vec::new();
        for entry in &directories {
            nodes.extend(self.subdirectory(dir, entry)?);
        }
        nodes.extend(self.files(dir, files)?);
        Ok(nodes)
    }

    /// The files of one directory, the largest first, so that no reader is left alone with one at the end.
    fn files(&self, dir: &Dir, entries: Vec<Entry>) -> Result<Vec<Node>> {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(entries.get(i).map_or(0, |e| e.size)));
        let (next, batch) = (AtomicUsize::new(0), Arc::new(Batch::new(entries.len())));
        let work = || -> Result<()> {
            while let Some(&at) = order.get(next.fetch_add(1, Relaxed)) {
                self.cancel.check()?;
                self.writer.check()?;
                let Some(entry) = entries.get(at) else { break };
                self.file(dir, entry, &batch, at)?;
            }
            Ok(())
        };
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            let run = || {
                if let Err(e) = work() {
                    next.store(usize::MAX / 2, Relaxed);
                    failure.lock().get_or_insert(e);
                }
            };
            for _ in 1..self.readers.min(entries.len()) {
                scope.spawn(run);
            }
            run();
        });
        if let Some(e) = failure.into_inner() {
            return Err(e);
        }
        let results = batch.wait(self.writer)?;
        let mut nodes = Vec::with_capacity(entries.len());
        let mut manifest = self.manifest.lock();
        for (entry, result) in entries.into_iter().zip(results) {
            let Some(read) = result else { continue };
            let mut node = entries::file(&entry.name, entry.meta, read.content);
            self.count(&node, read.stored);
            match read.error {
                None => manifest.add(&ManifestFile {
                    path: dir.relative_of(&entry.name),
                    size: node.size(),
                    modified: node.meta.mtime,
                    crc: read.crc,
                })?,
                Some(error) => {
                    node.kind = NodeKind::File { size: 0, content: Vec::new() };
                    node.error = Some(error);
                }
            }
            nodes.push(node);
        }
        Ok(nodes)
    }

    fn count(&self, node: &Node, stored: u64) {
        let counter = match (self.has_parent, stored) {
            (false, _) => &self.stats.files_new,
            (true, 0) => &self.stats.files_unmodified,
            (true, _) => &self.stats.files_changed,
        };
        counter.fetch_add(1, Relaxed);
        self.stats.bytes_total.fetch_add(node.size(), Relaxed);
    }

    /// Reads one file and hands its blobs in. Errors of the file itself are noted, those of the run returned.
    fn file(&self, dir: &Dir, entry: &Entry, batch: &Arc<Batch>, at: usize) -> Result<()> {
        let EntryKind::File(class) = entry.kind else { return Ok(()) };
        let mut file = match self.directory.open_file(dir, entry) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(()),
            Err(e) => return self.unreadable(&e, batch, at),
        };
        let (small, chunking) = match class {
            FileClass::Relation { .. } => (u64::from(self.chunk).min(READ_BYTES as u64), Chunking::Fixed(self.chunk)),
            FileClass::Other => (SMALL_FILE, Chunking::Content),
        };
        if file.size() <= small {
            let data = match self.read(&mut file, class) {
                Ok(data) => data,
                Err(e) => return self.unreadable(&e, batch, at),
            };
            batch.set(at, Outcome { content: FileContent { size: data.len() as u64, ..FileContent::default() }, crc: file.crc(), ..Outcome::default() });
            if !data.is_empty() {
                let batch = batch.clone();
                batch.expect_one();
                let done: Done = Box::new(move |_, saved| batch.saved(at, saved));
                self.writer.submit(BlobType::Data, Bytes::from(data), done);
            }
        } else {
            let mut out = self.writer.file(chunking);
            loop {
                self.cancel.check()?;
                let data = match self.read(&mut file, class) {
                    Ok(data) => data,
                    Err(e) => return self.unreadable(&e, batch, at),
                };
                if data.is_empty() {
                    break;
                }
                out.write_all(&data).context(|| format!("store {}", file.path().display()))?;
            }
            let content = out.finish().context(|| format!("store {}", file.path().display()))?;
            let stored = content.stored;
            batch.set(at, Outcome { content, stored, crc: file.crc(), error: None });
        }
        self.note_bad_pages(dir, entry, &file);
        Ok(())
    }

    fn read(&self, file: &mut FileReader, class: FileClass) -> Result<Vec<u8>> {
        let data = file.read(class, &self.content)?;
        self.stats.bytes_read.fetch_add(data.len() as u64, Relaxed);
        self.throttle.take(data.len() as u64, self.cancel);
        Ok(data)
    }

    fn unreadable(&self, error: &Error, batch: &Batch, at: usize) -> Result<()> {
        self.problems.lock().missing.push(error.chain());
        batch.set(at, Outcome { error: Some(error.chain()), ..Outcome::default() });
        Ok(())
    }

    fn note_bad_pages(&self, dir: &Dir, entry: &Entry, file: &FileReader) {
        if file.bad_pages().is_empty() {
            return;
        }
        let path = String::from_utf8_lossy(&dir.relative_of(&entry.name)).into_owned();
        let mut problems = self.problems.lock();
        for &block in file.bad_pages() {
            if problems.bad_pages.len() < LISTED_PAGES {
                problems.bad_pages.push(BadPage { file: path.clone(), block });
            }
            problems.missing.push(format!("{path}: the checksum of block {block} is wrong; it is stored as it was read"));
        }
    }
}

/// What came of a file.
#[derive(Debug, Default)]
struct Outcome {
    content: FileContent,
    /// Bytes that are new in the repository.
    stored: u64,
    crc: u32,
    /// It could not be read.
    error: Option<String>,
}

/// The files of one directory; those of one blob are done later, by the writer's lanes.
struct Batch {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    outcomes: Vec<Option<Outcome>>,
    pending: usize,
    failed: bool,
}

impl Batch {
    fn new(files: usize) -> Self {
        let outcomes = (0..files).map(|_| None).collect();
        Self { state: Mutex::new(State { outcomes, pending: 0, failed: false }), changed: Condvar::new() }
    }

    fn set(&self, at: usize, outcome: Outcome) {
        if let Some(slot) = self.state.lock().outcomes.get_mut(at) {
            *slot = Some(outcome);
        }
    }

    fn expect_one(&self) {
        self.state.lock().pending += 1;
    }

    fn saved(&self, at: usize, saved: Option<Saved>) {
        let mut state = self.state.lock();
        match (saved, state.outcomes.get_mut(at)) {
            (Some(saved), Some(Some(outcome))) => {
                outcome.content.content = vec![saved.id];
                outcome.stored = saved.stored;
            }
            _ => state.failed = true,
        }
        state.pending = state.pending.saturating_sub(1);
        if state.pending == 0 || state.failed {
            self.changed.notify_all();
        }
    }

    /// Waits for the lanes. `None`: the file was gone.
    fn wait(&self, writer: &Writer) -> Result<Vec<Option<Outcome>>> {
        let mut state = self.state.lock();
        while state.pending > 0 && !state.failed {
            // Woken by the last blob; the limit is for a lane that was lost with one.
            if self.changed.wait_for(&mut state, Duration::from_secs(1)).timed_out() {
                writer.check()?;
            }
        }
        if state.failed {
            writer.check()?;
            return Err(Error::new(Kind::Bug, "a file was not stored"));
        }
        Ok(std::mem::take(&mut state.outcomes))
    }
}

/// Keeps the reading below a rate, all readers together.
struct Throttle {
    rate: u64,
    since: Instant,
    bytes: std::sync::atomic::AtomicU64,
}

impl Throttle {
    fn new(rate: u64) -> Self {
        Self { rate, since: Instant::now(), bytes: std::sync::atomic::AtomicU64::new(0) }
    }

    fn take(&self, bytes: u64, cancel: &Cancel) {
        if self.rate == 0 {
            return;
        }
        let total = self.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let due = Duration::from_secs_f64(total as f64 / self.rate as f64);
        while let Some(wait) = due.checked_sub(self.since.elapsed()).filter(|w| !w.is_zero()) {
            if cancel.is_cancelled() {
                return;
            }
            std::thread::sleep(wait.min(Duration::from_millis(200)));
        }
    }
}
