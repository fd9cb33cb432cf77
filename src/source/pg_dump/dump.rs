//! One database: run `pg_dump`, check what it writes while it flows into the repository, try again where that helps.

use std::io::{self, Read as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Settings, file_name};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::ConnectionSettings;
use crate::postgres::archive::{ArchiveCheck, Summary};
use crate::postgres::catalog::Database;
use crate::postgres::clients::Installed;
use crate::runtime::process::Exit;
use crate::runtime::{Cancel, Clock};
use crate::source::{Report, Sink};

/// As much as the pipe holds.
const BUFFER: usize = 1 << 20;
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) struct Dumper<'a> {
    pub(super) connection: &'a ConnectionSettings,
    pub(super) tools: &'a Installed,
    pub(super) settings: &'a Settings,
    pub(super) clock: &'a dyn Clock,
    pub(super) in_recovery: bool,
}

/// Why an attempt failed, and whether the next may succeed.
enum Failure {
    Passing(&'static str, Error),
    Final(Error),
}

impl Dumper<'_> {
    /// Dumps a database and commits its file. Returns its facts.
    pub(super) fn dump(&self, database: &Database, sink: &mut dyn Sink, report: &mut Report, cancel: &Cancel) -> Result<Value> {
        let started = self.clock.now();
        let mut wait = self.settings.retry_wait;
        let mut attempt = 1u32;
        let (summary, bytes) = loop {
            match self.attempt(database, sink, report, cancel) {
                Ok(done) => break done,
                Err(Failure::Passing(why, e)) if attempt <= self.settings.retries => {
                    tracing::warn!(
                        database = database.name,
                        attempt,
                        "the dump will be tried again in {wait:?}: {why}: {}",
                        e.chain()
                    );
                    sleep(wait, cancel)?;
                    wait = wait.saturating_mul(2).min(LONGEST_WAIT);
                    attempt = attempt.saturating_add(1);
                }
                Err(Failure::Passing(why, e)) => return Err(e.context(format!("{why}, in each of {attempt} attempts"))),
                Err(Failure::Final(e)) => return Err(e),
            }
        };
        if summary.header.compressed {
            report.warnings.push(format!("the dump of {} is compressed inside, which costs deduplication", database.name));
        }
        Ok(json!({
            "name": database.name,
            "file": file_name(&database.name),
            "encoding": database.encoding,
            "server_bytes": database.bytes,
            "dump_bytes": bytes,
            "data_bytes": summary.data_bytes,
            "data_entries": summary.data_entries,
            "entries": summary.header.entries,
            "archive_version": format!("{}.{}", summary.header.version.0, summary.header.version.1),
            "started": started.to_string(),
            "ended": self.clock.now().to_string(),
            "attempts": attempt,
        }))
    }

    fn attempt(
        &self,
        database: &Database,
        sink: &mut dyn Sink,
        report: &mut Report,
        cancel: &Cancel,
    ) -> Result<(Summary, u64), Failure> {
        let mut program = self.tools.tool("pg_dump").map_err(Failure::Final)?;
        program = program.args(["--format=custom", "--compress=0", "--no-password"]);
        program = program.arg(format!("--lock-wait-timeout={}", self.settings.lock_timeout.as_millis()));
        if self.in_recovery {
            // A standby cannot read unlogged tables; it has no rows of theirs either.
            program = program.arg("--no-unlogged-table-data");
        }
        program = program.args(&self.settings.arguments);
        program = program.arg(format!("--dbname={}", self.connection.dbname_argument(&database.name)));
        let program = self.connection.with_database(&database.name).configure(program).map_err(Failure::Final)?;

        let mut file = sink.create(&file_name(&database.name)).map_err(Failure::Final)?;
        let mut child = program.start(cancel).map_err(Failure::Final)?;
        let mut check = ArchiveCheck::new();
        // What the check says first; the program's own words about its end matter more.
        let mut damage = None;
        if let Some(mut output) = child.take_output() {
            let mut buffer = vec![0u8; BUFFER];
            loop {
                let n = output.read(&mut buffer).context(|| "read the output of pg_dump").map_err(Failure::Final)?;
                let Some(part) = buffer.get(..n).filter(|p| !p.is_empty()) else { break };
                if let Err(e) = check.feed(part) {
                    damage = Some(e);
                    child.stop();
                    break;
                }
                file.write_all(part).map_err(|e| Failure::Final(sink_failed(e)))?;
            }
        }
        let exit = child.wait();
        if let Some(damage) = damage {
            let e = damage.context("what pg_dump wrote was refused");
            return Err(Failure::Final(match exit.stderr() {
                "" => e,
                words => e.context(format!("pg_dump said: {}", words.trim())),
            }));
        }
        report.warnings.extend(warnings(&exit).map(|w| format!("database {}: {w}", database.name)));
        judge(exit)?;
        let summary = check.finish().map_err(Failure::Final)?;
        let bytes = file.commit().map_err(Failure::Final)?;
        if bytes != summary.bytes {
            return Err(Failure::Final(Error::new(Kind::Bug, format!("{} bytes were dumped and {bytes} stored", summary.bytes))));
        }
        Ok((summary, bytes))
    }
}

/// A failed write into the repository: our own error if it is one.
pub(super) fn sink_failed(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(ours) => ours,
        Err(e) => Error::new(Kind::Failed, "store the dump").because(e),
    }
}

/// Success, or what the program's last words mean. They are English: see `ConnectionSettings::configure`; the server's
/// own may not be, hence the look at the statement too.
fn judge(exit: Exit) -> Result<(), Failure> {
    let words = exit.stderr().to_owned();
    let Err(e) = exit.into_result() else { return Ok(()) };
    let has = |text: &str| words.contains(text);
    if e.kind() == Kind::Cancelled {
        return Err(Failure::Final(e));
    }
    if has("due to lock timeout") || (has("Query was: LOCK TABLE") && !has("permission denied")) {
        let hint =
            "Find out who holds the lock (pg_locks joined with pg_stat_activity), dump at another time, or raise lock_timeout.";
        return Err(Failure::Passing("a table stayed locked by somebody else", e.hint(hint)));
    }
    if has("conflict with recovery") || has("could not serialize access") {
        let hint = "Raise max_standby_streaming_delay or set hot_standby_feedback = on on the standby, or dump from the primary.";
        return Err(Failure::Passing("the standby's recovery needed what the dump was reading", e.hint(hint)));
    }
    Err(Failure::Final(match () {
        () if has("server closed the connection")
            || has("terminating connection")
            || has("the database system is shutting down") =>
        {
            e.hint("The server went away while it was dumped: look into its log, then run the backup again.")
        }
        () if has("row-level security") => e.hint("Give the role BYPASSRLS, or use the tables' owner."),
        () if has("permission denied") => {
            e.hint("Grant the role SELECT on all of it (pg_read_all_data, PostgreSQL 14 and newer).")
        }
        () if has("out of memory") || has("max_locks_per_transaction") => {
            e.hint("Raise max_locks_per_transaction on the server: a dump locks every table.")
        }
        () => e,
    }))
}

fn warnings(exit: &Exit) -> impl Iterator<Item = &str> {
    exit.stderr().lines().filter_map(|l| l.split_once("warning: ").map(|(_, text)| text))
}

fn sleep(wait: Duration, cancel: &Cancel) -> Result<()> {
    let tick = Duration::from_millis(100);
    let mut left = wait;
    while left > Duration::ZERO {
        cancel.check()?;
        std::thread::sleep(left.min(tick));
        left = left.saturating_sub(tick);
    }
    cancel.check()
}
