//! What a server's files tell whoever archives for it: where its data directory is, who it is, what waits to be stored.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::message::Server;

/// Left in a data directory by a restore; nothing is archived while it is there.
pub const MARKER: &str = "strongroom.restored";

/// The data directory that a path such as `pg_wal/000000010000000000000001` leads to, as PostgreSQL gives it (`%p`, relative
/// to the data directory it runs in). `None` where the file lies in no `pg_wal`.
#[must_use]
pub fn data_directory(path: &Path) -> Option<PathBuf> {
    let whole = std::path::absolute(path).ok()?;
    let folder = whole.parent()?;
    (folder.file_name()? == "pg_wal").then(|| folder.parent().map(Path::to_path_buf))?
}

/// Whose data directory it is. `None` where that cannot be read.
#[must_use]
pub fn server(data: &Path) -> Option<Server> {
    let mut first = [0; 8];
    File::open(data.join("global/pg_control")).and_then(|mut f| f.read_exact(&mut first)).ok()?;
    let version = std::fs::read_to_string(data.join("PG_VERSION")).ok()?;
    Some(Server { identifier: u64::from_ne_bytes(first), major: version.trim().parse().ok()? })
}

/// Whether it was restored and nobody has said yet that it may archive.
///
/// # Errors
/// Where that cannot be found out.
pub fn is_restored(data: &Path) -> io::Result<bool> {
    data.join(MARKER).try_exists()
}

/// Names of files beside `name` that wait to be archived after it, in the order in which the server asks: histories first,
/// then by name. At most `most`.
#[must_use]
pub fn waiting(wal: &Path, name: &str, most: usize) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(wal.join("archive_status")) else { return Vec::new() };
    let ready = |e: io::Result<std::fs::DirEntry>| e.ok()?.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned);
    let order = |n: &str| (!n.ends_with(".history"), n.to_owned());
    let mut names: Vec<String> = entries.filter_map(ready).filter(|n| order(n) > order(name)).collect();
    names.sort_by_key(|n| order(n));
    names.truncate(most);
    names
}
