//! Archiving many files at once while the server asks for one after the other.
//!
//! The server waits for each file before it names the next. What it will name is known, though: `archive_status` holds a
//! `.ready` file for each. So the asked file goes up together with those after it, and their answers are there when they are asked for.
//! Nothing is told to the server before it asks, and what failed ahead is simply tried again when it is asked for.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::folder::Folder;
use super::object::blocking;
use super::push::Pushed;
use super::room::{Room, Share};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{SegmentName, TimelineHistory, WalFile};

/// How much goes up at once.
#[derive(Debug, Clone, Copy)]
pub struct PushOptions {
    /// Files at once, at least 1.
    pub parallel: usize,
    /// Bytes of memory that they may take together, at least what one takes: the smaller of its size and 32 MiB, and 3 MiB. One that
    /// is compressed takes what it was compressed to.
    pub memory: u64,
    /// Files that are sent, or whose answers are kept, before the server asks for them. 0: none.
    pub ahead: usize,
}

/// One file of [`Folder::backfill`].
#[derive(Debug)]
pub struct PushedFile {
    /// Which.
    pub file: WalFile,
    /// What became of it.
    pub result: Result<Pushed>,
}

/// The files that `archive_status` below `pg_wal` says are ready, in the order in which the server wants them archived: history
/// files first, then by name. Blocks.
///
/// # Errors
/// When the directory cannot be read. Names that are not WAL are left out.
pub fn ready_files(pg_wal: &Path) -> Result<Vec<WalFile>> {
    let dir = pg_wal.join("archive_status");
    let doing = || format!("read {}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).context(doing)? {
        let name = entry.context(doing)?.file_name();
        let file = name.to_str().and_then(|n| n.strip_suffix(".ready")).and_then(|n| Some((n.to_owned(), n.parse().ok()?)));
        found.extend(file);
    }
    found.sort_unstable_by_key(|(name, file): &(String, WalFile)| (!matches!(file, WalFile::History(_)), name.clone()));
    Ok(found.into_iter().map(|(_, file)| file).collect())
}

/// The segments that lie in a directory, finished or not. Blocks.
fn segments_in(dir: &Path) -> Result<Vec<SegmentName>> {
    let doing = || format!("read {}", dir.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).context(doing)? {
        found.extend(entry.context(doing)?.file_name().to_str().and_then(|n| n.parse::<SegmentName>().ok()));
    }
    Ok(found)
}

impl Folder {
    /// Stores what a failover left behind: whole segments of older timelines that lie in `pg_wal` of the new primary, which its
    /// server never archives because it received them as a standby. `history` is that of its own timeline. Tells about each that was
    /// not there yet, in order; after the first failure nothing that comes later. One request for each candidate that is there.
    ///
    /// # Errors
    /// When `pg_wal` or the store cannot be read.
    pub async fn backfill(&self, pg_wal: &Path, history: &TimelineHistory) -> Result<Vec<PushedFile>> {
        let dir = pg_wal.to_path_buf();
        let mut names = blocking(move || segments_in(&dir)).await?;
        let size = self.known_identity().await?.segment_size;
        names.retain(|name| {
            let left = history.ancestors.iter().find(|a| a.timeline == name.timeline);
            left.is_some_and(|a| name.end(size) <= a.switch)
        });
        names.sort_unstable();
        let mut done = Vec::new();
        for name in names {
            if self.has(name).await? {
                continue;
            }
            let file = WalFile::Segment(name);
            let result = self.push_path(&file, &pg_wal.join(name.to_string()), &mut None).await;
            let failed = result.is_err();
            done.push(PushedFile { file, result });
            if failed {
                break;
            }
        }
        Ok(done)
    }

    async fn push_path(&self, file: &WalFile, path: &Path, held: &mut Option<Share>) -> Result<Pushed> {
        let path = path.to_path_buf();
        let opened = blocking(move || File::open(&path).context(|| format!("open {}", path.display()))).await?;
        self.push_within(file, opened.into(), held).await
    }
}

/// See the module. Keep one for the life of the process. Dropping it ends what runs ahead.
#[derive(Debug)]
pub struct Pusher {
    folder: Folder,
    options: PushOptions,
    room: Arc<Room>,
    ahead: Mutex<Ahead>,
}

#[derive(Debug, Default)]
struct Ahead {
    files: HashMap<String, (Mark, Arc<Slot>)>,
    tasks: JoinSet<()>,
}

/// Tells a file from another one that has its name now.
type Mark = (u64, u64, u64, i64, i64);

/// Where an answer waits until it is asked for.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    done: Notify,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Running,
    Done(Result<Pushed>),
    /// Somebody has it.
    Taken,
}

impl Pusher {
    /// Archives into `folder`.
    #[must_use]
    pub fn new(folder: Folder, options: PushOptions) -> Self {
        let room = Arc::new(Room::new(options.parallel, options.memory));
        Self { folder, options, room, ahead: Mutex::default() }
    }

    /// Where it archives.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Answers for one file, as [`Folder::push`]. With `pg_wal`, the directory it lies in, goes on with those that are ready after it.
    ///
    /// # Errors
    /// As [`Folder::push`]; of files that are sent ahead only when they are asked for, after another try.
    pub async fn push(&self, file: &WalFile, source: File, pg_wal: Option<&Path>) -> Result<Pushed> {
        let name = file.to_string();
        let mark = mark(&source)?;
        let waiting = {
            let mut ahead = self.ahead.lock();
            // What was sent under this name is another file, if the mark differs: the archive will tell.
            ahead.files.remove(&name).filter(|(theirs, _)| *theirs == mark).map(|(_, slot)| slot)
        };
        let was_ahead = waiting.is_some();
        let source_again = source.try_clone().context(|| "open the file once more")?;
        let slot = waiting.unwrap_or_else(|| self.start(file.clone(), Origin::Open(source), mark.2));
        if let Some(dir) = pg_wal {
            self.go_ahead(&name, dir).await;
        }
        match slot.take().await {
            // What failed ahead may have passed.
            Some(Err(_)) if was_ahead => {}
            Some(answer) => return answer,
            None => {}
        }
        self.folder.push(file, source_again).await
    }

    /// Sends a file that the server will ask for next, as far as there is room. Failures show when it is asked for.
    pub fn offer(&self, file: WalFile, source: File) {
        let name = file.to_string();
        let Ok(mark) = mark(&source) else { return };
        let mut ahead = self.ahead.lock();
        if ahead.files.len() >= self.options.ahead || ahead.files.contains_key(&name) {
            return;
        }
        let slot = self.spawn(&mut ahead, file, Origin::Open(source), mark.2);
        ahead.files.insert(name, (mark, slot));
    }

    /// Starts what is ready behind `asked`, as far as there is room.
    async fn go_ahead(&self, asked: &str, pg_wal: &Path) {
        let waiting = {
            let mut ahead = self.ahead.lock();
            // The server asks in order: what comes before was archived by somebody else, or is of a history that was rewound.
            ahead.files.retain(|name, _| name.as_str() > asked);
            ahead.files.len()
        };
        if waiting >= self.options.ahead.div_ceil(2) {
            return;
        }
        let dir = pg_wal.to_path_buf();
        let opened = blocking({
            let dir = dir.clone();
            move || ready_files(&dir)
        });
        let ready = match opened.await {
            Ok(ready) => ready,
            Err(e) => {
                tracing::debug!("nothing is sent ahead: {}", e.chain());
                return;
            }
        };
        // The server starts with history files again whenever there is a new one.
        let names: Vec<String> = ready.iter().map(ToString::to_string).collect();
        let from = names.iter().position(|n| n == asked).map_or(0, |at| at + 1);
        for (file, name) in ready.into_iter().zip(names).skip(from) {
            let mut ahead = self.ahead.lock();
            if ahead.files.len() >= self.options.ahead {
                break;
            }
            if ahead.files.contains_key(&name) {
                continue;
            }
            let path = dir.join(&name);
            let Ok(mark) = std::fs::metadata(&path).map(|m| mark_of(&m)) else { continue };
            let slot = self.spawn(&mut ahead, file, Origin::Path(path), mark.2);
            ahead.files.insert(name, (mark, slot));
        }
    }

    fn start(&self, file: WalFile, origin: Origin, length: u64) -> Arc<Slot> {
        self.spawn(&mut self.ahead.lock(), file, origin, length)
    }

    fn spawn(&self, ahead: &mut Ahead, file: WalFile, origin: Origin, length: u64) -> Arc<Slot> {
        while ahead.tasks.try_join_next().is_some() {}
        let (slot, folder, room) = (Arc::<Slot>::default(), self.folder.clone(), self.room.clone());
        let answer = Answer(slot.clone());
        ahead.tasks.spawn(async move {
            // In the order in which they were started.
            let mut share = room.share(length).await;
            let done = match origin {
                Origin::Open(source) => folder.push_within(&file, source.into(), &mut share).await,
                Origin::Path(path) => folder.push_path(&file, &path, &mut share).await,
            };
            drop(share);
            answer.give(done);
        });
        slot
    }
}

/// Who has to answer. It does, whatever happens: somebody waits for it, and would for ever.
struct Answer(Arc<Slot>);

impl Answer {
    fn give(&self, answer: Result<Pushed>) {
        let mut state = self.0.state.lock();
        if let State::Running = *state {
            *state = State::Done(answer);
        }
        drop(state);
        self.0.done.notify_waiters();
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.give(Err(Error::new(Kind::Bug, "a push ended without an answer")));
    }
}

enum Origin {
    Open(File),
    Path(PathBuf),
}

impl Slot {
    /// Waits for the answer. `None`: somebody else took it.
    async fn take(&self) -> Option<Result<Pushed>> {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            {
                let mut state = self.state.lock();
                match std::mem::replace(&mut *state, State::Taken) {
                    State::Running => *state = State::Running,
                    State::Done(answer) => return Some(answer),
                    State::Taken => return None,
                }
            }
            done.await;
        }
    }
}

fn mark(file: &File) -> Result<Mark> {
    Ok(mark_of(&file.metadata().context(|| "look at the file")?))
}

fn mark_of(m: &std::fs::Metadata) -> Mark {
    (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec())
}
