//! One table out of a dump: which entries make it whole again.
//!
//! `pg_restore --table` restores the bare table without indexes, constraints, triggers or rights. Here the table of contents
//! is searched for everything that belongs to it.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;

use rustix::fs::MemfdFlags;

use super::{Table, Unnamed};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::Session;
use crate::postgres::archive::TocEntry;

/// What a relation is called in a table of contents.
const RELATIONS: &[&str] = &["TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE"];

/// Entries that belong to the table they depend on.
const BELONGING: &[&str] = &[
    "TABLE DATA",
    "MATERIALIZED VIEW DATA",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "INDEX",
    "TRIGGER",
    "EVENT TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
    "STATISTICS",
    "STATISTICS DATA",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "INDEX ATTACH",
    "TABLE ATTACH",
];

/// The list for `pg_restore --use-list`.
pub(super) fn list(entries: &[TocEntry], table: &Table, session: &Session) -> Result<Unnamed> {
    let schema_exists = !session.query("SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1", &[&table.schema])?.is_empty();
    let mut text = String::new();
    for id in choose(entries, table, schema_exists)? {
        text.push_str(&format!("{id};\n"));
    }
    let doing = || "hold the list of entries in memory";
    let memory = rustix::fs::memfd_create("strongroom-list", MemfdFlags::CLOEXEC).map_err(std::io::Error::from).context(doing)?;
    let mut file = File::from(memory);
    file.write_all(text.as_bytes()).context(doing)?;
    Ok(Unnamed(file))
}

/// The ids of the entries, in the dump's order.
fn choose(entries: &[TocEntry], table: &Table, schema_exists: bool) -> Result<Vec<i64>> {
    let relation = |e: &&TocEntry| RELATIONS.contains(&e.kind.as_str());
    let mut relations: HashSet<i64> =
        entries.iter().filter(relation).filter(|e| e.schema == table.schema && e.tag == table.name).map(|e| e.id).collect();
    if relations.is_empty() {
        let near: Vec<String> = entries
            .iter()
            .filter(relation)
            .filter(|e| e.tag.eq_ignore_ascii_case(&table.name))
            .map(|e| format!("{}.{}", e.schema, e.tag))
            .collect();
        let hint = if near.is_empty() {
            "List the dump with pg_restore --list.".to_owned()
        } else {
            format!("The dump has {}.", near.join(", "))
        };
        return Err(Error::new(Kind::NotFound, format!("the dump has no table {table}")).hint(hint));
    }
    // Partitions of a chosen table, and theirs.
    loop {
        let before = relations.len();
        for attach in entries.iter().filter(|e| e.kind == "TABLE ATTACH") {
            let child = |e: &&TocEntry| {
                e.kind.ends_with("TABLE") && attach.depends_on.contains(&e.id) && e.tag == attach.tag && e.schema == attach.schema
            };
            if let Some(child) = entries.iter().find(child)
                && attach.depends_on.iter().any(|id| *id != child.id && relations.contains(id))
            {
                relations.insert(child.id);
            }
        }
        if relations.len() == before {
            break;
        }
    }
    let names: HashSet<(&str, &str)> =
        entries.iter().filter(|e| relations.contains(&e.id)).map(|e| (e.schema.as_str(), e.tag.as_str())).collect();
    // Direct belongings, then what belongs to those (a sequence's value, an index's comment).
    let mut chosen = relations.clone();
    for _ in 0..2 {
        let more: Vec<i64> = entries.iter().filter(|e| belongs(e, &chosen, &relations, &names)).map(|e| e.id).collect();
        chosen.extend(more);
    }
    if !schema_exists {
        chosen.extend(entries.iter().filter(|e| e.kind == "SCHEMA" && e.tag == table.schema).map(|e| e.id));
    }
    Ok(entries.iter().map(|e| e.id).filter(|id| chosen.contains(id)).collect())
}

fn belongs(e: &TocEntry, chosen: &HashSet<i64>, relations: &HashSet<i64>, names: &HashSet<(&str, &str)>) -> bool {
    if !e.depends_on.iter().any(|id| chosen.contains(id)) {
        return false;
    }
    match e.kind.as_str() {
        // Others' foreign keys depend on this table too; its own begin with its name.
        "FK CONSTRAINT" => names
            .iter()
            .any(|(schema, table)| *schema == e.schema && e.tag.strip_prefix(table).is_some_and(|r| r.starts_with(' '))),
        // A partition attached to a table that is not restored stands alone.
        "TABLE ATTACH" => e.depends_on.iter().filter(|id| relations.contains(id)).count() > 1,
        kind => BELONGING.contains(&kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(id: i64, kind: &str, schema: &str, tag: &str, depends_on: &[i64]) -> TocEntry {
        TocEntry {
            id,
            kind: kind.to_owned(),
            schema: schema.to_owned(),
            tag: tag.to_owned(),
            depends_on: depends_on.to_vec(),
            ..TocEntry::default()
        }
    }

    #[test]
    fn a_table_takes_its_belongings_along_and_nothing_else() {
        let entries = [
            e(5, "SCHEMA", "", "s", &[]),
            e(10, "TABLE", "s", "a", &[5]),
            e(11, "SEQUENCE", "s", "a_id_seq", &[10]),
            e(12, "SEQUENCE OWNED BY", "s", "a_id_seq", &[11]),
            e(13, "TABLE", "s", "b", &[5]),
            e(14, "VIEW", "s", "v", &[10]),
            e(15, "DEFAULT", "s", "a id", &[11, 10]),
            e(20, "TABLE DATA", "s", "a", &[10]),
            e(21, "TABLE DATA", "s", "b", &[13]),
            e(22, "SEQUENCE SET", "s", "a_id_seq", &[11]),
            e(30, "CONSTRAINT", "s", "a a_pkey", &[10]),
            e(31, "INDEX", "s", "a_x", &[10]),
            e(32, "COMMENT", "s", "INDEX a_x", &[31]),
            e(33, "FK CONSTRAINT", "s", "b b_to_a", &[30, 13, 10]),
            e(34, "FK CONSTRAINT", "s", "a a_to_b", &[10, 13]),
        ];
        let table = |name: &str| Table { schema: "s".to_owned(), name: name.to_owned() };
        assert_eq!(choose(&entries, &table("a"), true).unwrap(), [10, 11, 12, 15, 20, 22, 30, 31, 32, 34]);
        assert_eq!(choose(&entries, &table("b"), false).unwrap(), [5, 13, 21, 33]);
        let report = choose(&entries, &table("A"), true).unwrap_err().report();
        assert_eq!(report, "the dump has no table s.A\nhint: The dump has s.a.");
    }

    #[test]
    fn partitions_come_with_their_table_and_stand_alone_without() {
        let entries = [
            e(1, "TABLE", "p", "events", &[]),
            e(2, "TABLE", "p", "events_1", &[]),
            e(3, "TABLE", "p", "events_1_a", &[]),
            e(4, "TABLE ATTACH", "p", "events_1", &[1, 2]),
            e(5, "TABLE ATTACH", "p", "events_1_a", &[2, 3]),
            e(6, "TABLE DATA", "p", "events_1_a", &[3]),
        ];
        let table = |name: &str| Table { schema: "p".to_owned(), name: name.to_owned() };
        assert_eq!(choose(&entries, &table("events"), true).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(choose(&entries, &table("events_1"), true).unwrap(), [2, 3, 5, 6]);
        assert_eq!(choose(&entries, &table("events_1_a"), true).unwrap(), [3, 6]);
    }
}
