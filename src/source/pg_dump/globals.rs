//! Roles and tablespaces: `globals.sql`, by `pg_dumpall --globals-only`.

use std::io::Read as _;

use serde_json::{Value, json};

use super::Server;
use super::dump::sink_failed;
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::get;
use crate::runtime::Cancel;
use crate::source::{Report, Sink};

/// The file's path in the snapshot.
pub const FILE: &str = "globals.sql";
/// Written by `pg_dumpall` in its last lines: a script without it is not whole.
const LAST_WORDS: &[u8] = b"PostgreSQL database cluster dump complete";

/// Dumps them; without passwords (and with a warning) where the role may not read those.
pub(super) fn dump(server: &Server, sink: &mut dyn Sink, report: &mut Report, cancel: &Cancel) -> Result<Value> {
    let row = server.session.one("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')", &[])?;
    let with_passwords: bool = get(&row, 0)?;
    let mut program = server.tools.tool("pg_dumpall")?.args(["--globals-only", "--no-password"]);
    // The name in --dbname is not used for connecting; the one in --database is.
    let connection = server.connection.dbname_argument(&server.maintenance);
    program = program.arg(format!("--dbname={connection}")).arg(format!("--database={}", server.maintenance));
    if !with_passwords {
        program = program.arg("--no-role-passwords");
        report.warnings.push(
            "globals.sql holds no role passwords: only a superuser may read them; set them again after a restore".to_owned(),
        );
    }
    let mut child = server.connection.configure(program)?.start(cancel).context(|| "dump roles and tablespaces")?;
    let mut text = Vec::new();
    if let Some(mut output) = child.take_output() {
        output.read_to_end(&mut text).context(|| "read the output of pg_dumpall")?;
    }
    child.wait().into_result().context(|| "dump roles and tablespaces")?;
    let tail = text.get(text.len().saturating_sub(200)..).unwrap_or_default();
    if !tail.windows(LAST_WORDS.len()).any(|w| w == LAST_WORDS) {
        return Err(Error::new(Kind::Failed, "pg_dumpall ended without its last line: globals.sql is not whole"));
    }
    let mut file = sink.create(FILE)?;
    file.write_all(&text).map_err(sink_failed)?;
    file.commit()?;
    Ok(json!({ "file": FILE, "bytes": text.len(), "role_passwords": with_passwords }))
}
