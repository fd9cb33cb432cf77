//! Downloading the next segments while the server replays this one.
//!
//! Files lie in a directory of our own until they are asked for: written under another name, verified to their end, renamed. Only
//! whole segments are fetched ahead, which never change once they are stored, so what lies there cannot be out of date. A failure
//! ahead is forgotten: who asks for that segment gets it from the store, or the reason.
//!
//! Several may read at once, such as the standbys of one server. They do not say who they are; each is known by what it asks for, one
//! segment after the other, and they share the place evenly.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fetch::{Fetched, Mode};
use super::folder::Folder;
use super::object::blocking;
use crate::error::{Context, Kind, Result};
use crate::model::{SegmentName, SegmentSize, WalFile};

/// Files in the directory are named like this, so that nothing else is ever removed from it.
const PREFIX: &str = "wal-";

/// So many who read at once have segments fetched ahead for them.
const READERS: usize = 8;
/// Who has not asked for this long reads no more.
const GONE: Duration = Duration::from_secs(60);

/// How much is fetched ahead.
#[derive(Debug, Clone)]
pub struct PrefetchOptions {
    /// Where files wait: a directory that nothing else uses, on the disk of the data directory if possible. Made if missing.
    pub dir: PathBuf,
    /// Bytes of segments there at most, for all who read; less than one segment switches it off.
    pub most: u64,
    /// Downloads at once. Memory: this many times the smaller of the segment size and 32 MiB, and 3 MiB each.
    pub parallel: usize,
}

/// See the module. Keep one for the life of the process. Dropping it ends what runs ahead.
#[derive(Debug)]
pub struct Prefetcher {
    folder: Folder,
    options: PrefetchOptions,
    room: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who asked last comes last.
    readers: Vec<Reader>,
    /// On the way, or there: `true` once it can be opened, and `false` for ever if the sender is gone.
    files: BTreeMap<SegmentName, watch::Receiver<bool>>,
    /// Not there when it was looked for: nothing behind it is fetched ahead until it is.
    missing: Arc<Mutex<BTreeSet<SegmentName>>>,
    tasks: JoinSet<()>,
}

/// Somebody who reads forwards.
#[derive(Debug)]
struct Reader {
    /// What it asked for last.
    at: SegmentName,
    when: Instant,
    /// It went on from one segment to the next. Who has not may have looked at one segment and no more.
    goes_on: bool,
}

/// Takes note of a question, and tells what is to be there from now on: for who asked, and for the others.
fn windows(
    readers: &mut Vec<Reader>,
    asked: SegmentName,
    size: SegmentSize,
    most: u64,
) -> (Vec<SegmentName>, BTreeSet<SegmentName>) {
    let when = Instant::now();
    let goes_on = readers.iter().any(|r| r.at.next(size) == asked || (r.at == asked && r.goes_on));
    readers.retain(|r| r.at != asked && when.duration_since(r.when) < GONE);
    if let Some(before) = readers.iter().position(|r| r.at.next(size) == asked) {
        readers.remove(before);
    }
    if readers.len() >= READERS {
        readers.remove(0);
    }
    let others: Vec<SegmentName> = readers.iter().filter(|r| r.goes_on).map(|r| r.at).collect();
    readers.push(Reader { at: asked, when, goes_on });
    let count = usize::try_from(most / size.bytes()).unwrap_or(usize::MAX).min(1024) / (others.len() + 1);
    // The last of all segments has none behind it.
    let following = move |at: SegmentName| Some(at.next(size)).filter(|next| *next > at);
    let window = |at: SegmentName| std::iter::successors(following(at), move |n| following(*n)).take(count);
    (window(asked).collect(), others.into_iter().flat_map(window).collect())
}

impl Prefetcher {
    /// Empties the directory of what an earlier process left: after a crash of the machine it may not be whole. Blocks briefly.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(folder: Folder, options: PrefetchOptions) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let doing = || format!("prepare the directory {}", options.dir.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.dir).context(doing)?;
        for entry in std::fs::read_dir(&options.dir).context(doing)? {
            let entry = entry.context(doing)?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                remove(&entry.path());
            }
        }
        let room = Arc::new(Semaphore::new(options.parallel.max(1)));
        Ok(Self { folder, options, room, state: Mutex::default() })
    }

    /// Writes a file to `out`, from its beginning on, as [`Folder::fetch`]: from the directory if it is there or on the way, else from
    /// the store. Then, and meanwhile, fetches the segments after it. With [`Mode::Rewind`] nothing is fetched ahead, since
    /// `pg_rewind` reads backwards.
    ///
    /// # Errors
    /// As [`Folder::fetch`].
    pub async fn fetch(&self, file: &WalFile, out: File, mode: Mode) -> Result<Fetched> {
        if let Some((path, bytes)) = self.take(file, mode).await {
            match self.copy(&path, &out, bytes).await {
                Ok(fetched) => return Ok(fetched),
                // Somebody tidied up, or the disk is bad. The store has it, and part of it may be written already.
                Err(e) => {
                    tracing::warn!("{file} was fetched ahead in vain: {}", e.chain());
                    empty(&out)?;
                }
            }
        }
        let fetched = self.folder.fetch(file, out, mode).await?;
        if let (WalFile::Segment(name), Fetched::Delivered { .. }) = (file, &fetched) {
            let missing = self.state.lock().missing.clone();
            missing.lock().retain(|m| m != name);
        }
        Ok(fetched)
    }

    /// A file that was fetched ahead, or is on the way: where it lies, whole, and its length. It is the caller's, who moves it away or
    /// removes it. Then, and meanwhile, fetches the segments after it. `None`: it is to be fetched.
    pub async fn take(&self, file: &WalFile, mode: Mode) -> Option<(PathBuf, u64)> {
        let WalFile::Segment(name) = file else { return None };
        if mode == Mode::Rewind {
            return None;
        }
        // Without an identity object the fetch itself says what is wrong.
        let size = self.folder.known_identity().await.ok()?.segment_size;
        self.go_ahead(*name, size);
        Some((self.waited_for(*name).await?, size.bytes()))
    }

    /// Waits for a segment that is on the way. `None`: it is not, or it failed. It is no longer kept for anybody else.
    async fn waited_for(&self, name: SegmentName) -> Option<PathBuf> {
        let mut there = self.state.lock().files.remove(&name)?;
        there.wait_for(|there| *there).await.ok()?;
        Some(path(&self.options.dir, name))
    }

    async fn copy(&self, path: &Path, out: &File, expected: u64) -> Result<Fetched> {
        let (path, mut out) = (path.to_path_buf(), out.try_clone().context(|| "open the file once more")?);
        blocking(move || {
            let doing = || format!("copy {}", path.display());
            let mut from = File::open(&path).context(doing)?;
            let bytes = std::io::copy(&mut from, &mut out).context(doing)?;
            remove(&path);
            if bytes == expected {
                return Ok(Fetched::Delivered { bytes });
            }
            Err(crate::error::Error::new(Kind::Corrupt, format!("{} has {bytes} bytes", path.display())))
        })
        .await
    }

    /// Fetches what comes after `asked`, and forgets what nobody will ask for.
    fn go_ahead(&self, asked: SegmentName, size: SegmentSize) {
        let mut state = self.state.lock();
        let State { readers, files, missing, tasks } = &mut *state;
        while tasks.try_join_next().is_some() {}
        let (window, others) = windows(readers, asked, size, self.options.most);
        let wanted = |name: &SegmentName| window.contains(name) || others.contains(name);
        let stale: Vec<SegmentName> = files.keys().copied().filter(|n| *n != asked && !wanted(n)).collect();
        for name in stale {
            if files.remove(&name).is_some_and(|there| *there.borrow()) {
                remove(&path(&self.options.dir, name));
            }
        }
        missing.lock().retain(|m| *m != asked && wanted(m));
        for name in window {
            if missing.lock().range(asked..=name).next().is_some() {
                break;
            }
            if files.get(&name).is_some_and(|there| *there.borrow() || there.has_changed().is_ok()) {
                continue;
            }
            let (tell, there) = watch::channel(false);
            files.insert(name, there);
            let (folder, room, missing, dir) =
                (self.folder.clone(), self.room.clone(), missing.clone(), self.options.dir.clone());
            tasks.spawn(async move {
                let _permit = room.acquire_owned().await;
                if missing.lock().range(asked..name).next().is_some() || tell.is_closed() {
                    return;
                }
                match download(&folder, &dir, name, size).await {
                    // Nobody waits for it any more.
                    Ok(true) if tell.send(true).is_err() => remove(&path(&dir, name)),
                    Ok(true) => {}
                    Ok(false) => {
                        missing.lock().insert(name);
                    }
                    Err(e) => tracing::debug!("{name} is not fetched ahead: {}", e.chain()),
                }
            });
        }
    }
}

/// Fetches one segment into the directory; `false` if there is none.
async fn download(folder: &Folder, dir: &Path, name: SegmentName, size: SegmentSize) -> Result<bool> {
    let scratch = dir.join(format!("{PREFIX}{name}.{:016x}", rand::random::<u64>()));
    let to = scratch.clone();
    let file = blocking(move || {
        let create = File::options().write(true).create_new(true).mode(0o600).open(&to);
        let file = create.context(|| format!("create {}", to.display()))?;
        // The file system then has its place once, and not block by block. Without it, it takes longer, and that is all.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, size.bytes()).ok();
        Ok(file)
    });
    let file = file.await?;
    let fetched = folder.fetch(&WalFile::Segment(name), file, Mode::Standby).await;
    let (from, to) = (scratch, path(dir, name));
    blocking(move || {
        if let Ok(Fetched::Delivered { .. }) = fetched {
            std::fs::rename(&from, &to).context(|| format!("rename {}", from.display()))?;
            return Ok(true);
        }
        remove(&from);
        fetched.map(|_| false)
    })
    .await
}

fn path(dir: &Path, name: SegmentName) -> PathBuf {
    dir.join(format!("{PREFIX}{name}"))
}

fn empty(mut out: &File) -> Result<()> {
    use std::io::{Seek, SeekFrom};
    let doing = || "empty the file to write to";
    out.set_len(0).context(doing)?;
    out.seek(SeekFrom::Start(0)).map(drop).context(doing)
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!("{} stays: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_last_segment_there_is_none() {
        let size = SegmentSize::DEFAULT;
        let ahead = |name: &str| windows(&mut Vec::new(), name.parse().unwrap(), size, 64 << 20).0;
        assert_eq!(ahead("0000000100000000000000FF").first().unwrap().to_string(), "000000010000000100000000");
        assert_eq!(ahead("00000001FFFFFFFF000000FD").len(), 2);
        // The second is no name that a server gives, but anybody may ask for it.
        for last in ["00000001FFFFFFFF000000FF", "00000001FFFFFFFFFFFFFFFF"] {
            assert_eq!(ahead(last), [], "{last}");
        }
    }
}
