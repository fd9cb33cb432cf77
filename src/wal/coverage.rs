//! What is there: one listing of a system's folder, and what it means.

use futures::TryStreamExt;

use super::folder::Folder;
use super::identity::Stretch;
use super::names::{Entry, Names};
use crate::error::{Context, Result};
use crate::model::{Lsn, SegmentName, SegmentSize, Time, Timeline, WalFile};
use crate::store::Key;

/// Segments that [`Survey::missing`] names at most.
const NAMED: usize = 1000;

/// A segment that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSegment {
    /// Which.
    pub name: SegmentName,
    /// Stored bytes.
    pub bytes: u64,
    /// When it was stored, by the store's clock.
    pub stored: Time,
}

/// What else is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) key: Key,
    pub(super) entry: Entry,
    pub(super) bytes: u64,
    pub(super) stored: Time,
}

/// Everything in a folder at the moment of a listing; about 40 bytes of memory a segment.
#[derive(Debug, Clone)]
pub struct Survey {
    pub(super) names: Names,
    pub(super) size: SegmentSize,
    /// In order of their names.
    pub(super) segments: Vec<StoredSegment>,
    pub(super) beside: Vec<Beside>,
}

/// The segments of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Which timeline.
    pub timeline: Timeline,
    /// Without a hole each, in ascending order; what lies between two of them is missing.
    pub ranges: Vec<SegmentRange>,
    /// The newest segment of which only the beginning is stored.
    pub unfinished: Option<SegmentName>,
}

/// Segments without a hole between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRange {
    /// The first one.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// Its first byte.
    pub from: Lsn,
    /// One behind its last byte.
    pub to: Lsn,
    /// How many.
    pub segments: u64,
    /// Stored bytes.
    pub bytes: u64,
    /// When the first one was stored, by the store's clock.
    pub first_stored: Time,
    /// When the last one was stored.
    pub last_stored: Time,
}

impl Folder {
    /// Lists everything. One request for every 1,000 objects.
    ///
    /// # Errors
    /// The store's failures; [`crate::error::Kind::NotFound`] if nothing was ever archived here.
    pub async fn survey(&self) -> Result<Survey> {
        let identity = self.identity().await?.ok_or_else(|| self.nothing())?;
        let names = self.names().clone();
        let (mut segments, mut beside) = (Vec::new(), Vec::new());
        let mut listing = self.objects().store.list(self.path());
        while let Some(meta) = listing.try_next().await.context(|| format!("list {}", self.path()))? {
            match names.parse(&meta.key) {
                Some(Entry::File(WalFile::Segment(name))) => {
                    segments.push(StoredSegment { name, bytes: meta.size, stored: meta.modified });
                }
                Some(entry) => beside.push(Beside { key: meta.key, entry, bytes: meta.size, stored: meta.modified }),
                None => {}
            }
        }
        drop(listing);
        segments.sort_unstable_by_key(|s| s.name);
        Ok(Survey { names, size: identity.segment_size, segments, beside })
    }

    /// Whether a whole segment is stored.
    ///
    /// # Errors
    /// The store's failures.
    pub async fn has(&self, segment: SegmentName) -> Result<bool> {
        let key = self.names().file(&WalFile::Segment(segment))?;
        match self.objects().store.head(&key).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == crate::store::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Survey {
    /// `wal_segment_size` of the cluster.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// Every segment, in order of their names.
    #[must_use]
    pub fn segments(&self) -> &[StoredSegment] {
        &self.segments
    }

    /// Whether a whole segment is stored.
    #[must_use]
    pub fn has(&self, name: SegmentName) -> bool {
        self.segments.binary_search_by_key(&name, |s| s.name).is_ok()
    }

    /// Stored bytes of everything.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).chain(self.beside.iter().map(|b| b.bytes)).sum()
    }

    /// What there is of each timeline, in ascending order.
    #[must_use]
    pub fn coverage(&self) -> Vec<Coverage> {
        let mut found: Vec<Coverage> = Vec::new();
        for segment in &self.segments {
            let timeline = segment.name.timeline;
            if found.last().is_none_or(|c| c.timeline != timeline) {
                found.push(Coverage { timeline, ranges: Vec::new(), unfinished: None });
            }
            let Some(coverage) = found.last_mut() else { continue };
            match coverage.ranges.last_mut() {
                Some(range) if range.last.next(self.size) == segment.name => {
                    range.last = segment.name;
                    range.to = segment.name.end(self.size);
                    range.segments += 1;
                    range.bytes += segment.bytes;
                    range.last_stored = segment.stored;
                }
                _ => coverage.ranges.push(SegmentRange {
                    first: segment.name,
                    last: segment.name,
                    from: segment.name.start(self.size),
                    to: segment.name.end(self.size),
                    segments: 1,
                    bytes: segment.bytes,
                    first_stored: segment.stored,
                    last_stored: segment.stored,
                }),
            }
        }
        for tip in self.beside.iter().filter_map(|b| if let Entry::Tip(name, _) = b.entry { Some(name) } else { None }) {
            if self.has(tip) {
                continue;
            }
            let at = found.binary_search_by_key(&tip.timeline, |c| c.timeline).unwrap_or_else(|at| {
                found.insert(at, Coverage { timeline: tip.timeline, ranges: Vec::new(), unfinished: None });
                at
            });
            if let Some(coverage) = found.get_mut(at) {
                coverage.unfinished = coverage.unfinished.max(Some(tip));
            }
        }
        found
    }

    /// The whole segments that recovery along `path` ([`super::Identity::path`]) needs and that are not there, in order, the first
    /// 1,000. Of an open end only what lies behind its beginning without a hole is taken as needed, so it adds nothing.
    ///
    /// Where a timeline leaves another one within a segment, its own copy of that segment is read.
    #[must_use]
    pub fn missing(&self, path: &[Stretch]) -> Vec<SegmentName> {
        let mut found = Vec::new();
        for (i, stretch) in path.iter().enumerate() {
            let Some(to) = stretch.to else { continue };
            let mut name = SegmentName::at(stretch.timeline, stretch.from, self.size);
            let is_last = i + 1 == path.len();
            while if is_last { name.start(self.size) < to } else { name.end(self.size) <= to } {
                if !self.has(name) {
                    found.push(name);
                    if found.len() == NAMED {
                        return found;
                    }
                }
                name = name.next(self.size);
            }
        }
        found
    }

    /// How far whole segments of a timeline reach without a hole from the one that `from` is in: one behind the last byte, or
    /// `from` itself if that segment is not there.
    #[must_use]
    pub fn reach(&self, timeline: Timeline, from: Lsn) -> Lsn {
        let mut name = SegmentName::at(timeline, from, self.size);
        let mut reached = from;
        let start = self.segments.partition_point(|s| s.name < name);
        for segment in self.segments.iter().skip(start) {
            if segment.name != name {
                break;
            }
            reached = name.end(self.size);
            name = name.next(self.size);
        }
        reached
    }
}

impl Coverage {
    /// What is missing between the first and the last segment: from (inclusive) to (exclusive).
    #[must_use]
    pub fn gaps(&self) -> Vec<(Lsn, Lsn)> {
        self.ranges.windows(2).filter_map(|w| if let [a, b] = w { Some((a.to, b.from)) } else { None }).collect()
    }
}
