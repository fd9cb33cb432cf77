//! Tips: what a segment that is not finished holds so far, so that a quiet server loses seconds and not hours.
//!
//! Each tip is an object of its own, `<segment>.tip/<start offset>`, holding only new bytes. It is created once and never changed;
//! once the segment is stored, its tips are removed. Recovery puts them together and pads them with zeros, which is what an
//! unfinished segment looks like to the server.

use std::collections::BTreeSet;
use std::io::Write;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::folder::Folder;
use super::names::position;
use super::object::{Created, Source, blocking};
use super::push::{Pushed, conflict};
use crate::crypto::Content;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName};
use crate::postgres::wal_header;

/// Tips read or removed at once: there may be one for every few seconds of a quiet day.
const AT_ONCE: usize = 8;

impl Folder {
    /// Stores `bytes`, which stand `offset` bytes from the beginning of a segment that is not finished. Its timeline must be
    /// registered. When this returns, the store has acknowledged everything up to `offset + bytes.len()`, if it had everything
    /// up to `offset` before: send them in order. Safe to repeat, also with other borders after a restart: what is stored is compared
    /// and only what is new goes up.
    ///
    /// # Errors
    /// [`Kind::Failed`] if other bytes are stored there: a second server writes the same timeline. [`Kind::Bug`] for a stretch that
    /// is empty or reaches over the end of the segment, or a timeline that is not registered. The store's failures: try again.
    pub async fn push_tip(&self, segment: SegmentName, offset: u64, bytes: Bytes) -> Result<Pushed> {
        let doing = || format!("archive the unfinished segment {segment} from byte {offset} on");
        self.push_tip_checked(segment, offset, bytes).await.context(doing)
    }

    async fn push_tip_checked(&self, segment: SegmentName, mut offset: u64, mut bytes: Bytes) -> Result<Pushed> {
        let identity = self.known_identity().await?;
        let size = identity.segment_size;
        if identity.known(segment.timeline).is_none() {
            return Err(Error::new(Kind::Bug, format!("timeline {} was not registered", segment.timeline)));
        }
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= size.bytes() && !bytes.is_empty());
        let end = end.ok_or_else(|| Error::new(Kind::Bug, "the stretch is not one of the segment"))?;
        if offset == 0 && bytes.len() >= wal_header::SIZE {
            let header = wal_header::parse(&bytes)?;
            header.check_name(segment, size.bytes())?;
            self.check_header(segment, &header).await?;
        }
        let mut pushed = Pushed::Same;
        while offset < end {
            let key = self.names().tip(segment, offset)?;
            self.tips_sent().lock().await.entry(segment).or_default().insert(offset);
            let created = self.objects().create(&key, Source::Bytes(bytes.clone()), self.archive().codec(), &mut None).await?;
            if let Created::New(_) = created {
                self.watch_split(segment.timeline, Lsn(segment.start(size).0.saturating_add(offset))).await;
                return Ok(Pushed::Stored);
            }
            let Some(stored) = self.objects().bytes(&key).await? else {
                // Removed meanwhile: somebody has stored the whole segment.
                return Ok(pushed);
            };
            let common = stored.len().min(bytes.len());
            if stored.get(..common) != bytes.get(..common) || stored.is_empty() {
                return Err(conflict(&key, &Content::of(&stored), &Content::of(&bytes)));
            }
            offset += common as u64;
            bytes = bytes.slice(common..);
            pushed = Pushed::Same;
        }
        Ok(pushed)
    }

    /// How far an unfinished segment is stored without a hole, in bytes from its beginning: where to go on after a restart.
    ///
    /// # Errors
    /// The store's failures; [`Kind::Corrupt`].
    pub async fn tip_end(&self, segment: SegmentName) -> Result<u64> {
        let tips = self.list_tips(segment).await?;
        // So that they are removed with those that follow.
        self.tips_sent().lock().await.entry(segment).or_default().extend(&tips);
        let Assembled { end, .. } = self.assemble(segment, tips, u64::MAX, std::io::sink()).await?;
        Ok(end)
    }

    /// Writes the tips of a segment one behind the other, as far as there is no hole and at most up to byte `limit`.
    pub(super) async fn assemble<W: Write + Send + 'static>(
        &self,
        segment: SegmentName,
        tips: Vec<u64>,
        limit: u64,
        mut out: W,
    ) -> Result<Assembled<W>> {
        let (mut end, mut gone) = (0u64, false);
        // What the previous one held, to compare where two overlap.
        let mut last: (u64, Vec<u8>) = (0, Vec::new());
        let sorted: BTreeSet<u64> = tips.into_iter().collect();
        let reads = stream::iter(sorted).map(|offset| async move {
            let key = self.names().tip(segment, offset)?;
            let bytes = self.objects().bytes(&key).await?;
            Ok::<_, Error>((offset, key, bytes))
        });
        let mut reads = reads.buffered(AT_ONCE);
        while let Some(read) = reads.next().await {
            let (offset, key, bytes) = read?;
            let Some(bytes) = bytes else {
                gone = true;
                break;
            };
            if offset > end || end >= limit {
                break;
            }
            let known = last.1.get(usize::try_from(offset.saturating_sub(last.0)).unwrap_or(usize::MAX)..).unwrap_or_default();
            let common = known.len().min(bytes.len());
            if known.get(..common) != bytes.get(..common) {
                return Err(Error::new(Kind::Corrupt, format!("{key} differs from what was stored of its segment before")));
            }
            let reach = offset + bytes.len() as u64;
            if reach > end {
                let from = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let to = usize::try_from(limit.min(reach) - offset).unwrap_or(usize::MAX);
                let written = blocking(move || {
                    out.write_all(bytes.get(from..to).unwrap_or_default()).context(|| "write the segment")?;
                    Ok((out, bytes))
                });
                let bytes;
                (out, bytes) = written.await?;
                end = limit.min(reach);
                last = (offset, bytes);
            }
        }
        Ok(Assembled { out, end, gone })
    }

    /// What tips hold of a segment from its beginning on, whoever sent them. They are removed, too, once this process stores
    /// the segment.
    pub(super) async fn tip_content(&self, segment: SegmentName) -> Result<Content> {
        let tips = self.list_tips(segment).await?;
        if !tips.is_empty() {
            self.tips_sent().lock().await.entry(segment).or_default().extend(&tips);
        }
        let Assembled { out: hasher, end: length, .. } = self.assemble(segment, tips, u64::MAX, blake3::Hasher::new()).await?;
        Ok(Content { length, blake3: *hasher.finalize().as_bytes() })
    }

    async fn list_tips(&self, segment: SegmentName) -> Result<Vec<u64>> {
        let prefix = self.names().tips(segment);
        let listed: Vec<_> = self.objects().store.list(&prefix).try_collect().await?;
        Ok(listed
            .iter()
            .filter_map(|meta| match self.names().parse(&meta.key) {
                Some(super::names::Entry::Tip(_, offset)) => Some(offset),
                _ => None,
            })
            .collect())
    }

    /// Removes the tips that this process sent or saw of a segment that is stored now. Others are removed by expiry.
    pub(super) async fn drop_tips(&self, segment: SegmentName) {
        let Some(offsets) = self.tips_sent().lock().await.remove(&segment) else { return };
        let removals = stream::iter(offsets).map(|offset| async move {
            let Ok(key) = self.names().tip(segment, offset) else { return };
            if let Err(e) = self.objects().store.delete(&key).await {
                tracing::debug!("a tip stays until WAL is expired: {}", e.chain());
            }
        });
        removals.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

/// What tips gave.
pub(super) struct Assembled<W> {
    pub(super) out: W,
    /// So many bytes from the segment's beginning were written.
    pub(super) end: u64,
    /// One of them was removed meanwhile, as they are when the whole segment is stored; what is behind it was left out.
    pub(super) gone: bool,
}

/// The position behind the last byte of a tip.
pub(super) fn tip_position(segment: SegmentName, size: crate::model::SegmentSize, end: u64) -> Lsn {
    position(segment.start(size), end)
}
