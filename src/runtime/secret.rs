//! Secrets by reference: read when needed, read again when they may have changed, never printed.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::error::{Context, Error, Kind, Result};

/// Where a secret is kept. Holds the place, not the text (but for [`Secret::Value`], which never prints).
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file; one trailing line end is cut off. Read at each use, so a rotated mount is seen.
    File(PathBuf),
    /// An environment variable of this process.
    Env(String),
    /// A program and its arguments; its standard output, one trailing line end cut off. Needs [`allow_commands`].
    Command(Vec<String>),
    /// The text itself, for demos and for URLs.
    Value(SecretText),
}

/// A secret's text: wiped when dropped, `***` in every debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text. Call it where it is sent, not before.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names the place, for messages.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::File(p) => write!(f, "file {}", p.display()),
            Secret::Env(n) => write!(f, "environment variable {n}"),
            Secret::Command(c) => write!(f, "command {}", c.first().map_or("", String::as_str)),
            Secret::Value(_) => f.write_str("value in the configuration"),
        }
    }
}

static COMMANDS_ALLOWED: OnceLock<bool> = OnceLock::new();

/// Decides once, at start, whether commands named in a configuration may run. Later calls change nothing, so a
/// reloaded configuration cannot switch them on.
pub fn allow_commands(allowed: bool) {
    // The first call wins on purpose.
    COMMANDS_ALLOWED.get_or_init(|| allowed);
}

/// Whether commands named in a configuration may run in this process. `false` until [`allow_commands`] was called.
#[must_use]
pub fn commands_allowed() -> bool {
    COMMANDS_ALLOWED.get().copied().unwrap_or(false)
}

impl Secret {
    /// Reads the secret. Blocks for a command, briefly for a file.
    ///
    /// # Errors
    /// A missing file or variable, an empty text, text that is not UTF-8, a failing or forbidden command.
    pub fn read(&self) -> Result<SecretText> {
        let doing = || format!("read the secret from {self}");
        let text = match self {
            Secret::Value(text) => return Ok(text.clone()),
            Secret::Env(name) => std::env::var(name).map_err(|e| Error::new(Kind::Config, doing()).because(e))?,
            Secret::File(path) => std::fs::read_to_string(path).context(doing)?,
            Secret::Command(argv) => run(argv).context(doing)?,
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
        if text.is_empty() {
            return Err(Error::new(Kind::Config, format!("the secret from {self} is empty")));
        }
        Ok(SecretText::new(text.to_owned()))
    }
}

fn run(argv: &[String]) -> Result<String> {
    if !commands_allowed() {
        return Err(Error::new(Kind::Denied, "commands are not allowed in this process")
            .hint("Start it with --allow-commands (or STRONGROOM_ALLOW_COMMANDS=true) if you trust the configuration."));
    }
    let Some((program, args)) = argv.split_first() else {
        return Err(Error::new(Kind::Config, "the command is empty"));
    };
    let output = std::process::Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context(|| format!("start {program}"))?;
    if !output.status.success() {
        return Err(Error::new(Kind::Failed, format!("{program} ended with {}", output.status)));
    }
    String::from_utf8(output.stdout).map_err(|e| Error::new(Kind::Config, "its output is not UTF-8").because(e.utf8_error()))
}
