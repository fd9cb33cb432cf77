//! A file's text → a tree of values and the place of each.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::mistake::{Mistake, Mistakes};

/// The languages a configuration may be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2; JSON is read as YAML too, so that places are known.
    Yaml,
    /// TOML.
    Toml,
}

impl Format {
    /// By the file's extension: `.toml` is TOML, everything else YAML (of which JSON is a part).
    #[must_use]
    pub fn of(path: &std::path::Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some(e) if e.eq_ignore_ascii_case("toml") => Self::Toml,
            _ => Self::Yaml,
        }
    }
}

/// Line and column by path.
pub(crate) type Lines = BTreeMap<String, (u64, u64)>;

/// Parses `text`. An empty file is an empty table.
///
/// # Errors
/// One [`Mistake`] with line and column, without any of the text.
pub(crate) fn parse(text: &str, format: Format) -> Result<(Value, Lines), Mistakes> {
    match format {
        Format::Yaml => parse_yaml(text),
        Format::Toml => parse_toml(text),
    }
}

fn syntax_error(message: String, line: Option<u64>, column: Option<u64>) -> Mistakes {
    Mistakes(vec![Mistake { path: String::new(), message, hint: None, origin: None, line, column }])
}

fn parse_yaml(text: &str) -> Result<(Value, Lines), Mistakes> {
    // Without a piece of the text: what stands there may be a secret.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let tree: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let at = e.location();
        // The place stands in front of the mistake already.
        let text = e.to_string();
        let said = text.strip_prefix("error: line ").and_then(|t| t.split_once(": ")).map_or(text.as_str(), |(_, said)| said);
        syntax_error(said.to_owned(), at.map(|l| l.line()), at.map(|l| l.column()))
    })?;
    let mut lines = Lines::new();
    let value = tree.value.flatten("", &mut lines);
    Ok((if value.is_null() { Value::Object(Map::new()) } else { value }, lines))
}

/// Reads one value as YAML, for environment variables that hold lists or tables.
pub(crate) fn parse_value(text: &str) -> Option<Value> {
    let tree: Tree = serde_saphyr::from_str(text).ok()?;
    Some(tree.flatten("", &mut Lines::new()))
}

fn parse_toml(text: &str) -> Result<(Value, Lines), Mistakes> {
    use config::Format as _;
    let table = config::FileFormat::Toml.parse(None, text).map_err(|e| syntax_error(without_text(&e.to_string()), None, None))?;
    Ok((to_json(config::Value::from(table)), Lines::new()))
}

/// A TOML mistake in one line: where and what. Between them stands the line of the file, which may hold a secret.
fn without_text(report: &str) -> String {
    let is_text = |line: &&str| line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|');
    let lines: Vec<&str> = report.lines().map(str::trim_end).filter(|line| !line.is_empty() && !is_text(line)).collect();
    lines.join(": ")
}

/// The layering library's value as a plain tree.
pub(crate) fn to_json(value: config::Value) -> Value {
    use config::ValueKind as K;
    match value.kind {
        K::Nil => Value::Null,
        K::Boolean(b) => b.into(),
        K::I64(n) => n.into(),
        K::U64(n) => n.into(),
        // Wider numbers than any setting takes; as text they fail with a plain message.
        K::I128(n) => n.to_string().into(),
        K::U128(n) => n.to_string().into(),
        K::Float(n) => n.into(),
        K::String(s) => s.into(),
        K::Table(t) => Value::Object(t.into_iter().map(|(k, v)| (k, to_json(v))).collect()),
        K::Array(a) => Value::Array(a.into_iter().map(to_json).collect()),
    }
}

/// A plain tree as the layering library's value.
pub(crate) fn from_json(value: Value) -> config::Value {
    use config::ValueKind as K;
    let kind = match value {
        Value::Null => K::Nil,
        Value::Bool(b) => K::Boolean(b),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => K::I64(n),
            (None, Some(n)) => K::U64(n),
            _ => K::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(s) => K::String(s),
        Value::Array(a) => K::Array(a.into_iter().map(from_json).collect()),
        Value::Object(o) => K::Table(o.into_iter().map(|(k, v)| (k, from_json(v))).collect()),
    };
    config::Value::new(None, kind)
}

/// Any value, each with its place.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Table(Vec<(Spanned<String>, Spanned<Tree>)>),
}

impl Tree {
    /// Drops the places into `lines`, under the path of what they are the place of.
    fn flatten(self, path: &str, lines: &mut Lines) -> Value {
        match self {
            Tree::Scalar(v) => v,
            Tree::List(items) => {
                let each = items.into_iter().enumerate().map(|(i, item)| {
                    let path = format!("{path}[{i}]");
                    lines.insert(path.clone(), place(&item));
                    item.value.flatten(&path, lines)
                });
                Value::Array(each.collect())
            }
            Tree::Table(entries) => {
                let each = entries.into_iter().map(|(key, item)| {
                    let path = join(path, &key.value);
                    lines.insert(path.clone(), place(&key));
                    let value = item.value.flatten(&path, lines);
                    (key.value, value)
                });
                Value::Object(each.collect())
            }
        }
    }
}

fn place<T>(s: &Spanned<T>) -> (u64, u64) {
    (s.referenced.line(), s.referenced.column())
}

/// `path.key`, or `key` at the root. A key that is no plain word is quoted.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if plain { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }
            fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }
            fn visit_string<E>(self, v: String) -> Result<Tree, E> {
                Ok(Tree::Scalar(v.into()))
            }
            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Scalar(Value::Null))
            }
            fn visit_none<E>(self) -> Result<Tree, E> {
                Ok(Tree::Scalar(Value::Null))
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
                Tree::deserialize(d)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut a: A) -> Result<Tree, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = a.next_element()? {
                    items.push(item);
                }
                Ok(Tree::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut a: A) -> Result<Tree, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = a.next_entry()? {
                    entries.push(entry);
                }
                Ok(Tree::Table(entries))
            }
        }
        d.deserialize_any(V)
    }
}
