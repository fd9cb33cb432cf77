//! Giving back the space of blobs that no snapshot needs.
//!
//! Two steps, so that what will be done can be shown and tested: [`plan_prune`] looks and decides, [`Prune::execute`]
//! does it under an exclusive lock. Order: new packs → new index → delete old index files → delete packs. A crash at
//! any point leaves blobs twice or packs without index, never a snapshot that lacks something; the next prune tidies up.
//!
//! It refuses to decide anything where it cannot tell what is needed: a snapshot, an index file or a tree that does not
//! load, a needed blob that is in no pack of the right length. Snapshots are removed elsewhere, before.
//!
//! Memory: the index (48 B a blob), 4 more bytes a blob, two packs, and about 12 MiB a thread.
//!
//! The seam for a prune in two phases, without the exclusive lock: the last step of [`Prune::execute`] alone makes
//! data unreachable, and everything it needs is a list of packs; marking them and sweeping later replaces it.

mod execute;
mod plan;
mod repack;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::by_pack::ByPack;
use super::index::{BlobType, Index};
use super::lock::RepoLock;
use super::marks::Marks;
use super::reader::Reader;
use super::survey::{Survey, survey};
use super::walk::{Visit, walk};
use super::{LockMode, Repository};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};
use crate::runtime::Cancel;

pub use plan::{MaxUnused, PruneOptions, PruneStats};

/// Counters of a running prune, only growing.
#[derive(Debug, Default)]
pub struct PruneProgress {
    /// Packs whose needed blobs were copied, out of [`PruneStats::packs_repacked`].
    pub packs_repacked: AtomicU64,
    /// Bytes of blobs copied.
    pub bytes_repacked: AtomicU64,
    /// Index files and packs deleted.
    pub deleted: AtomicU64,
}

/// A prune that was decided and not yet done.
pub struct Prune {
    repo: Repository,
    survey: Survey,
    by_pack: ByPack,
    plan: plan::Plan,
    options: PruneOptions,
}

/// Looks at the whole repository and decides. Changes nothing; a shared lock is enough if it is not executed. Blocks.
///
/// # Errors
/// [`Kind::Corrupt`] if it cannot be told what is needed, or something needed is missing; the store's failures.
pub fn plan_prune(repo: &Repository, options: &PruneOptions, cancel: &Cancel) -> Result<Prune> {
    let doing = || format!("plan a prune of the repository at {}", repo.store().location());
    let now = repo.runtime().block_on(repo.store().now()).map_err(Error::from).context(doing)?;
    let survey = repo.runtime().block_on(survey(repo)).context(doing)?;
    if let Some(what) = &survey.unreadable {
        return Err(refused(what)).context(doing);
    }
    let index = survey.index.clone();
    let used = Used { data: Marks::new(index.entries(BlobType::Data).len()), index: &index };
    let reader = Reader::new(repo, index.clone());
    let trees = walk(&reader, survey.snapshots.iter().map(|s| s.file.tree), options.threads(), &used, cancel).context(doing)?;
    let by_pack = ByPack::new(&index);
    let needed = plan::Needed { data: &used.data, trees: &trees };
    let plan = plan::decide(&survey, &by_pack, &needed, repo.format_version(), now, options).context(doing)?;
    drop(reader);
    Ok(Prune { repo: repo.clone(), survey, by_pack, plan, options: options.clone() })
}

impl Prune {
    /// What it will do, in numbers.
    #[must_use]
    pub fn stats(&self) -> &PruneStats {
        &self.plan.stats
    }

    /// Packs that will go, those whose needed blobs are copied first included.
    #[must_use]
    pub fn doomed_packs(&self) -> Vec<Id> {
        self.plan.doomed(&self.survey.index)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.plan.is_nothing()
    }

    /// Does what was planned. `lock` must be exclusive and held since before the planning. Blocks. After a failure or a
    /// cancellation the repository is whole, and planning again goes on from where it stopped.
    ///
    /// # Errors
    /// [`Kind::Locked`] if the lock was lost; [`Kind::Corrupt`] if a blob to be copied is damaged (nothing was deleted
    /// then); the store's failures.
    pub fn execute(&self, lock: &RepoLock, progress: &Arc<PruneProgress>, cancel: &Cancel) -> Result<()> {
        if lock.mode() != LockMode::Exclusive {
            return Err(Error::new(Kind::Bug, "a prune was started without an exclusive lock"));
        }
        execute::execute(self, lock, progress, cancel)
            .context(|| format!("prune the repository at {}", self.repo.store().location()))
    }
}

fn refused(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("it cannot be told what is still needed: {what}")).hint(
        "Nothing was deleted. Run `strongroom check`; once the damage is repaired, or the damaged snapshot removed, prune again.",
    )
}

/// Marks the data blobs of every file.
struct Used<'a> {
    index: &'a Index,
    data: Marks,
}

impl Visit for Used<'_> {
    fn node(&self, tree: &Id, node: &Node, _: Option<&[u8]>) -> Result<()> {
        let NodeKind::File { content, .. } = &node.kind else { return Ok(()) };
        for id in content {
            let Some(at) = self.index.position(BlobType::Data, id) else {
                let name = node.display_name();
                return Err(refused(&format!(
                    "blob {id} of file `{}` in tree {} is in no index",
                    name.escape_debug(),
                    tree.short()
                )));
            };
            self.data.set(at);
        }
        Ok(())
    }

    fn unreadable(&self, tree: &Id, error: Error) -> Result<()> {
        match error.kind() {
            Kind::Corrupt | Kind::NotFound => Err(refused(&format!("tree {tree}: {}", error.chain()))),
            _ => Err(error),
        }
    }
}
