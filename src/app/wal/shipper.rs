//! What a process that lives longer than one file keeps of a job: the open archive, one pusher and one prefetcher a system.
//!
//! Nothing is opened before it is needed, and what could not be opened is tried again at the next call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::server::{Local, only_system};
use super::{Delivery, backfill};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Error, Kind, Result};
use crate::http::WalMetrics;
use crate::model::{SegmentSize, SystemId, WalFile};
use crate::postgres::wal_header;
use crate::wal::{Archive, Fetched, Mode, PrefetchOptions, Prefetcher, PushOptions, Pushed, Pusher};

/// A standby asks again by itself, and may have another source of WAL.
const STANDBY_TIME: Duration = Duration::from_secs(60);
/// Between two tries of a fetch: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Files whose answers are kept until the server asks, for each one that goes up at once.
const AHEAD: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Shipper {
    ctx: Context,
    job: WalJob,
    /// Where segments wait that were read ahead; `None`: nothing is read ahead.
    prefetch: Option<PathBuf>,
    /// For pushing, and for reading ahead, in bytes.
    memory: u64,
    metrics: Option<WalMetrics>,
    archive: tokio::sync::Mutex<Option<Archive>>,
    systems: Mutex<BTreeMap<SystemId, System>>,
    /// Why nothing is read ahead, as it was said last.
    said: Mutex<String>,
}

#[derive(Debug, Clone)]
struct System {
    pusher: Arc<Pusher>,
    /// Made by the first fetch that can.
    prefetcher: Arc<OnceCell<Prefetcher>>,
    /// Downloads at once.
    parallel: usize,
}

impl Shipper {
    /// Opens nothing yet. `prefetch` is a directory that nothing else uses.
    pub(super) fn new(ctx: Context, job: WalJob, prefetch: Option<PathBuf>, metrics: Option<WalMetrics>) -> Self {
        let prefetch = prefetch.filter(|_| job.settings.prefetch > 0);
        let memory = crate::app::memory_share(ctx.settings(), 2);
        let archive = tokio::sync::Mutex::default();
        Self { ctx, job, prefetch, metrics, memory, archive, systems: Mutex::default(), said: Mutex::default() }
    }

    /// For a process that does nothing else: two thirds of the budget instead of half of it, the rest being for reading.
    pub(super) fn alone(mut self) -> Self {
        self.memory = crate::app::memory_share(self.ctx.settings(), 3) * 2;
        self
    }

    /// For a process that has so many of them.
    pub(super) fn one_of(mut self, many: usize) -> Self {
        self.memory /= many.max(1) as u64;
        self
    }

    pub(super) fn job(&self) -> &WalJob {
        &self.job
    }

    /// Stores the first file; the others may be stored in advance. `server`: who it says it is.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that is no file of an archive, before anything is asked or read; then as [`crate::wal::Folder::push`].
    pub(super) async fn push(&self, files: Vec<(String, File)>, server: Option<SystemId>) -> Result<Pushed> {
        let mut files = files.into_iter();
        let (name, source) = files.next().ok_or_else(|| Error::new(Kind::Usage, "there is no file to push"))?;
        let asked: WalFile = name.parse()?;
        let done = self.push_asked(&asked, source, files, server).await;
        if let Some(metrics) = &self.metrics {
            match &done {
                Ok(pushed) => metrics.pushed(*pushed == Pushed::Stored, self.ctx.clock().now()),
                Err(e) => metrics.failed(e.kind()),
            }
        }
        done.context(|| format!("job {}", self.job.selector()))
    }

    async fn push_asked(
        &self,
        asked: &WalFile,
        source: File,
        others: impl Iterator<Item = (String, File)>,
        server: Option<SystemId>,
    ) -> Result<Pushed> {
        let (local, source) = self.look(source).await?;
        let (system, source) = system_of(source, server.or(local.system), asked).await?;
        let system = match system {
            Some(system) => system,
            None => only_system(&self.archive().await?).await?,
        };
        let length = source.metadata().context(|| "look at the file")?.len();
        let length = Some(length).filter(|_| matches!(asked, WalFile::Segment(_)));
        let pusher = self.system(system, length).await?.pusher;
        // The one asked for first; the others behind it.
        let pg_wal = local.pg_wal();
        let (pushed, ()) = tokio::join!(pusher.push(asked, source, pg_wal.as_deref()), async {
            for (name, file) in others {
                if let Ok(wal) = name.parse() {
                    pusher.offer(wal, file);
                }
            }
        });
        let pushed = pushed?;
        if let Some(metrics) = &self.metrics {
            metrics.split(pusher.folder().split().is_some());
        }
        if let (WalFile::History(timeline), Some(pg_wal)) = (asked, &pg_wal) {
            backfill::run(pusher.folder(), pg_wal, *timeline).await?;
        }
        Ok(pushed)
    }

    /// Whether what was stored last was on a timeline that another server left, see [`crate::wal::Split`].
    pub(super) fn is_split(&self) -> bool {
        self.systems.lock().values().any(|system| system.pusher.folder().split().is_some())
    }

    /// The server's files, where the configuration names them and they can be reached.
    async fn look(&self, source: File) -> Result<(Local, File)> {
        let job = self.job.clone();
        blocking(move || {
            let local = Local::find(None, None, &job);
            local.refuse_restored(&job)?;
            let reachable = local.data.as_ref().is_some_and(|d| d.join("pg_wal/archive_status").is_dir());
            Ok((if reachable { local } else { Local { data: None, ..local } }, source))
        })
        .await
    }

    /// Writes a file of the archive into `out`, from its beginning on. What may pass is tried again for the job's `fetch_timeout`.
    /// Nothing is synced to disk.
    ///
    /// # Errors
    /// Whatever is neither delivered nor proven missing.
    pub(super) async fn fetch(&self, name: &str, out: File, mode: Mode, server: Option<SystemId>) -> Result<Delivery> {
        let file: WalFile = name.parse()?;
        let time = self.job.settings.fetch_timeout;
        let time = if mode == Mode::Standby { time.min(STANDBY_TIME) } else { time };
        // The store below tries again, too, each request for a time of its own.
        let done = tokio::time::timeout(time, self.fetch_patiently(&file, &out, mode, server)).await;
        let late = |_| {
            Err(Error::new(Kind::Unavailable, format!("fetch {name}: the archive gave no answer within {} s", time.as_secs())).hint(
                "Is the store reachable? `strongroom doctor` tells more. `fetch_timeout` of the `pg_wal` job says how long to try.",
            ))
        };
        done.unwrap_or_else(late).context(|| format!("job {}", self.job.selector()))
    }

    /// A file that was read ahead: where it lies and its length. It is the caller's from then on. `None`: fetch it.
    pub(super) async fn take(&self, name: &str, mode: Mode, server: Option<SystemId>) -> Option<(PathBuf, u64)> {
        let file: WalFile = name.parse().ok()?;
        let (id, system) = (server?, self.system(server?, None).await.ok()?);
        let prefetcher = self.prefetcher(id, &system).await?;
        let taken = tokio::time::timeout(self.job.settings.fetch_timeout, prefetcher.take(&file, mode)).await;
        taken.ok().flatten()
    }

    async fn fetch_patiently(&self, file: &WalFile, out: &File, mode: Mode, server: Option<SystemId>) -> Result<Delivery> {
        let mut pause = PAUSE.0;
        loop {
            let failed = match self.fetch_once(file, out, mode, server).await {
                Err(e) if e.kind() == Kind::Unavailable => e,
                other => return other,
            };
            tracing::warn!("{file} is not to be had yet, trying again: {}", failed.chain());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.ctx.cancel().cancelled() => return Err(failed.with_kind(Kind::Cancelled)),
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn fetch_once(&self, file: &WalFile, out: &File, mode: Mode, server: Option<SystemId>) -> Result<Delivery> {
        let out = rewind(out)?;
        let system = match server {
            Some(system) => system,
            None => match self.look_for_system().await? {
                Some(system) => system,
                None => only_system(&self.archive().await?).await?,
            },
        };
        let (id, system) = (system, self.system(system, None).await?);
        let counted = out.try_clone().context(|| "open the file once more")?;
        let fetched = match self.prefetcher(id, &system).await {
            Some(prefetcher) => prefetcher.fetch(file, out, mode).await?,
            None => system.pusher.folder().fetch(file, out, mode).await?,
        };
        Ok(match fetched {
            Fetched::Delivered { bytes } => Delivery::Delivered { bytes, until: None },
            Fetched::Unfinished { until } => {
                let bytes = counted.metadata().context(|| "look at the file")?.len();
                Delivery::Delivered { bytes, until: Some(until) }
            }
            Fetched::Missing { why, .. } => Delivery::Missing(why),
        })
    }

    async fn look_for_system(&self) -> Result<Option<SystemId>> {
        let job = self.job.clone();
        blocking(move || Ok(Local::find(None, None, &job).system)).await
    }

    async fn archive(&self) -> Result<Archive> {
        let mut kept = self.archive.lock().await;
        if let Some(archive) = kept.as_ref() {
            return Ok(archive.clone());
        }
        let archive = super::open(&self.ctx, &self.job).await?;
        *kept = Some(archive.clone());
        Ok(archive)
    }

    /// `segment`: its length, where it is at hand.
    async fn system(&self, id: SystemId, segment: Option<u64>) -> Result<System> {
        if let Some(system) = self.systems.lock().get(&id) {
            return Ok(system.clone());
        }
        let folder = self.archive().await?.folder(id);
        let segment = match segment {
            Some(length) => length,
            // Nothing will go on beside it.
            None if self.prefetch.is_none() => SegmentSize::DEFAULT.bytes(),
            None => folder.identity().await?.map_or(SegmentSize::DEFAULT, |i| i.segment_size).bytes(),
        };
        let parallel = super::parallel(&self.job, segment, self.memory);
        let at_once = self.job.settings.parallel;
        let pusher =
            Arc::new(Pusher::new(folder, PushOptions { parallel: at_once, memory: self.memory, ahead: AHEAD * at_once }));
        let mut systems = self.systems.lock();
        // Another call may have been faster; its answers are the ones that are kept.
        Ok(systems.entry(id).or_insert(System { pusher, prefetcher: Arc::default(), parallel }).clone())
    }

    /// `None`: nothing is read ahead, or cannot be now.
    async fn prefetcher<'a>(&self, id: SystemId, system: &'a System) -> Option<&'a Prefetcher> {
        let folder = system.pusher.folder().clone();
        // Another tenant's server may be a clone of this one and have the same system identifier.
        let place = blake3::hash(folder.location().as_bytes()).to_hex();
        let dir = self.prefetch.as_ref()?.join(format!("{id}-{}", place.get(..16).unwrap_or_default()));
        let options = PrefetchOptions { dir, most: self.job.settings.prefetch, parallel: system.parallel };
        let open = || blocking(move || Prefetcher::open(folder, options));
        match system.prefetcher.get_or_try_init(open).await {
            Ok(prefetcher) => Some(prefetcher),
            Err(e) => {
                let report = e.report();
                let mut said = self.said.lock();
                if *said != report {
                    tracing::warn!("job {}: no WAL is read ahead: {report}", self.job.selector());
                    *said = report;
                }
                None
            }
        }
    }

    /// Notes in the archive how far it is: before a pause, and before the process ends.
    pub(super) async fn flush(&self) {
        let systems: Vec<System> = self.systems.lock().values().cloned().collect();
        for system in systems {
            system.pusher.folder().flush().await;
        }
    }
}

/// Whose file it is: what a segment says itself wins over what its server says; they must agree.
pub(super) async fn system_of(source: File, server: Option<SystemId>, file: &WalFile) -> Result<(Option<SystemId>, File)> {
    if !matches!(file, WalFile::Segment(_) | WalFile::Partial(_)) {
        return Ok((server, source));
    }
    let name = file.to_string();
    blocking(move || {
        use std::os::unix::fs::FileExt;
        let mut page = [0; wal_header::SIZE];
        source.read_exact_at(&mut page, 0).context(|| format!("read the first page of {name}"))?;
        let header = wal_header::parse(&page).context(|| name.clone())?;
        if let Some(server) = server.filter(|s| s.identifier != header.system_identifier) {
            let what = format!("{name} belongs to system {}, and its server is {}", header.system_identifier, server.identifier);
            return Err(Error::new(Kind::Failed, what));
        }
        let own = header.major.map(|major| SystemId { major, identifier: header.system_identifier });
        Ok((own.or(server), source))
    })
    .await
}

/// Empties a file that an earlier try may have begun to fill.
fn rewind(out: &File) -> Result<File> {
    let mut out = out.try_clone().context(|| "open the file once more")?;
    let doing = || "empty the file to write to";
    out.set_len(0).context(doing)?;
    out.seek(SeekFrom::Start(0)).context(doing)?;
    Ok(out)
}
