//! Packs, byte by byte: the name, every blob, the header.

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::seq::SliceRandom;

use super::{CheckProgress, add};
use crate::crypto::Sha256;
use crate::error::{Error, Kind, Result};
use crate::model::Id;
use crate::repository::Repository;
use crate::repository::by_pack::{ByPack, PackedBlob};
use crate::repository::index::{Index, IndexedBlob};
use crate::repository::pack::{Codec, LEVEL_OFF, parse_header};
use crate::repository::survey::{Finding, Findings};
use crate::runtime::Cancel;
use crate::store::Key;

/// Bytes read with one request, unless a single blob is larger.
const RANGE: u64 = 4 << 20;

/// Which packs a check reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// None: structure only.
    None,
    /// Every one.
    All,
    /// A random choice of so many percent of the packs, at least one, another at each check.
    Percent(f64),
    /// The `part`-th of `of` parts (from 1), by the first byte of the name: checking all parts in turn reads everything.
    Part {
        /// 1..=`of`.
        part: u8,
        /// At least 1.
        of: u8,
    },
}

/// A text that names no choice of packs.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a share of the packs")]
pub struct ParseReadDataError(String);

impl FromStr for ReadData {
    type Err = ParseReadDataError;

    /// `5%`, `2.5%` or `3/10`.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParseReadDataError(s.to_owned());
        if let Some(percent) = s.strip_suffix('%') {
            let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(bad()) };
        }
        let (part, of) = s.split_once('/').ok_or_else(bad)?;
        match (part.trim().parse(), of.trim().parse()) {
            (Ok(part), Ok(of)) if (1..=of).contains(&part) => Ok(Self::Part { part, of }),
            _ => Err(bad()),
        }
    }
}

impl ReadData {
    /// The packs to read, of those that are there.
    pub(super) fn choose(self, index: &Index, mut present: Vec<u32>) -> Vec<u32> {
        match self {
            Self::None => present.clear(),
            Self::All => {}
            Self::Percent(percent) => {
                let most = ((present.len() as f64 * percent / 100.0).ceil() as usize).clamp(1, present.len().max(1));
                present.shuffle(&mut rand::rng());
                present.truncate(most);
            }
            Self::Part { part, of } => present.retain(|number| index.pack_id(*number).is_some_and(|id| id.0[0] % of == part - 1)),
        }
        present.sort_unstable();
        present
    }
}

/// Reads the packs, in parallel. What is wrong becomes a finding.
pub(super) fn read(
    repo: &Repository,
    index: &Index,
    packs: Vec<u32>,
    threads: usize,
    findings: &Mutex<Findings>,
    progress: &CheckProgress,
    cancel: &Cancel,
) -> Result<()> {
    progress.packs_total.store(packs.len() as u64, Relaxed);
    let by_pack = ByPack::new(index);
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, packs.len().max(1)) {
            scope.spawn(|| {
                let run = || -> Result<()> {
                    let mut codec = Codec::new(LEVEL_OFF)?;
                    while let Some(&number) = packs.get(next.fetch_add(1, Relaxed)) {
                        if failure.lock().is_some() {
                            return Ok(());
                        }
                        cancel.check()?;
                        let Some(id) = index.pack_id(number) else { continue };
                        let blobs: Vec<PackedBlob> = by_pack.blobs(index, number).collect();
                        // Once more before it is called damaged: the way here may have been bad, not the object.
                        let read = pack(repo, &id, &blobs, &mut codec, progress).or_else(|e| match e.kind() {
                            Kind::Corrupt | Kind::NotFound => pack(repo, &id, &blobs, &mut codec, progress),
                            _ => Err(e),
                        });
                        match read {
                            Ok(()) => {}
                            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound) => {
                                add(findings, Finding::error(format!("pack {id}: {}", e.chain())))
                            }
                            Err(e) => return Err(e),
                        }
                        progress.packs.fetch_add(1, Relaxed);
                    }
                    Ok(())
                };
                if let Err(e) = run() {
                    failure.lock().get_or_insert(e);
                }
            });
        }
    });
    match failure.into_inner() {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

fn damaged(what: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, what)
}

/// One pack: contiguous blobs that open and are what their names say, a header that says the same as the index, and a
/// name that is the digest of it all.
fn pack(repo: &Repository, id: &Id, blobs: &[PackedBlob], codec: &mut Codec, progress: &CheckProgress) -> Result<()> {
    let key = repo.pack_key(id)?;
    let mut digest = Sha256::default();
    let mut end = 0u64;
    let mut rest = blobs;
    while let Some(first) = rest.first() {
        let start = u64::from(first.entry.place.offset);
        let mut count = 0;
        for blob in rest {
            let place = blob.entry.place;
            if u64::from(place.offset) != end {
                return Err(damaged(format!(
                    "blob {} is at {} in the index, and the one before it ends at {end}",
                    blob.entry.id.short(),
                    place.offset
                )));
            }
            if count > 0 && end + u64::from(place.length) - start > RANGE {
                break;
            }
            end += u64::from(place.length);
            count += 1;
        }
        let bytes = get(repo, &key, start..end, progress)?;
        digest.update(&bytes);
        let (now, later) = rest.split_at(count);
        for blob in now {
            let from = (u64::from(blob.entry.place.offset) - start) as usize;
            let stored = bytes.get(from..from + blob.entry.place.length as usize).ok_or_else(|| damaged("it is cut short"))?;
            codec.check(repo.key(), &blob.entry.id, stored, &blob.entry.place)?;
        }
        rest = later;
    }
    let tail = get(repo, &key, end..end + header_len(blobs), progress)?;
    digest.update(&tail);
    let (header, length) = tail.split_last_chunk::<4>().ok_or_else(|| damaged("it has no header"))?;
    if u32::from_le_bytes(*length) as usize != header.len() {
        return Err(damaged("its header is not as long as its index says"));
    }
    let same = |a: &IndexedBlob, b: &PackedBlob| {
        let place = b.entry.place;
        (a.id, a.kind, a.offset, a.length, a.uncompressed_length)
            == (b.entry.id, b.kind, place.offset, place.length, place.uncompressed)
    };
    let listed = parse_header(repo.key(), header)?;
    if listed.len() != blobs.len() || !listed.iter().zip(blobs).all(|(a, b)| same(a, b)) {
        return Err(damaged("its header lists other blobs than its index"));
    }
    if digest.finish() != *id {
        return Err(damaged("its bytes are not what its name says"));
    }
    Ok(())
}

/// Header with its seal and the trailing length.
fn header_len(blobs: &[PackedBlob]) -> u64 {
    blobs.iter().map(|b| if b.entry.place.uncompressed == 0 { 37 } else { 41 }).sum::<u64>() + 36
}

fn get(repo: &Repository, key: &Key, range: std::ops::Range<u64>, progress: &CheckProgress) -> Result<Bytes> {
    let length = range.end - range.start;
    // A range past the end is an answer of its own; a listing that shows another length was reported already.
    let bytes = match repo.runtime().block_on(repo.store().get(key, Some(range))) {
        Err(e) if e.kind() == crate::store::ErrorKind::Invalid => return Err(damaged("it is cut short").because(e)),
        got => got?,
    };
    progress.bytes.fetch_add(bytes.len() as u64, Relaxed);
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(damaged("it is cut short")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_from_text() {
        assert_eq!("5%".parse::<ReadData>().ok(), Some(ReadData::Percent(5.0)));
        assert_eq!("2/10".parse::<ReadData>().ok(), Some(ReadData::Part { part: 2, of: 10 }));
        for bad in ["", "5", "0%", "101%", "-1%", "NaN%", "0/3", "4/3", "1/0", "a/b", "1/300"] {
            assert!(bad.parse::<ReadData>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_percentage_takes_at_least_one() {
        let index = Index::default();
        assert_eq!(ReadData::Percent(1.0).choose(&index, (0..5).collect()).len(), 1);
        assert_eq!(ReadData::Percent(50.0).choose(&index, (0..10).collect()).len(), 5);
        assert_eq!(ReadData::Percent(50.0).choose(&index, Vec::new()).len(), 0);
    }
}
