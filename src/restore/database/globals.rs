//! Roles and tablespaces from `globals.sql`, by `psql`.
//!
//! This changes the whole server, so it happens on request only. What exists already is left as it is and counted; any
//! other error is reported at the end, after everything else was tried.

use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::postgres::{Clients, ConnectionSettings, Session};
use crate::restore::file::read_some;
use crate::runtime::Cancel;
use crate::runtime::process::Input;

/// How it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    /// Roles and tablespaces that existed already. Their attributes and passwords are set to those of the script all the same.
    pub existed: usize,
}

/// Runs the script on the server.
///
/// # Errors
/// A missing `psql`; no connection; [`Kind::Incomplete`] naming the statements that failed for another reason than "exists already".
pub fn restore(script: &mut dyn Read, server: &ConnectionSettings, client_dirs: &[PathBuf], cancel: &Cancel) -> Result<Outcome> {
    let session = Session::open(server, cancel)?;
    let tools = Clients::find(client_dirs, cancel)
        .at_least(session.version().major(), &format!("the server (PostgreSQL {})", session.version()))?
        .clone();
    let server = server.pinned(session.endpoint());
    drop(session);
    // With the codes of errors, which are the same in every language.
    let options = ["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=0", "--set=VERBOSITY=verbose", "--file=-"];
    let program = tools.tool("psql")?.args(options);
    let program = program.arg(format!("--dbname={}", server.dbname_argument(server.database().unwrap_or("postgres"))));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let heard = Arc::clone(&tally);
    let program = server.configure(program)?.with_input().without_output().on_error_line(move |line| heard.lock().hear(line));
    let mut child = program.start(cancel)?;
    let Some(mut input) = child.take_input() else { return Err(Error::new(Kind::Bug, "psql has no input")) };
    let fed = feed(script, &mut input);
    if let Err(e) = fed {
        // Its input stays open until it is gone: at the end it would run what it has of a statement.
        child.stop();
        if let Err(ended) = child.wait().into_result() {
            tracing::debug!("psql: {}", ended.chain());
        }
        return Err(e.context("restore roles and tablespaces"));
    }
    drop(input);
    child.wait().into_result().context(|| "restore roles and tablespaces")?;
    let Tally { existed, failed, first } = std::mem::take(&mut *tally.lock());
    if failed > 0 {
        return Err(Error::new(Kind::Incomplete, format!("{failed} statements of globals.sql failed"))
            .because(first.join("; "))
            .hint("Run it as a superuser; create the folders of tablespaces first."));
    }
    Ok(Outcome { existed })
}

/// If `psql` stops reading, its exit status says why.
fn feed(script: &mut dyn Read, input: &mut Input) -> Result<()> {
    // Notices have codes of errors, too: "exists already, skipping".
    let first: &mut dyn Read = &mut &b"SET client_min_messages = error;\n"[..];
    let mut script = first.chain(script);
    let mut buffer = vec![0u8; 64 << 10];
    while let Some(part) = read_some(&mut script, &mut buffer)? {
        match input.write_all(part) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(e).context(|| "feed psql"),
        }
    }
    Ok(())
}

/// What `psql` says, line by line.
#[derive(Default)]
struct Tally {
    existed: usize,
    failed: usize,
    /// Words of the first that failed.
    first: Vec<String>,
}

impl Tally {
    fn hear(&mut self, line: &str) {
        match error_of(line) {
            None => {}
            Some(("42710", _)) => self.existed += 1,
            Some((_, words)) => {
                self.failed += 1;
                if self.first.len() < 5 {
                    self.first.push(words.to_owned());
                }
            }
        }
    }
}

/// Code and words of the server's error in a line such as `psql:<stdin>:14: ERROR:  42710: role "a" already exists`, in
/// whatever language; `None` for other lines.
fn error_of(line: &str) -> Option<(&str, &str)> {
    let (number, said) = line.strip_prefix("psql:<stdin>:")?.split_once(": ")?;
    number.parse::<u64>().ok()?;
    let (code, words) = said.split_once(":  ")?.1.split_once(": ")?;
    (code.len() == 5 && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())).then_some((code, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_by_their_codes() {
        let mut tally = Tally::default();
        for line in [
            "psql:<stdin>:14: ERROR:  42710: role \"a\" already exists",
            "LOCATION:  CreateRole, user.c:409",
            "psql:<stdin>:15: ERREUR:  42710: le rôle « b » existe déjà",
            "psql:<stdin>:16: FEHLER:  42501: keine Berechtigung: x",
            "psql:<stdin>:17: error: invalid command \\restrict",
            "psql:<stdin>:x: ERROR:  42501: no",
            "ERROR:  42501: no",
        ] {
            tally.hear(line);
        }
        assert_eq!((tally.existed, tally.failed), (2, 1));
        assert_eq!(tally.first, ["keine Berechtigung: x"]);
    }
}
