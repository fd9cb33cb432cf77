//! One thread a child: starts it, collects its standard error, ends it when it must, reaps it.
//!
//! The same thread starts and reaps the child because the kernel's parent-death signal is bound to the thread that
//! forked, and because a process id may be signalled only while it is not reaped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::pipe::{Input, Output, Side, pair};
use super::{Child, Errors, Program};
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::Cancel;

/// What is kept of standard error.
const TAIL_BYTES: usize = 8 << 10;
/// How often cancellation is looked at. The end of the child and its standard error wake the thread at once.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// The same once it ended and only its owner's word is waited for.
const SHORT_TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// How long after the child's end its standard error may stay silently open (in a grandchild's hands).
const LINGER: Duration = Duration::from_millis(300);

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Ended(ExitStatus),
    Stopped,
    TimedOut(Duration),
    Lost,
}

/// What the supervisor, the pipes and the owner share.
#[derive(Default)]
pub(super) struct Shared {
    stop: AtomicBool,
    finish: AtomicBool,
    over: AtomicBool,
    exited: AtomicBool,
    stderr: Mutex<Vec<u8>>,
}

impl Shared {
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn finish(&self) {
        self.finish.store(true, Ordering::Release);
    }

    /// Whether the child is reaped and its group killed: its pipes are of no more use.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether the child has ended; it may not be reaped yet.
    pub(super) fn has_ended(&self) -> bool {
        self.exited.load(Ordering::Acquire)
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock()).into_owned()
    }
}

/// Starts the child under a thread of its own.
pub(super) fn start(program: Program, path: PathBuf, cancel: &Cancel) -> Result<Child> {
    let name = program.name();
    let doing = || format!("start {}", path.display());
    let shared = Arc::new(Shared::default());
    let mut input = None;
    let mut output = None;
    let mut command = command(&program, &path);
    if program.input {
        let (read, write) = pair(Side::Write).context(doing)?;
        command.stdin(Stdio::from(read));
        input = Some(Input { fd: write, shared: Arc::clone(&shared) });
    }
    if program.output {
        let (read, write) = pair(Side::Read).context(doing)?;
        command.stdout(Stdio::from(write));
        output = Some(Output { fd: read, shared: Arc::clone(&shared) });
    }
    let (errors, theirs) = pair(Side::Read).context(doing)?;
    command.stderr(Stdio::from(theirs));

    let (tell, told) = mpsc::sync_channel(1);
    let watch = Watch {
        name: name.clone(),
        errors: Some(errors),
        line: Vec::new(),
        hear: program.errors.clone(),
        shared: Arc::clone(&shared),
        cancel: cancel.clone(),
    };
    let (timeout, grace) = (program.timeout, program.grace);
    let supervisor = std::thread::Builder::new()
        .name(format!("child {name}"))
        .stack_size(256 << 10)
        .spawn(move || {
            let spawned = command.spawn();
            // Our copies of the child's ends must go, or its pipes would never end.
            drop(command);
            match spawned {
                Ok(child) => {
                    // The owner waits for this message, so the channel is open.
                    if tell.send(Ok(child.id())).is_err() {
                        watch.shared.stop();
                    }
                    watch.run(child, timeout, grace)
                }
                Err(e) => {
                    if tell.send(Err(e)).is_err() {
                        tracing::debug!("nobody waits for a program that did not start");
                    }
                    Verdict::Lost
                }
            }
        })
        .context(doing)?;
    let pid = told.recv().map_err(|e| Error::new(Kind::Bug, doing()).because(e))?.context(doing)?;
    Ok(Child { name, pid, shared, supervisor: Some(supervisor), output, input })
}

fn command(program: &Program, path: &Path) -> Command {
    let mut command = match setpriv() {
        Some(setpriv) => {
            let mut c = Command::new(setpriv);
            c.args(["--pdeathsig", "KILL", "--"]).arg(path);
            c
        }
        None => Command::new(path),
    };
    command.args(&program.args).env_clear().envs(program.env.iter().map(|(k, v)| (k, v)));
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// util-linux's `setpriv`, if it is here and knows `--pdeathsig` (the one of busybox does not).
fn setpriv() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let probe = || {
        let path = ["/usr/bin/setpriv", "/bin/setpriv"].iter().map(Path::new).find(|p| p.exists())?;
        let works = Command::new(path)
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        works.then(|| path.to_owned())
    };
    FOUND.get_or_init(probe).as_deref()
}

struct Watch {
    name: String,
    errors: Option<OwnedFd>,
    line: Vec<u8>,
    hear: Option<Errors>,
    shared: Arc<Shared>,
    cancel: Cancel,
}

impl Watch {
    /// Returns when the child is reaped: after it ended and the owner asked, or after it was made to end.
    fn run(mut self, mut child: std::process::Child, timeout: Option<Duration>, grace: Duration) -> Verdict {
        let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return Verdict::Lost };
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok();
        let started = Instant::now();
        let mut told: Option<(Instant, Verdict)> = None;
        let mut ended: Option<Instant> = None;
        loop {
            match ended {
                None => self.wait_a_moment(pidfd.as_ref(), &TICK),
                Some(_) => self.wait_a_moment(None, &SHORT_TICK),
            }
            let heard = self.drain();
            if ended.is_none() && has_ended(pid) {
                ended = Some(Instant::now());
                self.shared.exited.store(true, Ordering::Release);
            }
            let unwanted = self.shared.stop.load(Ordering::Acquire) || self.cancel.is_cancelled();
            if let Some(since) = ended {
                let quiet = self.errors.is_none() || (!heard && since.elapsed() > LINGER);
                if told.is_some() || unwanted || (quiet && self.shared.finish.load(Ordering::Acquire)) {
                    break;
                }
                continue;
            }
            match told {
                None => {
                    let overdue = timeout.filter(|limit| started.elapsed() > *limit);
                    if let Some(verdict) = if unwanted { Some(Verdict::Stopped) } else { overdue.map(Verdict::TimedOut) } {
                        signal(pid, Signal::TERM);
                        told = Some((Instant::now(), verdict));
                    }
                }
                Some((since, _)) if since.elapsed() > grace => signal(pid, Signal::KILL),
                Some(_) => {}
            }
        }
        // What it left behind in its group goes with it; the id is still ours, for it is not reaped yet.
        signal(pid, Signal::KILL);
        self.drain();
        self.log_line();
        let status = child.wait();
        // Whoever still keeps its pipes open cannot be reached any more.
        self.shared.over.store(true, Ordering::Release);
        match (told, status) {
            (Some((_, verdict)), _) => verdict,
            (None, Ok(status)) => Verdict::Ended(status),
            (None, Err(_)) => Verdict::Lost,
        }
    }

    fn wait_a_moment(&self, pidfd: Option<&OwnedFd>, tick: &Timespec) {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
        fds.extend(self.errors.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        fds.extend(pidfd.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        if let Err(e) = poll(&mut fds, Some(tick))
            && e != Errno::INTR
        {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads what standard error holds. `true` if there was something.
    fn drain(&mut self) -> bool {
        let mut heard = false;
        let mut buf = [0u8; 4096];
        while let Some(fd) = &self.errors {
            match rustix::io::read(fd, &mut buf) {
                Ok(0) => self.errors = None,
                Ok(n) => {
                    heard = true;
                    self.keep(buf.get(..n).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => {
                    tracing::debug!(program = self.name, error = %io::Error::from(e), "cannot read its standard error");
                    self.errors = None;
                }
            }
        }
        heard
    }

    fn keep(&mut self, bytes: &[u8]) {
        {
            let mut tail = self.shared.stderr.lock();
            tail.extend_from_slice(bytes);
            let extra = tail.len().saturating_sub(TAIL_BYTES);
            tail.drain(..extra);
        }
        for &b in bytes {
            if b == b'\n' || self.line.len() >= TAIL_BYTES {
                self.log_line();
            }
            if b != b'\n' {
                self.line.push(b);
            }
        }
    }

    fn log_line(&mut self) {
        if !self.line.is_empty() {
            let line = String::from_utf8_lossy(&self.line);
            tracing::debug!(program = self.name, "{line}");
            if let Some(hear) = &self.hear {
                hear(&line);
            }
            self.line.clear();
        }
    }
}

/// Whether it ended, without reaping it.
fn has_ended(pid: Pid) -> bool {
    !matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT), Ok(None))
}

fn signal(group: Pid, signal: Signal) {
    if let Err(e) = kill_process_group(group, signal)
        && e != Errno::SRCH
    {
        tracing::debug!(error = %io::Error::from(e), "cannot signal a child's process group");
    }
}
