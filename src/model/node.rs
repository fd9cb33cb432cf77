//! One entry of a directory, as sources find it, trees store it and restores write it.

use std::sync::Arc;

use super::{Id, Time};

/// One extended attribute. POSIX ACLs are `system.posix_acl_access`/`_default`, capabilities `security.capability`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its namespace prefix, raw bytes.
    pub name: Vec<u8>,
    /// Raw value.
    pub value: Vec<u8>,
}

/// What every entry has, whatever its kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The low 12 bits of `st_mode`: permissions, setuid, setgid, sticky. The file type is in [`NodeKind`].
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last access; equal to `mtime` unless access times are kept.
    pub atime: Time,
    /// Last change of the inode, by the source's kernel.
    pub ctime: Time,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name of the owner where it was found, else empty.
    pub user: Arc<str>,
    /// Name of the group where it was found, else empty.
    pub group: Arc<str>,
    /// `st_ino`; with `device_id` it tells hard links of one file. 0 = unknown.
    pub inode: u64,
    /// A number for the file system: stable over remounts, so not `st_dev`. 0 = unknown.
    pub device_id: u64,
    /// `st_nlink`. 0 for directories.
    pub links: u64,
    /// In `listxattr` order.
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// The data blobs that, one after another, are its content.
        content: Vec<Id>,
    },
    /// A directory.
    Dir {
        /// The tree blob with its entries. `None` only while it is being made.
        subtree: Option<Id>,
    },
    /// A symbolic link.
    Symlink {
        /// Raw bytes of the target, not checked in any way.
        target: Vec<u8>,
    },
    /// A block device.
    Device {
        /// `st_rdev`.
        device: u64,
    },
    /// A character device.
    CharDevice {
        /// `st_rdev`.
        device: u64,
    },
    /// A named pipe.
    Fifo,
    /// A socket. Never written by us; read from repositories of others.
    Socket,
    /// Anything else that another program recorded.
    Irregular,
}

/// A named entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Raw bytes as in the file system: not empty, not `.` or `..`, no `/` and no NUL.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Everything else.
    pub meta: Metadata,
    /// What went wrong while it was read, if anything.
    pub error: Option<String>,
}

impl Node {
    /// Length in bytes of a file's content; 0 for everything else.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            NodeKind::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// The name for people: invalid UTF-8 replaced.
    #[must_use]
    pub fn display_name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }
}
