//! Any program's standard output as one file: RabbitMQ definitions, `redis-cli --rdb -`, `mysqldump`, `sqlite3 … .dump`.
//!
//! The exit status decides: anything but 0 fails the run, whatever was written before. No shell is involved unless the
//! settings name one. In a shell pipeline only the last program's status counts; `set -o pipefail` makes it all of them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, json};

use super::{Report, Sink, Streams};
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::process::Program;
use crate::runtime::{Cancel, Clock, Secret};

/// As much as the pipe holds.
const BUFFER: usize = 1 << 20;

/// What to run and what its output is called.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program and its arguments.
    pub run: Vec<String>,
    /// The file's path in the snapshot: relative, `/`-separated.
    pub file: String,
    /// Variables of its environment, beside those of [`crate::runtime::process::INHERITED`]. The place for passwords.
    pub env: BTreeMap<String, Secret>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// Whether no output at all is a success.
    pub allow_empty: bool,
}

impl Settings {
    /// `run` into `file`, without limit of time, some output expected.
    #[must_use]
    pub fn new(run: Vec<String>, file: impl Into<String>) -> Self {
        Self { run, file: file.into(), env: BTreeMap::new(), timeout: None, allow_empty: false }
    }
}

/// Checks a path for a file in a snapshot.
///
/// # Errors
/// [`Kind::Config`]: absolute, empty, or with an empty, `.` or `..` segment.
pub fn check_file(path: &str) -> Result<()> {
    if path.split('/').any(|s| matches!(s, "" | "." | "..")) || path.contains('\0') {
        return Err(Error::new(Kind::Config, format!("{path:?} is no name for a file in a snapshot"))
            .hint("Use a relative path such as definitions.json or exports/definitions.json."));
    }
    Ok(())
}

/// The source.
pub struct Command {
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Command {
    /// Nothing is started yet.
    #[must_use]
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock }
    }
}

impl Streams for Command {
    fn run(&mut self, sink: &mut dyn Sink, cancel: &Cancel) -> Result<Report> {
        let s = &self.settings;
        check_file(&s.file)?;
        let program = Program::configured(&s.run, &s.env)?.timeout(s.timeout);
        let name = program.name();
        let doing = || format!("back up the output of {name}");
        let started = self.clock.now();

        let mut file = sink.create(&s.file)?;
        let mut child = program.start(cancel).context(doing)?;
        let mut bytes = 0u64;
        if let Some(mut output) = child.take_output() {
            let mut buffer = vec![0u8; BUFFER];
            loop {
                let n = output.read(&mut buffer).context(|| format!("read the output of {name}"))?;
                let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else { break };
                bytes = bytes.saturating_add(n as u64);
                file.write_all(part).map_err(|e| match e.downcast::<Error>() {
                    Ok(ours) => ours,
                    Err(e) => Error::new(Kind::Failed, doing()).because(e),
                })?;
            }
        }
        let exit = child.wait();
        let words = exit.stderr().trim().to_owned();
        exit.into_result().context(doing)?;
        if bytes == 0 && !s.allow_empty {
            let e = Error::new(Kind::Failed, format!("{name} succeeded but wrote nothing to standard output"));
            let e = if words.is_empty() { e } else { e.because(words) };
            return Err(e.hint("Make it write to standard output, or set allow_empty: true if nothing is a valid result."));
        }
        let stored = file.commit().context(doing)?;
        if stored != bytes {
            return Err(Error::new(Kind::Bug, format!("{bytes} bytes were read from {name} and {stored} stored")));
        }
        let mut facts = Map::new();
        facts.insert("program".to_owned(), json!(name));
        facts.insert("file".to_owned(), json!(s.file));
        facts.insert("bytes".to_owned(), json!(bytes));
        facts.insert("started".to_owned(), json!(started.to_string()));
        facts.insert("ended".to_owned(), json!(self.clock.now().to_string()));
        Ok(Report { facts, warnings: Vec::new(), missing: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_inside() {
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\0b"] {
            assert!(check_file(bad).is_err(), "{bad:?}");
        }
        check_file("exports/definitions.json").unwrap();
    }
}
