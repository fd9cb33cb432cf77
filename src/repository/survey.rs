//! What is really in a repository: snapshots, index and the listing of packs, with everything that does not fit together.
//! The common ground of checks, which report it, and prunes, which refuse to work on it.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::index::{Index, IndexBuilder, IndexFile, IndexedPack};
use super::index_files::{self, Source};
use super::pack::expected_pack_size;
use super::snapshot::Snapshot;
use super::{Repository, raw};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Time};

/// What was found wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Whether something is damaged or missing. `false`: untidy, but every snapshot is whole.
    pub is_error: bool,
    /// One sentence that names the object.
    pub what: String,
}

impl Finding {
    pub(super) fn error(what: impl Into<String>) -> Self {
        Self { is_error: true, what: what.into() }
    }

    pub(super) fn notice(what: impl Into<String>) -> Self {
        Self { is_error: false, what: what.into() }
    }
}

/// Findings, of which the first thousand are kept and all are counted.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Findings {
    /// How many are errors.
    pub errors: u64,
    /// How many are not.
    pub notices: u64,
    /// The first [`Findings::KEPT`], in the order found.
    pub list: Vec<Finding>,
}

impl Findings {
    /// How many are kept as sentences.
    pub const KEPT: usize = 1000;

    pub(super) fn add(&mut self, finding: Finding) {
        if finding.is_error {
            self.errors += 1;
        } else {
            self.notices += 1;
        }
        if self.list.len() < Self::KEPT {
            self.list.push(finding);
        }
    }

    fn absorb(&mut self, other: Self) {
        self.errors += other.errors;
        self.notices += other.notices;
        self.list.extend(other.list.into_iter().take(Self::KEPT - self.list.len().min(Self::KEPT)));
    }

    /// The first error's sentence.
    pub(super) fn first_error(&self) -> Option<&str> {
        self.list.iter().find(|f| f.is_error).map(|f| f.what.as_str())
    }
}

/// What index and listing say about a pack. 40 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PackFacts {
    /// Length of the file that the index describes.
    pub(super) expected: u64,
    /// Length of the file that is there; `None`: there is none.
    pub(super) listed: Option<u64>,
    /// Number of the index file (in [`Survey::index_files`]) that described it first.
    pub(super) index_file: u32,
    /// Whether more than one index file, or one more than once, describes it.
    pub(super) repeated: bool,
    /// Whether it holds both data and trees.
    pub(super) mixed: bool,
}

/// An index file.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexFileFacts {
    pub(super) id: Id,
    pub(super) blobs: u32,
}

/// A pack that no index describes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orphan {
    pub(super) id: Id,
    pub(super) size: u64,
    /// By the store's clock.
    pub(super) modified: Time,
}

pub(super) struct Survey {
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) index: Arc<Index>,
    /// By number of the pack in the index.
    pub(super) packs: Vec<PackFacts>,
    pub(super) index_files: Vec<IndexFileFacts>,
    pub(super) orphans: Vec<Orphan>,
    pub(super) findings: Findings,
    /// The first snapshot or index file that does not load: what is needed cannot be told then.
    pub(super) unreadable: Option<String>,
}

/// Looks at everything but the contents of packs. Snapshots are read before index files, and these before the listing of
/// packs, so that writers at work only ever seem to have left something extra.
///
/// # Errors
/// Only the store's failures: what is damaged is a finding.
pub(super) async fn survey(repo: &Repository) -> Result<Survey> {
    let mut findings = Findings::default();
    let snapshots = load_snapshots(repo, &mut findings).await?;
    let mut loaded = load_index(repo, &mut findings).await?;
    let unreadable = findings.first_error().map(str::to_owned);
    let orphans = list_packs(repo, &mut loaded.facts).await?;
    let index = tokio::task::spawn_blocking(move || loaded.builder.build());
    let index = Arc::new(index.await.map_err(|e| Error::new(Kind::Bug, "an index thread ended").because(e))?);
    let mut packs = Vec::with_capacity(index.packs().len());
    for id in index.packs() {
        let facts = loaded.facts.get(id).copied().unwrap_or_default();
        match facts.listed {
            None => findings.add(Finding::error(format!("pack {id} is in the index but not in the store"))),
            Some(size) if size != facts.expected => {
                findings.add(Finding::error(format!("pack {id} has {size} bytes; the index describes {}", facts.expected)));
            }
            Some(_) => {}
        }
        if facts.mixed {
            findings.add(Finding::notice(format!("pack {} holds data and trees; a prune separates them", id.short())));
        }
        packs.push(facts);
    }
    if !orphans.is_empty() {
        let bytes: u64 = orphans.iter().map(|o| o.size).sum();
        findings.add(Finding::notice(format!(
            "{} packs ({bytes} bytes) are in no index: left by a broken run, or being written now",
            orphans.len()
        )));
    }
    Ok(Survey { snapshots, index, packs, index_files: loaded.files, orphans, findings, unreadable })
}

async fn load_snapshots(repo: &Repository, findings: &mut Findings) -> Result<Vec<Snapshot>> {
    let listed = raw::list(repo.store().as_ref(), "snapshots").await?;
    let load = |(id, _)| async move {
        let loaded = raw::load(repo.store().as_ref(), "snapshots", &id).await.and_then(|bytes| raw::decode(repo.key(), &bytes));
        (id, loaded)
    };
    let mut loads = futures::stream::iter(listed).map(load).buffer_unordered(8);
    let (mut snapshots, mut missing) = (Vec::new(), Vec::new());
    while let Some((id, loaded)) = loads.next().await {
        match loaded {
            Ok(file) => snapshots.push(Snapshot { id, file }),
            Err(e) if e.kind() == Kind::NotFound => missing.push(id),
            Err(e) => keep_damage(e, "snapshot", &id, findings)?,
        }
    }
    for id in raw::contradicted(repo.store().as_ref(), "snapshots", missing).await? {
        keep_damage(raw::contradiction(), "snapshot", &id, findings)?;
    }
    snapshots.sort_by_key(|s| (s.file.time, s.id));
    Ok(snapshots)
}

#[derive(Default)]
struct LoadedIndex {
    builder: IndexBuilder,
    facts: HashMap<Id, PackFacts>,
    files: Vec<IndexFileFacts>,
    findings: Findings,
}

async fn load_index(repo: &Repository, findings: &mut Findings) -> Result<LoadedIndex> {
    let listed = raw::list(repo.store().as_ref(), "index").await?;
    let bytes: u64 = listed.iter().map(|(_, m)| m.size).sum();
    let loaded = LoadedIndex { builder: IndexBuilder::with_capacity((bytes / 60) as usize), ..LoadedIndex::default() };
    let mut loaded = index_files::read_all(repo, listed, Source::Store, loaded, |loaded, id, file| match file {
        Ok(file) => {
            loaded.add(id, file);
            Ok(())
        }
        Err(e) => keep_damage(e, "index", &id, &mut loaded.findings),
    })
    .await?;
    findings.absorb(std::mem::take(&mut loaded.findings));
    Ok(loaded)
}

impl LoadedIndex {
    fn add(&mut self, id: Id, file: IndexFile) {
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let mut blobs = 0;
        for pack in &file.packs {
            blobs += pack.blobs.len();
            let facts = facts_of(pack, number);
            if let Some(known) = self.facts.get_mut(&pack.id) {
                known.repeated = true;
                if known.expected == facts.expected {
                    self.findings.add(Finding::notice(format!(
                        "pack {} is described more than once; a prune tidies that up",
                        pack.id.short()
                    )));
                } else {
                    self.findings.add(Finding::error(format!(
                        "index {} and another one describe pack {} differently",
                        id.short(),
                        pack.id
                    )));
                }
            } else {
                self.facts.insert(pack.id, facts);
            }
        }
        self.files.push(IndexFileFacts { id, blobs: u32::try_from(blobs).unwrap_or(u32::MAX) });
        self.builder.add(id, file);
    }
}

fn facts_of(pack: &IndexedPack, index_file: u32) -> PackFacts {
    let expected = expected_pack_size(pack.blobs.iter().map(|b| (b.length, b.uncompressed_length != 0)));
    let mixed = pack.blobs.windows(2).any(|w| matches!(w, [a, b] if a.kind != b.kind));
    PackFacts { expected, listed: None, index_file, repeated: false, mixed }
}

/// Notes the length of every pack that is there; returns those that the index does not know.
async fn list_packs(repo: &Repository, facts: &mut HashMap<Id, PackFacts>) -> Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    let mut listed = repo.store().list("data/");
    while let Some(meta) = listed.try_next().await.map_err(Error::from).context(|| "list packs")? {
        let Some(id) = meta.key.as_str().rsplit('/').next().and_then(|name| name.parse::<Id>().ok()) else { continue };
        match facts.get_mut(&id) {
            Some(facts) => facts.listed = Some(meta.size),
            None => orphans.push(Orphan { id, size: meta.size, modified: meta.modified }),
        }
    }
    Ok(orphans)
}

/// Damage becomes a finding; that the store cannot be reached remains an error.
fn keep_damage(e: Error, folder: &str, id: &Id, findings: &mut Findings) -> Result<()> {
    match e.kind() {
        Kind::Corrupt => {
            findings.add(Finding::error(format!("{folder} {id} cannot be read: {}", e.chain())));
            Ok(())
        }
        _ => Err(e.context(format!("read {folder} {}", id.short()))),
    }
}
