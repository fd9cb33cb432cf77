//! The C library's allocator, told to keep what it holds small.
//!
//! Chunks are allocated by one thread and freed by another all the time. Allocators with a heap a thread (mimalloc was
//! measured) then hold three times what is in use, and the page faults of returning it cost a fifth of all processor
//! time. glibc with two arenas took 127 MiB where mimalloc took 400 MiB for the same backup, in half the time.
#![allow(unsafe_code, reason = "mallopt and malloc_trim are the only way to say this from inside the process")]

/// What is larger is given back to the system at once when it is freed; packs and chunks are smaller, and used again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const RETURNED: i32 = 12 << 20;
/// Free memory at the end of the heap beyond this is given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: i32 = 16 << 20;

/// Limits the allocator to two arenas, and what it keeps. Call first in `main`, before other threads start; elsewhere than
/// glibc it does nothing.
pub fn keep_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // Left to themselves these limits grow with the largest block that was ever freed.
    // SAFETY: mallopt takes two integers and is called before any other thread exists.
    unsafe {
        // It can only fail for an unknown parameter, and then nothing is lost but memory.
        let _accepted = libc::mallopt(libc::M_ARENA_MAX, 2) == 1
            && libc::mallopt(libc::M_MMAP_THRESHOLD, RETURNED) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) == 1;
    }
}

/// Gives back to the system what is free, holes included: after work that took much memory and is not repeated soon. Takes
/// milliseconds.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes an integer, is safe to call from any thread and touches free memory only.
    unsafe {
        // Whether there was anything to give back does not matter.
        let _released = libc::malloc_trim(0) == 1;
    }
}
