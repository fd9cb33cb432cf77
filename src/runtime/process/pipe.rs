//! Pipes to and from a child that never block for ever: a stopped child's pipe ends even if some grandchild keeps it open.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::supervise::Shared;

/// What we ask the kernel to keep in a pipe: 16 times its default, so that both sides sleep and wake less often.
/// More than this is refused to ordinary users.
const PIPE_BYTES: usize = 1 << 20;

/// How long a stopped child's pipe may stay open.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A pipe whose `ours` end does not block. Returns (read end, write end).
pub(super) fn pair(ours: Side) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A smaller pipe is slower, not wrong: users may have used up their share of pipe memory.
    if rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES).is_err() {
        tracing::debug!("the pipe keeps its default size");
    }
    let end = match ours {
        Side::Read => &read,
        Side::Write => &write,
    };
    rustix::fs::fcntl_setfl(end, rustix::fs::fcntl_getfl(end)? | OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Which end of a pipe stays with us.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Read,
    Write,
}

/// A child's standard output. Reads up to a whole pipe at once. Its end says nothing about success.
pub struct Output {
    pub(super) fd: OwnedFd,
    pub(super) shared: Arc<Shared>,
}

/// A child's standard input. Dropping it is the end of the input.
pub struct Input {
    pub(super) fd: OwnedFd,
    pub(super) shared: Arc<Shared>,
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *buf) {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !ready(&self.fd, PollFlags::IN)? && self.shared.is_over() {
                        return Err(io::Error::other("the program was stopped, but something it started keeps its output open"));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Write for Input {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.fd, buf) {
                Ok(n) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !ready(&self.fd, PollFlags::OUT)? && self.shared.is_over() {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits a moment for the pipe. `false` if nothing happened.
fn ready(fd: &OwnedFd, flags: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), flags)];
    match poll(&mut fds, Some(&TICK)) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(true),
        Err(e) => Err(e.into()),
    }
}
