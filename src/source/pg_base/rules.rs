//! What in a data directory belongs into a backup, told from names alone. The rules of PostgreSQL's `basebackup.c`, and a
//! few files more that say something about the old place only.

/// What `pg_backup_stop` returns as label: the restored server begins replay where it says.
pub const LABEL_FILE: &str = "backup_label";
/// What it returns as the list of tablespaces.
pub const TABLESPACE_MAP_FILE: &str = "tablespace_map";

/// Directories of the data directory whose content the server makes anew when it starts.
const EMPTIED: &[&[u8]] =
    &[b"pg_stat_tmp", b"pg_replslot", b"pg_dynshmem", b"pg_notify", b"pg_serial", b"pg_snapshots", b"pg_subtrans"];

/// Files left out wherever they lie.
const LEFT_OUT: &[&[u8]] = &[
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    b"postmaster.pid",
    b"postmaster.opts",
    b".DS_Store",
];

/// Files left out at the top: about an older backup or restore of this directory.
const LEFT_OUT_AT_TOP: &[&[u8]] =
    &[b"backup_label.old", b"tablespace_map.old", b"recovery.signal", b"standby.signal", b"strongroom.restored"];

/// Left out wherever they lie, by the beginning of the name: caches, files of running queries, and the directories in which helpers of
/// `wal push` and `wal fetch` serve.
const LEFT_OUT_PREFIXES: &[&[u8]] = &[b"pg_internal.init", b"pgsql_tmp"];

/// What the data is in, at the top.
const CLUSTER: &[&[u8]] = &[
    b"PG_VERSION",
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_logical",
    b"pg_multixact",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_xact",
];

/// What a file is for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileClass {
    /// Pages of a relation; the number of its file, counted from 0.
    Relation {
        /// `16384.3`: 3; without a dot: 0.
        segment: u32,
    },
    /// Anything else.
    Other,
}

/// A directory, for the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Area {
    /// The data directory itself.
    Top,
    /// `global`: relations that all databases share.
    Global,
    /// The files of one database, in any tablespace.
    Database,
    /// `pg_tblspc`.
    Tablespaces,
    /// Any other.
    Other,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Leave it out.
    No,
    /// Take it, whatever is below.
    Yes,
    /// Take the directory without what is in it.
    Empty,
}

/// The area of a directory, by its path in the data directory; `/`-separated.
pub(super) fn area(relative: &[u8]) -> Area {
    let parts: Vec<&[u8]> = relative.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    let number = |p: &[u8]| !p.is_empty() && p.iter().all(u8::is_ascii_digit);
    match parts.as_slice() {
        [] => Area::Top,
        [b"global"] => Area::Global,
        [b"base", database] if number(database) => Area::Database,
        [b"pg_tblspc"] => Area::Tablespaces,
        [b"pg_tblspc", space, version, database] if number(space) && version.starts_with(b"PG_") && number(database) => {
            Area::Database
        }
        _ => Area::Other,
    }
}

/// Whether a path in the data directory is part of what a server needs to come up with all its data. Elsewhere people keep links of
/// their own, to configuration and logs; here the server follows one as if the file were there.
pub(super) fn is_cluster(path: &[u8]) -> bool {
    let top = path.split(|b| *b == b'/').next().unwrap_or_default();
    CLUSTER.contains(&top)
}

/// Whether an entry belongs into the backup. Unlogged relations are told apart by `Unlogged`, since that takes the whole
/// directory.
pub(super) fn keep(area: Area, name: &[u8], is_dir: bool) -> Keep {
    if LEFT_OUT.contains(&name) || LEFT_OUT_PREFIXES.iter().any(|p| name.starts_with(p)) {
        return Keep::No;
    }
    match area {
        Area::Top if LEFT_OUT_AT_TOP.contains(&name) => Keep::No,
        Area::Top if is_dir && EMPTIED.contains(&name) => Keep::Empty,
        Area::Database if is_temporary(name) => Keep::No,
        _ => Keep::Yes,
    }
}

/// The class of a file.
pub(super) fn class(area: Area, name: &[u8]) -> FileClass {
    match (area, Relation::parse(name)) {
        (Area::Global | Area::Database, Some(relation)) => FileClass::Relation { segment: relation.segment },
        _ => FileClass::Other,
    }
}

/// The class of a file that a server sent, by its path in the data directory; `None` for what is left out. The server leaves out most
/// of it by itself; the two ways to a backup must not differ in the rest.
#[must_use]
pub fn member_class(path: &[u8], is_dir: bool) -> Option<FileClass> {
    let (above, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[][..], path),
    };
    let area = area(above);
    (keep(area, name, is_dir) != Keep::No).then(|| class(area, name))
}

/// A relation's file name: `<number>[_fork][.segment]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Relation {
    number: u32,
    init: bool,
    segment: u32,
}

impl Relation {
    fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            plain.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, number(segment).filter(|s| *s > 0)?),
            None => (name, 0),
        };
        let (stem, fork) = stem.split_once('_').map_or((stem, None), |(stem, fork)| (stem, Some(fork)));
        matches!(fork, None | Some("fsm" | "vm" | "init")).then_some(())?;
        Some(Self { number: number(stem).filter(|n| *n > 0)?, init: fork == Some("init"), segment })
    }
}

/// Files of temporary tables: `t<backend>_<number>…`.
fn is_temporary(name: &[u8]) -> bool {
    let Some((backend, rest)) = name.strip_prefix(b"t").and_then(|r| std::str::from_utf8(r).ok()).and_then(|r| r.split_once('_'))
    else {
        return false;
    };
    !backend.is_empty() && backend.bytes().all(|b| b.is_ascii_digit()) && Relation::parse(rest.as_bytes()).is_some()
}

/// The relations of a database whose content does not survive a crash and so is not backed up: those with an `_init` fork,
/// which the server copies over the others when it starts.
pub(super) struct Unlogged(Vec<u32>);

impl Unlogged {
    /// From all names in the directory.
    pub(super) fn among<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut numbers: Vec<u32> = names.filter_map(Relation::parse).filter(|r| r.init).map(|r| r.number).collect();
        numbers.sort_unstable();
        Self(numbers)
    }

    /// Whether this file is one of them. Their `_init` forks are not: they are kept.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        Relation::parse(name).is_some_and(|r| !r.init && self.0.binary_search(&r.number).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_told_from_paths() {
        for (path, expected) in [
            ("", Area::Top),
            ("global", Area::Global),
            ("base", Area::Other),
            ("base/5", Area::Database),
            ("base/pgsql_tmp", Area::Other),
            ("pg_tblspc", Area::Tablespaces),
            ("pg_tblspc/16385", Area::Other),
            ("pg_tblspc/16385/PG_17_202406281", Area::Other),
            ("pg_tblspc/16385/PG_17_202406281/5", Area::Database),
            ("log/5", Area::Other),
        ] {
            assert_eq!(area(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn the_cluster_is_told_from_what_lies_beside_it() {
        for (path, expected) in [
            ("base", true),
            ("base/5/16384", true),
            ("global/pg_control", true),
            ("pg_tblspc/16385/PG_17_202406281/5/16390", true),
            ("pg_xact/0000", true),
            ("server.crt", false),
            ("log/current", false),
            ("baseline/x", false),
            ("", false),
        ] {
            assert_eq!(is_cluster(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn relation_files_are_told_from_others() {
        let class = |name: &str| class(Area::Database, name.as_bytes());
        for (name, segment) in [("16384", 0), ("16384.1", 1), ("16384_vm", 0), ("16384_fsm.12", 12), ("2_init", 0)] {
            assert_eq!(class(name), FileClass::Relation { segment }, "{name}");
        }
        for name in
            ["PG_VERSION", "pg_filenode.map", "16384_x", "16384.", "16384.0", "016384", "16384.01", "", "_vm", "4294967296"]
        {
            assert_eq!(class(name), FileClass::Other, "{name}");
        }
        assert_eq!(super::class(Area::Other, b"16384"), FileClass::Other);
        assert_eq!(super::class(Area::Global, b"pg_control"), FileClass::Other);
    }

    #[test]
    fn what_starts_anew_is_left_out() {
        for (area, name, dir, expected) in [
            (Area::Top, "pg_replslot", true, Keep::Empty),
            (Area::Other, "pg_replslot", true, Keep::Yes),
            (Area::Top, "postmaster.pid", false, Keep::No),
            (Area::Top, "standby.signal", false, Keep::No),
            (Area::Top, "strongroom.restored", false, Keep::No),
            (Area::Top, "backup_label.old", false, Keep::No),
            (Area::Top, "postgresql.auto.conf", false, Keep::Yes),
            (Area::Database, "pg_internal.init.4711", false, Keep::No),
            (Area::Other, "pgsql_tmp", true, Keep::No),
            (Area::Database, "t3_16384", false, Keep::No),
            (Area::Database, "t12_16384_fsm.1", false, Keep::No),
            (Area::Other, "t3_16384", false, Keep::Yes),
            (Area::Database, "t3_x", false, Keep::Yes),
            (Area::Database, "t_16384", false, Keep::Yes),
        ] {
            assert_eq!(keep(area, name.as_bytes(), dir), expected, "{name}");
        }
    }

    #[test]
    fn of_unlogged_relations_the_init_forks_stay() {
        let names: [&[u8]; 7] = [b"1", b"1_init", b"1.1", b"1_vm", b"2", b"11", b"1_init.1"];
        let unlogged = Unlogged::among(names.into_iter());
        let left: Vec<&[u8]> = names.into_iter().filter(|n| unlogged.has(n)).collect();
        assert_eq!(left, [&b"1"[..], b"1.1", b"1_vm"]);
    }
}
