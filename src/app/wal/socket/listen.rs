//! A socket in the file system, and who may connect to it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use strongroom_client::call;
use tokio::net::unix::UCred;

use crate::error::{Context, Error, Kind, Result};

/// Held while a socket gets its name, and while one is removed: between the look whose it is and its removal it must not become
/// that of the service that follows, in this process, upon a new configuration.
static NAMES: Mutex<()> = Mutex::new(());

/// Where to listen, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Place {
    pub(in super::super) path: PathBuf,
    /// Users beside root and our own.
    pub(in super::super) uids: Vec<u32>,
    /// Primary groups; the first one gets the socket.
    pub(in super::super) gids: Vec<u32>,
    /// Its permissions; the peers' credentials are checked in any case.
    pub(in super::super) mode: u32,
}

impl Place {
    /// Whether this peer may use it.
    pub(super) fn lets_in(&self, peer: &UCred) -> bool {
        let own = rustix::process::geteuid().as_raw();
        peer.uid() == 0 || peer.uid() == own || self.uids.contains(&peer.uid()) || self.gids.contains(&peer.gid())
    }
}

/// A bound socket. Its file is removed when this is dropped, unless somebody else took the place over meanwhile.
#[derive(Debug)]
pub(in super::super) struct Listening {
    pub(super) listener: UnixListener,
    pub(super) place: Place,
    inode: (u64, u64),
}

impl Listening {
    /// Takes the place, from whoever had it: clients that connect meet one or the other, never nobody.
    ///
    /// # Errors
    /// A directory that is missing or may not be written, a group that may not be given.
    pub(in super::super) fn at(place: &Place) -> Result<Self> {
        let path = &place.path;
        bind(place).context(|| format!("listen on {}", path.display())).map_err(|e| {
            let hint = "The directory of the socket must exist and be writable; `socket` in the `pg_wal` job names another one, or `none`.";
            e.hint(hint)
        })
    }
}

fn bind(place: &Place) -> Result<Listening> {
    let invalid = || Error::new(Kind::Config, format!("{} cannot be a socket", place.path.display()));
    let name = place.path.file_name().ok_or_else(invalid)?.to_string_lossy().into_owned();
    let fresh = place.path.with_file_name(format!(".{name}.{}", std::process::id()));
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(|| format!("remove {}", fresh.display())),
        _ => {}
    }
    let (folder, short) = call::short(&fresh).context(|| "open its directory")?;
    let listener = UnixListener::bind(short).context(|| "bind it")?;
    drop(folder);
    let taken = prepare(place, &fresh, &listener);
    if taken.is_err() {
        // It is of no use to anybody.
        std::fs::remove_file(&fresh).ok();
    }
    let inode = taken?;
    Ok(Listening { listener, place: place.clone(), inode })
}

/// Permissions first, then the name that clients know.
fn prepare(place: &Place, fresh: &Path, listener: &UnixListener) -> Result<(u64, u64)> {
    std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(place.mode)).context(|| "set its permissions")?;
    if let Some(gid) = place.gids.first() {
        std::os::unix::fs::chown(fresh, None, Some(*gid)).context(|| format!("give it to group {gid}"))?;
    }
    listener.set_nonblocking(true).context(|| "set it up")?;
    let meta = std::fs::symlink_metadata(fresh).context(|| "look at it")?;
    let _names = NAMES.lock();
    std::fs::rename(fresh, &place.path).context(|| "give it its name")?;
    Ok((meta.dev(), meta.ino()))
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _names = NAMES.lock();
        let ours = std::fs::symlink_metadata(&self.place.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours {
            // A stale file refuses connections, as a missing one does.
            std::fs::remove_file(&self.place.path).ok();
        }
    }
}
