//! Secrets by reference, and the placeholders in texts.

use std::path::PathBuf;

use super::super::mistake::Collector;
use super::super::raw::{RawSecret, RawSecretOrText};
use crate::model::TenantName;
use crate::runtime::{Secret, SecretText};

/// What placeholders stand for, and a list of every setting that runs a program.
pub(super) struct Names<'a> {
    pub(super) environment: &'a str,
    pub(super) tenant: &'a TenantName,
    pub(super) commands: &'a mut Vec<String>,
}

impl Names<'_> {
    /// Fills in `{tenant}` and `{environment}`. `{{` is not special: no path needs it.
    pub(super) fn expand(&self, text: &str, path: &str, out: &mut Collector<'_>) -> String {
        let done = text.replace("{tenant}", self.tenant.as_str()).replace("{environment}", self.environment);
        if let Some(unknown) = placeholder(&done) {
            out.add_hint(path, format!("unknown placeholder `{unknown}`"), "Known here: `{tenant}`, `{environment}`.");
        }
        done
    }

    /// `None` after a mistake.
    pub(super) fn secret(&mut self, raw: &RawSecret, path: &str, out: &mut Collector<'_>) -> Option<Secret> {
        let set = [raw.file.is_some(), raw.env.is_some(), raw.command.is_some(), raw.value.is_some()];
        if set.iter().filter(|s| **s).count() != 1 {
            if !out.is_bad(path) {
                out.add(path, "a secret is exactly one of `file`, `env`, `command` and `value`");
            }
            return None;
        }
        if let Some(file) = &raw.file {
            let file = PathBuf::from(self.expand(file, &format!("{path}.file"), out));
            return Some(Secret::File(file));
        }
        if let Some(name) = &raw.env {
            let name = self.expand(name, &format!("{path}.env"), out);
            if name.is_empty() || name.contains(['=', '\0']) {
                out.add(format!("{path}.env"), "not the name of an environment variable");
                return None;
            }
            return Some(Secret::Env(name));
        }
        if let Some(argv) = &raw.command {
            let path = format!("{path}.command");
            let argv = self.program(argv, &path, out)?;
            return Some(Secret::Command(argv));
        }
        raw.value.as_ref().map(|v| Secret::Value(SecretText::new(v.clone())))
    }

    /// As [`Names::secret`], where a plain text is accepted too.
    pub(super) fn secret_or_text(&mut self, raw: &RawSecretOrText, path: &str, out: &mut Collector<'_>) -> Option<Secret> {
        match raw {
            RawSecretOrText::Text(t) => Some(Secret::Value(SecretText::new(t.clone()))),
            RawSecretOrText::Secret(s) => self.secret(s, path, out),
        }
    }

    /// A program and its arguments; noted as one that has to be allowed.
    pub(super) fn program(&mut self, argv: &[String], path: &str, out: &mut Collector<'_>) -> Option<Vec<String>> {
        self.commands.push(path.to_owned());
        if argv.first().is_none_or(String::is_empty) {
            out.add_hint(path, "the command is empty", "Write a list: the program, then its arguments.");
            return None;
        }
        // Braces are common in arguments (JSON, shell), so only our own placeholders are touched.
        Some(
            argv.iter().map(|a| a.replace("{tenant}", self.tenant.as_str()).replace("{environment}", self.environment)).collect(),
        )
    }
}

/// The first `{word}` in a text.
pub(super) fn placeholder(text: &str) -> Option<&str> {
    let start = text.find('{')?;
    let rest = text.get(start..)?;
    let end = rest.find('}')?;
    rest.get(..=end)
}
