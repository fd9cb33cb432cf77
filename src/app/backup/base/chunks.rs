//! How large the chunks of relation files are where they change; see [`super::layout`] for where they do not.

use serde::{Deserialize, Serialize};

use super::super::Run;
use crate::app::stored_files;
use crate::model::{BaseBackup, Lsn};
use crate::repository::Reader;

/// Smaller chunks follow scattered changes better; they cost an entry of the index and of a tree each.
const LEAST: u64 = 64 << 10;
/// Larger ones take too much memory in each lane.
const MOST: u64 = 8 << 20;
/// A cluster should not be more chunks than this.
const COUNT: u64 = 1 << 20;

/// The facts' name for [`Chunks`].
pub(super) const FACT: &str = "chunks";

/// The size of chunks, which a job keeps as long as it can: with another size everything is stored once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunks {
    /// A power of two, in bytes.
    pub(super) bytes: u32,
    /// The size of the cluster that it was chosen for, in bytes.
    pub(super) chosen_for: u64,
}

impl Chunks {
    /// The last backup's, unless the cluster has grown to more than four times the size they were chosen for.
    pub(super) fn choose(last: Option<Self>, cluster: u64) -> Self {
        if let Some(last) = last
            && cluster / 4 <= last.chosen_for
        {
            return last;
        }
        let bytes = cluster.div_ceil(COUNT).next_power_of_two().clamp(LEAST, MOST);
        Self { bytes: u32::try_from(bytes).unwrap_or(1 << 20), chosen_for: cluster }
    }
}

/// What the last backup of this job says about itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) chunks: Chunks,
    /// Pages with a later LSN have changed since.
    pub(super) start: Lsn,
}

impl Run {
    /// The last backup of this job. None where there is none or it cannot be read: that costs space, not safety.
    pub(super) fn last_base(&self) -> Option<Last> {
        let parent = self.parent.as_ref()?;
        let reader = Reader::new(&self.repo, self.index.clone());
        let manifest = match stored_files::manifest(&reader, parent.file.tree) {
            Ok(manifest) => manifest?,
            Err(e) => {
                tracing::warn!("the parent snapshot {} cannot be used: {}", parent.id.short(), e.chain());
                return None;
            }
        };
        let chunks: Chunks = serde_json::from_value(manifest.facts.get(FACT)?.clone()).ok()?;
        let base: BaseBackup = serde_json::from_value(manifest.facts.get("pg_base")?.clone()).ok()?;
        let sound = chunks.bytes.is_power_of_two() && (LEAST..=MOST).contains(&u64::from(chunks.bytes));
        sound.then_some(Last { chunks, start: base.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_with_the_cluster_and_rarely() {
        let choose = |last, gib: u64| Chunks::choose(last, gib << 30);
        assert_eq!(choose(None, 0).bytes, 64 << 10);
        assert_eq!(choose(None, 64).bytes, 64 << 10);
        assert_eq!(choose(None, 65).bytes, 128 << 10);
        assert_eq!(choose(None, 1024).bytes, 1 << 20);
        assert_eq!(choose(None, 100 << 10).bytes, 8 << 20);
        let first = choose(None, 64);
        assert_eq!(choose(Some(first), 256), first);
        assert_eq!(choose(Some(first), 260), Chunks { bytes: 512 << 10, chosen_for: 260 << 30 });
        let small = choose(None, 1);
        assert_eq!(choose(Some(small), 6).bytes, small.bytes);
    }
}
