//! What is wrong with a configuration: all of it, each with its path and its place.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::error::{Error, Kind};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Which setting: `tenants.acme.jobs.orders.schedule`, `limits.quiet_hours[1]`. Empty for the file as a whole.
    pub path: String,
    /// What is wrong with it: a sentence without its path and without a full stop.
    pub message: String,
    /// What to write instead: a full sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Where it was written: a file or `environment variable STRONGROOM__…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
}

/// `origin:line:column: path: message. hint`
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}:")?;
            if let (Some(l), Some(c)) = (self.line, self.column) {
                write!(f, "{l}:{c}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, ". {hint}")?;
        }
        Ok(())
    }
}

/// Every mistake of a configuration, in the order of the file. Never empty where it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, m) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{m}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistakes> for Error {
    fn from(m: Mistakes) -> Self {
        let what = match m.0.as_slice() {
            [one] => format!("the configuration has a mistake: {one}"),
            all => {
                let lines: String = all.iter().map(|m| format!("\n  {m}")).collect();
                format!("the configuration has {} mistakes:{lines}", all.len())
            }
        };
        Error::new(Kind::Config, what)
    }
}

/// Where each setting was written, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    /// Name of the file, for messages.
    pub(crate) file: Option<String>,
    /// Line and column of each setting of the file.
    pub(crate) at: BTreeMap<String, (u64, u64)>,
    /// Paths that an environment variable set, with its name.
    pub(crate) env: BTreeMap<String, String>,
}

impl Places {
    /// The variable that set this path or something above it.
    pub(crate) fn variable(&self, path: &str) -> Option<&str> {
        ancestors(path).find_map(|p| self.env.get(p)).map(String::as_str)
    }

    /// The first variable that set something below a path which the file does not have.
    fn variable_below(&self, path: &str) -> Option<&str> {
        let below = |p: &str| p.strip_prefix(path).is_some_and(|r| r.starts_with('.'));
        if path.is_empty() || self.at.contains_key(path) {
            return None;
        }
        self.env.iter().find(|(p, _)| below(p)).map(|(_, name)| name.as_str())
    }
}

/// The path, then each path above it, without the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |p| p.rfind(['.', '[']).and_then(|i| p.get(..i))).filter(|p| !p.is_empty())
}

/// Collects mistakes while the configuration is walked.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    places: &'a Places,
    found: Vec<Mistake>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(places: &'a Places) -> Self {
        Self { places, found: Vec::new() }
    }

    pub(crate) fn places(&self) -> &'a Places {
        self.places
    }

    /// A mistake at `path`.
    pub(crate) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.push(path.into(), message.into(), None);
    }

    /// A mistake and what to write instead.
    pub(crate) fn add_hint(&mut self, path: impl Into<String>, message: impl Into<String>, hint: impl Into<String>) {
        self.push(path.into(), message.into(), Some(hint.into()));
    }

    /// A room's own verdict on a value.
    pub(crate) fn add_error(&mut self, path: impl Into<String>, error: &Error) {
        self.push(path.into(), error.chain(), error.hint_text().map(str::to_owned));
    }

    fn push(&mut self, path: String, message: String, hint: Option<String>) {
        // A setting whose shape was wrong was dropped; that it is now missing is no second mistake.
        if self.found.iter().any(|m| m.path == path) {
            return;
        }
        let mut m = Mistake { path, message, hint, origin: None, line: None, column: None };
        if let Some(name) = self.places.variable(&m.path).or_else(|| self.places.variable_below(&m.path)) {
            m.origin = Some(format!("environment variable {name}"));
        } else if let Some((line, column)) = ancestors(&m.path).find_map(|p| self.places.at.get(p)) {
            (m.origin, m.line, m.column) = (self.places.file.clone(), Some(*line), Some(*column));
        } else {
            m.origin = self.places.file.clone();
        }
        self.found.push(m);
    }

    /// Whether nothing was found so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether there is a mistake at exactly this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.found.iter().any(|m| m.path == path)
    }

    /// Whether `path` or something below it has a mistake.
    pub(crate) fn is_bad(&self, path: &str) -> bool {
        self.found.iter().any(|m| m.path.strip_prefix(path).is_some_and(|r| r.is_empty() || r.starts_with(['.', '['])))
    }

    /// All of them in the order of the file.
    pub(crate) fn into_mistakes(mut self) -> Mistakes {
        self.found.sort_by_key(|m| (m.line.is_none(), m.line, m.column));
        Mistakes(self.found)
    }
}

/// ` did you mean …` for an unknown name, where one of the known ones is near.
pub(crate) fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = name.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, k), strsim::jaro_winkler(&lower, k), k))
        .filter(|(edits, similar, k)| *edits <= 1 + k.len() / 4 || *similar > 0.88)
        .min_by(|a, b| (a.0, b.1).partial_cmp(&(b.0, a.1)).unwrap_or(std::cmp::Ordering::Equal))
        .map(|(_, _, k)| k)
}
