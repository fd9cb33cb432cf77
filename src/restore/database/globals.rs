//! Roles and tablespaces from `globals.sql`, by `psql`.
//!
//! This changes the whole server, so it happens on request only. What exists already is left as it is and counted; any
//! other error is reported at the end, after everything else was tried.

use std::io::{Read, Write as _};
use std::path::PathBuf;

use crate::error::{Context, Error, Kind, Result};
use crate::postgres::{Clients, ConnectionSettings, Session};
use crate::restore::file::read_some;
use crate::runtime::Cancel;

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
    let program = tools.tool("psql")?.args(["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=0", "--file=-"]);
    let program = program.arg(format!("--dbname={}", server.dbname_argument(server.database().unwrap_or("postgres"))));
    let mut child = server.configure(program)?.with_input().without_output().start(cancel)?;
    if let Some(mut input) = child.take_input() {
        let mut buffer = vec![0u8; 64 << 10];
        while let Some(part) = read_some(script, &mut buffer)? {
            input.write_all(part).context(|| "feed psql")?;
        }
    }
    let exit = child.wait();
    let words = exit.stderr().to_owned();
    exit.into_result().context(|| "restore roles and tablespaces")?;
    let (existed, failed): (Vec<&str>, Vec<&str>) =
        words.lines().filter_map(|l| l.split_once("ERROR:  ").map(|(_, e)| e)).partition(|e| e.ends_with("already exists"));
    if !failed.is_empty() {
        return Err(Error::new(Kind::Incomplete, format!("{} statements of globals.sql failed", failed.len()))
            .because(failed.iter().take(5).copied().collect::<Vec<_>>().join("; "))
            .hint("Run it as a superuser; create the folders of tablespaces first."));
    }
    Ok(Outcome { existed: existed.len() })
}
