//! On the way to the store: several objects at once, acknowledged in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::object::Source;
use super::{ReceiveEvent, Watcher};
use crate::error::{Error, Kind, Result};
use crate::model::{Lsn, SegmentName, WalFile};
use crate::wal::folder::Folder;

/// Between two tries of one object: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// One object.
#[derive(Debug)]
pub(super) enum Work {
    /// A whole segment.
    Segment(SegmentName, Source),
    /// A piece of one that is not, from this byte on.
    Tip(SegmentName, u64, Bytes),
}

struct Waiting {
    since: Instant,
    tip: bool,
}

/// Objects on their way. Dropping it gives up what is not stored.
pub(super) struct Uploads {
    folder: Folder,
    watcher: Arc<dyn Watcher>,
    running: FuturesOrdered<AbortOnDropHandle<Result<Lsn>>>,
    waiting: std::collections::VecDeque<Waiting>,
    /// Resolves when the last tip is stored, or given up.
    last_tip: Option<oneshot::Receiver<()>>,
}

impl Uploads {
    pub(super) fn new(folder: Folder, watcher: Arc<dyn Watcher>) -> Self {
        Self { folder, watcher, running: FuturesOrdered::new(), waiting: std::collections::VecDeque::new(), last_tip: None }
    }

    /// Starts one. `end`: the position behind its last byte; `since`: when its first byte was received.
    pub(super) fn start(&mut self, work: Work, end: Lsn, since: Instant) {
        let tip = matches!(work, Work::Tip(..));
        self.waiting.push_back(Waiting { since, tip });
        let (folder, watcher) = (self.folder.clone(), self.watcher.clone());
        let (ended, tip_ended) = oneshot::channel();
        // A segment waits for its last tip: whoever stores it removes its tips, and must not be overtaken by one.
        let before = if tip { self.last_tip.replace(tip_ended) } else { self.last_tip.take() };
        let task = tokio::spawn(async move {
            let _ended: oneshot::Sender<()> = ended;
            if let Some(before) = before.filter(|_| !tip) {
                drop(before.await);
            }
            push(&folder, &*watcher, work).await.map(|()| end)
        });
        self.running.push_back(AbortOnDropHandle::new(task));
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whole segments on their way.
    pub(super) fn segments(&self) -> usize {
        self.waiting.iter().filter(|w| !w.tip).count()
    }

    /// Whether a tip is on its way.
    pub(super) fn has_tip(&self) -> bool {
        self.waiting.iter().any(|w| w.tip)
    }

    /// When the oldest byte of all was received.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|w| w.since)
    }

    /// The position behind the next one, in order. Pending for ever while there is none. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Lsn> {
        let Some(done) = self.running.next().await else { return std::future::pending().await };
        self.waiting.pop_front();
        done.map_err(|e| Error::new(Kind::Bug, "a task ended abnormally").because(e))?
    }
}

/// Stores one object, however long the store is away.
async fn push(folder: &Folder, watcher: &dyn Watcher, work: Work) -> Result<()> {
    let mut pause = PAUSE.0;
    loop {
        let pushed = match &work {
            Work::Segment(name, source) => folder.push(&WalFile::Segment(*name), source.try_clone()?).await,
            Work::Tip(name, offset, bytes) => folder.push_tip(*name, *offset, bytes.clone()).await,
        };
        match pushed {
            Ok(_) => return Ok(()),
            // Outages, and rights or buckets that a person may put in order. The rest is about the content.
            Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::Denied | Kind::NotFound | Kind::Locked) => {
                watcher.event(ReceiveEvent::StoreFails(&e));
            }
            Err(e) => return Err(e),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSE.1);
    }
}
