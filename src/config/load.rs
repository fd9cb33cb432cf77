//! File and environment → one tree → raw → settings.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::mistake::{Collector, Mistake, Mistakes, Places};
use super::raw::RawConfig;
use super::settings::Settings;
use super::text::{self, Format};
use super::validate::validate;
use super::{schema, shape};

/// Variables that overlay the file start with this; levels are separated by two underscores.
pub const ENV_PREFIX: &str = "STRONGROOM__";

/// Reads a file and overlays the environment. `environment` holds the process's variables; others than
/// `STRONGROOM__…` are ignored.
///
/// # Errors
/// Every mistake of the file and of the environment. A file that cannot be read is one mistake.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Settings, Mistakes> {
    let name = path.display().to_string();
    let mut text = std::fs::read_to_string(path).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => Some(
                "Name the file with --config or STRONGROOM_CONFIG; `strongroom config example` prints one to start from."
                    .to_owned(),
            ),
            _ => None,
        };
        Mistakes(vec![Mistake {
            path: String::new(),
            message: format!("cannot be read: {e}"),
            hint,
            origin: Some(name.clone()),
            line: None,
            column: None,
        }])
    })?;
    // Editors on Windows put a mark in front.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    load_text(&text, Format::of(path), Some(&name), environment)
}

/// As [`load`], from memory. `name` is what messages call the text.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    text: &str,
    format: Format,
    name: Option<&str>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, Mistakes> {
    let (file, lines) = text::parse(text, format).map_err(|mut m| {
        m.0.iter_mut().for_each(|m| m.origin = name.map(str::to_owned));
        m
    })?;
    read(file, lines, name, environment)
}

/// As [`load`], for settings that come from the command line instead of a file.
///
/// # Errors
/// As [`load`]; the paths are those a file would have.
pub fn load_value(settings: Value, environment: impl IntoIterator<Item = (String, String)>) -> Result<Settings, Mistakes> {
    read(settings, text::Lines::new(), Some("command line"), environment)
}

fn read(
    file: Value,
    lines: text::Lines,
    name: Option<&str>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, Mistakes> {
    let variables: BTreeMap<String, String> = environment.into_iter().filter(|(k, _)| k.starts_with(ENV_PREFIX)).collect();
    let mut places = Places { file: name.map(str::to_owned), at: lines, env: BTreeMap::new() };
    places.env.extend(variables.keys().map(|k| (path_of(k), k.clone())));
    if !file.is_object() {
        return Err(one(name, "the file is not a table of settings".into()));
    }
    let whole = overlay(file, variables).map_err(|e| one(name, e.to_string()))?;
    let mut out = Collector::new(&places);
    match settings(whole, &mut out) {
        Some(s) => Ok(s),
        None => Err(out.into_mistakes()),
    }
}

fn one(name: Option<&str>, message: String) -> Mistakes {
    Mistakes(vec![Mistake {
        path: String::new(),
        message,
        hint: None,
        origin: name.map(str::to_owned),
        line: None,
        column: None,
    }])
}

/// The path that a variable sets: `STRONGROOM__REPOSITORY__URL` → `repository.url`.
fn path_of(variable: &str) -> String {
    variable.strip_prefix(ENV_PREFIX).unwrap_or(variable).to_lowercase().replace("__", ".")
}

fn overlay(file: Value, variables: BTreeMap<String, String>) -> Result<Value, config::ConfigError> {
    let over = config::Environment::with_prefix("STRONGROOM")
        .prefix_separator("__")
        .separator("__")
        .source(Some(variables.into_iter().collect()));
    let merged = config::Config::builder().add_source(Tree(file)).add_source(over).build()?;
    Ok(text::to_json(merged.cache))
}

/// The file's tree as a layer.
#[derive(Debug, Clone)]
struct Tree(Value);

impl config::Source for Tree {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, config::Value>, config::ConfigError> {
        text::from_json(self.0.clone()).into_table()
    }
}

fn settings(whole: Value, out: &mut Collector<'_>) -> Option<Settings> {
    let fits = shape::check(&schema::schema(), whole, out);
    let raw = match RawConfig::deserialize(fits) {
        Ok(raw) => raw,
        Err(e) => {
            // The walk let something through that the structs refuse: still a mistake of the file, only without a path.
            out.add("", e.to_string());
            return None;
        }
    };
    validate(&raw, out).filter(|_| out.is_clean())
}
