//! Brings dumps back: into a server, as files, or onto standard output.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use super::read_lock::with_read_lock;
use super::select::Found;
use super::stored_files::{self, StoredFile};
use crate::error::{Context, Error, Kind, Result};
use crate::repository::Reader;
use crate::restore;
use crate::restore::database::{self, globals};
pub use crate::restore::database::{Mode, Table};
use crate::runtime::{Cancel, SecretText};
use crate::source::pg_dump::{GLOBALS_FILE, file_name};

/// Where the dumps go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A server: a libpq URL or key=value string.
    Server(SecretText),
    /// A directory, where they get the paths they have in the snapshot.
    Directory(PathBuf),
    /// Standard output: exactly one.
    Output,
}

impl FromStr for Target {
    type Err = Error;

    /// `-`, a URL (`postgresql://…`) or key=value string, else a path.
    fn from_str(text: &str) -> Result<Self> {
        let server = ["postgresql://", "postgres://"].iter().any(|s| text.starts_with(s))
            || ["host=", "dbname=", "port=", "user="].iter().any(|s| text.starts_with(s));
        Ok(match text {
            "" => return Err(Error::new(Kind::Usage, "the target is empty")),
            "-" => Self::Output,
            _ if server => Self::Server(SecretText::new(text.to_owned())),
            _ if text.contains("://") => {
                return Err(Error::new(Kind::Usage, "the target's URL is not one of PostgreSQL")
                    .hint("Write postgresql://USER@HOST/DATABASE, a directory, or - for standard output."));
            }
            _ => Self::Directory(PathBuf::from(text)),
        })
    }
}

/// What to restore, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the dumps go.
    pub target: Target,
    /// Only this database of the snapshot.
    pub database: Option<String>,
    /// The name it gets on the server.
    pub target_database: Option<String>,
    /// What happens to a database on the server.
    pub mode: database::Mode,
    /// Only this table.
    pub table: Option<database::Table>,
    /// How many connections restore at once.
    pub jobs: u32,
    /// A folder with room for a dump, for more than one job.
    pub scratch: Option<PathBuf>,
    /// Everything will belong to the role that restores.
    pub no_owner: bool,
    /// Rights are not restored.
    pub no_privileges: bool,
    /// Roles and tablespaces first. Changes the whole server.
    pub globals: bool,
    /// Where to look for client tools; if empty, in the usual places.
    pub client_dirs: Vec<PathBuf>,
    /// Bytes read so far.
    pub progress: Arc<AtomicU64>,
}

impl Request {
    /// Every database of the snapshot, into existing databases, by one connection.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            database: None,
            target_database: None,
            mode: database::Mode::Existing,
            table: None,
            jobs: 1,
            scratch: None,
            no_owner: false,
            no_privileges: false,
            globals: false,
            client_dirs: Vec::new(),
            progress: Arc::default(),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Databases that were restored.
    pub databases: Vec<database::Outcome>,
    /// Files that were written.
    pub files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How roles and tablespaces went, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub globals: Option<globals::Outcome>,
    /// What deserves a look. Each is one sentence.
    pub warnings: Vec<String>,
}

/// A dump of the snapshot.
pub(super) struct Dump {
    pub(super) database: String,
    pub(super) file: StoredFile,
}

/// Restores dumps of the snapshot, under a shared lock. Several databases are restored one after another; the first
/// failure ends it and the error names the database.
///
/// # Errors
/// [`Kind::NotFound`] for a database that is not in the snapshot, [`Kind::Usage`] for options that do not fit together;
/// see [`database::restore`].
pub async fn run(found: &Found, request: Request, cancel: &Cancel) -> Result<Outcome> {
    with_read_lock(&found.repository, cancel, async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let (root, cancel) = (found.snapshot.file.tree, cancel.clone());
        super::blocking(move || {
            let manifest = stored_files::manifest(&reader, root)?;
            let files = stored_files::list(&reader, root)?;
            let names = manifest.map(|m| m.facts).unwrap_or_default();
            let work = Work { reader, request, cancel, globals: files.iter().find(|f| f.path == GLOBALS_FILE).cloned() };
            let dumps = work.choose(dumps(files, &names))?;
            match work.request.target.clone() {
                Target::Server(url) => work.to_server(&url, &dumps),
                Target::Directory(dir) => work.to_directory(&dir, &dumps),
                Target::Output => work.to_output(&dumps),
            }
        })
        .await
    })
    .await
}

/// The snapshot's dumps with their databases' names: as the manifest has them, else as the files are called.
pub(super) fn dumps(files: Vec<StoredFile>, facts: &serde_json::Map<String, serde_json::Value>) -> Vec<Dump> {
    let listed = facts.get("databases").and_then(|d| d.as_array()).map(Vec::as_slice).unwrap_or_default();
    let name_of = |path: &str| {
        listed
            .iter()
            .find(|d| d.get("file").and_then(|f| f.as_str()) == Some(path))
            .and_then(|d| d.get("name")?.as_str())
            .map(str::to_owned)
    };
    let dump = |file: StoredFile| {
        let plain = file.path.strip_prefix("databases/")?.strip_suffix(".dump")?;
        let database = name_of(&file.path).unwrap_or_else(|| plain.to_owned());
        Some(Dump { database, file })
    };
    files.into_iter().filter_map(dump).collect()
}

struct Work {
    reader: Reader,
    request: Request,
    cancel: Cancel,
    globals: Option<StoredFile>,
}

impl Work {
    fn choose(&self, all: Vec<Dump>) -> Result<Vec<Dump>> {
        let names = all.iter().map(|d| d.database.as_str()).take(20).collect::<Vec<_>>().join(", ");
        let chosen: Vec<Dump> = match &self.request.database {
            None => all,
            Some(name) => all.into_iter().filter(|d| d.database == *name || d.file.path == file_name(name)).collect(),
        };
        if chosen.is_empty() {
            let what = self.request.database.as_ref().map_or_else(
                || "this snapshot has no dump of a database".to_owned(),
                |n| format!("this snapshot has no dump of database {n}"),
            );
            return Err(Error::new(Kind::NotFound, what).hint(format!("It has: {names}.")));
        }
        let one_only = match &self.request.target {
            Target::Output => true,
            Target::Directory(_) => false,
            Target::Server(_) => self.request.target_database.is_some() || self.request.table.is_some(),
        };
        if one_only && chosen.len() > 1 {
            return Err(Error::new(Kind::Usage, format!("this snapshot has {} databases, and one is wanted", chosen.len()))
                .hint(format!("Name it with --database: {names}.")));
        }
        Ok(chosen)
    }

    fn to_server(&self, url: &SecretText, dumps: &[Dump]) -> Result<Outcome> {
        let r = &self.request;
        let server = crate::postgres::ConnectionSettings::parse(url)?;
        if dumps.len() > 1 && server.database().is_some() {
            return Err(Error::new(Kind::Usage, format!("the target names one database, and this snapshot has {}", dumps.len()))
                .hint(
                    "Choose one with --database, or name no database in the target's URL to restore each under its own name.",
                ));
        }
        let mut outcome = Outcome::default();
        if r.globals {
            let file = self
                .globals
                .as_ref()
                .ok_or_else(|| Error::new(Kind::NotFound, "this snapshot has no roles and tablespaces (globals.sql)"))?;
            outcome.globals =
                Some(globals::restore(&mut file.open(&self.reader, &r.progress), &server, &r.client_dirs, &self.cancel)?);
        }
        for dump in dumps {
            let settings = database::Settings {
                server: server.clone(),
                mode: r.mode,
                // Its own name from the manifest and not from the archive: they are the same, but this one was chosen by.
                target_database: r.target_database.clone().or_else(|| server.database().is_none().then(|| dump.database.clone())),
                table: r.table.clone(),
                jobs: r.jobs,
                scratch: r.scratch.clone(),
                size: Some(dump.file.size),
                no_owner: r.no_owner,
                no_privileges: r.no_privileges,
                client_dirs: r.client_dirs.clone(),
            };
            let done = database::restore(&mut dump.file.open(&self.reader, &r.progress), &settings, &self.cancel)
                .context(|| format!("restore the dump of {}", dump.database))?;
            outcome.bytes = outcome.bytes.saturating_add(done.bytes);
            outcome.warnings.extend(done.warnings.iter().map(|w| format!("database {}: {w}", done.database)));
            outcome.databases.push(done);
        }
        Ok(outcome)
    }

    fn to_directory(&self, dir: &std::path::Path, dumps: &[Dump]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        // Roles belong to the whole set; with one database chosen they would surprise.
        let globals = self.globals.iter().filter(|_| self.request.database.is_none() || self.request.globals);
        for file in globals.chain(dumps.iter().map(|d| &d.file)) {
            let path = dir.join(&file.path);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).context(|| format!("create {}", folder.display()))?;
            }
            let bytes = restore::file::write_file(&mut file.open(&self.reader, &self.request.progress), &path, &self.cancel)?;
            outcome.bytes = outcome.bytes.saturating_add(bytes);
            outcome.files.push(path);
        }
        Ok(outcome)
    }

    fn to_output(&self, dumps: &[Dump]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for dump in dumps {
            outcome.bytes = restore::file::copy(
                &mut dump.file.open(&self.reader, &self.request.progress),
                &mut std::io::stdout().lock(),
                &self.cancel,
            )?;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let target = |t: &str| t.parse::<Target>();
        assert_eq!(target("-").unwrap(), Target::Output);
        assert_eq!(target("/backup/dumps").unwrap(), Target::Directory("/backup/dumps".into()));
        assert!(matches!(target("postgresql://h/x").unwrap(), Target::Server(_)));
        assert!(matches!(target("host=h dbname=x").unwrap(), Target::Server(_)));
        assert!(target("mysql://h/x").is_err() && target("").is_err());
    }
}
