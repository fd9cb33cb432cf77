//! The calls that a helper has the answer to: without configuration, runtime and threads, since a server makes one for every segment.
//!
//! Only success is told from here. Whatever else it is, the usual way is gone and finds out why.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use strongroom_client::message::{Reply, Request as Message};
use strongroom_client::{call, cluster};

use super::{fetch, helper, push};
use crate::model::WalFile;

/// Tells the helper for one configuration file, in the state in which it is, one job, one environment and one program from every other.
/// `more`: what else it depends on. `None` if the files cannot be looked at.
#[must_use]
pub fn key(config: &Path, job: &str, more: &str) -> Option<String> {
    let path = std::path::absolute(config).ok()?;
    let m = fs::metadata(&path).ok()?;
    let mut hash = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(path.as_os_str().as_encoded_bytes());
    part(format!("{} {} {} {} {}", m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec()).as_bytes());
    // The file that this process was started from, even if another one has its name by now: a new version must not get the answers of
    // the old one.
    let program = fs::metadata("/proc/self/exe").ok()?;
    part(env!("CARGO_PKG_VERSION").as_bytes());
    part(format!("{} {} {} {}", program.dev(), program.ino(), program.mtime(), program.mtime_nsec()).as_bytes());
    part(job.as_bytes());
    part(more.as_bytes());
    let mut environment: Vec<_> = std::env::vars_os().filter(|(k, _)| k.as_encoded_bytes().starts_with(b"STRONGROOM")).collect();
    environment.sort();
    for (name, value) in environment {
        part(name.as_encoded_bytes());
        part(value.as_encoded_bytes());
    }
    Some(hash.finalize().to_hex().as_str().get(..32)?.to_owned())
}

/// Whether a helper says that the file is stored. `key`: which helper.
#[must_use]
pub fn push(path: &Path, key: &str) -> bool {
    stored(path, key).is_some()
}

/// Whether a helper delivered this segment. `key`: which helper.
#[must_use]
pub fn fetch(name: &str, to: &Path, mode: &str, key: &str) -> bool {
    delivered(name, to, mode, key).is_some()
}

fn stored(path: &Path, key: &str) -> Option<()> {
    let name = push::check_name(path).ok()?.to_string();
    let data = cluster::data_directory(path)?;
    let dir = helper::directory(path, helper::PUSH)?;
    let socket = helper::socket(&dir);
    if !helper::ours(&dir) || !socket.exists() || cluster::is_restored(&data).ok()? {
        return None;
    }
    let file = File::open(path).ok()?;
    let message = Message::Push { job: key.to_owned(), names: vec![name], server: cluster::server(&data) };
    (call::once(&socket, &message, &[file]).ok()? == Reply::Stored).then_some(())
}

fn delivered(name: &str, to: &Path, mode: &str, key: &str) -> Option<()> {
    let Ok(WalFile::Segment(_)) = name.parse() else { return None };
    let data = cluster::data_directory(to)?;
    let dir = helper::directory(to, helper::PREFETCH)?;
    let socket = helper::socket(&dir);
    if !helper::ours(&dir) || !socket.exists() {
        return None;
    }
    let server = cluster::server(&data);
    let (scratch, out) = fetch::beside(to).ok()?;
    let message = Message::Take { job: key.to_owned(), name: name.to_owned(), mode: mode.to_owned(), server };
    let files = [out];
    let reply = call::once(&socket, &message, &files);
    let [out] = files;
    let placed = match reply {
        Ok(Reply::Delivered(bytes)) => fetch::place(&out, bytes, &scratch, to).is_ok(),
        Ok(Reply::Ready { bytes, place }) => fetch::place_ready(&dir, &place, bytes, to).is_ok(),
        _ => false,
    };
    // Renamed, or of no use.
    fs::remove_file(&scratch).ok();
    placed.then_some(())
}
