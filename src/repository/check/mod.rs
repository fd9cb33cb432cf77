//! Is everything there that the snapshots need? Judged as stock `restic check` judges, and a little more strictly.
//!
//! 1. Every snapshot and every index file loads; no pack is described in two ways.
//! 2. Every pack of the index is in the store and has the length that its blobs add up to.
//! 3. Every tree that a snapshot reaches loads, its entries are in order, and everything they refer to is in the index.
//! 4. On demand, packs are read: their name, every blob, and the header against the index.
//!
//! Changes nothing. Hold a shared lock, so that no prune runs meanwhile; backups may.
//!
//! Memory: the index (48 B a blob), 4 more bytes a blob where data is read, and about 12 MiB a thread.

mod data;
mod structure;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::Repository;
use super::index::BlobType;
use super::reader::Reader;
use super::survey::{Finding, Findings, survey};
use super::walk::walk;
use crate::error::Result;
use crate::runtime::Cancel;

pub use data::{ParseReadDataError, ReadData};

/// How thorough a check is.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Which packs are read.
    pub read_data: ReadData,
    /// Threads that read and decrypt. 0 = one a processor, at most 4.
    pub threads: usize,
    /// Live counters.
    pub progress: Arc<CheckProgress>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { read_data: ReadData::None, threads: 0, progress: Arc::default() }
    }
}

/// Counters of a running check, only growing.
#[derive(Debug, Default)]
pub struct CheckProgress {
    /// Trees read.
    pub trees: AtomicU64,
    /// Packs that will be read; 0 until it is known.
    pub packs_total: AtomicU64,
    /// Packs read.
    pub packs: AtomicU64,
    /// Bytes of packs read.
    pub bytes: AtomicU64,
}

/// What a check found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckReport {
    /// Snapshots that could be read.
    pub snapshots: u64,
    /// Trees that they reach.
    pub trees: u64,
    /// Files in those trees; a file of two snapshots whose directory did not change counts once.
    pub files: u64,
    /// Packs in the index.
    pub packs: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Blobs that no snapshot needs: what a prune would free.
    pub unused_blobs: u64,
    /// Packs read.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Errors first means nothing: they are in the order found.
    pub findings: Findings,
}

impl CheckReport {
    /// Whether nothing is damaged or missing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.errors == 0
    }
}

/// Checks a repository. Blocks.
///
/// # Errors
/// Only what kept it from looking: the store's failures, cancellation. Damage is in the report.
pub fn check(repo: &Repository, options: &CheckOptions, cancel: &Cancel) -> Result<CheckReport> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(2, usize::from).min(4),
        n => n,
    };
    let survey = repo.runtime().block_on(survey(repo))?;
    let index = survey.index.clone();
    let reader = Reader::new(repo, index.clone());
    let structure = structure::Structure::new(&index, Mutex::new(survey.findings), &options.progress);
    let roots = survey.snapshots.iter().map(|s| s.file.tree);
    let trees = walk(&reader, roots, threads, &structure, cancel)?;
    let files = structure.files.load(Relaxed);
    let (used_data, findings) = (structure.used.count(), structure.findings);
    // Gives back the tree packs it kept.
    drop(reader);
    if options.read_data != ReadData::None {
        let present: Vec<u32> =
            (0u32..).zip(&survey.packs).filter(|(_, facts)| facts.listed.is_some()).map(|(number, _)| number).collect();
        data::read(repo, &index, options.read_data.choose(&index, present), threads, &findings, &options.progress, cancel)?;
    }
    let blobs = (index.entries(BlobType::Data).len() + index.entries(BlobType::Tree).len()) as u64;
    Ok(CheckReport {
        snapshots: survey.snapshots.len() as u64,
        trees: trees.count(),
        files,
        packs: index.packs().len() as u64,
        blobs,
        unused_blobs: blobs.saturating_sub(used_data + trees.count()),
        packs_read: options.progress.packs.load(Relaxed),
        bytes_read: options.progress.bytes.load(Relaxed),
        findings: findings.into_inner(),
    })
}

fn add(findings: &Mutex<Findings>, finding: Finding) {
    findings.lock().add(finding);
}
