//! One segment while it is received: in memory where it fits, else in a file without a name.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::super::object::{Source, blocking};
use crate::crypto::Content;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Lsn, SegmentName, SegmentSize};

/// The most bytes in one tip.
const TIP: usize = 4 << 20;
/// Bytes that are written to the file at once.
const WRITE: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) name: SegmentName,
    size: SegmentSize,
    body: Body,
    filled: u64,
    /// Tips are sent up to here.
    tips: u64,
    /// What was archived of this segment before, to be compared once as much is received.
    before: Option<(Content, blake3::Hasher)>,
}

#[derive(Debug)]
enum Body {
    Memory(BytesMut),
    /// The file, and what is not written to it yet.
    Spool(Arc<File>, BytesMut),
}

impl Assembly {
    /// An empty one. `in_memory`: hold all of it there. `before`: what tips hold of it already.
    pub(super) async fn new(
        name: SegmentName,
        size: SegmentSize,
        in_memory: bool,
        spool: &Path,
        before: Option<Content>,
    ) -> Result<Self> {
        let body = if in_memory {
            Body::Memory(BytesMut::new())
        } else {
            let path = spool.join(format!("receive-{}-{name}", std::process::id()));
            let open = move || {
                let doing = || format!("make the file {}", path.display());
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir).context(doing)?;
                }
                let file = File::options().read(true).write(true).create_new(true).open(&path).context(doing)?;
                std::fs::remove_file(&path).context(|| format!("remove the name of the file {}", path.display()))?;
                Ok(Arc::new(file))
            };
            Body::Spool(blocking(open).await?, BytesMut::with_capacity(WRITE))
        };
        let before = before.filter(|c| c.length > 0).map(|c| (c, blake3::Hasher::new()));
        Ok(Self { name, size, body, filled: 0, tips: 0, before })
    }

    /// The position behind the last byte.
    pub(super) fn received(&self) -> Lsn {
        Lsn(self.name.start(self.size).0.saturating_add(self.filled))
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == self.size.bytes()
    }

    /// Whether there is something that no tip holds.
    pub(super) fn has_new(&self) -> bool {
        self.before.is_none() && self.tips < self.filled
    }

    /// Adds what belongs to this segment and leaves the rest. Tells the position that is known to be stored, once enough was
    /// received to compare it with the tips of an earlier connection.
    pub(super) async fn add(&mut self, bytes: &mut Bytes) -> Result<Option<Lsn>> {
        let room = usize::try_from(self.size.bytes().saturating_sub(self.filled)).unwrap_or(usize::MAX);
        let mine = bytes.split_to(bytes.len().min(room));
        let matched = self.compare(&mine)?;
        let total = usize::try_from(self.size.bytes()).unwrap_or(usize::MAX);
        match &mut self.body {
            Body::Memory(body) => {
                // A quiet server's segment stays small; a busy one's is not moved about while it grows.
                if body.capacity() < body.len().saturating_add(mine.len()) {
                    let wanted = if body.len() >= WRITE { total } else { WRITE.min(total) };
                    body.reserve(wanted.saturating_sub(body.len()).max(mine.len()));
                }
                body.extend_from_slice(&mine);
            }
            Body::Spool(file, pending) => {
                pending.extend_from_slice(&mine);
                if pending.len() >= WRITE {
                    let at = self.filled.saturating_add(mine.len() as u64).saturating_sub(pending.len() as u64);
                    write(file, pending.split().freeze(), at).await?;
                }
            }
        }
        self.filled = self.filled.saturating_add(mine.len() as u64);
        Ok(matched)
    }

    fn compare(&mut self, mine: &[u8]) -> Result<Option<Lsn>> {
        let Some((content, hasher)) = &mut self.before else { return Ok(None) };
        let rest = usize::try_from(content.length.saturating_sub(hasher.count())).unwrap_or(usize::MAX);
        hasher.update(mine.get(..rest.min(mine.len())).unwrap_or_default());
        if hasher.count() < content.length {
            return Ok(None);
        }
        if hasher.finalize().as_bytes() != &content.blake3 {
            return Err(Error::new(
                Kind::Failed,
                format!("the server's WAL differs from the first {} bytes that are archived of segment {}", content.length, self.name),
            )
            .hint("A second server wrote on the same timeline, or this one lost WAL in a crash (fsync = off?). Find out which one is right; give the other one a `cluster` name of its own."));
        }
        self.tips = content.length;
        self.before = None;
        Ok(Some(Lsn(self.name.start(self.size).0.saturating_add(self.tips))))
    }

    /// The next piece of what no tip holds, with its offset; it counts as sent.
    pub(super) async fn tip(&mut self) -> Result<Option<(u64, Bytes)>> {
        if !self.has_new() {
            return Ok(None);
        }
        let offset = self.tips;
        let length = usize::try_from(self.filled.saturating_sub(offset)).unwrap_or(usize::MAX).min(TIP);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = match &mut self.body {
            Body::Memory(body) => Bytes::copy_from_slice(body.get(from..from.saturating_add(length)).unwrap_or_default()),
            Body::Spool(file, pending) => {
                let at = self.filled.saturating_sub(pending.len() as u64);
                write(file, pending.split().freeze(), at).await?;
                let file = file.clone();
                let read = move || {
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, offset).context(|| "read the file of a segment")?;
                    Ok(Bytes::from(bytes))
                };
                blocking(read).await?
            }
        };
        self.tips = offset.saturating_add(bytes.len() as u64);
        Ok(Some((offset, bytes)))
    }

    /// The whole segment.
    pub(super) async fn finish(self) -> Result<Source> {
        match self.body {
            Body::Memory(body) => Ok(Source::Bytes(body.freeze())),
            Body::Spool(file, pending) => {
                let at = self.filled.saturating_sub(pending.len() as u64);
                write(&file, pending.freeze(), at).await?;
                let file = file.try_clone().context(|| "open the file of a segment once more")?;
                Ok(Source::File(file))
            }
        }
    }
}

async fn write(file: &Arc<File>, bytes: Bytes, at: u64) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let file = file.clone();
    blocking(move || file.write_all_at(&bytes, at).context(|| "write the file of a segment")).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timeline;

    fn size() -> SegmentSize {
        SegmentSize::new(1 << 20).unwrap()
    }

    async fn segment(in_memory: bool, dir: &Path, before: Option<Content>) -> Assembly {
        let name = SegmentName::at(Timeline(1), Lsn(5 << 20), size());
        Assembly::new(name, size(), in_memory, dir, before).await.unwrap()
    }

    fn wal() -> Vec<u8> {
        (0..(1u32 << 20) + 77).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    async fn whole(source: Source) -> Vec<u8> {
        let mut bytes = vec![0; 2 << 20];
        let read = source.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(read);
        bytes
    }

    #[tokio::test]
    async fn a_segment_is_put_together_in_memory_and_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for in_memory in [true, false] {
            let mut segment = segment(in_memory, dir.path(), None).await;
            let (wal, mut rest) = (wal(), Bytes::from(wal()));
            let mut tips = Vec::new();
            while !segment.is_full() {
                let mut piece = rest.split_to(rest.len().min(100_003));
                segment.add(&mut piece).await.unwrap();
                if !piece.is_empty() {
                    assert_eq!(piece.len() + rest.len(), 77);
                }
                if segment.filled > 300_000 && tips.len() < 500_000 {
                    let (offset, bytes) = segment.tip().await.unwrap().unwrap();
                    assert_eq!(offset, tips.len() as u64);
                    tips.extend_from_slice(&bytes);
                    assert!(!segment.has_new());
                }
            }
            assert_eq!(segment.received(), Lsn(6 << 20));
            assert!(tips == wal[..tips.len()]);
            assert!(whole(segment.finish().await.unwrap()).await == wal[..1 << 20]);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }

    #[tokio::test]
    async fn what_was_archived_before_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let wal = wal();
        let mut good = segment(true, dir.path(), Some(Content::of(&wal[..5000]))).await;
        assert_eq!(good.add(&mut Bytes::copy_from_slice(&wal[..4999])).await.unwrap(), None);
        assert!(good.tip().await.unwrap().is_none(), "it is not known yet where to go on");
        assert_eq!(good.add(&mut Bytes::copy_from_slice(&wal[4999..6000])).await.unwrap(), Some(Lsn((5 << 20) + 5000)));
        assert_eq!(good.tip().await.unwrap().unwrap().0, 5000);
        let mut other = wal.clone();
        other[17] ^= 1;
        let mut bad = segment(true, dir.path(), Some(Content::of(&other[..5000]))).await;
        let error = bad.add(&mut Bytes::copy_from_slice(&wal[..6000])).await.unwrap_err();
        assert!(error.report().contains("differs from the first 5000 bytes"), "{}", error.report());
    }
}
