//! Owner, extended attributes, mode and times, in the order in which the kernel lets them stand: changing the owner drops
//! setuid and capabilities, an ACL changes the mode, and everything changes the times.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::job::Job;
use super::warnings::add;
use crate::error::Result;
use crate::model::{Metadata, Time, Xattr};

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const SET_IDS: u32 = 0o6000;

/// What the entry was before, which saves calls that would change nothing.
pub(super) enum Before {
    /// Made by us with this mode.
    Fresh { mode: u32 },
    /// Found like this.
    Existing(Box<Stat>),
}

pub(super) type PathOf<'a> = &'a dyn Fn() -> PathBuf;

/// Whether a new entry of ours does not have the right owner from the start.
pub(super) fn needs_owner(job: &Job<'_>, meta: &Metadata) -> bool {
    meta.uid != job.who.uid || meta.gid != job.who.gid || job.who.gives_group.load(Relaxed)
}

/// The mode to make a file with: its own where nobody else can get at it before it should, else one for us alone.
pub(super) fn first_mode(job: &Job<'_>, meta: &Metadata) -> u32 {
    if needs_owner(job, meta) || !meta.xattrs.is_empty() { 0o600 } else { meta.mode & 0o777 & !job.who.umask }
}

/// Sets everything on an open file or directory.
pub(super) fn apply(
    job: &Job<'_>,
    fd: BorrowedFd<'_>,
    meta: &Metadata,
    before: &Before,
    is_dir: bool,
    path: PathOf<'_>,
) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    let mut mode = meta.mode & 0o7777;
    let other_owner = match before {
        Before::Fresh { .. } => needs_owner(job, meta),
        Before::Existing(stat) => stat.st_uid != meta.uid || stat.st_gid != meta.gid,
    };
    if other_owner && !owner(job, path, |u, g| rustix::fs::fchown(fd, u, g), uid, gid)? && !is_dir && mode & SET_IDS != 0 {
        // Somebody else's program must not run as us, nor ours as somebody else.
        mode &= !SET_IDS;
        add(&job.denied.setuid, 1);
    }
    let inherits_acl = job.who.gives_acl.load(Relaxed);
    match before {
        Before::Fresh { .. } if meta.xattrs.is_empty() && !inherits_acl => {}
        Before::Fresh { .. } => {
            for name in [ACCESS_ACL, DEFAULT_ACL] {
                if inherits_acl && !meta.xattrs.iter().any(|x| x.name == name) {
                    // Usually there is none.
                    rustix::fs::fremovexattr(fd, name).ok();
                }
            }
            set_xattrs(job, path, &meta.xattrs, |n, v| rustix::fs::fsetxattr(fd, n, v, XattrFlags::empty()))?;
        }
        Before::Existing(_) => {
            remove_other_xattrs(job, fd, &meta.xattrs);
            set_xattrs(job, path, &meta.xattrs, |n, v| rustix::fs::fsetxattr(fd, n, v, XattrFlags::empty()))?;
        }
    }
    let as_it_is = match before {
        Before::Fresh { mode: made } => {
            *made == mode && meta.xattrs.is_empty() && !inherits_acl && !(is_dir && job.who.gives_group.load(Relaxed))
        }
        Before::Existing(stat) => stat.st_mode & 0o7777 == mode && !other_owner && meta.xattrs.is_empty(),
    };
    if !as_it_is {
        allowed(job, &job.denied.modes, path, "set the mode of", rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)))?;
    }
    allowed(job, &job.denied.times, path, "set the times of", rustix::fs::futimens(fd, &times(meta)))
}

/// Sets everything on a symbolic link, pipe or device that was just made.
pub(super) fn apply_at(
    job: &Job<'_>,
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &Metadata,
    is_link: bool,
    path: PathOf<'_>,
) -> Result<()> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    if needs_owner(job, meta) {
        let set = |u, g| rustix::fs::chownat(dir, name, u, g, nofollow);
        owner(job, path, set, Uid::from_raw(meta.uid), Gid::from_raw(meta.gid))?;
    }
    let inherits_acl = !is_link && job.who.gives_acl.load(Relaxed);
    if !meta.xattrs.is_empty() || inherits_acl {
        let mut at = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        at.extend_from_slice(name);
        if inherits_acl && !meta.xattrs.iter().any(|x| x.name == ACCESS_ACL) {
            // Usually there is none.
            rustix::fs::lremovexattr(at.as_slice(), ACCESS_ACL).ok();
        }
        set_xattrs(job, path, &meta.xattrs, |n, v| rustix::fs::lsetxattr(at.as_slice(), n, v, XattrFlags::empty()))?;
    }
    if !is_link {
        // Opened as a mere place, so that neither a reader is waited for nor a device touched, then changed through it.
        let changed =
            rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).and_then(|fd| {
                rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()), Mode::from_raw_mode(meta.mode & 0o7777))
            });
        allowed(job, &job.denied.modes, path, "set the mode of", changed)?;
    }
    allowed(job, &job.denied.times, path, "set the times of", rustix::fs::utimensat(dir, name, &times(meta), nofollow))
}

/// `false` if we may not.
fn owner(
    job: &Job<'_>,
    path: PathOf<'_>,
    set: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    uid: Uid,
    gid: Gid,
) -> Result<bool> {
    match set(Some(uid), Some(gid)) {
        Ok(()) => Ok(true),
        // Not allowed; or a user that this user namespace does not have.
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OVERFLOW) => {
            // At least the group, if we are a member.
            set(None, Some(gid)).ok();
            add(&job.denied.owners, 1);
            Ok(false)
        }
        Err(e) => job.failed(&path(), "set the owner of", e).map(|()| false),
    }
}

fn set_xattrs(
    job: &Job<'_>,
    path: PathOf<'_>,
    xattrs: &[Xattr],
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    for xattr in xattrs {
        match set(&xattr.name, &xattr.value) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL) => add(&job.denied.xattrs, 1),
            Err(e) => {
                let doing = format!("set extended attribute {} of", String::from_utf8_lossy(&xattr.name).escape_debug());
                job.failed(&path(), &doing, e)?;
            }
        }
    }
    Ok(())
}

/// Attributes that the snapshot does not have, but for those of the system that the target runs on.
fn remove_other_xattrs(job: &Job<'_>, fd: BorrowedFd<'_>, wanted: &[Xattr]) {
    let mut names = vec![0u8; 1024];
    let listed = match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
        Err(Errno::RANGE) => {
            names.resize(64 << 10, 0);
            rustix::fs::flistxattr(fd, names.as_mut_slice())
        }
        other => other,
    };
    // No attributes at all on this file system.
    let Ok(n) = listed else { return };
    for name in names.get(..n).unwrap_or_default().split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let kept = name == b"security.selinux" || wanted.iter().any(|x| x.name == name);
        if !kept && rustix::fs::fremovexattr(fd, name).is_err() {
            add(&job.denied.xattrs, 1);
        }
    }
}

fn allowed(
    job: &Job<'_>,
    denied: &std::sync::atomic::AtomicU64,
    path: PathOf<'_>,
    doing: &str,
    done: rustix::io::Result<()>,
) -> Result<()> {
    match done {
        Ok(()) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS) => {
            add(denied, 1);
            Ok(())
        }
        Err(e) => job.failed(&path(), doing, e),
    }
}

fn times(meta: &Metadata) -> Timestamps {
    let spec = |t: Time| Timespec { tv_sec: t.secs, tv_nsec: t.nanos.into() };
    Timestamps { last_access: spec(meta.atime), last_modification: spec(meta.mtime) }
}
