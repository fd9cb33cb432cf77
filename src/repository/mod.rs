//! restic format v2, written and read by our own engine.
//!
//! Order of writes: packs → index (of acknowledged packs) → snapshot last, the commit point. A crash at any point
//! leaves only data that nothing refers to, which the next run finds and uses. Deletion goes the other way round.
//!
//! The engine's calls ([`Reader`], [`Writer`]) **block**: call them from threads that may (`spawn_blocking`, a source's
//! or a restore's own threads), never from a task. Requests to the store run on the tokio runtime that the
//! [`Repository`] was opened on. The calls of [`Repository`] itself are async.

mod adopt;
mod by_pack;
mod cache;
mod check;
mod chunk;
mod config_file;
mod derived;
mod gate;
mod index;
mod index_files;
mod keys;
mod lock;
mod marks;
mod pack;
mod prune;
mod raw;
mod reader;
mod snapshot;
mod streamed;
mod survey;
mod tree;
mod walk;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use tokio::runtime::Handle;

pub use adopt::adopt_orphans;
pub use check::{CheckOptions, CheckProgress, CheckReport, ParseReadDataError, ReadData, check};
pub use chunk::{Blocks, Chunking, SMALL_FILE};
pub use config_file::ConfigFile;
pub use index::{BlobPlace, BlobType, Index, IndexBuilder, IndexEntry, IndexFile, IndexedBlob, IndexedPack};
pub use keys::KeyFile;
pub use lock::{LockFile, LockHolder, LockMode, ProcessMark, RepoLock};
pub use pack::{LEVEL_OFF, compressed_len};
pub use prune::{MaxUnused, Prune, PruneOptions, PruneProgress, PruneStats, plan_prune};
pub use reader::{Fetched, FileReader, Nodes, Reader, TakeFetched, Want};
pub use snapshot::{Snapshot, SnapshotFile, SnapshotSummary};
pub use streamed::LargeTree;
pub use survey::{Finding, Findings};
pub use tree::{TreePart, decode_tree, encode_tree, visit_tree};
pub use writer::{Done, FileContent, FileWriter, Lane, PendingFile, Saved, Writer, WriterOptions, WriterStats};

use crate::crypto::{MasterKey, ObjectSeal};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::runtime::{Cancel, Clock, SecretText};
use crate::store::{self, Key, Payload, PutMode, Store};

/// What a repository needs of its surroundings.
#[derive(Debug, Clone)]
pub struct RepoEnv {
    /// For times that are written.
    pub clock: Arc<dyn Clock>,
    /// Where index files and tree packs are kept; `None` for local stores.
    pub cache_dir: Option<PathBuf>,
}

/// What [`Repository::init`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitOutcome {
    /// It made the repository.
    Created,
    /// There was one, and the password opens it.
    AlreadyExists,
}

/// An open repository. Cloning shares it.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    key: MasterKey,
    key_id: Id,
    config: ConfigFile,
    clock: Arc<dyn Clock>,
    cache: Option<cache::Cache>,
    runtime: Handle,
    /// Whether a run of this process may have left packs that no index names.
    orphans: Arc<AtomicBool>,
}

impl Repository {
    /// Makes a repository where there is none; where there is one, checks that the password opens it.
    ///
    /// Safe against a second process doing the same at the same moment: the key is written first, then `config` by a
    /// conditional put; the loser removes its key and opens the winner's.
    ///
    /// # Errors
    /// [`Kind::WrongPassword`] if there is a repository that the password does not open; the store's failures.
    pub async fn init(
        store: Arc<dyn Store>,
        password: &SecretText,
        env: &RepoEnv,
        holder: &LockHolder,
    ) -> Result<(Self, InitOutcome)> {
        match Self::open(store.clone(), password, env).await {
            Ok(repo) => return Ok((repo, InitOutcome::AlreadyExists)),
            Err(e) if e.kind() == Kind::NoRepository => {}
            Err(e) => return Err(e),
        }
        let doing = || format!("create a repository at {}", store.location());
        let snapshots = raw::list(store.as_ref(), "snapshots").await.context(doing)?;
        if !snapshots.is_empty() {
            return Err(Error::new(Kind::Corrupt, format!("{} has snapshots but no config file", store.location()))
                .hint("A repository was damaged here. Bring its config file back from a copy; nothing was written."));
        }
        let config = ConfigFile::generate();
        // The key of an attempt that ended half-way is used again: left beside another one, it would keep stock clients
        // from opening the repository.
        let (key_id, master) = match keys::find(store.as_ref(), password).await.context(doing)? {
            Some(found) => found,
            None => {
                let (master, created, who, password) = (MasterKey::generate(), env.clock.now(), holder.clone(), password.clone());
                let wrap =
                    move || KeyFile::wrap(&master, &password, created, &who.username, &who.hostname).map(|file| (file, master));
                let wrapped = tokio::task::spawn_blocking(wrap)
                    .await
                    .map_err(|e| Error::new(Kind::Bug, "a key thread ended").because(e))?;
                let (file, master) = wrapped?;
                (keys::save(store.as_ref(), &file).await.context(doing)?, master)
            }
        };
        // Never compressed and without a leading byte, as the format wants it.
        let sealed = raw::encode(&master, 1, &config)?;
        let put = store.put(&config_key()?, Payload::from(sealed), PutMode::Create).await;
        match put {
            Ok(_) => {
                let repo = Self::assemble(store, master, key_id, config, env);
                Ok((repo, InitOutcome::Created))
            }
            Err(e) if e.kind() == store::ErrorKind::AlreadyExists => {
                let winners = store.get(&config_key()?, None).await.map_err(Error::from).context(doing)?;
                // Somebody may have won with our key: then it is the repository's only one.
                if raw::decode::<ConfigFile>(&master, &winners).is_err() {
                    store.delete(&Key::new(format!("keys/{key_id}"))?).await.map_err(Error::from).context(doing)?;
                }
                Ok((Self::open(store, password, env).await?, InitOutcome::AlreadyExists))
            }
            Err(e) => Err(Error::from(e).context(doing())),
        }
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`Kind::NoRepository`] only if the store said that there is no `config`; [`Kind::WrongPassword`].
    pub async fn open(store: Arc<dyn Store>, password: &SecretText, env: &RepoEnv) -> Result<Self> {
        let doing = || format!("open the repository at {}", store.location());
        let sealed = match store.get(&config_key()?, None).await {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), store::ErrorKind::NotFound | store::ErrorKind::NoSuchStore) => {
                let none = Error::new(Kind::NoRepository, format!("there is no repository at {}", store.location()))
                    .hint("Check the address. `strongroom init` creates a repository; a backup never does.");
                // That even the directory or bucket is missing is worth knowing: it may not be mounted.
                return Err(if e.kind() == store::ErrorKind::NoSuchStore { none.because(e) } else { none });
            }
            Err(e) => return Err(Error::from(e).context(doing())),
        };
        let (key_id, key, config) = keys::open(store.as_ref(), password, &sealed).await?;
        config.check().context(doing)?;
        Ok(Self::assemble(store, key, key_id, config, env))
    }

    fn assemble(store: Arc<dyn Store>, key: MasterKey, key_id: Id, config: ConfigFile, env: &RepoEnv) -> Self {
        let cache = env.cache_dir.as_deref().and_then(|dir| cache::Cache::open(dir, &config.id));
        let (clock, runtime, orphans) = (env.clock.clone(), Handle::current(), Arc::default());
        Self(Arc::new(Inner { store, key, key_id, config, clock, cache, runtime, orphans }))
    }

    /// The same repository, reached through another view of its store: one that counts, or limits.
    #[must_use]
    pub fn with_store(&self, store: Arc<dyn Store>) -> Self {
        let Inner { key, key_id, config, clock, cache, runtime, orphans, .. } = self.0.as_ref();
        let (key, config, clock, cache) = (key.clone(), config.clone(), clock.clone(), cache.clone());
        let (runtime, orphans) = (runtime.clone(), orphans.clone());
        Self(Arc::new(Inner { store, key, key_id: *key_id, config, clock, cache, runtime, orphans }))
    }

    /// The repository's random id.
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.config.id
    }

    /// Seals and opens objects of our own, below `strongroom/` and `wal/`.
    ///
    /// # Errors
    /// None in practice; see [`ObjectSeal::new`].
    pub fn object_seal(&self) -> Result<ObjectSeal> {
        ObjectSeal::new(self.key(), self.id())
    }

    /// The key file that opened it.
    #[must_use]
    pub fn key_id(&self) -> Id {
        self.0.key_id
    }

    /// 1 (nothing is compressed) or 2.
    #[must_use]
    pub fn format_version(&self) -> u32 {
        self.0.config.version
    }

    /// Where it is.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// The clock for times that are written.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Whether a run of this process ended without an index of everything it uploaded: [`adopt_orphans`] finds that.
    #[must_use]
    pub fn may_have_orphans(&self) -> bool {
        self.0.orphans.load(Ordering::Relaxed)
    }

    pub(crate) fn note_orphans(&self) {
        self.0.orphans.store(true, Ordering::Relaxed);
    }

    pub(crate) fn forget_orphans(&self) {
        self.0.orphans.store(false, Ordering::Relaxed);
    }

    pub(crate) fn key(&self) -> &MasterKey {
        &self.0.key
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub(crate) fn pack_key(&self, id: &Id) -> Result<Key> {
        let hex = id.to_hex();
        Ok(Key::new(format!("data/{}/{hex}", hex.get(..2).unwrap_or_default()))?)
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// The first snapshot that cannot be read, by name: a list that silently lacks one would be a lie.
    pub async fn load_snapshots(&self) -> Result<Vec<Snapshot>> {
        let listed = raw::list(self.store().as_ref(), "snapshots").await?;
        let load = |(id, _)| async move {
            let cached = self.0.cache.as_ref().and_then(|c| c.get(&id));
            let loaded = async {
                let bytes = match cached {
                    Some(bytes) => bytes,
                    None => {
                        let bytes = raw::load(self.store().as_ref(), "snapshots", &id).await?;
                        if let Some(cache) = &self.0.cache {
                            cache.put(&id, &bytes);
                        }
                        bytes
                    }
                };
                Ok::<_, Error>(Snapshot { id, file: raw::decode(self.key(), &bytes)? })
            };
            (id, loaded.await)
        };
        let mut loads = futures::stream::iter(listed).map(load).buffer_unordered(8);
        let (mut snapshots, mut missing) = (Vec::new(), Vec::new());
        while let Some((id, loaded)) = loads.next().await {
            match loaded {
                // Removed between the listing and the read, a snapshot is gone, not unreadable: looked at below.
                Err(e) if e.kind() == Kind::NotFound => missing.push(id),
                loaded => snapshots.push(loaded.context(|| format!("read snapshot {}", id.short()))?),
            }
        }
        if let Some(id) = raw::contradicted(self.store().as_ref(), "snapshots", missing).await?.first() {
            return Err(raw::contradiction().context(format!("read snapshot {}", id.short())));
        }
        snapshots.sort_by_key(|s| (s.file.time, s.id));
        Ok(snapshots)
    }

    /// Writes a snapshot: the commit point of a backup.
    ///
    /// # Errors
    /// The store's failures; the snapshot may be there all the same.
    pub async fn save_snapshot(&self, file: &SnapshotFile) -> Result<Id> {
        let sealed = raw::encode(self.key(), self.format_version(), file)?;
        raw::save(self.store().as_ref(), "snapshots", sealed).await.context(|| "write the snapshot")
    }

    /// Removes a snapshot. Its data stays until a prune. Removing what is gone succeeds.
    ///
    /// # Errors
    /// The store's failures.
    pub async fn remove_snapshot(&self, id: Id) -> Result<()> {
        Ok(self.store().delete(&Key::new(format!("snapshots/{id}"))?).await?)
    }

    /// Takes a lock; see [`RepoLock`].
    ///
    /// # Errors
    /// [`Kind::Locked`] if a conflicting one is there; [`Kind::Denied`] if locks may not be written (readers go on without).
    pub async fn lock(&self, mode: LockMode, holder: &LockHolder, cancel: &Cancel) -> Result<RepoLock> {
        lock::acquire(self, mode, holder, cancel).await
    }

    /// [`Repository::lock`], tried again until `wait` has passed.
    ///
    /// # Errors
    /// As [`Repository::lock`].
    pub async fn lock_within(
        &self,
        mode: LockMode,
        holder: &LockHolder,
        wait: std::time::Duration,
        cancel: &Cancel,
    ) -> Result<RepoLock> {
        let pause = std::time::Duration::from_secs(5);
        let mut left = wait;
        loop {
            match self.lock(mode, holder, cancel).await {
                Err(e) if e.kind() == Kind::Locked && !left.is_zero() => {
                    tracing::info!("waiting: {}", e.chain());
                    let nap = pause.min(left);
                    tokio::select! {
                        () = cancel.cancelled() => cancel.check()?,
                        () = tokio::time::sleep(nap) => left -= nap,
                    }
                }
                done => return done,
            }
        }
    }

    /// All locks that are there.
    ///
    /// # Errors
    /// A lock that cannot be read; the store's failures.
    pub async fn load_locks(&self) -> Result<Vec<(Id, LockFile)>> {
        lock::load_all(self, &Cancel::new()).await
    }

    /// Removes locks proven dead: of processes of `hostname` that no longer run, and those that are over 30 minutes old
    /// by the store's clock and of which `is_ours` knows that their holder is gone. Returns the number removed and the rest.
    ///
    /// # Errors
    /// The store's failures.
    pub async fn remove_dead_locks(
        &self,
        hostname: &str,
        is_ours: &(dyn Fn(&LockFile) -> bool + Send + Sync),
    ) -> Result<(usize, Vec<LockFile>)> {
        lock::remove_dead(self, hostname, is_ours).await
    }

    /// All key files.
    ///
    /// # Errors
    /// A key file that cannot be read; the store's failures.
    pub async fn load_keys(&self) -> Result<Vec<(Id, KeyFile)>> {
        keys::load_all(self.store().as_ref()).await
    }

    /// Adds a password: the same master key, wrapped once more.
    ///
    /// # Errors
    /// The store's failures.
    pub async fn add_key(&self, password: &SecretText, holder: &LockHolder) -> Result<Id> {
        let (repo, password, holder) = (self.clone(), password.clone(), holder.clone());
        let wrap = move || KeyFile::wrap(repo.key(), &password, repo.clock().now(), &holder.username, &holder.hostname);
        let file =
            tokio::task::spawn_blocking(wrap).await.map_err(|e| Error::new(Kind::Bug, "a key thread ended").because(e))??;
        keys::save(self.store().as_ref(), &file).await
    }

    /// Removes a key file. Refuses the one in use.
    ///
    /// # Errors
    /// [`Kind::Usage`] for the key in use; the store's failures.
    pub async fn remove_key(&self, id: &Id) -> Result<()> {
        if *id == self.0.key_id {
            return Err(Error::new(Kind::Usage, format!("key {} opened this repository and is not removed", id.short()))
                .hint("Open with another password to remove it."));
        }
        Ok(self.store().delete(&Key::new(format!("keys/{id}"))?).await?)
    }

    /// Loads all index files. List snapshots before, so that what they refer to is in it.
    ///
    /// # Errors
    /// An index file that cannot be read; the store's failures.
    pub async fn load_index(&self) -> Result<Arc<Index>> {
        let listed = raw::list(self.store().as_ref(), "index").await?;
        // A blob takes at least 60 bytes of a compressed index, so this is enough and never touched where it is too much.
        let bytes: u64 = listed.iter().map(|(_, m)| m.size).sum();
        let builder = IndexBuilder::with_capacity((bytes / 60) as usize);
        let builder = index_files::read_all(self, listed, index_files::Source::Cache, builder, |builder, id, file| {
            builder.add(id, file?);
            Ok(())
        })
        .await?;
        let sort = tokio::task::spawn_blocking(move || builder.build());
        Ok(Arc::new(sort.await.map_err(|e| Error::new(Kind::Bug, "an index thread ended").because(e))?))
    }

    async fn load_cached(&self, folder: &str, id: &Id) -> Result<Bytes> {
        if let Some(bytes) = self.0.cache.as_ref().and_then(|c| c.get(id)) {
            return Ok(bytes);
        }
        let bytes = raw::load(self.store().as_ref(), folder, id).await?;
        if let Some(cache) = &self.0.cache {
            cache.put(id, &bytes);
        }
        Ok(bytes)
    }

    /// Writes an index file.
    pub(crate) async fn save_index(&self, file: IndexFile) -> Result<Id> {
        let repo = self.clone();
        let sealed = tokio::task::spawn_blocking(move || raw::encode(repo.key(), repo.format_version(), &file));
        let sealed = sealed.await.map_err(|e| Error::new(Kind::Bug, "an index thread ended").because(e))??;
        raw::save(self.store().as_ref(), "index", sealed).await
    }

    /// The part of a pack that holds trees: its first `end` bytes, or more.
    pub(crate) async fn load_tree_pack(&self, id: &Id, end: u64) -> Result<Bytes> {
        let key = self.pack_key(id)?;
        let Some(cache) = &self.0.cache else {
            return Ok(self.store().get(&key, Some(0..end)).await?);
        };
        if let Some(bytes) = cache.get(id) {
            return Ok(bytes);
        }
        let bytes = self.store().get(&key, None).await?;
        cache.put(id, &bytes);
        Ok(bytes)
    }

    /// A reader over `index`.
    #[must_use]
    pub fn reader(&self, index: Arc<Index>) -> Reader {
        Reader::new(self, index)
    }
}

fn config_key() -> Result<Key> {
    Ok(Key::new("config")?)
}
