//! The files of a data directory into the writer, directory by directory; the files of one in parallel.
//!
//! **Memory.** Each of a few readers has a MiB in hand, and 4 MiB more for a large file that is no relation; what they hand in
//! is bounded by the writer's queue. Then the entries of the directories on the way down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::Run;
use super::super::stats::ArchiveStats;
use super::entries;
use super::incoming::Incoming;
use super::layout::{self, Former};
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{BadPage, Metadata, Node, NodeKind};
use crate::repository::{Blocks, Chunking, FileContent, FileWriter, PendingFile, Writer};
use crate::runtime::Cancel;
use crate::source::pg_base::{
    Content, DataDirectory, Dir, Entry, EntryKind, Facts, FileClass, FileReader, ManifestFile, ManifestWriter, READ_BYTES,
    Settings,
};

/// So often the control file is read where its checksum is wrong, so far apart.
const CONTROL_TRIES: u32 = 500;
const CONTROL_PAUSE: Duration = Duration::from_millis(10);
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
    /// How many there are.
    pub(super) bad_page_count: u64,
    /// Pages that look bad in a stream, until the server is heard.
    pub(super) suspects: Vec<BadPage>,
}

impl Problems {
    /// Notes a page with a wrong checksum.
    pub(super) fn bad_page(&mut self, page: BadPage) {
        self.missing.push(format!("{}: the checksum of block {} is wrong; it is stored as it was read", page.file, page.block));
        self.bad_page_count += 1;
        if self.bad_pages.len() < LISTED_PAGES {
            self.bad_pages.push(page);
        }
    }
}

/// The data directory as it was stored, but for what comes at the end.
pub(super) struct Root {
    /// Without `pg_wal`.
    pub(super) nodes: Vec<Node>,
    pub(super) meta: Metadata,
    /// `pg_wal` without WAL.
    pub(super) wal: Option<(Metadata, Vec<Node>)>,
    /// Directories of the tablespaces to which `nodes` has links.
    pub(super) spaces: Vec<Node>,
    /// Those of tablespaces that lie in `pg_tblspc` itself.
    pub(super) inside: Vec<Node>,
}

/// Copies a data directory.
pub(super) struct Copier<'a> {
    directory: &'a DataDirectory,
    writer: &'a Writer,
    cancel: &'a Cancel,
    stats: Arc<ArchiveStats>,
    content: Content,
    former: Former,
    readers: usize,
    has_parent: bool,
    throttle: Throttle,
    blocks: Blocks,
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
        former: Former,
    ) -> Result<Self> {
        Ok(Self {
            directory,
            writer,
            cancel,
            stats: run.request.progress.source.clone(),
            content,
            former,
            readers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8),
            has_parent: run.parent.is_some(),
            throttle: Throttle::new(settings.max_rate),
            blocks: Blocks::default(),
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
        let listed = self.list(&root)?;
        let (mut global, mut wal, mut nodes) = (None, None, Vec::new());
        let (mut spaces, mut inside) = (Vec::new(), Vec::new());
        let mut files = Vec::new();
        for entry in listed {
            match (entry.kind, entry.name.as_slice()) {
                (EntryKind::Dir { .. }, b"global") => global = Some(entry),
                (EntryKind::Dir { .. }, b"pg_wal") => wal = self.wal_directory(&root, &entry)?,
                (EntryKind::Dir { .. }, b"pg_tblspc") => {
                    nodes.extend(self.tablespaces(&root, &entry, (&mut spaces, &mut inside))?);
                }
                (EntryKind::File(_), _) => files.push(entry),
                _ => nodes.extend(self.subdirectory(&root, &entry)?),
            }
        }
        nodes.extend(self.files(&root, files)?);
        let global = global.ok_or_else(|| Error::new(Kind::Corrupt, "the data directory has no directory `global`"))?;
        nodes.push(self.global(&root, &global)?);
        Ok(Root { nodes, meta: root.meta().clone(), wal, spaces, inside })
    }

    /// The server changes `pg_control` last whenever it writes; so it is read last, or replay could end too early.
    fn global(&self, root: &Dir, entry: &Entry) -> Result<Node> {
        let gone =
            || Error::new(Kind::Corrupt, "the control file is gone").hint("Was the data directory replaced during the backup?");
        let dir = self.directory.enter(root, entry)?.ok_or_else(gone)?;
        let listed = self.list(&dir)?;
        let (control, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(|e| e.name == b"pg_control");
        let mut nodes = self.entries(&dir, others)?;
        if control.is_empty() {
            return Err(gone());
        }
        nodes.extend(self.files(&dir, control)?);
        // It was listed; what is gone since then has no node.
        match nodes.iter().find(|n| n.name == b"pg_control") {
            Some(node) if node.error.is_none() => {}
            Some(_) => return Err(Error::new(Kind::Failed, "the control file cannot be read")),
            None => return Err(gone()),
        }
        Ok(entries::directory(&entry.name, dir.meta().clone(), entries::tree(self.writer, &mut nodes)?))
    }

    /// `pg_tblspc`. What its links lead to goes into `spaces`, directories in it into `inside`, too.
    fn tablespaces(&self, root: &Dir, entry: &Entry, (spaces, inside): (&mut Vec<Node>, &mut Vec<Node>)) -> Result<Option<Node>> {
        let Some(dir) = self.directory.enter(root, entry)? else { return Ok(None) };
        let listed = self.list(&dir)?;
        let is_space = |e: &Entry| e.kind == EntryKind::Dir { linked: true } && e.name.iter().all(u8::is_ascii_digit);
        let (linked, others): (Vec<_>, Vec<_>) = listed.into_iter().partition(is_space);
        let mut nodes = self.entries(&dir, others)?;
        inside.extend(nodes.iter().filter(|n| matches!(n.kind, NodeKind::Dir { .. })).cloned());
        for space in linked {
            if let Some(node) = self.subdirectory(&dir, &space)? {
                nodes.push(entries::tablespace_link(&node.name, &node.meta));
                spaces.push(node);
            }
        }
        Ok(Some(entries::directory(&entry.name, dir.meta().clone(), entries::tree(self.writer, &mut nodes)?)))
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
                let listed = self.list(&dir)?;
                (dir.meta().clone(), self.entries(&dir, listed)?)
            }
        };
        Ok(Some(entries::directory(&entry.name, meta, entries::tree(self.writer, &mut nodes)?)))
    }

    fn entries(&self, dir: &Dir, entries: Vec<Entry>) -> Result<Vec<Node>> {
        let (files, directories): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| matches!(e.kind, EntryKind::File(_)));
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
        let former = self.former.directory(dir.relative());
        let next = AtomicUsize::new(0);
        let taken: Vec<Mutex<Option<Taken>>> = entries.iter().map(|_| Mutex::default()).collect();
        let work = || -> Result<()> {
            while let Some(&at) = order.get(next.fetch_add(1, Relaxed)) {
                self.cancel.check()?;
                self.writer.check()?;
                let (Some(entry), Some(place)) = (entries.get(at), taken.get(at)) else { break };
                *place.lock() = self.file(dir, entry, &former)?;
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
        let mut nodes = Vec::with_capacity(entries.len());
        for (entry, taken) in entries.into_iter().zip(taken) {
            let node = match taken.into_inner() {
                None => continue,
                Some(Taken::Unreadable(error)) => {
                    Node { error: Some(error), ..entries::file(&entry.name, entry.meta, FileContent::default()) }
                }
                Some(Taken::Whole { file, crc }) => {
                    let content = file.wait()?;
                    let (path, modified) = (dir.relative_of(&entry.name), entry.meta.mtime);
                    self.manifest.lock().add(&ManifestFile { path, size: content.size, modified, crc })?;
                    count(&self.stats, self.has_parent, &content);
                    entries::file(&entry.name, entry.meta, content)
                }
            };
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// Reads one file and hands its blobs in. `None`: it is gone. Errors of the file itself are noted, those of the run returned.
    fn file(&self, dir: &Dir, entry: &Entry, former: &layout::Directory) -> Result<Option<Taken>> {
        let EntryKind::File(class) = entry.kind else { return Ok(None) };
        let mut file = match self.directory.open_file(dir, entry) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(e) => return Ok(Some(self.unreadable(&e))),
        };
        if dir.relative() == b"global" && entry.name == b"pg_control" {
            return self.control(dir, entry, file, former).map(Some);
        }
        let layout = self.former.layout(former, &entry.name, file.size());
        let mut into = Incoming::new(self.writer, class, file.size(), layout);
        loop {
            self.cancel.check()?;
            let data = match self.read(&mut file, class) {
                Ok(data) => data,
                Err(e) => return Ok(Some(self.unreadable(&e))),
            };
            if data.is_empty() {
                break;
            }
            into.push(data).context(|| file.path().display().to_string())?;
        }
        self.note_bad_pages(dir, entry, &file);
        let crc = file.crc();
        Ok(Some(Taken::Whole { file: into.end()?, crc }))
    }

    /// The control file, in a state in which its checksum is right: the server may be writing it while it is read, and a copy of
    /// that would be worth nothing.
    fn control(&self, dir: &Dir, entry: &Entry, mut file: FileReader, former: &layout::Directory) -> Result<Taken> {
        let mut tries = CONTROL_TRIES;
        loop {
            tries -= 1;
            let mut data = Vec::with_capacity(file.next_length());
            let read = file.read(FileClass::Other, &self.content, &mut data);
            match read.and_then(|()| crate::postgres::control::parse(&data)) {
                Ok(_) => {
                    let mut into = Incoming::new(
                        self.writer,
                        FileClass::Other,
                        file.size(),
                        self.former.layout(former, &entry.name, file.size()),
                    );
                    self.stats.bytes_read.fetch_add(data.len() as u64, Relaxed);
                    into.push(Bytes::from(data)).context(|| file.path().display().to_string())?;
                    return Ok(Taken::Whole { file: into.end()?, crc: file.crc() });
                }
                Err(e) if e.kind() == Kind::Corrupt && tries > 0 => {
                    self.cancel.check()?;
                    std::thread::sleep(CONTROL_PAUSE);
                    file = match self.directory.open_file(dir, entry) {
                        Ok(Some(file)) => file,
                        Ok(None) => return Ok(self.unreadable(&e)),
                        Err(e) => return Ok(self.unreadable(&e)),
                    };
                }
                Err(e) => return Ok(self.unreadable(&e.context(file.path().display().to_string()))),
            }
        }
    }

    fn read(&self, file: &mut FileReader, class: FileClass) -> Result<Bytes> {
        let length = file.next_length();
        // A small file does not hold a large block.
        let pooled = length > READ_BYTES / 2;
        let mut buffer = if pooled { self.blocks.take(READ_BYTES) } else { Vec::with_capacity(length) };
        file.read(class, &self.content, &mut buffer)?;
        self.stats.bytes_read.fetch_add(buffer.len() as u64, Relaxed);
        self.throttle.take(buffer.len() as u64, self.cancel);
        Ok(if pooled { self.blocks.share(buffer) } else { Bytes::from(buffer) })
    }

    /// What is in a directory. What cannot be taken from there is noted.
    fn list(&self, dir: &Dir) -> Result<Vec<Entry>> {
        let listing = self.directory.list(dir)?;
        let mut problems = self.problems.lock();
        problems.warnings.extend(listing.warnings);
        problems.missing.extend(listing.missing);
        Ok(listing.entries)
    }

    fn unreadable(&self, error: &Error) -> Taken {
        self.problems.lock().missing.push(error.chain());
        Taken::Unreadable(error.chain())
    }

    fn note_bad_pages(&self, dir: &Dir, entry: &Entry, file: &FileReader) {
        if file.bad_pages().is_empty() {
            return;
        }
        let path = String::from_utf8_lossy(&dir.relative_of(&entry.name)).into_owned();
        let mut problems = self.problems.lock();
        for &block in file.bad_pages() {
            problems.bad_page(BadPage { file: path.clone(), block });
        }
    }
}

/// Counts a file. There is no looking into the last snapshot: a file that added nothing is as it was.
pub(super) fn count(stats: &ArchiveStats, has_parent: bool, content: &FileContent) {
    let counter = match (has_parent, content.stored) {
        (false, _) => &stats.files_new,
        (true, 0) => &stats.files_unmodified,
        (true, _) => &stats.files_changed,
    };
    counter.fetch_add(1, Relaxed);
    stats.bytes_total.fetch_add(content.size, Relaxed);
}

/// What came of a file.
enum Taken {
    Whole { file: PendingFile, crc: u32 },
    Unreadable(String),
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
