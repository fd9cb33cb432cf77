//! Who works while the server does something else: a process that the first `wal fetch` of a recovery leaves behind, and the first
//! `wal push` that finds a backlog.
//!
//! It serves the socket protocol in a directory beside the file that was asked for (`pg_wal/pgsql_tmp.strongroom-prefetch` and
//! `pg_wal/pgsql_tmp.strongroom-push`), keeps the archive open, and fetches segments while the server replays earlier ones, or stores
//! those that the server will ask for next. One at a time in a directory, told by a lock that the system gives back whatever happens;
//! it ends when nobody has asked for [`IDLE`], and tidies up. What one that was killed left behind is removed by the next, and never
//! served.
//!
//! The directories are named as PostgreSQL's temporary files are: `pg_rewind` reads whatever else lies in a data directory, and fails
//! at a socket.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use strongroom_client::message::{Reply, Request as Message};
use strongroom_client::{call, cluster};
use tokio::time::Instant;

use super::shipper::Shipper;
use super::socket::{Listening, Place, Service, serve};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Error, Kind, Result};

/// Where it reads ahead.
pub(super) const PREFETCH: &str = "pgsql_tmp.strongroom-prefetch";
/// Where it stores ahead.
pub(super) const PUSH: &str = "pgsql_tmp.strongroom-push";
/// It ends after this long without a question. A server may replay one segment for a while; a standby asks every 5 s.
const IDLE: Duration = Duration::from_secs(60);
/// How often it looks whether it is still of use.
const LOOK: Duration = Duration::from_secs(1);
/// Until it serves: it opens nothing before that.
const START: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(5));
/// Others that end just now, and take their directory away, are met this often at most.
const TRIES: usize = 5;

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

/// What was heard from whoever helps.
#[derive(Debug)]
pub(super) enum Heard {
    /// The answer.
    Reply(Reply),
    /// Nobody is there, or ends just now.
    Nobody,
    /// Somebody is there who does not help: works for another configuration or job, or does not answer. A second one would not be
    /// let in.
    Another,
}

/// Where a helper serves for a file in this place. `None` where that is no `pg_wal`: only the server's own user writes there.
pub(super) fn directory(file: &Path, name: &str) -> Option<PathBuf> {
    Some(cluster::data_directory(file)?.join("pg_wal").join(name))
}

/// Whether it is a directory that nobody else has made, or may change. Blocks.
pub(super) fn ours(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir() && m.mode() & 0o777 == 0o700 && m.uid() == geteuid().as_raw())
}

/// Whether process 1 is PostgreSQL itself, as in its official images. It inherits every helper, and restarts all of its sessions if one
/// ends in another way than by itself, such as for want of memory. Blocks.
pub(super) fn server_inherits() -> bool {
    fs::read_to_string("/proc/1/comm").is_ok_and(|name| is_postmaster(&name))
}

fn is_postmaster(comm: &str) -> bool {
    ["postgres", "postmaster", "edb-postgres"].contains(&comm.trim_end())
}

/// Its socket.
pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

/// Asks who serves in `dir`.
///
/// # Errors
/// What the helper answers, as if it had happened here.
pub(super) async fn ask(dir: &Path, message: &Message, file: &File) -> Result<Heard> {
    let (dir, message) = (dir.to_path_buf(), message.clone());
    let file = file.try_clone().context(|| "open the file once more")?;
    let asked = blocking(move || match fs::symlink_metadata(&dir) {
        Ok(_) if !ours(&dir) => Ok(Ok(Reply::Another)),
        Ok(_) => Ok(call::once(&socket(&dir), &message, &[file])),
        Err(e) => Ok(Err(e)),
    });
    match asked.await? {
        // It ends because nobody had asked for a while.
        Ok(Reply::Error { kind, .. }) if kind == Kind::Cancelled.as_str() => Ok(Heard::Nobody),
        // It misses something that this process may know, or says better.
        Ok(Reply::Error { kind, .. }) if kind == Kind::Usage.as_str() => Ok(Heard::Another),
        Ok(Reply::Error { kind, text }) => Err(Error::new(Kind::named(&kind).unwrap_or(Kind::Failed), text)),
        Ok(Reply::Another | Reply::Wait) => Ok(Heard::Another),
        Ok(reply) => Ok(Heard::Reply(reply)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(Heard::Nobody),
        Err(e) => {
            tracing::warn!("whoever helps does not answer: {e}");
            Ok(Heard::Another)
        }
    }
}

/// Starts a helper in `dir`, where nobody is, and asks it. `None`: that cannot be done.
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
        match ask(dir, message, file).await? {
            Heard::Reply(reply) => return Ok(Some(reply)),
            Heard::Another => break,
            Heard::Nobody if ended => break,
            Heard::Nobody => {}
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
    crate::runtime::allocator::keep_warm();
    let stop = ctx.cancel().child();
    let mut job = job.clone();
    // What waits to be archived lies where it was started for.
    job.settings.data_directory = cluster::data_directory(dir).or(job.settings.data_directory);
    let shipper = Arc::new(Shipper::new(ctx.clone(), job, Some(dir.join("segments")), None).alone());
    let service = Arc::new(Service::helper(key, Arc::clone(&shipper), stop.clone(), ctx.cancel().clone(), dir.to_path_buf()));
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
        for _ in 0..TRIES {
            if let Some(taken) = take_once(&dir).context(doing)? {
                return Ok(taken);
            }
        }
        Err(Error::new(Kind::Failed, "it comes and goes")).context(doing)
    })
    .await
}

/// As [`take`]. `None`: whoever had it took the directory away meanwhile, and the lock is of one that is no more.
fn take_once(dir: &Path) -> io::Result<Option<Option<File>>> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let Some(lock) = if_there(File::open(dir))? else { return Ok(None) };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Some(None)),
        Err(e) => return Err(e.into()),
    }
    let Some(there) = if_there(fs::symlink_metadata(dir))? else { return Ok(None) };
    let locked = lock.metadata()?;
    if (locked.dev(), locked.ino()) != (there.dev(), there.ino()) {
        return Ok(None);
    }
    if !ours(dir) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's, or others may write there"));
    }
    Ok(Some(Some(lock)))
}

fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_lock_is_of_the_directory_that_is_there() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("pg_wal").join(PUSH);
        let lock = take_once(&dir).unwrap().unwrap().unwrap();
        assert!(take_once(&dir).unwrap().unwrap().is_none(), "somebody has it");
        fs::remove_dir_all(&dir).unwrap();
        let next = take_once(&dir).unwrap().unwrap();
        assert!(next.is_some(), "the lock is of a directory that is gone");
        drop((lock, next));

        assert!(ours(&dir));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(!ours(&dir));
        assert!(take_once(&dir).is_err());
        let link = place.path().join("link");
        std::os::unix::fs::symlink(place.path(), &link).unwrap();
        assert!(!ours(&link));
    }

    #[test]
    fn a_server_that_is_process_1_is_known_by_its_name() {
        assert!(is_postmaster("postgres\n") && is_postmaster("postmaster\n"));
        assert!(!is_postmaster("systemd\n") && !is_postmaster("tini\n") && !is_postmaster("postgres_exporte\n"));
    }

    #[test]
    fn nobody_is_asked_outside_of_a_pg_wal() {
        assert_eq!(directory(Path::new("/tmp/x"), PREFETCH), None);
        let dir = directory(Path::new("/data/pg_wal/RECOVERYXLOG"), PREFETCH);
        assert_eq!(dir.as_deref(), Some(Path::new("/data/pg_wal/pgsql_tmp.strongroom-prefetch")));
    }
}
