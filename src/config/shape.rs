//! Compares a tree of values with the schema of [`super::raw`]: every unknown key and every wrong type at once.
//!
//! What is wrong is taken out, so that the rest can still be read and checked for its meaning in the same pass.

use serde_json::{Map, Value};

use super::mistake::{Collector, nearest};
use super::text::{join, parse_value};

/// Walks `value` and returns what of it fits.
pub(crate) fn check(schema: &Value, value: Value, out: &mut Collector<'_>) -> Value {
    Walk { root: schema, out }.fit(schema, value, "").unwrap_or_else(|| Value::Object(Map::new()))
}

struct Walk<'a, 'c> {
    root: &'a Value,
    out: &'a mut Collector<'c>,
}

impl<'a> Walk<'a, '_> {
    /// The part of `value` that fits, `None` when nothing does.
    fn fit(&mut self, schema: &'a Value, value: Value, path: &str) -> Option<Value> {
        let mut branches = Vec::new();
        self.branches(schema, &mut branches);
        let value = self.read_variable(&branches, value, path);
        if let Some(texts) = constants(&branches) {
            return self.fit_constant(&texts, value, path);
        }
        let Some(schema) = branches.iter().find(|s| accepts(s, &value)).copied() else {
            self.wrong_type(&branches, &value, path);
            return None;
        };
        match value {
            Value::Object(map) => Some(Value::Object(self.fit_table(schema, map, path))),
            Value::Array(items) => {
                let Some(of) = schema.get("items") else { return Some(Value::Array(items)) };
                let fits = items.into_iter().enumerate().filter_map(|(i, v)| self.fit(of, v, &format!("{path}[{i}]")));
                Some(Value::Array(fits.collect()))
            }
            scalar => Some(scalar),
        }
    }

    fn fit_table(&mut self, schema: &'a Value, map: Map<String, Value>, path: &str) -> Map<String, Value> {
        let known = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|s| s.is_object());
        let mut fits = Map::new();
        for (key, value) in map {
            let at = join(path, &key);
            let Some(of) = known.and_then(|k| k.get(&key)).or(others) else {
                self.unknown(&key, &at, known);
                continue;
            };
            // `acme:` with nothing behind it is an empty table where a name of the user's own leads, else "not set".
            let value = match value {
                Value::Null if known.is_some_and(|k| k.contains_key(&key)) => continue,
                Value::Null => Value::Object(Map::new()),
                v => v,
            };
            if let Some(v) = self.fit(of, value, &at) {
                fits.insert(key, v);
            }
        }
        fits
    }

    fn unknown(&mut self, key: &str, at: &str, known: Option<&Map<String, Value>>) {
        let names: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let hint = match nearest(key, names.iter().copied()) {
            Some(name) => format!("Did you mean `{name}`?"),
            None => format!("Known here: {}.", names.join(", ")),
        };
        self.out.add_hint(at, "unknown key", hint);
    }

    fn fit_constant(&mut self, texts: &[&str], value: Value, path: &str) -> Option<Value> {
        let one_of = || texts.iter().map(|t| format!("`{t}`")).collect::<Vec<_>>().join(", ");
        match &value {
            Value::String(s) if texts.contains(&s.as_str()) => return Some(value),
            Value::String(s) => match nearest(s, texts.iter().copied()) {
                Some(near) => self.out.add_hint(
                    path,
                    format!("`{}` is not one of {}", s.escape_debug(), one_of()),
                    format!("Did you mean `{near}`?"),
                ),
                None => self.out.add(path, format!("`{}` is not one of {}", s.escape_debug(), one_of())),
            },
            other => self.out.add(path, format!("expected one of {}, found {}", one_of(), kind_of(other))),
        }
        None
    }

    fn wrong_type(&mut self, branches: &[&Value], value: &Value, path: &str) {
        let wanted: Vec<String> = branches.iter().map(|b| wanted(b)).collect();
        let message = format!("expected {}, found {}", wanted.join(" or "), kind_of(value));
        let text_wanted = branches.iter().any(|b| type_is(b, "string"));
        match value {
            Value::Number(_) | Value::Bool(_) if text_wanted => {
                self.out.add_hint(path, message, format!("Put it in quotes: \"{value}\"."))
            }
            Value::String(_) if branches.iter().any(|b| type_is(b, "array")) => {
                self.out.add_hint(path, message, "Write a list: [\"…\"].")
            }
            Value::String(_) if branches.iter().any(|b| is_secret(b)) => {
                self.out.add_hint(
                    path,
                    message,
                    "Write where it is kept: `{ file: … }`, `{ env: … }` or `{ command: […] }`; or `{ value: … }` in a demo.",
                );
            }
            _ => self.out.add(path, message),
        }
    }

    /// The alternatives a schema allows, references followed, without `null`.
    fn branches(&self, schema: &'a Value, into: &mut Vec<&'a Value>) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            if let Some(target) = name.strip_prefix('#').and_then(|p| self.root.pointer(p)) {
                self.branches(target, into);
            }
            return;
        }
        match schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
            Some(all) => all.iter().for_each(|s| self.branches(s, into)),
            None if schema.get("type").and_then(Value::as_str) == Some("null") => {}
            None => into.push(schema),
        }
    }

    /// An environment variable is always text: reads it as what is wanted, where that works.
    fn read_variable(&self, branches: &[&Value], value: Value, path: &str) -> Value {
        let Value::String(text) = &value else { return value };
        if branches.iter().any(|b| accepts(b, &value)) || self.out.places().variable(path).is_none() {
            return value;
        }
        match parse_value(text) {
            Some(parsed) if branches.iter().any(|b| accepts(b, &parsed)) => parsed,
            _ if branches.iter().any(|b| type_is(b, "array")) => Value::Array(text.split(',').map(|t| t.trim().into()).collect()),
            _ => value,
        }
    }
}

/// The words of an enumeration, where every branch is one.
fn constants<'a>(branches: &[&'a Value]) -> Option<Vec<&'a str>> {
    let mut out = Vec::new();
    for b in branches {
        match (b.get("const"), b.get("enum")) {
            (Some(c), _) => out.push(c.as_str()?),
            (None, Some(Value::Array(all))) => out.extend(all.iter().filter_map(Value::as_str)),
            _ => return None,
        }
    }
    (!out.is_empty()).then_some(out)
}

fn type_is(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(t)) => t == name,
        Some(Value::Array(all)) => all.iter().any(|t| t.as_str() == Some(name)),
        _ => false,
    }
}

fn accepts(schema: &Value, value: &Value) -> bool {
    match value {
        Value::Null => type_is(schema, "null"),
        Value::Bool(_) => type_is(schema, "boolean"),
        Value::Number(n) if n.is_u64() => type_is(schema, "integer") || type_is(schema, "number"),
        Value::Number(n) if n.is_i64() => {
            (type_is(schema, "integer") && schema.get("minimum").is_none()) || type_is(schema, "number")
        }
        Value::Number(_) => type_is(schema, "number"),
        Value::String(_) => type_is(schema, "string"),
        Value::Array(_) => type_is(schema, "array"),
        Value::Object(_) => type_is(schema, "object"),
    }
}

fn is_secret(schema: &Value) -> bool {
    schema.pointer("/properties/env").is_some()
        && schema.pointer("/properties/file").is_some()
        && schema.pointer("/properties/value").is_some()
}

fn wanted(schema: &Value) -> String {
    if is_secret(schema) {
        return "a secret ({ file | env | command | value: … })".into();
    }
    match schema.get("type") {
        Some(Value::String(t)) => noun(t).into(),
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).filter(|t| *t != "null").map(noun).collect::<Vec<_>>().join(" or ")
        }
        _ => "something else".into(),
    }
}

fn noun(kind: &str) -> &'static str {
    match kind {
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        _ => "nothing",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}
