//! What the files of a server tell about it.

use crate::model::SystemId;
use std::path::{Path, PathBuf};

use strongroom_client::cluster;

use crate::config::settings::WalJob;
use crate::error::{Context, Error, Kind, Result};
use crate::wal::Archive;

/// A server's data directory, as far as this process can reach it.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// The directory.
    pub data: Option<PathBuf>,
    /// Who the server is.
    pub system: Option<SystemId>,
}

impl Local {
    /// The first of: the one that was named, the one that `path` (`pg_wal/…`, as PostgreSQL gives it) lies in, the one of the
    /// configuration. Blocks.
    #[must_use]
    pub fn find(named: Option<&Path>, path: Option<&Path>, job: &WalJob) -> Self {
        let data = named
            .map(Path::to_path_buf)
            .or_else(|| path.and_then(cluster::data_directory))
            .or_else(|| job.settings.data_directory.clone());
        let server = data.as_deref().and_then(cluster::server);
        Self { data, system: server.map(|s| SystemId { major: s.major, identifier: s.identifier }) }
    }

    /// `pg_wal` of the server.
    #[must_use]
    pub fn pg_wal(&self) -> Option<PathBuf> {
        self.data.as_ref().map(|d| d.join("pg_wal"))
    }

    /// Refuses a server that was restored and not adopted since. Blocks.
    ///
    /// # Errors
    /// [`Kind::Denied`] that names `strongroom wal adopt`; a directory that cannot be looked into.
    pub fn refuse_restored(&self, job: &WalJob) -> Result<()> {
        let Some(data) = &self.data else { return Ok(()) };
        if !cluster::is_restored(data).context(|| format!("look into {}", data.display()))? {
            return Ok(());
        }
        let what =
            format!("{} was restored from a backup and must not archive yet ({} is there)", data.display(), cluster::MARKER);
        Err(Error::new(Kind::Denied, what).hint(format!(
            "`strongroom wal adopt --job {} --data-directory {}` makes this server the one that archives. Leave a copy as it is.",
            job.selector(),
            data.display()
        )))
    }
}

/// Whose WAL is meant where nothing but the archive tells.
///
/// # Errors
/// [`Kind::NotFound`] if nothing was ever archived, [`Kind::Usage`] if several systems were; the store's failures.
pub(super) async fn only_system(archive: &Archive) -> Result<SystemId> {
    let systems = archive.systems().await?;
    match systems.as_slice() {
        [one] => Ok(one.system),
        [] => Err(Error::new(Kind::NotFound, format!("nothing was ever archived of cluster {}", archive.cluster()))
            .hint("Check the `cluster` of the `pg_wal` job.")),
        several => {
            let names: Vec<String> = several.iter().map(|a| a.system.to_string()).collect();
            let what = format!("cluster {} has the WAL of several systems: {}", archive.cluster(), names.join(", "));
            Err(Error::new(Kind::Usage, what).hint("Name the server's data directory with --data-directory."))
        }
    }
}
