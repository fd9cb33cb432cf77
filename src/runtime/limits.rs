//! What the system lets one process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this is never useful to us.
const OPEN_FILES: u64 = 65_536;

/// Raises the limit of open files as far as it may be raised, and tells it. A walk holds one open directory a level, and
/// a restore some thousands of files, which the usual limit of 1,024 ends early. Safe to repeat.
pub fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = now.maximum.unwrap_or(u64::MAX).min(OPEN_FILES);
    match now.current {
        Some(n) if n < wanted => match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum }) {
            Ok(()) => wanted,
            Err(_) => n,
        },
        Some(n) => n,
        None => OPEN_FILES,
    }
}
