//! Answers: text for people or one JSON document for programs.

use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::json;

use super::Done;
use crate::error::{Error, Kind, Result};
use crate::model::Time;

/// Adds a line to a text.
macro_rules! say {
    ($text:expr, $($words:tt)*) => {{
        $text.push_str(&format!($($words)*));
        $text.push('\n');
    }};
}
pub(super) use say;

/// How to answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    pub(super) json: bool,
}

impl Out {
    /// Prints `value` as JSON or what `text` writes.
    pub(super) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&mut String)) -> Result<()> {
        let mut buffer = String::new();
        if self.json {
            buffer =
                serde_json::to_string_pretty(value).map_err(|e| Error::new(Kind::Bug, "write the answer as JSON").because(e))?;
            buffer.push('\n');
        } else {
            text(&mut buffer);
        }
        write_stdout(buffer.as_bytes())
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
pub(super) fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::new(Kind::Failed, "write to standard output").because(e)),
        _ => Ok(()),
    }
}

/// The shape of a failure: `{kind, message, hint, exit_code}`.
pub(super) fn error_json(e: &Error) -> serde_json::Value {
    json!({ "kind": e.kind().as_str(), "message": e.chain(), "hint": e.hint_text(), "exit_code": e.kind().exit_code() })
}

/// `error: …` and `hint: …` on standard error; with `json` an object on standard output too.
pub(super) fn print_error(e: &Error, json: bool) {
    if json {
        let text = format!("{:#}\n", json!({ "error": error_json(e) }));
        // Standard error still gets the words.
        drop(write_stdout(text.as_bytes()));
    }
    let mut text = format!("error: {}\n", e.chain());
    if let Some(hint) = e.hint_text() {
        say!(text, "hint: {hint}");
    }
    // There is nowhere left to complain to.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// Columns of text, padded; the last one is not.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn write(&self, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// `1.5 GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or("TiB");
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `1.5 s`, `3m20s`, `2h5m`.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    crate::app::format_age(seconds)
}

/// Whole seconds in UTC, as in `2026-11-21 02:00:00`.
pub(super) fn time(t: Time) -> String {
    Time { nanos: 0, ..t }.to_string().replace('T', " ").trim_end_matches('Z').to_owned()
}

/// `warning: …` lines on standard error.
pub(super) fn warn(warnings: &[String]) {
    for w in warnings {
        tracing::warn!("{w}");
    }
}

/// The exit of a command that did several things: that of the failures if they agree, else 1.
pub(super) fn worst(failed: &[Error]) -> Done {
    let mut kinds = failed.iter().map(Error::kind);
    match kinds.next() {
        None => Done::Ok,
        Some(first) if kinds.all(|k| k == first) => Done::Said(first),
        Some(_) => Done::Said(Kind::Failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_padded_and_sizes_rounded() {
        let mut t = Table::new(&["A", "LONG"]);
        t.row(vec!["wide cell".into(), "x".into()]);
        let mut out = String::new();
        t.write(&mut out);
        assert_eq!(out, "A          LONG\nwide cell  x\n");
        assert_eq!((size(0).as_str(), size(1536).as_str(), size(5 << 40).as_str()), ("0 B", "1.5 KiB", "5.0 TiB"));
        assert_eq!(time(Time::new(1, 5)), "1970-01-01 00:00:01");
    }
}
