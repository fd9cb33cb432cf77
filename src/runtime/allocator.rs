//! The C library's allocator, told to keep what it holds small.
//!
//! Chunks are allocated by one thread and freed by another all the time. Allocators with a heap a thread (mimalloc was
//! measured) then hold three times what is in use, and the page faults of returning it cost a fifth of all processor
//! time. glibc with two arenas took 127 MiB where mimalloc took 400 MiB for the same backup, in half the time.
#![allow(unsafe_code, reason = "mallopt and malloc_trim are the only way to say this from inside the process")]

/// Limits the allocator to two arenas. Call first in `main`, before other threads start; elsewhere than glibc it does nothing.
pub fn keep_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers and is called before any other thread exists.
    unsafe {
        // It can only fail for an unknown parameter, and then nothing is lost but memory.
        let _accepted = libc::mallopt(libc::M_ARENA_MAX, 2) == 1;
        // By itself the limit grows to 32 MiB with what is freed, and then buffers tear holes into the arenas.
        let _accepted = libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) == 1;
    }
}

/// Keeps memory that was freed for the next that is needed, up to 64 MiB of it: for a process that does one thing over and over and
/// ends soon. New memory costs a page fault for every 4 KiB. Safe to call at any time.
pub fn keep_warm() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers and locks what it changes.
    unsafe {
        // As in `keep_small`.
        let _accepted = libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20) == 1;
        let _accepted = libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20) == 1;
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
