//! Brings a PostgreSQL cluster back from a base backup, and to a point in time with the WAL archive.
//!
//! [`prepare`] makes the plan and changes nothing: `--preview` ends there. [`run`] carries it out: a hold on the WAL that
//! recovery will read ([`hold`]), then the files under a read lock. The restored server fetches its WAL by itself when it is
//! started, with the `restore_command` that [`command`] writes.

mod archive;
mod bases;
pub mod command;
pub mod hold;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::Context;
use super::read_lock::with_read_lock;
use super::restore_volume::Stored;
use super::select::Found;
use crate::error::Result;
use crate::model::{Id, Lsn, SegmentName, Time, Timeline};
use crate::postgres::recovery::Recovery;
pub use crate::postgres::recovery::{Action, FollowTimeline, Target};
use crate::restore::cluster::plan::{self, Plan, Window, Wish};
use crate::restore::cluster::{self, Mark, Placed, libraries};
pub use crate::restore::directory::Progress;
use crate::runtime::Cancel;

/// Bytes a second that a restore is taken to write, for the estimate.
const FILES_PER_SECOND: f64 = 150e6;
/// Bytes of WAL a second that a server is taken to replay, fetching included.
const REPLAY_PER_SECOND: f64 = 40e6;

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The data directory.
    pub to: PathBuf,
    /// Where to stop.
    pub target: Target,
    /// Whether the target itself is in.
    pub inclusive: bool,
    /// Along which timeline.
    pub timeline: FollowTimeline,
    /// What happens there.
    pub action: Action,
    /// Begin with the snapshot that was found, not with the one that fits best.
    pub pinned: bool,
    /// Where there is no WAL archive, be content with the snapshot that was found instead of refusing the target.
    pub or_newest: bool,
    /// New directories of tablespaces, by their former ones or their numbers.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Restore over an existing data directory.
    pub delta: bool,
    /// Read everything again afterwards.
    pub verify: bool,
    /// The restored server shall be a standby.
    pub standby: bool,
    /// Let it archive as the backed-up one did.
    pub archive: bool,
    /// Further settings of the restored server.
    pub settings: Vec<(String, String)>,
    /// Fetches WAL for the restored server.
    pub fetch: command::Fetch,
}

impl Request {
    /// The newest state there is, into `to`, which is empty.
    #[must_use]
    pub fn new(to: PathBuf, fetch: command::Fetch) -> Self {
        Self {
            to,
            target: Target::End,
            inclusive: true,
            timeline: FollowTimeline::Latest,
            action: Action::Promote,
            pinned: false,
            or_newest: false,
            tablespaces: BTreeMap::new(),
            delta: false,
            verify: false,
            standby: false,
            archive: false,
            settings: Vec::new(),
            fetch,
        }
    }
}

/// A restore that can begin.
pub struct Prepared {
    /// What it begins with, where it ends.
    pub plan: Plan,
    /// The snapshot of the base backup, which need not be the one that was asked about.
    pub found: Found,
    /// For people and programs.
    pub summary: Summary,
    cluster: cluster::Request,
}

/// The plan in words and numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The data directory.
    pub to: PathBuf,
    /// The snapshot of the base backup.
    pub snapshot: Id,
    /// When the base backup was consistent.
    pub consistent: Time,
    /// Its position then.
    pub consistent_at: Lsn,
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// The system, in decimal digits.
    pub system_identifier: String,
    /// Version of the server that was backed up.
    pub server_version: String,
    /// Bytes of the base backup, where that was recorded.
    pub bytes: Option<u64>,
    /// Where recovery ends, in words.
    pub ends_at: String,
    /// The timeline that is recovered along.
    pub timeline: Timeline,
    /// The log that is replayed; `None`: what the snapshot holds.
    pub wal: Option<Wal>,
    /// When the newest commit within reach was made, where that was found.
    pub newest_commit: Option<Time>,
    /// A guess for files and log together, in seconds; at least as rough as the rates it assumes (150 MB/s written, 40 MB/s
    /// replayed).
    pub estimated_seconds: Option<u64>,
    /// Where tablespaces go.
    pub tablespaces: Vec<Placed>,
    /// The `restore_command` of the restored server.
    pub restore_command: Option<String>,
    /// What deserves a look.
    pub notes: Vec<String>,
    /// Everything that can be recovered along this timeline.
    pub windows: Vec<Window>,
}

/// The log of a plan.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Wal {
    /// From here.
    pub from: Lsn,
    /// To here, at most.
    pub to: Lsn,
    /// The first segment.
    pub first: SegmentName,
    /// The last one, at most.
    pub last: SegmentName,
    /// How many.
    pub segments: u64,
    /// Their bytes, not compressed.
    pub bytes: u64,
}

/// What a restore did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The plan that was carried out.
    pub plan: Summary,
    /// The hold on the WAL that recovery needs; absent without an archive.
    pub hold: Option<hold::Held>,
    /// What deserves a look.
    pub notes: Vec<String>,
}

/// Makes the plan: which base backup, which WAL, to where. Changes nothing, neither here nor in the store.
///
/// # Errors
/// As [`plan::plan`] and [`cluster::place`]; a target directory that cannot be restored into; the store's failures.
pub async fn prepare(ctx: &Context, found: Found, mut request: Request) -> Result<Prepared> {
    let now = ctx.store_time(found.repository.store()).await?;
    let bases = bases::load(&found, request.pinned, now).await?;
    let usable = request.fetch.command(ctx, &found.tenant, &bases.cluster, request.standby)?;
    let mut notes = Vec::new();
    let archived = match &usable {
        Some(_) => archive::load(&found.repository, &bases.cluster, &bases.list, &request.target).await?,
        None => Vec::new(),
    };
    if archived.is_empty() && request.or_newest {
        (request.target, request.pinned) = (Target::End, true);
    }
    let wish = Wish {
        target: request.target.clone(),
        inclusive: request.inclusive,
        timeline: request.timeline,
        pinned: request.pinned.then_some(found.snapshot.id),
        now,
    };
    let planned = plan::plan(&bases.list, &archived, &wish)?;
    notes.extend(planned.notes.clone());
    let facts = &planned.base.facts;
    if usable.is_none() {
        notes.push(format!(
            "the configuration has no `pg_wal` job for cluster {}: recovery ends with the log in the snapshot",
            bases.cluster
        ));
    }
    if !facts.bad_pages.is_empty() {
        notes.push(format!("{} pages of this base backup had wrong checksums when it was made", facts.bad_pages.len()));
    }
    let placed = cluster::place(&facts.tablespaces, &request.tablespaces, &request.to)?;
    let recovery = planned.log.zip(usable).map(|(_, restore_command)| Recovery {
        restore_command,
        target: planned.target.clone(),
        inclusive: planned.inclusive,
        timeline: match (planned.target == Target::End, request.timeline) {
            // Whatever timeline there is when recovery gets there.
            (true, FollowTimeline::Latest) => FollowTimeline::Latest,
            _ => FollowTimeline::Number(planned.timeline),
        },
        action: request.action,
    });
    let summary = summarize(
        &request,
        &planned,
        &placed,
        recovery.as_ref(),
        notes,
        plan::recoverable(&bases.list, &archived, request.timeline),
    );
    let cluster = cluster::Request {
        to: request.to.clone(),
        tablespaces: placed,
        delta: request.delta,
        verify: request.verify,
        recovery,
        standby: request.standby,
        archive: request.archive,
        settings: request.settings.clone(),
        mark: Mark {
            version: 1,
            snapshot: planned.base.snapshot,
            system_identifier: facts.system_identifier.to_string(),
            cluster: facts.cluster.clone(),
            time: ctx.clock().now(),
        },
    };
    let check = cluster.clone();
    super::blocking(move || cluster::check(&check)).await?;
    let found = bases.found(found, planned.base.snapshot);
    Ok(Prepared { plan: planned, found, summary, cluster })
}

fn summarize(
    request: &Request,
    planned: &Plan,
    placed: &[Placed],
    recovery: Option<&Recovery>,
    notes: Vec<String>,
    windows: Vec<Window>,
) -> Summary {
    let facts = &planned.base.facts;
    let wal = planned.log.map(|log| Wal {
        from: log.from,
        to: log.to,
        first: log.first(facts.timeline),
        last: log.last(),
        segments: log.segments,
        bytes: log.segments.saturating_mul(log.size.bytes()),
    });
    let replay = wal.map_or(0.0, |w| w.bytes as f64 / REPLAY_PER_SECOND);
    let seconds = planned.base.bytes.map(|bytes| (bytes as f64 / FILES_PER_SECOND + replay).ceil() as u64);
    let side = match (&planned.target, planned.inclusive) {
        (Target::Time(_) | Target::Lsn(_) | Target::Xid(_), true) => ", which is still in",
        (Target::Time(_) | Target::Lsn(_) | Target::Xid(_), false) => ", which is not in any more",
        _ => "",
    };
    Summary {
        to: request.to.clone(),
        snapshot: planned.base.snapshot,
        consistent: facts.stopped,
        consistent_at: facts.stop,
        cluster: facts.cluster.clone(),
        system_identifier: facts.system_identifier.to_string(),
        server_version: facts.server_version.clone(),
        bytes: planned.base.bytes,
        ends_at: match planned.everything {
            true => format!("the end of the log as it is now ({})", planned.target),
            false => format!("{}{side}", planned.target),
        },
        timeline: planned.timeline,
        wal,
        newest_commit: planned.newest,
        estimated_seconds: seconds,
        tablespaces: placed.to_vec(),
        restore_command: recovery.map(|r| r.restore_command.clone()),
        notes,
        windows,
    }
}

/// Restores. The server is not started.
///
/// # Errors
/// As [`cluster::restore`]; a hold that cannot be written.
pub async fn run(ctx: &Context, prepared: Prepared, progress: Arc<Progress>, cancel: &Cancel) -> Result<Report> {
    let Prepared { plan, found, summary, cluster } = prepared;
    let facts = plan.base.facts;
    let held = match cluster.recovery {
        Some(_) => hold::place(ctx, &found, &facts).await?,
        None => None,
    };
    let memory = super::memory_share(ctx.settings(), 1);
    let restored = with_read_lock(&found.repository, cancel, async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let (root, cancel) = (found.snapshot.file.tree, cancel.clone());
        super::blocking(move || {
            let stored = Stored::new(reader, memory);
            let source = cluster::Source { blobs: &stored, root, facts: &facts };
            let mut report = cluster::restore(&source, &cluster, &progress, &cancel)?;
            report.notes.extend(libraries::notes(&facts, &cancel));
            Ok(report)
        })
        .await
    })
    .await;
    let restored = match restored {
        Ok(restored) => restored,
        Err(e) => {
            // It may be tried again at once, and then makes a hold of its own.
            if let Some(held) = &held
                && let Err(e) = hold::release(&found.repository, held).await
            {
                tracing::warn!("{} stays until {}: {}", held.key, held.expires, e.chain());
            }
            return Err(e);
        }
    };
    Ok(Report { plan: summary, hold: held, notes: restored.notes })
}
