//! The WAL of one system: its identity object, and what push and fetch share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::archive::{Archive, RACES};
use super::identity::{Gap, Identity};
use super::names::Names;
use super::object::Objects;
use super::split::Watch;
use crate::error::{Error, Kind, Result};
use crate::model::{Ancestor, Lsn, SegmentName, SegmentSize, SystemId, Time, Timeline, TimelineHistory};
use crate::store::{ErrorKind, Payload, PutMode, Version};

/// The newest segment is written to the identity object after so many new ones …
const NOTE_AFTER: u32 = 256;
/// … or when this time has passed and there is a new one.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// See the module. Cheap to clone; clones share what they know of the store.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    archive: Archive,
    system: SystemId,
    names: Names,
    objects: Objects,
    /// As last read or written; timelines in it stay true for ever.
    known: Mutex<Option<Identity>>,
    noted: Mutex<Noted>,
    /// Tips of segments that are not stored yet, sent or seen by this process.
    tips: Mutex<BTreeMap<SegmentName, BTreeSet<u64>>>,
    watch: Watch,
}

/// The newest segments, not yet in the identity object.
#[derive(Debug)]
struct Noted {
    newest: BTreeMap<Timeline, SegmentName>,
    count: u32,
    since: Instant,
}

/// What a change of the identity object did.
enum Change {
    Made,
    Unnecessary,
}

impl Folder {
    pub(super) fn new(archive: Archive, system: SystemId) -> Self {
        let names = Names::new(archive.cluster(), system);
        let objects = Objects { store: archive.store().clone(), seal: archive.seal().clone() };
        let noted = Mutex::new(Noted { newest: BTreeMap::new(), count: 0, since: Instant::now() });
        let (known, tips, watch) = (Mutex::default(), Mutex::default(), Watch::new());
        Self(Arc::new(Inner { archive, system, names, objects, known, noted, tips, watch }))
    }

    /// Whose WAL it is.
    #[must_use]
    pub fn system(&self) -> SystemId {
        self.0.system
    }

    /// The archive it is part of.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.0.archive
    }

    /// For messages and caches: `wal/<cluster>/<system>/`, below the repository.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.names.root
    }

    /// Where it is, store and all: for what is kept of it on this machine.
    #[must_use]
    pub fn location(&self) -> String {
        format!("{}/{}", self.archive().store().location(), self.path())
    }

    pub(super) fn names(&self) -> &Names {
        &self.0.names
    }

    pub(super) fn objects(&self) -> &Objects {
        &self.0.objects
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.0.watch
    }

    pub(super) fn tips_sent(&self) -> &Mutex<BTreeMap<SegmentName, BTreeSet<u64>>> {
        &self.0.tips
    }

    /// The identity object as it is now. `None`: the store said that there is none, so nothing was ever archived here.
    ///
    /// # Errors
    /// The store's failures; [`Kind::Corrupt`].
    pub async fn identity(&self) -> Result<Option<Identity>> {
        Ok(self.load().await?.map(|(identity, _)| identity))
    }

    /// Lists a timeline in the identity object (and this system in the archive, if it is the first one), so that its segments are
    /// accepted. `history`: `None` if its history file is not at hand, which is enough for the first timeline of a folder and for
    /// timeline 1. One request that reads while it is known already, none once this process knows it.
    ///
    /// # Errors
    /// [`Kind::Failed`] if the system is not admitted, the history does not agree with what is known, or the segment size is
    /// another one; the store's failures.
    pub async fn register(&self, timeline: Timeline, history: Option<&TimelineHistory>, size: SegmentSize) -> Result<Identity> {
        let ancestors = history.map(|h| h.ancestors.clone());
        {
            let known = self.0.known.lock().await;
            if let Some(identity) = known.as_ref().filter(|i| lists(i, timeline, ancestors.as_deref())) {
                check_size(identity, size)?;
                return Ok(identity.clone());
            }
        }
        if let Some(identity) = self.identity().await?.filter(|i| lists(i, timeline, ancestors.as_deref())) {
            check_size(&identity, size)?;
            self.remember(&identity).await;
            return Ok(identity);
        }
        self.0.archive.admit(self.0.system).await?;
        let new = || Some(Identity::new(self.0.system, size));
        self.update(new, |identity, now| {
            check_size(identity, size)?;
            let added = identity.add(timeline, ancestors.clone(), now)?;
            Ok(if added { Change::Made } else { Change::Unnecessary })
        })
        .await
    }

    /// Records that WAL is lost for good, so that nobody takes it for a fault of the archive and a new base backup is made.
    /// Repeating it changes nothing. The timeline must be registered.
    ///
    /// # Errors
    /// The store's failures; [`Kind::NotFound`] if nothing was ever archived here.
    pub async fn record_gap(&self, timeline: Timeline, from: Lsn, to: Lsn, reason: &str) -> Result<()> {
        let change = |identity: &mut Identity, now| {
            if identity.gaps.iter().any(|g| (g.timeline, g.from, g.to) == (timeline, from, to)) {
                return Ok(Change::Unnecessary);
            }
            identity.gaps.push(Gap { timeline, from, to, reason: reason.to_owned(), noticed: now });
            Ok(Change::Made)
        };
        self.update(|| None, change).await.map(drop)
    }

    /// Records that WAL before these positions is expired on purpose.
    pub(super) async fn record_expiry(&self, below: &BTreeMap<Timeline, Lsn>) -> Result<()> {
        let change = |identity: &mut Identity, _| {
            let mut change = Change::Unnecessary;
            for known in &mut identity.timelines {
                if let Some(lsn) = below.get(&known.timeline).filter(|l| Some(**l) > known.expired_below) {
                    known.expired_below = Some(*lsn);
                    change = Change::Made;
                }
            }
            Ok(change)
        };
        self.update(|| None, change).await.map(drop)
    }

    /// Remembers that a segment was stored, and writes it down now and then.
    pub(super) async fn note(&self, segment: SegmentName) {
        {
            let mut noted = self.0.noted.lock().await;
            let newest = noted.newest.entry(segment.timeline).or_insert(segment);
            *newest = (*newest).max(segment);
            noted.count += 1;
            if noted.count < NOTE_AFTER && noted.since.elapsed() < NOTE_EVERY {
                return;
            }
            (noted.count, noted.since) = (0, Instant::now());
        }
        self.flush().await;
    }

    /// Writes the newest segments to the identity object. Call it when archiving pauses or ends. It is a help for `status` and a
    /// second witness for fetch, so failing is only logged: what is true is told by a listing.
    pub async fn flush(&self) {
        let newest = std::mem::take(&mut self.0.noted.lock().await.newest);
        if newest.is_empty() {
            return;
        }
        let change = |identity: &mut Identity, _| {
            let mut change = Change::Unnecessary;
            for known in &mut identity.timelines {
                if let Some(segment) = newest.get(&known.timeline).filter(|s| Some(**s) > known.newest) {
                    known.newest = Some(*segment);
                    change = Change::Made;
                }
            }
            Ok(change)
        };
        if let Err(e) = self.update(|| None, change).await {
            tracing::warn!("the newest segment is not written down: {}", e.chain());
        }
    }

    /// The identity object as this process last saw it, read if it has not yet.
    pub(super) async fn known_identity(&self) -> Result<Identity> {
        if let Some(identity) = self.0.known.lock().await.clone() {
            return Ok(identity);
        }
        let identity = self.identity().await?.ok_or_else(|| self.nothing())?;
        self.remember(&identity).await;
        Ok(identity)
    }

    /// Reads the identity object again.
    pub(super) async fn refresh(&self) -> Result<()> {
        if let Some(identity) = self.identity().await? {
            self.remember(&identity).await;
        }
        Ok(())
    }

    async fn remember(&self, identity: &Identity) {
        *self.0.known.lock().await = Some(identity.clone());
    }

    async fn load(&self) -> Result<Option<(Identity, Version)>> {
        let key = self.0.names.identity()?;
        let objects = &self.0.objects;
        let (sealed, version) = match objects.store.get_versioned(&key).await {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let plain = objects.seal.open(key.as_str(), &sealed)?;
        let bad = || Error::new(Kind::Corrupt, format!("{key} is not what was expected"));
        let identity: Identity = serde_json::from_slice(&plain).map_err(|e| bad().because(e))?;
        if identity.version != 1 {
            return Err(Error::new(Kind::Failed, format!("{key} has version {}; 1 is known", identity.version))
                .hint("Use a newer strongroom."));
        }
        if identity.system != self.0.system {
            return Err(bad());
        }
        Ok(Some((identity, version)))
    }

    /// Reads, changes and writes the identity object, again and again until nobody was in between. `change` must be such that
    /// doing it twice is doing it once.
    async fn update(
        &self,
        new: impl Fn() -> Option<Identity>,
        change: impl Fn(&mut Identity, Time) -> Result<Change>,
    ) -> Result<Identity> {
        let key = self.0.names.identity()?;
        let objects = &self.0.objects;
        let now = objects.store.now().await?;
        for _ in 0..RACES {
            let (mut identity, mode) = match self.load().await? {
                Some((identity, version)) => (identity, PutMode::Update(version)),
                None => match new() {
                    Some(identity) => (identity, PutMode::Create),
                    None => return Err(self.nothing()),
                },
            };
            if let Change::Unnecessary = change(&mut identity, now)? {
                self.remember(&identity).await;
                return Ok(identity);
            }
            identity.serial = identity.serial.wrapping_add(1);
            let json = serde_json::to_vec(&identity).map_err(|e| Error::new(Kind::Bug, "write JSON").because(e))?;
            let sealed = objects.seal.seal(key.as_str(), &json)?;
            match objects.store.put(&key, Payload::from(sealed), mode).await {
                Ok(_) => {
                    self.remember(&identity).await;
                    return Ok(identity);
                }
                Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => {}
                Err(e) => return Err(Error::from(e).context(format!("update {key}"))),
            }
        }
        Err(Error::new(Kind::Unavailable, format!("{key} is changed by others all the time")))
    }

    /// Nothing was ever archived here.
    pub(super) fn nothing(&self) -> Error {
        Error::new(
            Kind::NotFound,
            format!(
                "there is no WAL of system {} in cluster {} of {}",
                self.0.system,
                self.0.archive.cluster(),
                self.0.objects.store.location()
            ),
        )
        .hint("Check the `cluster` of the job, and whether the server ever archived here.")
    }
}

fn lists(identity: &Identity, timeline: Timeline, ancestors: Option<&[Ancestor]>) -> bool {
    let known = identity.known(timeline);
    known.is_some_and(|k| ancestors.is_none_or(|a| k.ancestors.as_deref() == Some(a)))
}

fn check_size(identity: &Identity, size: SegmentSize) -> Result<()> {
    if identity.segment_size == size {
        return Ok(());
    }
    Err(Error::new(
        Kind::Failed,
        format!(
            "system {} has segments of {} bytes in the archive, and this one has {}",
            identity.system,
            identity.segment_size.bytes(),
            size.bytes()
        ),
    )
    .hint(
        "pg_resetwal changed wal_segment_size. Make the archive a new one: choose another `cluster` name and make a base backup.",
    ))
}
