//! Giving back: a file, or the proof that there is none, or an error. Never a guess.
//!
//! A server that is told "there is no such segment" believes that the log ends there, and goes into service. So this is said
//! only when it is known: the identity object was read, the store itself said that the object does not exist, and neither the
//! identity object nor a listing knows of later WAL on this timeline or on one that left it later. Everything else is an error.

use std::io::Write;

use futures::TryStreamExt;

use super::folder::Folder;
use super::identity::Identity;
use super::names::Entry;
use super::object::blocking;
use super::tip::{Assembled, tip_position};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName, Timeline, WalFile};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A recovery that ends where the archive ends: tips are served, what is missing is proven missing.
    Recovery,
    /// A standby, which asks again and again: no proof (and no listing), no tips.
    Standby,
    /// `pg_rewind`: whole segments only, what is missing is proven missing.
    Rewind,
}

/// The answer to [`Folder::fetch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// All of it was written.
    Delivered {
        /// Its length.
        bytes: u64,
    },
    /// The segment is not finished: what there is of it was written, padded with zeros to its full size.
    Unfinished {
        /// One behind the last byte that is not padding.
        until: Lsn,
    },
    /// There is none; nothing was written.
    Missing {
        /// The end of the archive is proven. `false` only in [`Mode::Standby`].
        proven: bool,
        /// For people: what was looked at.
        why: String,
    },
}

impl Folder {
    /// Writes a file to `out`, from its current position on. One request for a segment that is there.
    ///
    /// `out` holds all of it only after `Delivered` or `Unfinished`; after an error it may hold a part. Nothing is synced to disk.
    ///
    /// # Errors
    /// Everything that is not an answer: the store's failures (outages, refusals), [`Kind::Corrupt`] objects, [`Kind::Failed`] for a
    /// hole with later WAL behind it, [`Kind::NotFound`] if nothing was ever archived here. `restore_command` must end with
    /// 255 then.
    pub async fn fetch<W: Write + Send + 'static>(&self, file: &WalFile, out: W, mode: Mode) -> Result<Fetched> {
        self.fetch_unexplained(file, out, mode).await.context(|| format!("fetch {file} of system {}", self.system()))
    }

    async fn fetch_unexplained<W: Write + Send + 'static>(&self, file: &WalFile, out: W, mode: Mode) -> Result<Fetched> {
        let key = self.names().file(file)?;
        let (out, content) = self.objects().read(&key, out).await?;
        if let Some(content) = content {
            return Ok(Fetched::Delivered { bytes: content.length });
        }
        match file {
            WalFile::Segment(_) if mode == Mode::Standby => {
                Ok(Fetched::Missing { proven: false, why: format!("{key} is not there yet") })
            }
            WalFile::Segment(name) => self.end_of_archive(*name, out, mode).await,
            WalFile::History(timeline) => self.missing_history(*timeline, out).await,
            WalFile::BackupHistory(..) | WalFile::Partial(_) => {
                self.identity().await?.ok_or_else(|| self.nothing())?;
                Ok(Fetched::Missing { proven: true, why: format!("{key} is not in the archive") })
            }
        }
    }

    /// The store said that there is no such segment: tips, a proof, or a hole.
    async fn end_of_archive<W: Write + Send + 'static>(&self, name: SegmentName, out: W, mode: Mode) -> Result<Fetched> {
        let identity = self.identity().await?.ok_or_else(|| self.nothing())?;
        let size = identity.segment_size;
        if let Some(later) = witness(&identity, name) {
            return Err(self.hole(&identity, name, &later));
        }
        let prefix = format!("{}{:08X}", self.path(), name.timeline.0);
        let (mut tips, mut later, mut appeared) = (Vec::new(), None::<SegmentName>, false);
        {
            let mut listing = self.objects().store.list(&prefix);
            while let Some(meta) = listing.try_next().await? {
                match self.names().parse(&meta.key) {
                    Some(Entry::File(WalFile::Segment(found) | WalFile::Partial(found)) | Entry::Tip(found, _))
                        if found > name && found.timeline == name.timeline =>
                    {
                        later = Some(later.map_or(found, |l| l.min(found)));
                    }
                    Some(Entry::File(WalFile::Segment(found))) if found == name => appeared = true,
                    Some(Entry::Tip(found, offset)) if found == name => tips.push(offset),
                    _ => {}
                }
            }
        }
        if appeared {
            let (_, content) = self.objects().read(&self.names().file(&WalFile::Segment(name))?, out).await?;
            // Stored since we asked. If it is gone again by now, somebody expires what is being read.
            let delivered = content.map(|c| Fetched::Delivered { bytes: c.length });
            return delivered.ok_or_else(|| self.hole(&identity, name, "it was there a moment ago"));
        }
        if let Some(later) = later {
            return Err(self.hole(&identity, name, &format!("{later} is there")));
        }
        let missing = |why: &str| Fetched::Missing { proven: true, why: format!("the archive ends before {name}: {why}") };
        if tips.is_empty() || mode != Mode::Recovery {
            return Ok(missing("there is neither this segment nor a later one"));
        }
        let limit = self.tip_limit(&identity, name).await?;
        let Assembled { out, end, gone } = self.assemble(name, tips, limit, out).await?;
        if gone {
            // Part of it may be in `out`, so it cannot be asked for again from here.
            return Err(Error::new(Kind::Unavailable, format!("{name} is being completed in the archive right now")));
        }
        if end == 0 {
            return Ok(missing("what there is of it does not begin at its beginning, or is no part of a later timeline's past"));
        }
        let padding = size.bytes() - end;
        blocking(move || pad(out, padding).context(|| "write the segment")).await?;
        Ok(Fetched::Unfinished { until: tip_position(name, size, end) })
    }

    /// How many bytes of an unfinished segment may be served. What lies behind the place where another timeline left is no part of
    /// that one's past, and a recovery to it must not see it. It does not ask, once there is that one's own copy of the segment: then only
    /// recoveries that stay on this timeline do, and get everything.
    async fn tip_limit(&self, identity: &Identity, name: SegmentName) -> Result<u64> {
        let size = identity.segment_size;
        let (start, mut limit) = (name.start(size), size.bytes());
        for (child, switch) in identity.departures(name.timeline) {
            let Some(offset) = switch.0.checked_sub(start.0).filter(|offset| *offset < limit) else { continue };
            let copy = name.on(child);
            let prefix = self.names().of_segment(copy);
            let mut listing = self.objects().store.list(&prefix);
            let mut has_copy = false;
            while let Some(meta) = listing.try_next().await? {
                let entry = self.names().parse(&meta.key);
                has_copy |= entry == Some(Entry::File(WalFile::Segment(copy))) || entry == Some(Entry::Tip(copy, 0));
            }
            if !has_copy {
                limit = offset;
            }
        }
        Ok(limit)
    }

    /// A server asks for one history file after the other until one is missing, so a missing one hides all later timelines.
    async fn missing_history<W: Write + Send + 'static>(&self, timeline: Timeline, mut out: W) -> Result<Fetched> {
        let identity = self.identity().await?.ok_or_else(|| self.nothing())?;
        if let Some(history) = identity.history(timeline).filter(|h| !h.ancestors.is_empty()) {
            // Its file was never archived, and its successor's tells the same.
            let lines = history.ancestors.iter().map(|a| format!("{}\t{}\tas the archive knows it\n", a.timeline, a.switch));
            let text: String = lines.collect();
            let bytes = text.len() as u64;
            blocking(move || out.write_all(text.as_bytes()).context(|| "write the history")).await?;
            return Ok(Fetched::Delivered { bytes });
        }
        // The first timeline has no history file.
        if let Some(latest) = identity.latest().filter(|latest| *latest > timeline && timeline.0 > 1) {
            return Err(Error::new(
                Kind::Failed,
                format!("{} is missing, and there is a later timeline: {latest}", timeline.history_name()),
            )
            .hint("A server that is told that it is missing would never find the later one. Name the timeline to recover to."));
        }
        Ok(Fetched::Missing { proven: true, why: format!("the archive knows no timeline {timeline}") })
    }

    fn hole(&self, identity: &Identity, name: SegmentName, later: &str) -> Error {
        let start = name.start(identity.segment_size);
        let known = identity.known(name.timeline);
        let why = if known.and_then(|k| k.expired_below).is_some_and(|below| start < below) {
            "it was expired".to_owned()
        } else if let Some(gap) =
            identity.gaps.iter().find(|g| g.timeline == name.timeline && g.from < name.end(identity.segment_size) && start < g.to)
        {
            format!("it was never archived ({})", gap.reason)
        } else {
            "it may not have been archived yet".to_owned()
        };
        Error::new(Kind::Failed, format!("{name} is missing, but it is not the end of the archive: {later}; {why}"))
            .hint("Recovery cannot cross a hole. Recover to a time before it, or from a base backup behind it.")
    }
}

/// What the identity object knows of WAL behind this segment.
fn witness(identity: &Identity, name: SegmentName) -> Option<String> {
    let end = name.end(identity.segment_size);
    if let Some(newest) = identity.known(name.timeline).and_then(|k| k.newest).filter(|newest| *newest >= name) {
        return Some(format!("{newest} was stored"));
    }
    let (timeline, switch) = identity.left_after(name.timeline, Lsn(end.0.saturating_sub(1)))?;
    Some(format!("timeline {timeline} left timeline {} at {switch}", name.timeline))
}

fn pad<W: Write>(mut out: W, mut bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    while bytes > 0 {
        let now = usize::try_from(bytes).unwrap_or(usize::MAX).min(zeros.len());
        out.write_all(zeros.get(..now).unwrap_or_default())?;
        bytes -= now as u64;
    }
    Ok(())
}
