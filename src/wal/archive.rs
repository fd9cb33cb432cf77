//! The archive of one cluster: which systems may archive here.
//!
//! `wal/<cluster>/systems` is a sealed list of them. The first system to push makes it, by a conditional put, so of two that
//! begin at once one is refused. Later ones (an upgraded cluster, one that was initialised anew) are let in by
//! [`Archive::adopt`] only. Version history of the list: 1 = this.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::crypto::{Codec, ObjectSeal};
use crate::error::{Error, Kind, Result};
use crate::model::{SystemId, Time};
use crate::store::{ErrorKind, Key, Payload, PutMode, Store, Version};

/// Lost races of an update before it is given up.
pub(super) const RACES: usize = 20;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    seal: ObjectSeal,
    cluster: String,
    codec: Codec,
}

/// A system that may archive here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Which.
    pub system: SystemId,
    /// Since when, by the store's clock.
    pub since: Time,
}

#[derive(Debug, Serialize, Deserialize)]
struct Systems {
    version: u32,
    systems: Vec<Admitted>,
}

impl Archive {
    /// Asks the store nothing. `store` is the repository's, `seal` comes from [`crate::crypto::ObjectSeal`] of the same
    /// repository, `cluster` is the name that ties base backups and WAL together.
    ///
    /// # Errors
    /// [`Kind::Config`] for a name that is no DNS label.
    pub fn open(store: Arc<dyn Store>, seal: ObjectSeal, cluster: &str) -> Result<Self> {
        Self::with_codec(store, seal, cluster, Codec::default())
    }

    /// The same; new objects are compressed with `codec`.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn with_codec(store: Arc<dyn Store>, seal: ObjectSeal, cluster: &str, codec: Codec) -> Result<Self> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
        let bytes = cluster.as_bytes();
        if bytes.len() > 63 || !bytes.iter().all(|b| inner(*b)) || !edge(bytes.first()) || !edge(bytes.last()) {
            return Err(Error::new(Kind::Config, format!("`{}` cannot be the name of a cluster", cluster.escape_debug()))
                .hint("Use 1 to 63 characters a-z, 0-9 and '-', not starting or ending with '-'."));
        }
        Ok(Self(Arc::new(Inner { store, seal, cluster: cluster.to_owned(), codec })))
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    pub(super) fn seal(&self) -> &ObjectSeal {
        &self.0.seal
    }

    pub(super) fn codec(&self) -> Codec {
        self.0.codec
    }

    /// The WAL of one system. Asks the store nothing.
    #[must_use]
    pub fn folder(&self, system: SystemId) -> Folder {
        Folder::new(self.clone(), system)
    }

    /// The systems that may archive here, in the order in which they were let in: the last one is the current one. Empty if nothing
    /// was ever archived.
    ///
    /// # Errors
    /// The store's failures; [`Kind::Corrupt`].
    pub async fn systems(&self) -> Result<Vec<Admitted>> {
        Ok(self.load().await?.map_or_else(Vec::new, |(list, _)| list.systems))
    }

    /// Lets a system in if it is the first one here, or was let in before.
    ///
    /// # Errors
    /// [`Kind::Failed`] for a system that is not known, naming `strongroom wal adopt`; the store's failures.
    pub async fn admit(&self, system: SystemId) -> Result<()> {
        self.enter(system, false).await
    }

    /// Lets a system in for good: after an upgrade, or for a server that is meant to go on in the place of another. Nothing that is
    /// there is touched: it archives into a folder of its own. Safe to repeat; the system is the current one afterwards.
    ///
    /// # Errors
    /// The store's failures.
    pub async fn adopt(&self, system: SystemId) -> Result<Folder> {
        self.enter(system, true).await?;
        Ok(self.folder(system))
    }

    async fn enter(&self, system: SystemId, adopt: bool) -> Result<()> {
        let key = self.key()?;
        for _ in 0..RACES {
            let now = Admitted { system, since: self.store().now().await? };
            let (list, mode) = match self.load().await? {
                None => (Systems { version: 1, systems: vec![now] }, PutMode::Create),
                Some((list, _)) if list.systems.last().is_some_and(|a| a.system == system) => return Ok(()),
                Some((list, _)) if !adopt && list.systems.iter().any(|a| a.system == system) => return Ok(()),
                Some((list, _)) if !adopt => return Err(self.refuse(system, &list.systems)),
                Some((mut list, version)) => {
                    list.systems.retain(|a| a.system != system);
                    list.systems.push(now);
                    (list, PutMode::Update(version))
                }
            };
            let json = serde_json::to_vec(&list).map_err(|e| Error::new(Kind::Bug, "write JSON").because(e))?;
            let sealed = self.seal().seal(key.as_str(), &json)?;
            match self.store().put(&key, Payload::from(sealed), mode).await {
                Ok(_) => return Ok(()),
                Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => {}
                Err(e) => return Err(Error::from(e).context(format!("let system {system} into {key}"))),
            }
        }
        Err(Error::new(Kind::Unavailable, format!("{key} is changed by others all the time")))
    }

    async fn load(&self) -> Result<Option<(Systems, Version)>> {
        let key = self.key()?;
        let (sealed, version) = match self.store().get_versioned(&key).await {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let plain = self.seal().open(key.as_str(), &sealed)?;
        let list: Systems = serde_json::from_slice(&plain)
            .map_err(|e| Error::new(Kind::Corrupt, format!("{key} is not what was expected")).because(e))?;
        if list.version != 1 {
            return Err(Error::new(Kind::Failed, format!("{key} has version {}; 1 is known", list.version))
                .hint("Use a newer strongroom."));
        }
        Ok(Some((list, version)))
    }

    fn refuse(&self, system: SystemId, known: &[Admitted]) -> Error {
        let known: Vec<String> = known.iter().map(|a| a.system.to_string()).collect();
        Error::new(
            Kind::Failed,
            format!(
                "system {system} may not archive into cluster {} of {}: that belongs to {}",
                self.cluster(),
                self.store().location(),
                known.join(", ")
            ),
        )
        .hint("If this server was upgraded or made anew and is to go on here, run `strongroom wal adopt` once. If it is a copy, give it a `cluster` name of its own.")
    }

    fn key(&self) -> Result<Key> {
        Ok(Key::new(format!("wal/{}/systems", self.cluster()))?)
    }
}
