//! Reading and writing files around the page cache, and what is in it.

use std::os::fd::AsFd;

/// Switches it on or off for an open file. `false` where the file system or the platform cannot; nothing has changed then. While it
/// is on, memory, lengths and positions have to be multiples of [`super::memory::PAGE`].
#[cfg(target_os = "linux")]
pub fn switch(file: impl AsFd, on: bool) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let changed = fcntl_getfl(&file).and_then(|flags| {
        let flags = if on { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT };
        fcntl_setfl(&file, flags)
    });
    changed.is_ok()
}

/// Nothing of the kind on this platform.
#[cfg(not(target_os = "linux"))]
pub fn switch(_: impl AsFd, _: bool) -> bool {
    false
}

/// Whether the page at this position of a file is in the page cache. `None`: nobody can say. Where it is not, the kernel may begin to
/// read it.
#[cfg(target_os = "linux")]
pub fn is_cached(file: impl AsFd, at: u64) -> Option<bool> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    match preadv2(file, &mut [std::io::IoSliceMut::new(&mut [0])], at, ReadWriteFlags::NOWAIT) {
        Ok(_) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

/// Nobody can say on this platform.
#[cfg(not(target_os = "linux"))]
pub fn is_cached(_: impl AsFd, _: u64) -> Option<bool> {
    None
}
