//! Which chunks of a file are what they should be.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::Blobs;
use crate::model::Id;

/// Bytes read before they are hashed, together: hashing many chunks at once is much faster than one by one.
const BATCH: usize = 4 << 20;

/// A chunk, where it belongs and how long it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) id: Id,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// Calls `found` for each chunk, in order: whether the file has it in place. What lies beyond `size` is not there.
pub(super) fn chunks(
    blobs: &dyn Blobs,
    fd: BorrowedFd<'_>,
    size: u64,
    chunks: &[Chunk],
    buffer: &mut Vec<u8>,
    mut found: impl FnMut(&Chunk, bool),
) -> rustix::io::Result<()> {
    let mut rest = chunks;
    while !rest.is_empty() {
        let (mut take, mut bytes) = (0, 0usize);
        for chunk in rest {
            let length = chunk.length as usize;
            if take > 0 && bytes + length > BATCH {
                break;
            }
            take += 1;
            bytes += length;
        }
        let (now, later) = rest.split_at(take);
        buffer.resize(bytes, 0);
        let mut parts: Vec<Option<&[u8]>> = Vec::with_capacity(take);
        let mut free: &mut [u8] = buffer;
        for chunk in now {
            let (part, after) = free.split_at_mut(chunk.length as usize);
            free = after;
            let whole = chunk.offset.saturating_add(chunk.length.into()) <= size && read_exact(fd, chunk.offset, part)?;
            parts.push(whole.then_some(part));
        }
        let present: Vec<&[u8]> = parts.iter().flatten().copied().collect();
        let mut ids = blobs.ids(&present).into_iter();
        for (chunk, part) in now.iter().zip(&parts) {
            let same = part.is_some() && ids.next() == Some(chunk.id);
            found(chunk, same);
        }
        rest = later;
    }
    Ok(())
}

/// `false` if the file ends before.
fn read_exact(fd: BorrowedFd<'_>, mut offset: u64, mut into: &mut [u8]) -> rustix::io::Result<bool> {
    while !into.is_empty() {
        match rustix::io::pread(fd, &mut *into, offset) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                offset += n as u64;
                into = into.get_mut(n..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}
