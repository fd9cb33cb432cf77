//! A running program and how it ended.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::pipe::{Input, Output};
use super::supervise::{Shared, Verdict};
use crate::error::{Error, Kind, Result};

/// A running program. Dropped before [`Child::wait`], it is ended (TERM, then KILL) and reaped.
pub struct Child {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) supervisor: Option<JoinHandle<Verdict>>,
    pub(super) output: Option<Output>,
    pub(super) input: Option<Input>,
}

impl Child {
    /// Its process id, which is its group's too.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended, as far as is known now; [`Child::wait`] tells how.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.has_ended()
    }

    /// Its standard output, once; `None` if it was asked for without.
    pub fn take_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// Its standard input, once; `None` unless it was asked for.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    /// Tells it to end; [`Child::wait`] then reports it as stopped.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits until it ended. Call it when its output is at its end and its input was dropped; pipes not taken are closed.
    /// Processes it left behind in its group are killed.
    #[must_use = "only this tells whether the program succeeded"]
    pub fn wait(mut self) -> Exit {
        self.output = None;
        self.input = None;
        self.shared.finish();
        let verdict = self.supervisor.take().map_or(Verdict::Lost, |t| t.join().unwrap_or(Verdict::Lost));
        Exit { name: std::mem::take(&mut self.name), verdict, stderr: self.shared.stderr() }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            self.output = None;
            self.input = None;
            self.shared.stop();
            if supervisor.join().is_err() {
                tracing::error!(program = self.name, "the thread that watched a program panicked");
            }
        }
    }
}

/// How a program ended, and the end of what it wrote to standard error.
#[derive(Debug)]
pub struct Exit {
    name: String,
    verdict: Verdict,
    stderr: String,
}

impl Exit {
    /// The last 8 KiB it wrote to standard error.
    #[must_use]
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Whether it ended by itself with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        matches!(self.verdict, Verdict::Ended(status) if status.success())
    }

    /// Success, or why not, with the last lines of standard error.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if it was told to end, [`Kind::Failed`] if it failed, took too long or was killed by others.
    pub fn into_result(self) -> Result<()> {
        let name = &self.name;
        let error = match self.verdict {
            Verdict::Ended(status) if status.success() => return Ok(()),
            Verdict::Ended(status) => ended(name, status),
            Verdict::Stopped => Error::new(Kind::Cancelled, format!("{name} was stopped")),
            Verdict::TimedOut(limit) => Error::new(Kind::Failed, format!("{name} did not end within {limit:?}"))
                .hint("Give it more time (timeout), or find out what it was waiting for."),
            Verdict::Lost => Error::new(Kind::Bug, format!("{name} was started and lost sight of")),
        };
        let tail = self.last_lines();
        Err(if tail.is_empty() { error } else { error.because(tail) })
    }

    /// Up to the last 10 lines of standard error.
    fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.stderr.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect();
        lines.iter().skip(lines.len().saturating_sub(10)).copied().collect::<Vec<_>>().join("\n")
    }
}

fn ended(name: &str, status: ExitStatus) -> Error {
    match (status.code(), status.signal()) {
        (Some(code), _) => Error::new(Kind::Failed, format!("{name} failed with exit status {code}")),
        (None, Some(9)) => Error::new(Kind::Failed, format!("{name} was killed (signal 9)"))
            .hint("If nobody killed it, the machine or the container ran out of memory: give it more."),
        (None, signal) => Error::new(Kind::Failed, format!("{name} was ended by signal {}", signal.unwrap_or(0))),
    }
}
