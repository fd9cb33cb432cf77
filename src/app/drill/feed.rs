//! WAL for a scratch server, without keys in its hands.
//!
//! The server's `restore_command` is a small script that leaves a file with the name it wants in `ask/` and waits for the answer: the
//! file in `have/`, a word in `none/`, or the end. This process fetches it from the archive, as `wal fetch` would. So the
//! server's user needs neither the configuration nor a password, and may be one that can read nothing.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::server::Place;
use crate::app::blocking;
use crate::error::{Context, Error, Kind, Result};
use crate::model::WalFile;
use crate::postgres::recovery::shell_word;
use crate::runtime::Cancel;
use crate::wal::{Fetched, Folder, Mode, PrefetchOptions, Prefetcher};

/// Between two looks at what the server wants.
const LOOK: Duration = Duration::from_millis(20);
/// So often a file is asked for, so far apart, where the archive gives no answer. The store below tries again by itself.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Fetched ahead at most, in bytes.
const AHEAD: u64 = 256 << 20;

/// Directories that both sides use.
#[derive(Debug, Clone)]
struct Desk {
    ask: PathBuf,
    have: PathBuf,
    none: PathBuf,
    /// There once something failed: whoever waits ends.
    failed: PathBuf,
}

/// Answers a server until it is dropped.
pub(super) struct Feeder {
    task: JoinHandle<()>,
    trouble: Arc<Mutex<Option<Error>>>,
}

/// The `restore_command` for [`Feeder::start`], and the directories it needs.
pub(super) struct Script {
    pub(super) restore_command: String,
    desk: Desk,
}

impl Script {
    /// Writes the script into the server's home.
    ///
    /// # Errors
    /// What keeps files from being written there.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let home = place.directory("wal")?;
        let desk = Desk {
            ask: place.directory("wal/ask")?,
            have: place.directory("wal/have")?,
            none: place.directory("wal/none")?,
            failed: home.join("failed"),
        };
        let path = home.join("fetch.sh");
        fs::write(&path, text(&desk)).context(|| format!("write {}", path.display()))?;
        place.give(&path)?;
        let restore_command = format!("/bin/sh {} %f \"%p\"", shell_word(&path.display().to_string()));
        Ok(Self { restore_command, desk })
    }
}

/// 1 only for what is proven missing; 255, which ends recovery with an error, for everything else: also when the server is gone, which
/// dies with this process. It begins in the data directory.
fn text(desk: &Desk) -> String {
    let word = |p: &Path| shell_word(&p.display().to_string());
    format!(
        "name=$1 to=$2\n: > {ask}/\"$name\" || exit 255\nwhile read -r server < postmaster.pid && kill -0 \"$server\" 2>/dev/null && [ ! -e {failed} ]; do\n\
         if [ -e {have}/\"$name\" ]; then mv {have}/\"$name\" \"$to\" && exit 0; exit 255; fi\n\
         if [ -e {none}/\"$name\" ]; then rm {none}/\"$name\"; exit 1; fi\n\
         sleep 0.02\ndone\nexit 255\n",
        ask = word(&desk.ask),
        have = word(&desk.have),
        none = word(&desk.none),
        failed = word(&desk.failed),
    )
}

impl Feeder {
    /// Begins to answer. `spare` is a directory of this process's own, on the same file system.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub(super) fn start(script: &Script, folder: Folder, place: Arc<Place>, spare: PathBuf, cancel: Cancel) -> Result<Self> {
        let options = PrefetchOptions { dir: spare.join("ahead"), most: AHEAD, parallel: 4 };
        fs::create_dir_all(&spare).context(|| format!("create {}", spare.display()))?;
        let prefetcher = Prefetcher::open(folder, options)?;
        let trouble: Arc<Mutex<Option<Error>>> = Arc::default();
        let (desk, into) = (script.desk.clone(), Arc::clone(&trouble));
        let task = tokio::spawn(async move {
            if let Err(e) = serve(&desk, &prefetcher, &place, &spare, &cancel).await {
                *into.lock() = Some(e);
                // Where even this cannot be written, the server waits until it is ended.
                drop(fs::write(&desk.failed, ""));
            }
        });
        Ok(Self { task, trouble })
    }

    /// Why it stopped answering, if it did.
    pub(super) fn trouble(&self) -> Option<Error> {
        self.trouble.lock().take()
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(desk: &Desk, prefetcher: &Prefetcher, place: &Arc<Place>, spare: &Path, cancel: &Cancel) -> Result<()> {
    loop {
        cancel.check()?;
        let ask = desk.ask.clone();
        let wanted = blocking(move || asked(&ask)).await?;
        for name in &wanted {
            answer(desk, prefetcher, place, spare, name).await.context(|| format!("fetch {name} for the scratch server"))?;
        }
        if wanted.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Takes the questions that are there.
fn asked(dir: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).context(|| format!("look into {}", dir.display()))? {
        let entry = entry.context(|| format!("look into {}", dir.display()))?;
        fs::remove_file(entry.path()).context(|| format!("take {}", entry.path().display()))?;
        names.insert(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

async fn answer(desk: &Desk, prefetcher: &Prefetcher, place: &Arc<Place>, spare: &Path, name: &str) -> Result<()> {
    let file: WalFile = name.parse()?;
    let path = spare.join("answer");
    let mut tries = TRIES;
    let fetched = loop {
        let out = File::create(&path).context(|| format!("create {}", path.display()))?;
        match prefetcher.fetch(&file, out, Mode::Recovery).await {
            // The server whose backup this is lives on and may complete the segment at this moment.
            Err(e) if e.kind() == Kind::Unavailable && tries > 1 => tries -= 1,
            other => break other?,
        }
        tokio::time::sleep(PAUSE).await;
    };
    let (place, have, none) = (Arc::clone(place), desk.have.join(name), desk.none.join(name));
    blocking(move || match fetched {
        Fetched::Delivered { .. } | Fetched::Unfinished { .. } => {
            place.give(&path)?;
            fs::rename(&path, &have).context(|| format!("hand over {}", have.display()))
        }
        Fetched::Missing { proven: true, why } => {
            tracing::debug!("{why}");
            fs::write(&none, "").context(|| format!("write {}", none.display()))
        }
        Fetched::Missing { proven: false, why } => Err(Error::new(Kind::Failed, why)),
    })
    .await
}
