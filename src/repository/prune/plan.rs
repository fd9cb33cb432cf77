//! The decision, from facts alone: which packs stay, which are copied in part, which go.

use std::time::Duration;

use super::refused;
use crate::error::Result;
use crate::model::{Id, Time};
use crate::repository::by_pack::ByPack;
use crate::repository::index::{BlobType, Index, IndexEntry};
use crate::repository::marks::Marks;
use crate::repository::survey::{PackFacts, Survey};

/// Index files with fewer blobs than this are merged once there are [`SMALL_FILES`] of them.
const SMALL_INDEX: u32 = 12_500;
const SMALL_FILES: usize = 8;
/// Small packs are merged once so many of them fill a whole one…
const SMALL_PACKS: usize = 8;
/// …or there are so many.
const MANY_SMALL_PACKS: usize = 32;

/// How much unneeded data may stay, to spare the copying of what lies beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// Percent of the repository after the prune.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
    /// Any amount: only packs of which nothing is needed go.
    Unlimited,
}

/// How a prune weighs space against work.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Default 5 %.
    pub max_unused: MaxUnused,
    /// Bytes copied at most in one run.
    pub max_repack: Option<u64>,
    /// Size at which a data pack is closed, in bytes. Packs of less than half of it are small.
    pub pack_size: usize,
    /// The same for tree packs.
    pub tree_pack_size: usize,
    /// Packs in no index stay until they are this old by the store's clock: clients that know no locks may be writing them.
    pub orphan_grace: Duration,
    /// Threads that copy. 0 = one a processor, at most 4.
    pub threads: usize,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            max_unused: MaxUnused::Percent(5.0),
            max_repack: None,
            pack_size: 16 << 20,
            tree_pack_size: 4 << 20,
            orphan_grace: Duration::from_secs(3600),
            threads: 0,
        }
    }
}

impl PruneOptions {
    /// Default options that keep to a memory budget in bytes, of which the index takes its part: two packs and 12 MiB a
    /// thread come on top of it.
    #[must_use]
    pub fn for_memory(budget: u64) -> Self {
        let small = budget < 512 << 20;
        Self { pack_size: if small { 8 << 20 } else { 16 << 20 }, threads: usize::from(small), ..Self::default() }
    }

    pub(super) fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from).min(4),
            n => n,
        }
    }

    pub(super) fn size(&self, kind: BlobType) -> u64 {
        match kind {
            BlobType::Data => self.pack_size as u64,
            BlobType::Tree => self.tree_pack_size as u64,
        }
    }
}

/// A plan in numbers. Bytes are stored bytes of blobs, except where packs are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PruneStats {
    /// Snapshots that decide what is needed.
    pub snapshots: u64,
    /// Bytes of needed blobs, each counted once.
    pub bytes_used: u64,
    /// Bytes of blobs that nothing needs, second copies included.
    pub bytes_unused: u64,
    /// Bytes of those that will still be there.
    pub bytes_unused_left: u64,
    /// Packs that stay as they are.
    pub packs_kept: u64,
    /// Packs whose needed blobs are copied.
    pub packs_repacked: u64,
    /// Packs of which nothing is needed.
    pub packs_deleted: u64,
    /// Packs of the index that are not in the store and that nothing needs.
    pub packs_forgotten: u64,
    /// Packs in no index that will be deleted.
    pub orphans_deleted: u64,
    /// Packs in no index that are too young.
    pub orphans_kept: u64,
    /// Bytes that are copied.
    pub bytes_repacked: u64,
    /// Bytes of packs that go, those of copied packs and orphans included.
    pub bytes_deleted: u64,
    /// Index files that are written anew.
    pub index_files_replaced: u64,
    /// Why nothing is done although there is something to do.
    pub held_back: Option<String>,
}

/// What becomes of a pack of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Repack,
    Delete,
    /// It is not there; only the index must forget it.
    Forget,
}

pub(super) struct Plan {
    /// By number of the pack.
    pub(super) fates: Vec<Fate>,
    /// Of the blobs in packs to be copied, the copies that survive; by position in the index.
    pub(super) keep_data: Marks,
    pub(super) keep_trees: Marks,
    pub(super) orphans: Vec<Id>,
    /// By number of the index file: whether it is replaced.
    pub(super) replaced: Vec<bool>,
    pub(super) stats: PruneStats,
}

impl Plan {
    pub(super) fn is_nothing(&self) -> bool {
        self.orphans.is_empty() && !self.replaced.contains(&true) && self.fates.iter().all(|f| *f == Fate::Keep)
    }

    pub(super) fn doomed(&self, index: &Index) -> Vec<Id> {
        let gone = self.fates.iter().zip(index.packs()).filter(|(fate, _)| matches!(fate, Fate::Repack | Fate::Delete));
        gone.map(|(_, id)| *id).chain(self.orphans.iter().copied()).collect()
    }

    pub(super) fn keeps(&self, kind: BlobType, position: usize) -> bool {
        match kind {
            BlobType::Data => self.keep_data.get(position),
            BlobType::Tree => self.keep_trees.get(position),
        }
    }
}

/// What snapshots need: a mark at the first entry of each blob.
pub(super) struct Needed<'a> {
    pub(super) data: &'a Marks,
    pub(super) trees: &'a Marks,
}

/// Per pack, summed up over its blobs.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    /// Bytes of all blobs.
    total: u64,
    /// Bytes of those that are kept here.
    used: u64,
    has_trees: bool,
    /// Trees that stock clients want compressed.
    has_raw_trees: bool,
}

/// Decides.
///
/// # Errors
/// If a needed blob is only in packs that are missing or of the wrong length.
pub(super) fn decide(
    survey: &Survey,
    by_pack: &ByPack,
    needed: &Needed<'_>,
    version: u32,
    now: Time,
    options: &PruneOptions,
) -> Result<Plan> {
    let index = survey.index.as_ref();
    let packs = survey.packs.len();
    let mut plan = Plan {
        fates: vec![Fate::Keep; packs],
        keep_data: Marks::new(index.entries(BlobType::Data).len()),
        keep_trees: Marks::new(index.entries(BlobType::Tree).len()),
        orphans: Vec::new(),
        replaced: vec![false; survey.index_files.len()],
        stats: PruneStats { snapshots: survey.snapshots.len() as u64, ..PruneStats::default() },
    };
    let mut sums = sum_up(index, by_pack, packs, version);
    choose_copies(index, BlobType::Data, needed.data, &survey.packs, &mut sums, &plan.keep_data)?;
    choose_copies(index, BlobType::Tree, needed.trees, &survey.packs, &mut sums, &plan.keep_trees)?;
    plan.stats.bytes_used = sums.iter().map(|s| s.used).sum();
    plan.stats.bytes_unused = sums.iter().map(|s| s.total - s.used).sum();
    if survey.snapshots.is_empty() && packs > 0 {
        plan.stats.held_back = Some("there is no snapshot, so that everything would go; that is never done".to_owned());
        plan.stats.packs_kept = packs as u64;
        plan.stats.bytes_unused_left = plan.stats.bytes_unused;
        return Ok(plan);
    }
    seal_fates(&mut plan, survey, &sums, options);
    for orphan in &survey.orphans {
        if now.seconds_since(orphan.modified) >= options.orphan_grace.as_secs_f64() {
            plan.orphans.push(orphan.id);
            plan.stats.bytes_deleted += orphan.size;
        } else {
            plan.stats.orphans_kept += 1;
        }
    }
    plan.stats.orphans_deleted = plan.orphans.len() as u64;
    replace_index_files(&mut plan, survey);
    Ok(plan)
}

fn sum_up(index: &Index, by_pack: &ByPack, packs: usize, version: u32) -> Vec<Sums> {
    let sum = |number| {
        by_pack.blobs(index, number).fold(Sums::default(), |mut s, blob| {
            s.total += u64::from(blob.entry.place.length);
            if blob.kind == BlobType::Tree {
                s.has_trees = true;
                s.has_raw_trees |= version >= 2 && blob.entry.place.uncompressed == 0;
            }
            s
        })
    };
    (0u32..).take(packs).map(sum).collect()
}

/// Marks one copy of each needed blob in `keep` and counts it for its pack. Of several copies that one stays whose pack
/// is needed most, so that the other packs empty.
fn choose_copies(
    index: &Index,
    kind: BlobType,
    needed: &Marks,
    packs: &[PackFacts],
    sums: &mut [Sums],
    keep: &Marks,
) -> Result<()> {
    let entries = index.entries(kind);
    // Blobs that have one copy decide which packs are needed anyway; then the others follow.
    for copies in [false, true] {
        let mut at = 0;
        while let Some(first) = entries.get(at) {
            let run = entries.get(at..).unwrap_or(&[]);
            let count = run.iter().take_while(|e| e.id == first.id).count();
            if needed.get(at) && (count > 1) == copies {
                let chosen = best_copy(run.get(..count).unwrap_or(&[]), packs, sums);
                let Some((n, entry)) = chosen else {
                    let pack = index.pack_id(first.place.pack).unwrap_or_default();
                    return Err(refused(&format!(
                        "blob {} is needed, and pack {pack} that should hold it is missing or not as long as it should be",
                        first.id
                    )));
                };
                keep.set(at + n);
                if let Some(s) = sums.get_mut(entry.place.pack as usize) {
                    s.used += u64::from(entry.place.length);
                }
            }
            at += count;
        }
    }
    Ok(())
}

fn best_copy(copies: &[IndexEntry], packs: &[PackFacts], sums: &[Sums]) -> Option<(usize, IndexEntry)> {
    let whole = |e: &IndexEntry| packs.get(e.place.pack as usize).is_some_and(|facts| facts.listed == Some(facts.expected));
    let worth = |e: &IndexEntry| (sums.get(e.place.pack as usize).map_or(0, |s| s.used), std::cmp::Reverse(e.place.pack));
    copies.iter().copied().enumerate().filter(|(_, e)| whole(e)).max_by_key(|(_, e)| worth(e))
}

fn seal_fates(plan: &mut Plan, survey: &Survey, sums: &[Sums], options: &PruneOptions) {
    let mut candidates = Vec::new();
    let mut small: [Vec<usize>; 2] = Default::default();
    for (number, (facts, s)) in survey.packs.iter().zip(sums).enumerate() {
        let fate = match facts.listed {
            None => Fate::Forget,
            Some(_) if s.used == 0 => Fate::Delete,
            Some(_) if facts.mixed || s.has_raw_trees => Fate::Repack,
            Some(_) if s.used < s.total => {
                candidates.push(number);
                Fate::Keep
            }
            Some(size) => {
                let kind = if s.has_trees { BlobType::Tree } else { BlobType::Data };
                if size < options.size(kind) / 2 {
                    let [data, trees] = &mut small;
                    if s.has_trees { trees.push(number) } else { data.push(number) }
                }
                Fate::Keep
            }
        };
        if let Some(slot) = plan.fates.get_mut(number) {
            *slot = fate;
        }
    }
    let at = |number: usize| sums.get(number).copied().unwrap_or_default();
    let mut copied: u64 = plan.fates.iter().zip(sums).filter(|(f, _)| **f == Fate::Repack).map(|(_, s)| s.used).sum();
    let mut left: u64 = candidates.iter().map(|n| at(*n).total - at(*n).used).sum();
    let limit = match options.max_unused {
        MaxUnused::Unlimited => u64::MAX,
        MaxUnused::Bytes(n) => n,
        MaxUnused::Percent(p) if p >= 100.0 => u64::MAX,
        MaxUnused::Percent(p) => (plan.stats.bytes_used as f64 * p.max(0.0) / (100.0 - p.max(0.0))) as u64,
    };
    let most = options.max_repack.unwrap_or(u64::MAX);
    // The emptiest first: most space for the least copying.
    let emptiness = |n: &usize| u128::from(at(*n).used) * 1_000_000 / u128::from(at(*n).total.max(1));
    candidates.sort_by_key(|n| (emptiness(n), *n));
    let mut repack = |number: usize, copied: &mut u64| {
        if copied.saturating_add(at(number).used) > most {
            return false;
        }
        *copied += at(number).used;
        if let Some(slot) = plan.fates.get_mut(number) {
            *slot = Fate::Repack;
        }
        true
    };
    for number in candidates {
        if left > limit && repack(number, &mut copied) {
            left -= at(number).total - at(number).used;
        }
    }
    for (numbers, kind) in small.into_iter().zip([BlobType::Data, BlobType::Tree]) {
        let bytes: u64 = numbers.iter().map(|n| at(*n).total).sum();
        if numbers.len() >= MANY_SMALL_PACKS || numbers.len() >= SMALL_PACKS && bytes >= options.size(kind) {
            for number in numbers {
                repack(number, &mut copied);
            }
        }
    }
    let stats = &mut plan.stats;
    stats.bytes_repacked = copied;
    for ((fate, facts), s) in plan.fates.iter().zip(&survey.packs).zip(sums) {
        match fate {
            Fate::Keep => {
                stats.packs_kept += 1;
                stats.bytes_unused_left += s.total - s.used;
            }
            Fate::Repack => stats.packs_repacked += 1,
            Fate::Delete => stats.packs_deleted += 1,
            Fate::Forget => stats.packs_forgotten += 1,
        }
        if matches!(fate, Fate::Repack | Fate::Delete) {
            stats.bytes_deleted += facts.listed.unwrap_or(0);
        }
    }
}

/// Index files that name a pack that goes must be replaced; small ones are, once there are many.
fn replace_index_files(plan: &mut Plan, survey: &Survey) {
    let repeated = survey.packs.iter().any(|p| p.repeated);
    for (fate, facts) in plan.fates.iter().zip(&survey.packs) {
        if *fate != Fate::Keep
            && let Some(slot) = plan.replaced.get_mut(facts.index_file as usize)
        {
            *slot = true;
        }
    }
    let files = || survey.index_files.iter().zip(0usize..);
    let small = files().filter(|(f, n)| f.blobs < SMALL_INDEX && plan.replaced.get(*n) == Some(&false)).count();
    for (file, n) in files() {
        if let Some(slot) = plan.replaced.get_mut(n) {
            *slot |= repeated || file.blobs == 0 || small >= SMALL_FILES && file.blobs < SMALL_INDEX;
        }
    }
    plan.stats.index_files_replaced = plan.replaced.iter().filter(|r| **r).count() as u64;
}
