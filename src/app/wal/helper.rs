//! Who reads WAL ahead during a recovery: a process that the first `wal fetch` leaves behind.
//!
//! It serves the socket protocol in a directory beside the file that was asked for (`pg_wal/strongroom-prefetch`, of which PostgreSQL
//! takes no notice), keeps the archive open, and fetches segments while the server replays earlier ones. One at a time, told by a lock
//! that the system gives back whatever happens; it ends when nobody has asked for [`IDLE`], and tidies up. What one that was
//! killed left behind is removed by the next, and never served.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::shipper::Shipper;
use super::socket::{Listening, Place, Service, serve};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Result};

/// Name of the directory.
const NAME: &str = "strongroom-prefetch";
/// It ends after this long without a question. A server may replay one segment for a while; a standby asks every 5 s.
pub const IDLE: Duration = Duration::from_secs(60);
/// How often it looks whether it is still of use.
const LOOK: Duration = Duration::from_secs(1);

/// How to start a helper.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program: this one.
    pub path: PathBuf,
    /// All of its arguments but the directory, which comes last.
    pub arguments: Vec<std::ffi::OsString>,
}

impl Program {
    /// Starts it for `dir`, in a session of its own, so that it outlives this process. If there is one already, it ends at once.
    pub(super) fn start(&self, dir: &Path) -> Result<()> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg(dir);
        // Nobody reads what it says, and a terminal's signals are not for it.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        // It is not waited for: it ends long after this process, and then belongs to whoever adopts it.
        command.spawn().map(drop).context(|| format!("start {}", self.path.display()))
    }
}

/// Where a helper serves for a file in this place.
pub(super) fn directory(to: &Path) -> Option<PathBuf> {
    let whole = std::path::absolute(to).ok()?;
    Some(whole.parent()?.join(NAME))
}

/// Its socket.
pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

/// Serves until nobody has asked for `idle`, or the process is told to end. Does nothing if somebody serves there already.
///
/// # Errors
/// A directory that cannot be made, a socket that cannot be bound.
pub async fn run(ctx: &Context, job: &WalJob, dir: &Path, idle: Duration) -> Result<()> {
    let Some(lock) = take(dir.to_path_buf()).await? else { return Ok(()) };
    let stop = ctx.cancel().child();
    let shipper = Arc::new(Shipper::new(ctx.clone(), job.clone(), Some(dir.join("segments")), None));
    let service = Arc::new(Service::new([shipper], stop.clone()));
    let place = Place { path: socket(dir), uids: Vec::new(), gids: Vec::new(), mode: 0o600 };
    let listening = Listening::at(&place)?;
    let serving = tokio::spawn(serve(listening, Arc::clone(&service)));
    while !stop.is_cancelled() {
        let left = idle.saturating_sub(service.idle());
        // Without its data directory there is no server any more.
        if left.is_zero() || !dir.exists() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            () = stop.cancelled() => {}
        }
    }
    stop.cancel();
    serving.await.ok();
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
