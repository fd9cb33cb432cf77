//! A tree of nodes into a directory, never anywhere else.
//!
//! **Staying inside.** Everything is done relative to an open directory with a name that was checked to be one plain
//! segment, and no directory is opened through a symbolic link. So neither a hostile tree nor links in an existing
//! target, nor links that appear while the restore runs, lead out of it. A file that has other hard links is replaced,
//! not written into, since the other names may be outside.
//!
//! **Flow.** One thread walks the trees, makes directories and whatever has no content, and hands files over in rounds.
//! Each round is compared with what is there already, then asked for from [`Blobs::fetch`] in one call, which writes from many threads in
//! the order of packs. A file of one blob is made, written and closed in one go when its blob comes. A new file of whole pages
//! is written around the page cache where the file system lets us: that saves the copy, and the cache is
//! left to others. Directories get their metadata when the last entry below is done, from the bottom up.
//!
//! **Crash.** A new file has its final name at once and its owner, mode and times last; an existing one is rewritten
//! range by range. A restore that was cut off is repeated: what is whole already is not fetched again.
//!
//! **Memory.** [`round::FILES`] files and [`round::CHUNKS`] chunks a round, three rounds at a time (about 20 MiB), what
//! `fetch` takes, and for each directory that is not finished about 400 bytes.

mod attributes;
mod compare;
mod content;
mod descriptors;
mod folder;
mod job;
mod links;
pub mod marker;
mod output;
mod plan;
mod present;
mod remove;
mod round;
mod special;
mod warnings;

use std::path::Path;
use std::sync::atomic::AtomicU64;

use crate::error::{Context, Error, Kind, Result};
use crate::model::{Globs, Id, Metadata, Node};
use crate::runtime::Cancel;

pub use warnings::Denied;

/// A chunk that a file wants at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The blob.
    pub id: Id,
    /// A number of ours, to be given back to `write`.
    pub number: u32,
    /// Where in the file it goes; to be given back too.
    pub offset: u64,
}

/// A wanted chunk's content.
#[derive(Debug, Clone, Copy)]
pub struct Got<'a> {
    /// The number of the [`Want`].
    pub number: u32,
    /// Its offset.
    pub offset: u64,
    /// The content; best at a multiple of 4,096 in memory.
    pub data: &'a [u8],
}

/// Takes the contents of some wanted chunks. Neighbours that come together are written together.
pub type WriteChunks<'a> = dyn Fn(&[Got<'_>]) -> Result<()> + Sync + 'a;

/// Where trees and chunks come from. Calls block and come from several threads.
pub trait Blobs: Sync {
    /// Hands over the entries of a directory one by one, so that a huge one need not be held.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] costs what of that directory was not handed over; anything else ends the restore, the first
    /// failure of `visit` too, which is returned as it is.
    fn tree(&self, id: Id, visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()>;

    /// Length of a chunk.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] costs the files that need it; anything else ends the restore.
    fn length(&self, id: &Id) -> Result<u32>;

    /// Gets every wanted chunk, checks it, and calls `write` with each want once, from any thread, in any order.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] costs the files that need the damaged chunk: what was not written is asked for again in smaller
    /// calls. Anything else ends the restore, a failed `write` too.
    fn fetch(&self, wants: Vec<Want>, write: &WriteChunks<'_>, cancel: &Cancel) -> Result<()>;

    /// The ids that such contents would have.
    fn ids(&self, contents: &[&[u8]]) -> Vec<Id>;
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// If not empty, only what matches, with what is below it. See [`Globs`].
    pub include: Vec<String>,
    /// Not what matches.
    pub exclude: Vec<String>,
    /// Remove what the snapshot does not have, as far as `include` and `exclude` choose it. Never `.strongroom` and
    /// `lost+found` at the top, nothing in a directory that the backup could not read to its end, and nothing on other file
    /// systems than the target's: what is left there is a problem.
    pub delete: bool,
    /// With `delete`: on other file systems, too.
    pub delete_mounted: bool,
    /// Believe that an existing file of the right size and mtime has the right content, instead of comparing it.
    pub trust_times: bool,
    /// Read every file again afterwards and compare it with the snapshot.
    pub verify: bool,
    /// Threads that compare existing files; 0 means one a processor.
    pub threads: usize,
}

/// The tree to restore.
#[derive(Debug, Clone)]
pub struct Root {
    /// The entries that go into the target.
    pub tree: Id,
    /// Owner, mode, times and attributes of the target itself. `None` leaves them, as does any `include`.
    pub meta: Option<Metadata>,
}

/// Counters of a running restore, only growing.
#[derive(Debug, Default)]
pub struct Progress {
    /// Directories done.
    pub dirs: AtomicU64,
    /// Files done, hard links and empty files included.
    pub files: AtomicU64,
    /// Symbolic links, pipes and devices done.
    pub others: AtomicU64,
    /// Bytes written to files, holes included.
    pub bytes_written: AtomicU64,
    /// Bytes that were there already.
    pub bytes_reused: AtomicU64,
    /// Entries removed because the snapshot does not have them.
    pub deleted: AtomicU64,
}

/// What was not restored, or not as it was.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What is missing or wrong, one sentence each, at most [`job::KEPT`]; not empty means exit code 3.
    pub problems: Vec<String>,
    /// How many there were.
    pub problem_count: u64,
    /// What this process was not allowed to set, counted.
    pub denied: Denied,
}

/// Restores `root` into the directory `to`, which is made if it does not exist.
///
/// # Errors
/// A bad glob, a target that cannot be used, a full disk, cancellation, or a store that does not answer. What was
/// restored by then stays; the same call again goes on from there.
pub fn restore(
    blobs: &dyn Blobs,
    root: &Root,
    to: &Path,
    options: &Options,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Report> {
    if to.as_os_str().is_empty() {
        return Err(Error::new(Kind::Usage, "the directory to restore into has no name"));
    }
    let filter = Filter { include: Globs::build(&options.include)?, exclude: Globs::build(&options.exclude)? };
    let doing = || format!("restore into {}", to.display());
    std::fs::create_dir_all(to).context(doing)?;
    let target = folder::open_target(to).map_err(std::io::Error::from).context(doing)?;
    let device = rustix::fs::fstat(&target).map_err(std::io::Error::from).context(doing)?.st_dev;
    let job = job::Job::new(blobs, options, filter, progress, cancel, device);
    let meta = if options.include.is_empty() { root.meta.clone() } else { None };
    let folder = folder::Folder::target(to.to_owned(), target, meta).map_err(std::io::Error::from).context(doing)?;
    plan::run(&job, folder, root.tree).context(doing)?;
    Ok(job.into_report())
}

/// Which paths take part.
#[derive(Debug)]
struct Filter {
    include: Option<Globs>,
    exclude: Option<Globs>,
}

/// What a filter says about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// It is restored.
    Yes,
    /// A directory that is made only if something below is restored.
    OnTheWay,
    No,
}

impl Filter {
    fn choose(&self, path: &[u8], is_dir: bool) -> Choice {
        if self.exclude.as_ref().is_some_and(|globs| globs.matches_or_contains(path, is_dir)) {
            return Choice::No;
        }
        match &self.include {
            None => Choice::Yes,
            Some(globs) if globs.matches_or_contains(path, is_dir) => Choice::Yes,
            Some(globs) if is_dir && globs.may_match_below(path) => Choice::OnTheWay,
            Some(_) => Choice::No,
        }
    }
}
