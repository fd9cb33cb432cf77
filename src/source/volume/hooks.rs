//! Commands before and after a volume is read: freeze an application, dump its state, thaw it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Kind, Result};
use crate::runtime::{Cancel, secret};

/// A program with its arguments; no shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The program and its arguments.
    pub run: Vec<String>,
    /// It and its children are killed after this time, which counts as a failure.
    pub timeout: Duration,
}

/// What runs around a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// Before, in order; the first failure ends the backup.
    pub pre: Vec<Hook>,
    /// After, in order, each of them always: also when a pre hook or the backup failed or was cancelled.
    pub post: Vec<Hook>,
}

/// How much of a failing program's standard error is told.
const TAIL: usize = 2048;
/// How long the end of its standard error is waited for once it has ended; a child may have kept it open.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the pre hooks.
///
/// # Errors
/// [`Kind::Denied`] where commands are not allowed; a program that does not start, fails or takes too long; [`Kind::Cancelled`].
pub fn pre(hooks: &Hooks, cancel: &Cancel) -> Result<()> {
    hooks.pre.iter().try_for_each(|hook| run(hook, Some(cancel)).context(|| "pre hook"))
}

/// Runs the post hooks, each whatever became of the others. Cancelling does not stop them: what was frozen must be
/// thawed; their own timeouts do.
///
/// # Errors
/// What failed, once all have run; each is logged, too, since an application may be left frozen.
pub fn post(hooks: &Hooks, _cancel: &Cancel) -> Result<()> {
    let failures = hooks.post.iter().filter_map(|hook| run(hook, None).err().map(|e| e.context("post hook")));
    let failed = failures.inspect(|e| tracing::error!("{}", e.chain())).reduce(|first, next| {
        let both = format!("{}; {}", first.chain(), next.chain());
        Error::new(first.kind(), both)
    });
    failed.map_or(Ok(()), Err)
}

fn run(hook: &Hook, cancel: Option<&Cancel>) -> Result<()> {
    if !secret::commands_allowed() {
        return Err(Error::new(Kind::Denied, "commands are not allowed in this process")
            .hint("Start it with --allow-commands (or STRONGROOM_ALLOW_COMMANDS=true) if you trust the configuration."));
    }
    let Some((program, args)) = hook.run.split_first() else {
        return Err(Error::new(Kind::Config, "the command is empty"));
    };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own, so that what it started ends with it.
        .process_group(0)
        .spawn()
        .context(|| format!("start {program}"))?;
    let tail = child.stderr.take().map(tail_of);
    let status = wait(&mut child, hook, cancel);
    if status.is_err() {
        kill_group(&mut child);
    }
    let status = status.context(|| format!("run {program}"))?;
    if status.success() {
        return Ok(());
    }
    let said = tail.and_then(|t| t.recv_timeout(DRAIN).ok()).unwrap_or_default();
    let said = said.trim();
    let what =
        if said.is_empty() { format!("{program} ended with {status}") } else { format!("{program} ended with {status}: {said}") };
    Err(Error::new(Kind::Failed, what))
}

/// Reads to the end on a thread of its own, so that a chatty program is never blocked; keeps the last bytes.
fn tail_of(mut stderr: impl Read + Send + 'static) -> crossbeam_channel::Receiver<String> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = stderr.read(&mut buffer) {
            kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
            let excess = kept.len().saturating_sub(TAIL);
            kept.drain(..excess);
        }
        // Nobody listens any more if the hook succeeded.
        sender.send(String::from_utf8_lossy(&kept).into_owned()).ok();
    });
    receiver
}

fn wait(child: &mut Child, hook: &Hook, cancel: Option<&Cancel>) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().context(|| "wait for it")? {
            return Ok(status);
        }
        if started.elapsed() >= hook.timeout {
            return Err(Error::new(Kind::Failed, format!("it took longer than {:?} and was killed", hook.timeout))
                .hint("Raise the hook's timeout if it needs the time."));
        }
        if let Some(cancel) = cancel {
            cancel.check()?;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn kill_group(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // Gone already is fine.
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
    }
    // Collects its status, so that no zombie stays.
    child.wait().ok();
}
