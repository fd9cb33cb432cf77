//! Entries without content: symbolic links, pipes, devices.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::attributes;
use super::folder::Folder;
use super::job::Job;
use super::warnings::add;
use crate::error::Result;
use crate::model::{Node, NodeKind};

/// Makes the entry; its name is free.
pub(super) fn make(job: &Job<'_>, folder: &Arc<Folder>, node: &Node) -> Result<()> {
    let path = || folder.path_of(&node.name);
    let name = node.name.as_slice();
    let dir = match folder.fd(job) {
        Ok(dir) => dir,
        Err(e) => return job.failed(&folder.path(), "open", e),
    };
    let private = Mode::from_raw_mode(0o600);
    let made = match &node.kind {
        NodeKind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), &dir, name),
        NodeKind::Fifo => rustix::fs::mknodat(&dir, name, FileType::Fifo, private, 0),
        NodeKind::Device { device } => rustix::fs::mknodat(&dir, name, FileType::BlockDevice, private, *device),
        NodeKind::CharDevice { device } => rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, private, *device),
        // Recorded by others: a socket is made by whoever listens on it.
        NodeKind::Socket | NodeKind::Irregular | NodeKind::File { .. } | NodeKind::Dir { .. } => return Ok(()),
    };
    let is_device = matches!(node.kind, NodeKind::Device { .. } | NodeKind::CharDevice { .. });
    match made {
        Ok(()) => {}
        Err(Errno::PERM | Errno::ACCESS) if is_device => {
            add(&job.denied.devices, 1);
            return Ok(());
        }
        Err(e) => return job.failed(&path(), "make", e),
    }
    let is_link = matches!(node.kind, NodeKind::Symlink { .. });
    attributes::apply_at(job, dir.as_fd(), name, &node.meta, is_link, &path)?;
    Job::count(&job.progress.others, 1);
    Ok(())
}
