//! Brings a program's output back: into a file, onto standard output, or into another program.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::Serialize;

use super::read_lock::with_read_lock;
use super::select::Found;
use super::stored_files;
use crate::error::{Error, Kind, Result};
use crate::restore;
use crate::runtime::Cancel;

/// Where the bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A file, replaced whole or not at all. An existing directory takes the file under its own name.
    File(PathBuf),
    /// Standard output.
    Output,
    /// The standard input of a program (and its arguments), whose exit status decides.
    Program(Vec<String>),
}

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where the bytes go.
    pub target: Target,
    /// Which file of the snapshot; needed only if there are several.
    pub file: Option<String>,
    /// How long a program may run.
    pub timeout: Option<Duration>,
    /// Bytes read so far.
    pub progress: Arc<AtomicU64>,
}

impl Request {
    /// The snapshot's only file.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, file: None, timeout: None, progress: Arc::default() }
    }
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The file's path in the snapshot.
    pub file: String,
    /// Where it was written, if to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<PathBuf>,
    /// Its length.
    pub bytes: u64,
}

/// Restores one file of the snapshot, under a shared lock.
///
/// # Errors
/// [`Kind::NotFound`] for a file that is not there, [`Kind::Usage`] if several are and none is named; what reading,
/// writing and the program say.
pub async fn run(found: &Found, request: Request, cancel: &Cancel) -> Result<Outcome> {
    with_read_lock(&found.repository, cancel, async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let (root, cancel) = (found.snapshot.file.tree, cancel.clone());
        super::blocking(move || {
            let files = stored_files::list(&reader, root)?;
            let names = || files.iter().map(|f| f.path.as_str()).take(20).collect::<Vec<_>>().join(", ");
            let file = match (&request.file, files.as_slice()) {
                (Some(name), all) => all.iter().find(|f| f.path == *name).ok_or_else(|| {
                    Error::new(Kind::NotFound, format!("there is no file {name} in this snapshot"))
                        .hint(format!("It has {}.", names()))
                })?,
                (None, [one]) => one,
                (None, []) => return Err(Error::new(Kind::NotFound, "this snapshot has no file")),
                (None, _) => {
                    return Err(
                        Error::new(Kind::Usage, "this snapshot has several files").hint(format!("Name one of {}.", names()))
                    );
                }
            };
            let mut from = file.open(&reader, &request.progress);
            let mut to = None;
            let bytes = match request.target {
                Target::Output => restore::file::copy(&mut from, &mut std::io::stdout().lock(), &cancel)?,
                Target::Program(run) => restore::command::feed(&mut from, &run, request.timeout, &cancel)?,
                Target::File(path) => {
                    let path = if path.is_dir() { path.join(file.path.rsplit('/').next().unwrap_or(&file.path)) } else { path };
                    let bytes = restore::file::write_file(&mut from, &path, &cancel)?;
                    to = Some(path);
                    bytes
                }
            };
            Ok(Outcome { file: file.path.clone(), to, bytes })
        })
        .await
    })
    .await
}
