//! An entry as a listing finds it, and the node it becomes.

use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::Volume;
use super::owners::Owners;
use crate::model::{Metadata, Node, NodeKind, Time, Xattr};

/// Time stamps this close to a scan say nothing: file systems with coarse clocks may change a file again without
/// changing them.
const COARSE_SECS: f64 = 2.0;

/// What an entry is. Sockets are not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Device,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
}

impl FoundKind {
    /// `None` for sockets and what is not known.
    pub(super) fn of(kind: FileType) -> Option<Self> {
        match kind {
            FileType::RegularFile => Some(Self::File),
            FileType::Directory => Some(Self::Dir),
            FileType::Symlink => Some(Self::Symlink),
            FileType::BlockDevice => Some(Self::Device),
            FileType::CharacterDevice => Some(Self::CharDevice),
            FileType::Fifo => Some(Self::Fifo),
            _ => None,
        }
    }
}

/// An entry of a directory. `xattrs` and `target` are empty until [`Volume::complete`].
#[derive(Debug, Clone)]
pub struct Found {
    /// Raw name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: FoundKind,
    /// Length of a file in bytes, else 0.
    pub size: u64,
    /// Blocks of 512 bytes that are allocated; fewer than `size` needs for a sparse file.
    pub blocks: u64,
    /// Everything else.
    pub meta: Metadata,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// `st_rdev` of a device.
    pub rdev: u64,
    /// `st_dev`, as this machine numbers it now.
    pub(super) device: u64,
}

#[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between processors")]
pub(super) fn mtime(stat: &Stat) -> Time {
    Time::new(stat.st_mtime as i64, stat.st_mtime_nsec as u32)
}

#[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between processors")]
pub(super) fn ctime(stat: &Stat) -> Time {
    Time::new(stat.st_ctime as i64, stat.st_ctime_nsec as u32)
}

impl Found {
    #[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between processors")]
    pub(super) fn new(name: Vec<u8>, kind: FoundKind, stat: &Stat, with_atime: bool, owners: &Owners, device_id: u64) -> Self {
        let mtime = mtime(stat);
        let atime = if with_atime { Time::new(stat.st_atime as i64, stat.st_atime_nsec as u32) } else { mtime };
        let meta = Metadata {
            mode: stat.st_mode & 0o7777,
            mtime,
            atime,
            ctime: ctime(stat),
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: owners.user(stat.st_uid),
            group: owners.group(stat.st_gid),
            inode: stat.st_ino as u64,
            device_id,
            links: if kind == FoundKind::Dir { 0 } else { stat.st_nlink as u64 },
            xattrs: Vec::new(),
        };
        Self {
            name,
            kind,
            size: if kind == FoundKind::File { stat.st_size as u64 } else { 0 },
            blocks: stat.st_blocks as u64,
            meta,
            target: Vec::new(),
            rdev: stat.st_rdev as u64,
            device: stat.st_dev as u64,
        }
    }

    /// The name as a path segment.
    #[must_use]
    pub fn path_name(&self) -> &Path {
        Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&self.name))
    }

    fn kind_with(&self, target: &[u8]) -> NodeKind {
        match self.kind {
            FoundKind::File => NodeKind::File { size: self.size, content: Vec::new() },
            FoundKind::Dir => NodeKind::Dir { subtree: None },
            FoundKind::Symlink => NodeKind::Symlink { target: target.to_vec() },
            FoundKind::Device => NodeKind::Device { device: self.rdev },
            FoundKind::CharDevice => NodeKind::CharDevice { device: self.rdev },
            FoundKind::Fifo => NodeKind::Fifo,
        }
    }
}

impl Volume {
    /// The node of a completed entry, without content and subtree.
    #[must_use]
    pub fn to_node(&self, found: &Found) -> Node {
        Node { name: found.name.clone(), kind: found.kind_with(&found.target), meta: found.meta.clone(), error: None }
    }

    /// The node of an unchanged entry: content, link target and extended attributes are the old node's.
    #[must_use]
    pub fn to_node_like(&self, found: &Found, old: &Node) -> Node {
        let kind = match (&old.kind, found.kind) {
            (NodeKind::File { content, .. }, FoundKind::File) => NodeKind::File { size: found.size, content: content.clone() },
            (NodeKind::Symlink { target }, FoundKind::Symlink) => found.kind_with(target),
            _ => found.kind_with(&found.target),
        };
        let xattrs: Vec<Xattr> = old.meta.xattrs.clone();
        Node { name: found.name.clone(), kind, meta: Metadata { xattrs, ..found.meta.clone() }, error: None }
    }

    /// Whether the old node, from a scan that began at `scanned`, still tells the content, the link target and the
    /// extended attributes: same kind, size, inode, mtime and ctime, and the change was over 2 s old when that scan began.
    #[must_use]
    pub fn unchanged(&self, found: &Found, old: &Node, scanned: Time) -> bool {
        let same_kind = match (&old.kind, found.kind) {
            (NodeKind::File { size, .. }, FoundKind::File) => *size == found.size,
            (NodeKind::Dir { .. }, FoundKind::Dir)
            | (NodeKind::Symlink { .. }, FoundKind::Symlink)
            | (NodeKind::Fifo, FoundKind::Fifo) => true,
            (NodeKind::Device { device }, FoundKind::Device) | (NodeKind::CharDevice { device }, FoundKind::CharDevice) => {
                *device == found.rdev
            }
            _ => false,
        };
        let (now, then) = (&found.meta, &old.meta);
        // A change that came after the scan began may have come after the file was read, with the same time stamp. The
        // mtime may be set to anything, so only a close one tells something.
        let settled = scanned.seconds_since(now.ctime) > COARSE_SECS && scanned.seconds_since(now.mtime).abs() > COARSE_SECS;
        same_kind
            && old.error.is_none()
            && now.inode == then.inode
            && now.mtime == then.mtime
            && now.ctime == then.ctime
            && settled
    }
}
