//! Configuration files: those that lay outside the data directory come into it, and no line leads back to where the
//! cluster was.

use super::folder::{Folder, Owner};
use crate::error::Result;
use crate::postgres::{Control, recovery};

/// The three that a server looks for in its data directory if nothing else is said.
const USUAL: [&str; 3] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];
/// Enough to start and to be reached by whoever owns the server, and by nobody else.
const PLAIN_HBA: &str = "# Made by strongroom restore: the backup has no pg_hba.conf.\nlocal all all peer\n";
const PLAIN_CONF: &str = "# Made by strongroom restore: the backup has no postgresql.conf.\n";

/// Further files, which others include.
const FURTHER: &str = "restored.conf.d";

/// A configuration file of the snapshot: its name there, where it was, what is in it.
pub(super) struct Outside {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) content: Vec<u8>,
}

/// Puts them in place. Returns what deserves a look.
pub(super) fn put(data: &Folder, outside: &[Outside], owner: Owner) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut moved: Vec<&str> = Vec::new();
    let mut further: Vec<&Outside> = Vec::new();
    for file in outside {
        let usual = USUAL.iter().find(|u| file.name == **u || file.path.rsplit('/').next() == Some(**u));
        let Some(usual) = usual else {
            further.push(file);
            continue;
        };
        if data.read(usual)?.is_some() {
            notes.push(format!(
                "{usual} of the data directory was kept; the server used {}, which is in the snapshot as /config/{}",
                file.path, file.name
            ));
            continue;
        }
        data.write(usual, &file.content, owner)?;
        notes.push(format!("{} lay outside the data directory and is now {usual} in it", file.path));
        moved.push(usual);
    }
    for (name, plain) in [("postgresql.conf", PLAIN_CONF), ("pg_hba.conf", PLAIN_HBA)] {
        if data.read(name)?.is_none() {
            data.write(name, plain.as_bytes(), owner)?;
            notes.push(format!("the backup has no {name}: a plain one was made; put your own in its place"));
        }
    }
    let old = data.read("postgresql.conf")?.unwrap_or_default();
    let mut text = String::from_utf8_lossy(&old).into_owned();
    let leads_away = |name: &str, value: &str| match name {
        // It would start the cluster that is restored from instead of this one.
        "data_directory" | "external_pid_file" => true,
        "hba_file" => moved.contains(&"pg_hba.conf"),
        "ident_file" => moved.contains(&"pg_ident.conf"),
        // What a moved file includes lay beside it, where it was.
        "include" | "include_dir" | "include_if_exists" => {
            moved.contains(&"postgresql.conf") || outside.iter().any(|o| o.path.starts_with(value) && value.starts_with('/'))
        }
        _ => false,
    };
    if let Some((without, found)) = recovery::commented(&text, leads_away) {
        notes.push(format!("in postgresql.conf these lines were made comments: {}", found.join(", ")));
        text = without;
    }
    text.push_str(&include(data, &further, owner, &mut notes)?);
    if text.as_bytes() != old {
        data.write("postgresql.conf", text.as_bytes(), owner)?;
    }
    Ok(notes)
}

/// What a server must have at least as much of as the one that was backed up, or recovery stops: whatever the restored files do
/// not say themselves, because it was given on the command line or in a file that the backup has not.
pub(super) fn capacity(data: &Folder, control: &Control) -> Result<Vec<(&'static str, String)>> {
    let needed = [
        ("max_connections", control.max_connections, 100),
        ("max_worker_processes", control.max_worker_processes, 8),
        ("max_wal_senders", control.max_wal_senders, 10),
        ("max_prepared_transactions", control.max_prepared_transactions, 0),
        ("max_locks_per_transaction", control.max_locks_per_transaction, 64),
    ];
    let mut texts = Vec::new();
    for name in ["postgresql.conf", "postgresql.auto.conf"] {
        texts.push(String::from_utf8_lossy(&data.read(name)?.unwrap_or_default()).into_owned());
    }
    if let Some(further) = data.below(FURTHER)? {
        for name in further.names()? {
            if let Ok(name) = std::str::from_utf8(&name) {
                texts.push(String::from_utf8_lossy(&further.read(name)?.unwrap_or_default()).into_owned());
            }
        }
    }
    let missing = |name: &str| !texts.iter().any(|text| recovery::sets(text, name));
    let by_default = |(name, value, default): &(&str, u32, u32)| value > default && missing(name);
    Ok(needed.into_iter().filter(by_default).map(|(name, value, _)| (name, value.to_string())).collect())
}

/// Puts further files into a directory of their own; the lines that include them, in the order of their paths.
fn include(data: &Folder, further: &[&Outside], owner: Owner, notes: &mut Vec<String>) -> Result<String> {
    let mut lines = String::new();
    let files = further.iter().filter(|f| f.path.ends_with(".conf"));
    for file in files {
        let name = file.name.replace('/', "-");
        data.make(FURTHER, owner)?.write(&name, &file.content, owner)?;
        lines.push_str(&format!("include = {}\n", recovery::quote(&format!("{FURTHER}/{name}"))));
        notes.push(format!("{} lay outside the data directory and is now {FURTHER}/{name} in it", file.path));
    }
    for file in further.iter().filter(|f| !f.path.ends_with(".conf")) {
        notes.push(format!("{} was left out; it is in the snapshot as /config/{}", file.path, file.name));
    }
    Ok(if lines.is_empty() { lines } else { format!("\n# By strongroom restore:\n{lines}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_from_outside_come_in_and_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let data = Folder::open(dir.path()).unwrap();
        let owner = Owner::of(None);
        std::fs::write(dir.path().join("pg_ident.conf"), "mine").unwrap();
        let file = |name: &str, content: &str| Outside {
            name: name.into(),
            path: format!("/etc/postgresql/17/main/{name}"),
            content: content.into(),
        };
        let conf = "port = 5433\ndata_directory = '/old'\nhba_file = '/etc/x'\nident_file = '/etc/y'\ninclude_dir 'conf.d'\nrecovery_target_xid = '1'\n";
        let notes = put(
            &data,
            &[
                file("postgresql.conf", conf),
                file("pg_hba.conf", "h"),
                file("pg_ident.conf", "i"),
                file("x.conf", "x"),
                file("y", ""),
            ],
            owner,
        )
        .unwrap();
        let conf = std::fs::read_to_string(dir.path().join("postgresql.conf")).unwrap();
        let active: Vec<&str> = conf.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(active, ["port = 5433", "ident_file = '/etc/y'", "", "include = 'restored.conf.d/x.conf'"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("pg_ident.conf")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(dir.path().join("pg_hba.conf")).unwrap(), "h");
        assert_eq!(std::fs::read_to_string(dir.path().join("restored.conf.d/x.conf")).unwrap(), "x");
        assert_eq!(notes.len(), 6, "{notes:#?}");
        // Nothing at all: still a server that starts, and lets nobody in from elsewhere.
        let dir = tempfile::tempdir().unwrap();
        let data = Folder::open(dir.path()).unwrap();
        assert_eq!(put(&data, &[], owner).unwrap().len(), 2);
        assert!(std::fs::read_to_string(dir.path().join("pg_hba.conf")).unwrap().contains("peer"));
        assert!(put(&data, &[], owner).unwrap().is_empty());
    }
}
