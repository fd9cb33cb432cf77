//! Storing: checked against its name and its cluster, created and never replaced.

use super::folder::Folder;
use super::object::{Created, Source, blocking};
use super::room::Share;
use crate::crypto::Content;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{SegmentName, Timeline, TimelineHistory, WalFile};
use crate::postgres::{WalHeader, wal_header};
use crate::store::Key;

/// History files and backup labels are small; what is larger is none.
const SMALL: u64 = 1 << 20;

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is stored now.
    Stored,
    /// It was there already, with the same content.
    Same,
}

impl Folder {
    /// Stores a file of `pg_wal`. When this returns, the store has acknowledged it, so the server may forget the file.
    ///
    /// Checked before: length, position and timeline against the name, major version, system identifier, that the timeline is one of
    /// this cluster's, and afterwards that the file did not change meanwhile. An object that is there is never replaced. Safe to
    /// repeat and to drop half-way. One request a segment, once the timeline is known to this process.
    ///
    /// Give `.history` files before the segments of their timeline. A history file goes into the identity object, too.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the file is not what its name says, belongs to another cluster, or another content is stored under
    /// its name (nothing is overwritten): a person has to look. The store's failures: try again.
    pub async fn push(&self, file: &WalFile, source: impl Into<Source>) -> Result<Pushed> {
        self.push_within(file, source.into(), &mut None).await
    }

    /// The same. `held` is the room that there is for it, which is given back bit by bit.
    pub(super) async fn push_within(&self, file: &WalFile, source: Source, held: &mut Option<Share>) -> Result<Pushed> {
        let done = match file {
            WalFile::Segment(name) => self.push_segment(*name, file, source, held).await,
            WalFile::Partial(name) => self.push_checked(*name, file, source, held).await,
            WalFile::History(timeline) => self.push_history(*timeline, file, source).await,
            WalFile::BackupHistory(..) => {
                self.archive().admit(self.system()).await?;
                let (source, _) = small(source).await?;
                self.store(file, source, held).await
            }
        };
        done.context(|| format!("archive {file} of system {}", self.system()))
    }

    async fn push_segment(&self, name: SegmentName, file: &WalFile, source: Source, held: &mut Option<Share>) -> Result<Pushed> {
        let pushed = self.push_checked(name, file, source, held).await?;
        self.drop_tips(name).await;
        self.note(name).await;
        // It is stored: what cannot be looked up now is no failure of it.
        if let Ok(identity) = self.known_identity().await {
            self.watch_split(name.timeline, name.start(identity.segment_size)).await;
        }
        Ok(pushed)
    }

    async fn push_checked(&self, name: SegmentName, file: &WalFile, source: Source, held: &mut Option<Share>) -> Result<Pushed> {
        let (source, header) = blocking(move || {
            let length = source.length()?;
            let mut page = [0; wal_header::SIZE];
            let read = source.read_at(&mut page, 0)?;
            let header = wal_header::parse(page.get(..read).unwrap_or_default())?;
            header.check_name(name, length)?;
            Ok((source, header))
        })
        .await?;
        self.check_header(name, &header).await?;
        self.store(file, source, held).await
    }

    /// That a segment belongs here; lists its timeline if it is new.
    pub(super) async fn check_header(&self, name: SegmentName, header: &WalHeader) -> Result<()> {
        let system = self.system();
        if header.system_identifier != system.identifier {
            return Err(Error::new(
                Kind::Failed,
                format!("it belongs to system {}, and this is the archive of {}", header.system_identifier, system.identifier),
            )
            .hint("If the server was upgraded or made anew and is to go on here, run `strongroom wal adopt` once. If it is a copy, give it a `cluster` name of its own."));
        }
        if let Some(major) = header.major.filter(|m| *m != system.major) {
            return Err(Error::new(
                Kind::Failed,
                format!("it was written by PostgreSQL {major}, and this is the archive of PostgreSQL {}", system.major),
            ));
        }
        let identity = match self.register(name.timeline, None, header.segment_size).await {
            Ok(identity) => identity,
            // Its history may have been pushed before there was an identity object, or by somebody who died then.
            Err(refused) if name.timeline.0 > 1 => match self.stored_history(name.timeline).await? {
                Some(history) => self.register(name.timeline, Some(&history), header.segment_size).await?,
                None => return Err(refused),
            },
            Err(refused) => return Err(refused),
        };
        let identity = match identity.known(name.timeline) {
            Some(known) if known.ancestors.is_none() => match self.stored_history(name.timeline).await? {
                Some(history) => self.register(name.timeline, Some(&history), header.segment_size).await?,
                None => identity,
            },
            _ => identity,
        };
        let expected = identity.history(name.timeline).map(|h| h.timeline_at(header.address));
        if let Some(expected) = expected.filter(|t| *t != header.timeline) {
            return Err(Error::new(
                Kind::Failed,
                format!("its first page is of timeline {}; by its history it should be of timeline {expected}", header.timeline),
            ));
        }
        Ok(())
    }

    async fn push_history(&self, timeline: Timeline, file: &WalFile, source: Source) -> Result<Pushed> {
        let (source, bytes) = small(source).await?;
        let history = parse_history(timeline, &bytes)?;
        match self.identity().await? {
            Some(identity) => drop(self.register(timeline, Some(&history), identity.segment_size).await?),
            None => self.archive().admit(self.system()).await?,
        }
        self.store(file, source, &mut None).await
    }

    /// What the history file in the archive says.
    async fn stored_history(&self, timeline: Timeline) -> Result<Option<TimelineHistory>> {
        let key = self.names().file(&WalFile::History(timeline))?;
        match self.objects().bytes(&key).await? {
            Some(bytes) => parse_history(timeline, &bytes).map(Some),
            None => Ok(None),
        }
    }

    async fn store(&self, file: &WalFile, source: Source, held: &mut Option<Share>) -> Result<Pushed> {
        let key = self.names().file(file)?;
        // Twice, because what stands in the way may be expired between the look at it and the next try.
        for again in [false, true] {
            if let Some(held) = held.as_mut().filter(|_| again) {
                held.renew().await;
            }
            let source = source.try_clone()?;
            let ours = match self.objects().create(&key, source, self.archive().codec(), held).await? {
                Created::New(_) => return Ok(Pushed::Stored),
                Created::Exists(content) => content,
            };
            match self.objects().content(&key).await? {
                Some(stored) if stored == ours => return Ok(Pushed::Same),
                Some(stored) => return Err(conflict(&key, &stored, &ours)),
                None => {}
            }
        }
        Err(Error::new(Kind::Unavailable, format!("{key} comes and goes while it is stored")))
    }
}

pub(super) fn conflict(key: &Key, stored: &Content, ours: &Content) -> Error {
    Error::new(Kind::Failed, format!("{key} is stored already with another content: {stored} there, {ours} here"))
        .hint("Two servers archive to one place, or one was restored to an earlier time and went on. Nothing was overwritten. Find out which one is right; give the other one a `cluster` name of its own.")
}

fn parse_history(timeline: Timeline, bytes: &[u8]) -> Result<TimelineHistory> {
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|e| Error::new(Kind::Failed, format!("{} is no text", timeline.history_name())).because(e))?;
    let history = TimelineHistory::parse(timeline, text)?;
    if history.ancestors.is_empty() {
        return Err(Error::new(Kind::Failed, format!("{} names no ancestors", timeline.history_name())));
    }
    Ok(history)
}

/// Reads a small file whole.
async fn small(source: Source) -> Result<(Source, bytes::Bytes)> {
    let bytes = blocking(move || {
        let length = source.length()?;
        if length > SMALL {
            return Err(Error::new(Kind::Failed, format!("it has {length} bytes, which no such file has")));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = source.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes::Bytes::from(bytes))
    })
    .await?;
    Ok((Source::Bytes(bytes.clone()), bytes))
}
