//! One backup: lock → parent → source → packs → index → snapshot last.
//!
//! The same code serves the one-shot command and the daemon. A failure anywhere leaves no snapshot; what was uploaded
//! is indexed and used by the next run.

mod archive;
mod base;
mod manifest;
mod stats;
mod streams;
mod told;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::{Context, Error, Kind, Result};
use crate::model::{Environment, Id, JobName, Node, NodeKind, TenantName, Time};
use crate::repository::{
    Chunking, Index, LockHolder, LockMode, Reader, RepoLock, Repository, Snapshot, SnapshotFile, SnapshotSummary, Writer,
    WriterOptions, adopt_orphans,
};
use crate::runtime::{Cancel, Clock};
use crate::source::volume::{self, Totals, Volume};
use crate::source::{SourceSettings, Streams};

pub(crate) use base::look as base_source;
pub use manifest::{MANIFEST_FILE, Manifest, OWN_DIR};
pub use stats::ArchiveStats;
use told::Told;

/// Sentences kept of a long list of problems.
const KEPT_PROBLEMS: usize = 1000;

/// What to back up, and as whom.
pub struct Request {
    /// Environment of the tenant.
    pub environment: Environment,
    /// Whose data it is.
    pub tenant: TenantName,
    /// Name of the job; with the tenant it identifies the history that this snapshot continues.
    pub job: JobName,
    /// Where the data comes from.
    pub source: SourceSettings,
    /// How the writer works.
    pub writer: WriterOptions,
    /// Who holds the lock.
    pub holder: LockHolder,
    /// Store a near-empty volume although the last snapshot was large.
    pub allow_empty: bool,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Live counters, for progress.
    pub progress: Arc<Progress>,
}

/// Counters of a running backup. All in bytes or pieces, only growing.
#[derive(Debug, Default)]
pub struct Progress {
    /// What the source met.
    pub source: Arc<ArchiveStats>,
    /// Bytes of the last snapshot of the job: an estimate of the whole. 0 = unknown.
    pub expected_bytes: AtomicU64,
    /// Bytes stored in packs so far.
    pub stored_bytes: AtomicU64,
}

/// What a backup did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The new snapshot.
    pub snapshot: Id,
    /// The snapshot it was compared with.
    pub parent: Option<Id>,
    /// Whether everything asked for is in it. `false`: exit code 3.
    pub complete: bool,
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub ended: Time,
    /// Files seen.
    pub files: u64,
    /// Files new since the parent.
    pub files_new: u64,
    /// Files changed since the parent.
    pub files_changed: u64,
    /// Files taken over unread.
    pub files_unmodified: u64,
    /// Bytes of everything in the snapshot.
    pub bytes_total: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Bytes of new blobs before compression.
    pub bytes_added: u64,
    /// Bytes of new blobs in packs.
    pub bytes_stored: u64,
    /// What is missing; of a volume the first 1,000.
    pub missing: Vec<String>,
    /// How much is missing.
    pub missing_count: u64,
    /// What deserves a look; of a volume the first 1,000.
    pub warnings: Vec<String>,
    /// How much does.
    pub warning_count: u64,
    /// Pages with wrong checksums; `None` where nobody looked: no base backup, or a cluster without checksums.
    pub bad_pages: Option<u64>,
}

/// The hostname of a job's snapshots and so the key of its history: `<tenant>.<job>`.
#[must_use]
pub fn history_name(tenant: &TenantName, job: &JobName) -> String {
    format!("{tenant}.{job}")
}

/// Runs one backup to its end.
///
/// # Errors
/// Whatever kept the snapshot from being made; nothing in the repository refers to a failed run.
pub async fn run(repo: &Repository, request: Request, clock: Arc<dyn Clock>, cancel: &Cancel) -> Result<Report> {
    let what = format!("back up {}/{}", request.tenant, request.job);
    let lock = repo.lock(LockMode::Shared, &request.holder, cancel).await.context(|| what.clone())?;
    let outcome = run_locked(repo, request, clock, cancel, &lock).await.context(|| what);
    let released = lock.release().await;
    match (outcome, released) {
        (Ok(mut report), Err(e)) => {
            report.warnings.push(format!("the lock could not be removed: {}", e.chain()));
            report.warning_count += 1;
            Ok(report)
        }
        (outcome, _) => outcome,
    }
}

async fn run_locked(
    repo: &Repository,
    request: Request,
    clock: Arc<dyn Clock>,
    cancel: &Cancel,
    lock: &RepoLock,
) -> Result<Report> {
    let started = clock.now();
    let history = history_name(&request.tenant, &request.job);
    // Snapshots before the index: what a snapshot refers to is then in the index.
    let parent = repo.load_snapshots().await?.into_iter().filter(|s| s.file.hostname == history).max_by_key(|s| s.file.time);
    let index = load_index(repo, lock).await?;
    if let Some(summary) = parent.as_ref().and_then(|p| p.file.summary.as_ref()) {
        request.progress.expected_bytes.store(summary.total_bytes_processed, Relaxed);
    }
    let run = Run { repo: repo.clone(), index, parent, request, clock, cancel: cancel.clone(), lock: lock.clone(), started };
    tokio::task::spawn_blocking(move || run.go())
        .await
        .map_err(|e| Error::new(Kind::Bug, "a backup thread ended abnormally").because(e))?
}

/// The index, with what a run uploaded and did not live to describe, or was not able to.
async fn load_index(repo: &Repository, lock: &RepoLock) -> Result<Arc<Index>> {
    let index = repo.load_index().await?;
    let orphans = lock.follows_a_killed_run() || repo.may_have_orphans();
    // With other locks there may be other writers, whose packs are none of our business.
    if !orphans || repo.load_locks().await?.len() > 1 {
        return Ok(index);
    }
    match adopt_orphans(repo, &index, lock).await? {
        0 => Ok(index),
        packs => {
            tracing::info!(packs, "a broken run left packs that are now used");
            repo.load_index().await
        }
    }
}

/// A backup under way, on a thread that may block.
struct Run {
    repo: Repository,
    index: Arc<Index>,
    parent: Option<Snapshot>,
    request: Request,
    clock: Arc<dyn Clock>,
    cancel: Cancel,
    lock: RepoLock,
    started: Time,
}

/// What a source left for the snapshot.
struct Stored {
    roots: Vec<Node>,
    paths: Vec<String>,
    excludes: Vec<String>,
    missing: Told,
    warnings: Told,
    bad_pages: Option<u64>,
    facts: serde_json::Map<String, serde_json::Value>,
    /// Further tags of the snapshot.
    tags: Vec<String>,
    /// Further files of `.strongroom/`.
    own: Vec<Node>,
}

impl Run {
    fn go(self) -> Result<Report> {
        let mut options = self.request.writer.clone();
        if matches!(self.request.source, SourceSettings::PgBase(_)) {
            options = options.for_equal_chunks();
        }
        let writer = Writer::start(&self.repo, self.index.clone(), Some(self.lock.clone()), options)?;
        let stored = match &self.request.source {
            SourceSettings::Volume(settings) => self.volume(settings, &writer),
            SourceSettings::PgDump(settings) => self.streams(
                &mut crate::source::pg_dump::PgDump::new(settings.clone(), self.clock.clone()),
                &["/databases"],
                &writer,
            ),
            SourceSettings::PgBase(settings) => self.pg_base(settings, &writer),
            SourceSettings::Command(settings) => {
                let path = format!("/{}", settings.file);
                self.streams(&mut crate::source::command::Command::new(settings.clone(), self.clock.clone()), &[&path], &writer)
            }
        };
        let done = stored.and_then(|stored| {
            self.cancel.check()?;
            self.commit(&writer, stored)
        });
        // However late the run failed, what was uploaded is indexed, so that the next one need not do it again.
        if done.is_err()
            && let Err(flush) = writer.flush()
        {
            tracing::debug!("the failed run is not kept, or only in part: {}", flush.chain());
        }
        done
    }

    fn streams(&self, source: &mut dyn Streams, paths: &[&str], writer: &Writer) -> Result<Stored> {
        let mut collector = streams::Collector::new(writer.clone(), self.request.progress.source.clone(), self.started);
        let report = source.run(&mut collector, &self.cancel)?;
        Ok(Stored {
            roots: collector.finish()?,
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            excludes: Vec::new(),
            missing: report.missing.into(),
            bad_pages: None,
            warnings: report.warnings.into(),
            facts: report.facts,
            tags: Vec::new(),
            own: Vec::new(),
        })
    }

    fn volume(&self, settings: &volume::Settings, writer: &Writer) -> Result<Stored> {
        let ran = volume::hooks::pre(&settings.hooks, &self.cancel);
        let stored = ran.and_then(|()| self.volume_between_hooks(settings, writer));
        let after = volume::hooks::post(&settings.hooks, &self.cancel);
        match (stored, after) {
            (Ok(mut stored), Err(hook)) => {
                // Before those about files, of which the first are kept.
                stored.warnings.sentences.insert(0, hook.chain());
                stored.warnings.count += 1;
                Ok(stored)
            }
            (Err(e), Err(hook)) => Err(e.context(format!("a hook after it failed, too ({})", hook.chain()))),
            (stored, Ok(())) => stored,
        }
    }

    fn volume_between_hooks(&self, settings: &volume::Settings, writer: &Writer) -> Result<Stored> {
        let volume = Volume::open(settings)?;
        let root = volume.root()?;
        let lineage = volume.lineage()?;
        if lineage.is_empty() {
            return Err(
                Error::new(Kind::Config, "the root directory itself cannot be a volume").hint("Name a directory below it.")
            );
        }
        let parent = if self.request.force { None } else { self.parent_volume(&lineage) };
        let stats = self.request.progress.source.clone();
        let processors = || std::thread::available_parallelism().map_or(2, usize::from);
        // As many as hash and compress, which the memory budget decided; two, since one may wait for the disk.
        let walkers = if self.request.writer.lanes == 0 { processors() } else { self.request.writer.lanes }.clamp(2, 16);
        let archived = archive::archive(volume, root, parent, writer, stats.clone(), &self.cancel, walkers)?;
        let now = Totals { files: files(&stats), bytes: stats.bytes_total.load(Relaxed) };
        self.guard_blank(settings, now)?;
        let archive::Archived { mut tree, missing, warnings } = archived;
        let mut roots = Vec::new();
        for mut node in lineage.into_iter().rev() {
            if !roots.is_empty() {
                tree = writer.tree(&roots)?;
            }
            node.kind = NodeKind::Dir { subtree: Some(tree) };
            roots = vec![node];
        }
        let path = settings.path.to_string_lossy().into_owned();
        let mut facts = serde_json::Map::new();
        facts.insert("path".into(), path.clone().into());
        facts.insert("files".into(), now.files.into());
        facts.insert("bytes".into(), now.bytes.into());
        let excludes = settings.exclude.clone();
        let (bad_pages, tags, own) = (None, Vec::new(), Vec::new());
        Ok(Stored { roots, paths: vec![path], excludes, missing, warnings, bad_pages, facts, tags, own })
    }

    /// Refuses to record a volume that has nearly vanished: an unmounted or freshly created one.
    fn guard_blank(&self, settings: &volume::Settings, now: Totals) -> Result<()> {
        let Some(last) = self.parent.as_ref().and_then(|p| p.file.summary.as_ref()) else { return Ok(()) };
        let last = Totals { files: last.total_files_processed, bytes: last.total_bytes_processed };
        if self.request.allow_empty || settings.allow_empty {
            return Ok(());
        }
        match volume::looks_blank(now, last) {
            Some(reason) => Err(Error::new(Kind::Failed, format!("volume {} looks blank: {reason}", settings.path.display()))
                .hint("Check that the volume is mounted. If it is meant to be empty, run the backup once with --allow-empty.")),
            None => Ok(()),
        }
    }

    /// The volume's directory in the parent snapshot. None: everything is read.
    fn parent_volume(&self, lineage: &[Node]) -> Option<archive::Parent> {
        let parent = self.parent.as_ref()?;
        let reader = Reader::new(&self.repo, self.index.clone());
        let mut tree = parent.file.tree;
        for node in lineage {
            let found = match reader.entry(tree, &node.name) {
                Ok(found) => found,
                Err(e) => {
                    tracing::warn!("the parent snapshot {} cannot be used: {}", parent.id.short(), e.chain());
                    return None;
                }
            };
            tree = match found?.kind {
                NodeKind::Dir { subtree } => subtree?,
                _ => return None,
            };
        }
        let scanned = parent.file.summary.as_ref().map_or(parent.file.time, |s| s.backup_start);
        Some(archive::Parent { reader, tree, scanned })
    }

    fn commit(&self, writer: &Writer, mut stored: Stored) -> Result<Report> {
        let ended = self.clock.now();
        let complete = stored.missing.is_empty();
        let roots = self.add_manifest(writer, &mut stored, ended)?;
        let tree = writer.tree(&roots)?;
        let (stats, written) = (self.request.progress.source.clone(), writer.stats());
        let mut tags = vec![format!("job={}", self.request.job), format!("source={}", self.request.source.kind())];
        tags.append(&mut stored.tags);
        if !complete {
            tags.push("incomplete".to_owned());
        }
        let get = |n: &AtomicU64| n.load(Relaxed);
        // Packs are flushed by the commit below; counts of blobs are final here but for the root just handed in.
        let summary = SnapshotSummary {
            backup_start: self.started,
            backup_end: ended,
            files_new: get(&stats.files_new),
            files_changed: get(&stats.files_changed),
            files_unmodified: get(&stats.files_unmodified),
            dirs_new: get(&stats.dirs_new),
            dirs_changed: get(&stats.dirs_changed),
            dirs_unmodified: get(&stats.dirs_unmodified),
            data_blobs: get(&written.data_blobs),
            tree_blobs: get(&written.tree_blobs),
            data_added: get(&written.bytes_added),
            data_added_packed: get(&written.bytes_stored),
            total_files_processed: files(&stats),
            total_bytes_processed: get(&stats.bytes_total),
        };
        let file = SnapshotFile {
            time: self.started,
            parent: self.parent.as_ref().map(|p| p.id),
            tree,
            paths: stored.paths,
            hostname: history_name(&self.request.tenant, &self.request.job),
            username: self.request.holder.username.clone(),
            excludes: stored.excludes,
            tags,
            program_version: concat!("strongroom ", env!("CARGO_PKG_VERSION")).to_owned(),
            summary: Some(summary),
            ..SnapshotFile::default()
        };
        self.cancel.check()?;
        let snapshot = writer.commit(&file)?;
        Ok(Report {
            snapshot,
            parent: file.parent,
            complete,
            started: self.started,
            ended: self.clock.now(),
            files: files(&stats),
            files_new: get(&stats.files_new),
            files_changed: get(&stats.files_changed),
            files_unmodified: get(&stats.files_unmodified),
            bytes_total: get(&stats.bytes_total),
            bytes_read: get(&stats.bytes_read),
            bytes_added: get(&writer.stats().bytes_added),
            bytes_stored: get(&writer.stats().bytes_stored),
            missing: stored.missing.sentences,
            missing_count: stored.missing.count,
            warnings: stored.warnings.sentences,
            warning_count: stored.warnings.count,
            bad_pages: stored.bad_pages,
        })
    }

    /// The snapshot's root: the source's entries and `.strongroom/`.
    fn add_manifest(&self, writer: &Writer, stored: &mut Stored, ended: Time) -> Result<Vec<Node>> {
        let root_trees = stored.roots.iter().filter_map(|n| match &n.kind {
            NodeKind::Dir { subtree: Some(id) } => Some((n.display_name().into_owned(), *id)),
            _ => None,
        });
        let first = |list: &[String]| list.iter().take(KEPT_PROBLEMS).cloned().collect::<Vec<_>>();
        let manifest = Manifest {
            version: manifest::MANIFEST_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            environment: self.request.environment.to_string(),
            tenant: self.request.tenant.to_string(),
            job: self.request.job.to_string(),
            source: self.request.source.kind().to_owned(),
            started: self.started,
            ended,
            complete: stored.missing.is_empty(),
            roots: root_trees.collect::<BTreeMap<_, _>>(),
            missing: first(&stored.missing.sentences),
            missing_count: stored.missing.count,
            warnings: first(&stored.warnings.sentences),
            facts: stored.facts.clone(),
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::new(Kind::Bug, "write the manifest").because(e))?;
        let mut file = writer.file(Chunking::Stream);
        file.write_all(&text).context(|| "store the manifest")?;
        let node = streams::file_node(MANIFEST_FILE, &file.finish()?, self.started);
        let mut files = std::mem::take(&mut stored.own);
        files.push(node);
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let own = streams::dir_node(OWN_DIR, writer.tree(&files)?, self.started);
        let mut roots = std::mem::take(&mut stored.roots);
        if roots.iter().any(|n| n.name == own.name) {
            return Err(Error::new(Kind::Config, format!("the source has an entry named {OWN_DIR} at its root"))
                .hint("Back up a directory below, or rename the entry."));
        }
        roots.push(own);
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(roots)
    }
}

fn files(stats: &ArchiveStats) -> u64 {
    stats.files_new.load(Relaxed) + stats.files_changed.load(Relaxed) + stats.files_unmodified.load(Relaxed)
}
