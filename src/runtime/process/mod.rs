//! Child processes for blocking code: `pg_dump`, `pg_restore`, programs named in a configuration.
//!
//! - **Environment**: cleared. What a program needs is given by name; secrets go here, never into arguments, which every
//!   user of the machine can read.
//! - **End**: a child runs in a process group of its own. When [`Cancel`] fires, the time is up or the [`Child`] is
//!   dropped, the group gets TERM and, after a grace period, KILL. Should this process itself be killed, the kernel kills
//!   the child where util-linux's `setpriv` is installed; elsewhere it ends at its next write (broken pipe) or read.
//! - **Truth**: the end of the output is not success. Only [`Child::wait`] knows how the program ended.

mod child;
mod pipe;
mod supervise;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use child::{Child, Exit};
pub use pipe::{Input, Output};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::secret::commands_allowed;
use super::{Cancel, Secret};
use crate::error::{Context, Error, Kind, Result};

/// How long a program may take to end after TERM before it gets KILL.
const GRACE: Duration = Duration::from_secs(5);

/// What commands get of our own environment, where set, beside what they are given.
pub const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"];

/// Whether there is a process of this number, by the word of the kernel and not of `/proc`, which may hide those of other
/// users (`hidepid`, systemd's `ProtectProc=`).
#[must_use]
pub fn exists(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    // Sends nothing. That it would not be allowed to tells of a process, too.
    test_kill_process(pid) != Err(Errno::SRCH)
}

/// A program to start: path, arguments, environment, pipes, limits.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: bool,
    output: bool,
    errors: Option<Errors>,
    timeout: Option<Duration>,
    grace: Duration,
}

/// Is given every line of standard error.
type Errors = Arc<dyn Fn(&str) + Send + Sync>;

impl Program {
    /// A program by path, or by name to be looked up in this process's `PATH`. Standard input is empty, standard output
    /// is a pipe, the environment holds nothing.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            input: false,
            output: true,
            errors: None,
            timeout: None,
            grace: GRACE,
        }
    }

    /// A program that a configuration names, with the variables it names beside [`INHERITED`].
    ///
    /// # Errors
    /// [`Kind::Denied`] where this process does not run commands of its configuration, [`Kind::Config`] for an empty
    /// command, an unreadable secret.
    pub fn configured(run: &[String], env: &BTreeMap<String, Secret>) -> Result<Self> {
        let Some((path, args)) = run.split_first().filter(|(p, _)| !p.is_empty()) else {
            return Err(Error::new(Kind::Config, "the command is empty").hint("Write the program and its arguments as a list."));
        };
        if !commands_allowed() {
            return Err(Error::new(
                Kind::Denied,
                format!("the command {path} may not run: commands are not allowed in this process"),
            )
            .hint("Start it with --allow-commands (or STRONGROOM_ALLOW_COMMANDS=true) if you trust the configuration."));
        }
        let mut program = Self::new(path).args(args).inherit(INHERITED);
        for (name, secret) in env {
            let value = secret.read().context(|| format!("read {name} for {path}"))?;
            program = program.env(name, value.expose());
        }
        Ok(program)
    }

    /// Adds an argument. Arguments are public: no secrets.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment; a later value replaces an earlier one.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Hands these variables of our own environment on, where they are set.
    #[must_use]
    pub fn inherit(mut self, names: &[&str]) -> Self {
        for name in names {
            if let Some(value) = std::env::var_os(name) {
                self.env.push((name.into(), value));
            }
        }
        self
    }

    /// Standard input becomes a pipe: see [`Child::take_input`].
    #[must_use]
    pub fn with_input(mut self) -> Self {
        self.input = true;
        self
    }

    /// Standard output is thrown away.
    #[must_use]
    pub fn without_output(mut self) -> Self {
        self.output = false;
        self
    }

    /// Every line of standard error is given to this as it comes, too: [`Exit`] keeps the last of them only. It is called by
    /// the thread that watches the program, and not any more once [`Child::wait`] returned. Lines above 8 KiB come in parts.
    #[must_use]
    pub fn on_error_line(mut self, hear: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.errors = Some(Arc::new(hear));
        self
    }

    /// Ends the program when it runs longer than this.
    #[must_use]
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long it may take to end by itself after TERM (default 5 s) before it is killed.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The program's file name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Starts it. `cancel` ends it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such program, [`Kind::Denied`] if it is not executable, no resources for a process.
    pub fn start(self, cancel: &Cancel) -> Result<Child> {
        cancel.check()?;
        let path = find(&self.path).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("the program {} was not found", self.path.display()))
                .hint("Install it, or name it with its full path.")
        })?;
        supervise::start(self, path, cancel)
    }

    /// Runs it to the end and returns what it wrote to standard output, at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Program::start`]; a program that fails, or writes more than `limit`.
    pub fn read(self, limit: u64, cancel: &Cancel) -> Result<Vec<u8>> {
        let name = self.name();
        let mut child = self.start(cancel)?;
        let mut text = Vec::new();
        if let Some(output) = child.take_output() {
            output.take(limit.saturating_add(1)).read_to_end(&mut text).context(|| format!("read the output of {name}"))?;
        }
        if text.len() as u64 > limit {
            return Err(Error::new(Kind::Failed, format!("{name} wrote more than {limit} bytes")));
        }
        child.wait().into_result()?;
        Ok(text)
    }
}

/// Prints the program and the *names* of its variables.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Program").field("path", &self.path).field("args", &self.args).field("env", &names).finish_non_exhaustive()
    }
}

/// Looks a program up as a shell would: a name in `PATH`, a path as it is. `None` if no executable file is there.
#[must_use]
pub fn find(program: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let executable = |p: &Path| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.components().count() > 1 || program.is_absolute() {
        return executable(program).then(|| program.to_owned());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|p| executable(p))
}

#[cfg(test)]
mod tests;
