//! Who works while the server does something else: a process that the first `wal fetch` of a recovery leaves behind, and the first
//! `wal push` that finds a backlog.
//!
//! It serves the socket protocol in a directory beside the file that was asked for (`pg_wal/strongroom-prefetch` and
//! `pg_wal/strongroom-push`, of which PostgreSQL takes no notice), keeps the archive open, and fetches segments while the server replays
//! earlier ones, or stores those that the server will ask for next. One at a time in a directory, told by a lock that the system
//! gives back whatever happens; it ends when nobody has asked for [`IDLE`], and tidies up. What one that was killed left behind is
//! removed by the next, and never served.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use strongroom_client::message::{Reply, Request as Message};
use strongroom_client::{call, cluster};
use tokio::time::Instant;

use super::shipper::Shipper;
use super::socket::{Listening, Place, Service, serve};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Error, Kind, Result};

/// Where it reads ahead.
pub(super) const PREFETCH: &str = "strongroom-prefetch";
/// Where it stores ahead.
pub(super) const PUSH: &str = "strongroom-push";
/// It ends after this long without a question. A server may replay one segment for a while; a standby asks every 5 s.
const IDLE: Duration = Duration::from_secs(60);
/// How often it looks whether it is still of use.
const LOOK: Duration = Duration::from_secs(1);
/// Until it serves: it opens nothing before that.
const START: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(5));

/// How to start a helper.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program: this one.
    pub path: PathBuf,
    /// All of its arguments but the directory, which comes last.
    pub arguments: Vec<std::ffi::OsString>,
    /// Which helper it is, by [`super::quick::key`]: one with another answers nothing.
    pub key: String,
}

impl Program {
    /// Starts it for `dir`, in a session of its own, so that it outlives this process. If there is one already, it ends at once.
    fn start(&self, dir: &Path) -> Result<Child> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg(dir);
        // Nobody reads what it says, and a terminal's signals are not for it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        // It is not waited for: it ends long after this process, and then belongs to whoever adopts it.
        command.spawn().context(|| format!("start {}", self.path.display()))
    }
}

/// Where a helper serves for a file in this place.
pub(super) fn directory(to: &Path, name: &str) -> Option<PathBuf> {
    let whole = std::path::absolute(to).ok()?;
    Some(whole.parent()?.join(name))
}

/// Its socket.
pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

/// Asks who serves in `dir`. `None`: nobody does, or gives an answer.
///
/// # Errors
/// What the helper answers, as if it had happened here.
pub(super) async fn ask(dir: &Path, message: &Message, file: &File) -> Result<Option<Reply>> {
    let (socket, message) = (socket(dir), message.clone());
    let file = file.try_clone().context(|| "open the file once more")?;
    match blocking(move || Ok(call::once(&socket, &message, &[file]))).await? {
        // It ends because nobody had asked for a while, or serves something else.
        Ok(Reply::Error { kind, .. }) if [Kind::Cancelled, Kind::Usage].map(Kind::as_str).contains(&kind.as_str()) => Ok(None),
        Ok(Reply::Error { kind, text }) => Err(Error::new(Kind::named(&kind).unwrap_or(Kind::Failed), text)),
        Ok(Reply::Wait) => Ok(None),
        Ok(reply) => Ok(Some(reply)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => {
            tracing::warn!("whoever helps does not answer: {e}");
            Ok(None)
        }
    }
}

/// Starts a helper in `dir` and asks it. `None`: that cannot be done.
///
/// # Errors
/// As [`ask`].
pub(super) async fn ask_new(program: &Program, dir: &Path, message: &Message, file: &File) -> Result<Option<Reply>> {
    let mut child = match program.start(dir) {
        Ok(child) => child,
        Err(e) => {
            tracing::debug!("nobody helps: {}", e.chain());
            return Ok(None);
        }
    };
    let began = Instant::now();
    while began.elapsed() < START.0 {
        // One that has ended may have met another one, which serves by now.
        let ended = child.try_wait().is_ok_and(|status| status.is_some());
        if let Some(reply) = ask(dir, message, file).await? {
            return Ok(Some(reply));
        }
        if ended {
            break;
        }
        tokio::time::sleep(START.1).await;
    }
    Ok(None)
}

/// Serves those who know `key` until nobody has asked for `idle`, `current` says that the key is another one now (the configuration
/// was changed), or the process is told to end. Does nothing if somebody serves there already.
///
/// # Errors
/// A directory that cannot be made, a socket that cannot be bound.
pub async fn run(ctx: &Context, job: &WalJob, dir: &Path, key: &str, current: impl Fn() -> Option<String>) -> Result<()> {
    let Some(lock) = take(dir.to_path_buf()).await? else { return Ok(()) };
    let stop = ctx.cancel().child();
    let mut job = job.clone();
    // What waits to be archived lies where it was started for.
    job.settings.data_directory = cluster::data_directory(dir).or(job.settings.data_directory);
    let shipper = Arc::new(Shipper::new(ctx.clone(), job, Some(dir.join("segments")), None));
    let service = Arc::new(Service::helper(key, Arc::clone(&shipper), stop.clone(), dir.to_path_buf()));
    let place = Place { path: socket(dir), uids: Vec::new(), gids: Vec::new(), mode: 0o600 };
    let listening = Listening::at(&place)?;
    let serving = tokio::spawn(serve(listening, Arc::clone(&service)));
    while !stop.is_cancelled() {
        let left = IDLE.saturating_sub(service.idle());
        // Without its data directory there is no server any more.
        if left.is_zero() || !dir.exists() || current().as_deref() != Some(key) {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            () = stop.cancelled() => {}
        }
    }
    stop.cancel();
    serving.await.ok();
    shipper.flush().await;
    // Nobody is in there any more: the lock is still ours.
    let dir = dir.to_path_buf();
    blocking(move || {
        fs::remove_dir_all(&dir).ok();
        drop(lock);
        Ok(())
    })
    .await
}

/// The right to serve there; `None` if somebody has it.
async fn take(dir: PathBuf) -> Result<Option<File>> {
    blocking(move || {
        let doing = || format!("prepare {}", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).context(doing)?;
        let lock = File::open(&dir).context(doing)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(std::io::Error::from(e)).context(doing),
        }
    })
    .await
}
