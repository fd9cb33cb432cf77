//! Many files at once: which blob goes where is planned by pack, so that every pack is read once, in large ranges.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::Reader;
use super::arena::Arena;
use crate::crypto::sha256_many;
use crate::error::{Error, Kind, Result};
use crate::model::Id;
use crate::repository::index::{BlobPlace, BlobType};
use crate::repository::pack::{Codec, misnamed, plausible};
use crate::runtime::Cancel;

/// A blob that a file wants at an offset. Files are numbers that the caller chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The data blob.
    pub id: Id,
    /// The caller's number of the file.
    pub file: u32,
    /// Where in the file the blob's first byte goes.
    pub offset: u64,
}

/// A wanted blob's content.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// The caller's number of the file.
    pub file: u32,
    /// Where in the file it goes.
    pub offset: u64,
    /// The content. It begins at a multiple of 4,096 in memory, as direct I/O wants it.
    pub data: &'a [u8],
}

/// Takes some of the wanted blobs.
pub type TakeFetched<'a> = dyn Fn(&[Fetched<'_>]) -> Result<()> + Sync + 'a;

/// Ranges up to this size are read with one request; a single larger blob is read alone.
const RANGE: u64 = 2 << 20;
/// Bytes that are read in vain rather than ask again.
const GAP: u64 = 128 << 10;

struct Planned {
    place: BlobPlace,
    want: Want,
}

impl Reader {
    /// Reads every wanted blob once, checks it and hands it to `write` for each of its places, some at a time. `write` is called
    /// from several threads at once, in no order. Memory: 72 B a want and about 8 MiB a thread.
    ///
    /// # Errors
    /// The first failure; `write` may have been called for any part of the wants by then.
    pub fn fetch(&self, wants: Vec<Want>, threads: usize, write: &TakeFetched<'_>, cancel: &Cancel) -> Result<()> {
        let mut planned = Vec::with_capacity(wants.len());
        for want in wants {
            planned.push(Planned { place: self.place(BlobType::Data, &want.id)?, want });
        }
        planned.sort_unstable_by_key(|p| (p.place.pack, p.place.offset, p.want.file, p.want.offset));
        let ranges = coalesce(&planned);
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, ranges.len().max(1)) {
                scope.spawn(|| {
                    let mut arena = Arena::default();
                    while failure.lock().is_none() {
                        let Some(range) = ranges.get(next.fetch_add(1, Relaxed)) else { return };
                        let wanted = planned.get(range.clone()).unwrap_or(&[]);
                        let done = cancel.check().and_then(|()| self.fetch_range(wanted, &mut arena, write));
                        if let Err(e) = done {
                            failure.lock().get_or_insert(e);
                        }
                    }
                });
            }
        });
        match failure.into_inner() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    fn fetch_range(&self, planned: &[Planned], arena: &mut Arena, write: &TakeFetched<'_>) -> Result<()> {
        let (Some(first), Some(last)) = (planned.first(), planned.last()) else { return Ok(()) };
        let start = u64::from(first.place.offset);
        let end = u64::from(last.place.offset) + u64::from(last.place.length);
        let bytes = self.range(first.place.pack, start, end - start)?;
        let stored = |place: &BlobPlace| {
            let from = (u64::from(place.offset) - start) as usize;
            bytes.get(from..from + place.length as usize).ok_or_else(|| Error::new(Kind::Bug, "a range that misses its blobs"))
        };
        self.with_codec(|codec| {
            let mut rest = planned;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(arena.fitting(rest.iter().map(|p| p.place)));
                self.open_batch(codec, now, arena, &stored, write)?;
                rest = later;
            }
            Ok(())
        })
    }

    /// Opens blobs, hashes them together, and hands them over.
    fn open_batch<'a>(
        &self,
        codec: &mut Codec,
        planned: &[Planned],
        arena: &mut Arena,
        stored: &impl Fn(&BlobPlace) -> Result<&'a [u8]>,
        write: &TakeFetched<'_>,
    ) -> Result<()> {
        let mut opened: Vec<(Id, std::ops::Range<usize>)> = Vec::with_capacity(planned.len());
        let mut last = None;
        arena.clear();
        for p in planned {
            if last != Some(p.place) {
                let (range, out) = arena.take(plausible(&p.want.id, &p.place)?);
                codec.open_unchecked(self.shared.repo.key(), &p.want.id, stored(&p.place)?, p.place.uncompressed, out)?;
                opened.push((p.want.id, range));
                last = Some(p.place);
            }
        }
        let contents: Vec<&[u8]> = opened.iter().map(|(_, range)| arena.get(range)).collect();
        for ((id, _), found) in opened.iter().zip(sha256_many(&contents)) {
            if *id != found {
                return Err(misnamed(id));
            }
        }
        let mut contents = contents.into_iter();
        let (mut data, mut last) = (&[][..], None);
        let fetched = planned.iter().map(|p| {
            if last != Some(p.place) {
                data = contents.next().unwrap_or_default();
                last = Some(p.place);
            }
            Fetched { file: p.want.file, offset: p.want.offset, data }
        });
        write(&fetched.collect::<Vec<_>>())
    }
}

/// Neighbours of one pack, as long as the gap and the whole stay small.
fn coalesce(planned: &[Planned]) -> Vec<std::ops::Range<usize>> {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    let (mut pack, mut start, mut end) = (u32::MAX, 0u64, 0u64);
    for (i, p) in planned.iter().enumerate() {
        let (from, to) = (u64::from(p.place.offset), u64::from(p.place.offset) + u64::from(p.place.length));
        let joins = p.place.pack == pack && from <= end + GAP && to.max(end) - start <= RANGE;
        match ranges.last_mut() {
            Some(range) if joins => {
                range.end = i + 1;
                end = end.max(to);
            }
            _ => {
                ranges.push(i..i + 1);
                (pack, start, end) = (p.place.pack, from, to);
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(places: &[(u32, u32, u32)]) -> Vec<Planned> {
        let place = |&(pack, offset, length): &(u32, u32, u32)| BlobPlace { pack, offset, length, uncompressed: 0 };
        places.iter().map(|p| Planned { place: place(p), want: Want { id: Id::default(), file: 0, offset: 0 } }).collect()
    }

    #[test]
    fn neighbours_share_a_request_until_gap_or_size_end_it() {
        let p = planned(&[
            (0, 0, 100),
            (0, 100, 100),
            (0, 200 + (128 << 10), 100),
            (0, 2 << 20, 100),
            (1, 0, 100),
            (1, 100, 5 << 20),
            (1, (5 << 20) + 100, 10),
        ]);
        assert_eq!(coalesce(&p), [0..3, 3..4, 4..5, 5..6, 6..7]);
        assert!(coalesce(&[]).is_empty());
    }
}
