//! What the role may not read, found out by asking the catalogs before the first byte is dumped.
//!
//! `pg_dump` stops at the first table it may not lock; here all of them are named at once, in all databases. Objects of
//! extensions are left to `pg_dump`, which dumps them only in part.

use super::{Server, Settings};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::{Session, get};
use crate::runtime::Cancel;
use crate::source::Report;

/// How many names of a kind are printed.
const SHOWN: usize = 10;

/// Rows: what is wrong, the object's name. Partitions are dumped one by one, so row security counts on tables only.
/// `CASE`, because the order of conditions is the planner's choice, and a privilege function fails on the wrong kind.
const QUESTION: &str = r"
WITH me AS (
  SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user
), rel AS (
  SELECT c.oid, c.relkind, n.oid AS nsp, pg_catalog.quote_ident(n.nspname) AS nspname,
         pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_depend d
      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype IN ('e')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.oid = d.refobjid AND c.oid = ANY (e.extconfig)))
), open AS (
  SELECT * FROM rel WHERE pg_catalog.has_schema_privilege(nsp, 'USAGE')
), large AS (
  SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m, me
  WHERE NOT me.rolsuper AND pg_catalog.current_setting('lo_compat_privileges') = 'off'
    AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
    AND NOT EXISTS (
      SELECT FROM pg_catalog.aclexplode(m.lomacl) a
      WHERE a.privilege_type = 'SELECT' AND CASE WHEN a.grantee = 0 THEN true ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END)
)
SELECT DISTINCT 1, nspname FROM rel WHERE NOT pg_catalog.has_schema_privilege(nsp, 'USAGE')
UNION ALL SELECT 2, name FROM open WHERE CASE WHEN relkind IN ('r', 'p') THEN NOT pg_catalog.has_table_privilege(oid, 'SELECT') END
UNION ALL SELECT 3, name FROM open WHERE CASE WHEN relkind = 'r' THEN pg_catalog.row_security_active(oid) END
UNION ALL SELECT 4, name FROM open WHERE CASE WHEN relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(oid, 'SELECT') END
UNION ALL SELECT 5, oid::text FROM large
UNION ALL SELECT 6, name FROM rel JOIN pg_catalog.pg_class c USING (oid) WHERE c.relpersistence = 'u' AND c.relkind = 'r' AND pg_catalog.pg_is_in_recovery()
ORDER BY 1, 2";

/// Fails if the role may not read all of every chosen database. With own `pg_dump` arguments, which may leave out the
/// very objects, the findings are warnings.
pub(super) fn check(server: &Server, settings: &Settings, report: &mut Report, cancel: &Cancel) -> Result<()> {
    let mut findings = Vec::new();
    let mut row_security = false;
    for database in &server.databases {
        let settings = server.connection.with_database(&database.name);
        let session = Session::open(&settings, cancel).context(|| format!("look into database {}", database.name))?;
        let (unlogged, found): (Vec<_>, Vec<_>) = ask(&session)?.into_iter().partition(|(kind, _)| *kind == 6);
        if !unlogged.is_empty() {
            report.warnings.push(format!("database {}: {}", database.name, describe(&unlogged)));
        }
        row_security |= found.iter().any(|(kind, _)| *kind == 3);
        if !found.is_empty() {
            findings.push(format!("database {}: {}", database.name, describe(&found)));
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    let row = server.session.one("SELECT current_user::text", &[])?;
    let role: String = get(&row, 0)?;
    let what = format!("role {role} may not dump everything: {}", findings.join("; "));
    if !settings.arguments.is_empty() {
        report.warnings.push(what);
        return Ok(());
    }
    let ident = crate::postgres::quote_ident(&role);
    let grant = if server.session.version().major() >= 14 {
        format!("GRANT pg_read_all_data TO {ident}")
    } else {
        format!("GRANT SELECT ON ALL TABLES and ALL SEQUENCES IN SCHEMA … TO {ident}, with USAGE on the schemas")
    };
    let bypass = if row_security { format!(" and ALTER ROLE {ident} BYPASSRLS") } else { String::new() };
    Err(Error::new(Kind::Denied, what)
        .hint(format!("As a superuser run {grant}{bypass}, or use a role that owns these objects.")))
}

fn ask(session: &Session) -> Result<Vec<(i32, String)>> {
    session.query(QUESTION, &[])?.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

fn describe(found: &[(i32, String)]) -> String {
    let kinds = [
        (1, "no USAGE on schema"),
        (2, "no SELECT on table"),
        (3, "row-level security hides rows of table"),
        (4, "no SELECT on sequence"),
        (5, "no SELECT on large object"),
        (6, "a standby has no rows of unlogged table"),
    ];
    let part = |(kind, text): (i32, &str)| {
        let names: Vec<&str> = found.iter().filter(|(k, _)| *k == kind).map(|(_, n)| n.as_str()).collect();
        let more = names.len().saturating_sub(SHOWN);
        let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!names.is_empty()).then(|| format!("{text} {shown}{more}"))
    };
    kinds.into_iter().filter_map(part).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let found: Vec<(i32, String)> =
            (0..12).map(|n| (2, format!("public.t{n}"))).chain([(3, "public.secret".to_owned())]).collect();
        let text = describe(&found);
        assert!(
            text.starts_with("no SELECT on table public.t0, ")
                && text.contains("public.t9 and 2 more; row-level security hides rows of table public.secret"),
            "{text}"
        );
    }
}
