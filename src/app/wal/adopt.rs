//! `strongroom wal adopt`: from now on this server is the one that archives.
//!
//! After a restore (whose marker is removed), an upgrade or a new `initdb` (the archive gets a folder for the new system), and for a
//! server that begins to archive in the middle of its life (its timeline's history goes first). Nothing that is stored is touched.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Serialize;
use strongroom_client::cluster::MARKER;

use super::server::Local;
use super::{backfill, open};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{SystemId, Timeline, WalFile};

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The server's data directory.
    pub data_directory: PathBuf,
    /// Who archives from now on.
    pub system: SystemId,
    /// Whether it was not the one that archived before.
    pub new: bool,
    /// History files that were archived.
    pub histories: Vec<String>,
    /// Segments of earlier timelines that were archived.
    pub segments: usize,
    /// Whether the marker of a restore was removed.
    pub marker_removed: bool,
}

/// Lets the server archive. Safe to repeat. The marker goes last, so that a failure before leaves everything as it was.
///
/// # Errors
/// [`Kind::Usage`] without a data directory; [`Kind::Failed`] for one that is none, or if the server's history does not agree with the
/// archive (another server went on from the same past); the store's failures.
pub async fn run(ctx: &Context, job: &WalJob, data_directory: Option<&Path>) -> Result<Report> {
    let (named, of) = (data_directory.map(Path::to_path_buf), job.clone());
    let local = blocking(move || Ok(Local::find(named.as_deref(), None, &of))).await?;
    let Some(data) = local.data.clone() else {
        return Err(Error::new(Kind::Usage, "the server's data directory is not known")
            .hint("Name it with --data-directory, or as `data_directory` of the `pg_wal` job."));
    };
    let Some(system) = local.system else {
        return Err(Error::new(Kind::Failed, format!("{} is not the data directory of a server", data.display()))
            .hint("It must hold global/pg_control and PG_VERSION, and this user must be able to read them."));
    };
    let archive = open(ctx, job).await?;
    let before = archive.systems().await?.last().map(|a| a.system);
    let folder = archive.adopt(system).await?;
    let pg_wal = data.join("pg_wal");
    let mut report = Report {
        data_directory: data.clone(),
        system,
        new: before != Some(system),
        histories: Vec::new(),
        segments: 0,
        marker_removed: false,
    };
    for timeline in histories(pg_wal.clone()).await? {
        let file = WalFile::History(timeline);
        let path = pg_wal.join(file.to_string());
        let source = blocking(move || File::open(&path).context(|| format!("open {}", path.display()))).await?;
        folder.push(&file, source).await?;
        report.segments += backfill::run(&folder, &pg_wal, timeline).await?;
        report.histories.push(file.to_string());
    }
    report.marker_removed = remove_marker(data).await?;
    Ok(report)
}

/// The history files of a server, oldest first.
async fn histories(pg_wal: PathBuf) -> Result<Vec<Timeline>> {
    blocking(move || {
        let doing = || format!("read {}", pg_wal.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&pg_wal).context(doing)? {
            let name = entry.context(doing)?.file_name();
            if let Some(Ok(WalFile::History(timeline))) = name.to_str().map(str::parse) {
                found.push(timeline);
            }
        }
        found.sort_unstable();
        Ok(found)
    })
    .await
}

async fn remove_marker(data: PathBuf) -> Result<bool> {
    blocking(move || {
        let marker = data.join(MARKER);
        match fs::remove_file(&marker) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).context(|| format!("remove {}", marker.display())),
        }
        File::open(&data).and_then(|d| d.sync_all()).context(|| format!("write {}", data.display()))?;
        Ok(true)
    })
    .await
}
