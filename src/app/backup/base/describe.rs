//! What a base backup needs beside the files it read: the label, the list of files, WAL, configuration from elsewhere, facts.

use super::super::{Run, Stored};
use super::chunks::{self, Chunks};
use super::files::{Manifest, Problems};
use super::wal::{self, Meta, WalFiles};
use super::{Read, entries};
use crate::error::{Error, Kind, Result};
use crate::model::{BaseBackup, Metadata, Node, NodeKind, TABLESPACES, Tablespace, Time};
use crate::postgres::crc32c;
use crate::repository::Writer;
use crate::source::pg_base::{LABEL_FILE, MANIFEST_FILE, ManifestFile, Server, Settings, TABLESPACE_MAP_FILE};

/// Name of the data directory in the snapshot.
pub(super) const DATA: &str = "data";
/// Name of the directory with configuration files from elsewhere.
const CONFIG: &str = "config";

/// What is being backed up, and where to.
pub(super) struct Described<'a> {
    pub(super) settings: &'a Settings,
    pub(super) server: &'a Server,
    pub(super) writer: &'a Writer,
    pub(super) chunks: Chunks,
}

impl Run {
    /// The whole tree, and the facts.
    pub(super) fn describe(
        &self,
        d: Described<'_>,
        (mut manifest, mut problems): (Manifest, Problems),
        read: Read,
    ) -> Result<Stored> {
        let Read { mut root, start, stop, wal, tablespaces } = read;
        let owner = |mode, time: Time, links| Metadata {
            mode,
            uid: root.meta.uid,
            gid: root.meta.gid,
            mtime: time,
            atime: time,
            ctime: time,
            links,
            ..Metadata::default()
        };
        // As the data directory itself: for its owner, or for the group too.
        let group = root.meta.mode & 0o050;
        let meta = Meta { file: owner(0o600 | group & 0o040, stop.at, 1), directory: owner(0o700 | group, stop.at, 0) };
        let known = (tablespaces, d.server.tablespaces()?);
        let tablespaces = stored_tablespaces(&d, (&root.spaces, &root.inside), known, &mut problems)?;
        let mut nodes = root.nodes;
        manifest.add(&ManifestFile {
            path: LABEL_FILE.as_bytes().to_vec(),
            size: stop.label.len() as u64,
            modified: stop.at,
            crc: crc32c(stop.label.as_bytes()),
        })?;
        nodes.push(entries::bytes(d.writer, LABEL_FILE, meta.file.clone(), stop.label.as_bytes())?);
        let listed = manifest.finish(start.timeline, start.lsn, stop.lsn)?.finish()?;
        nodes.push(entries::file(MANIFEST_FILE.as_bytes(), meta.file.clone(), listed));
        let wal_included = wal.is_some();
        let (wal_meta, others) = root.wal.unwrap_or_else(|| (meta.directory.clone(), Vec::new()));
        let files = wal.unwrap_or_else(|| WalFiles::new(d.writer.clone()));
        wal::count(&files, &self.request.progress.source);
        nodes.push(entries::directory(b"pg_wal", wal_meta, files.tree(&meta, others)?));
        let mut roots = vec![entries::directory(DATA.as_bytes(), root.meta.clone(), entries::tree(d.writer, &mut nodes)?)];

        if !root.spaces.is_empty() {
            let subtree = entries::tree(d.writer, &mut root.spaces)?;
            roots.push(entries::directory(TABLESPACES.as_bytes(), meta.directory.clone(), subtree));
        }

        let (outside_files, mut configs) = self.outside_files(&d, &meta, &mut problems)?;
        if !configs.is_empty() {
            let subtree = entries::tree(d.writer, &mut configs)?;
            roots.push(entries::directory(CONFIG.as_bytes(), meta.directory.clone(), subtree));
        }
        let mut own = Vec::new();
        if !stop.tablespace_map.is_empty() {
            own.push(entries::bytes(d.writer, TABLESPACE_MAP_FILE, meta.file.clone(), stop.tablespace_map.as_bytes())?);
        }
        let facts = d.server.facts();
        let base = BaseBackup {
            cluster: d.settings.cluster.clone(),
            system_identifier: facts.system_identifier,
            major: facts.major,
            server_version: facts.server_version.clone(),
            segment_size: facts.segment_size,
            timeline: start.timeline,
            start: start.lsn,
            stop: stop.lsn,
            started: start.at,
            stopped: stop.at,
            from_standby: facts.in_recovery,
            wal_included,
            tablespaces,
            checksums: facts.checksums,
            bad_pages: problems.bad_pages,
            collation_versions: d.server.collation_versions()?,
            outside_files,
        };
        let value = |v: serde_json::Result<serde_json::Value>| v.map_err(|e| Error::new(Kind::Bug, "write the facts").because(e));
        let mut all = serde_json::Map::new();
        all.insert("pg_base".into(), value(serde_json::to_value(&base))?);
        all.insert(chunks::FACT.into(), value(serde_json::to_value(d.chunks))?);
        all.insert("server".into(), d.server.name().into());
        Ok(Stored {
            roots,
            paths: vec![format!("/{DATA}")],
            excludes: Vec::new(),
            bad_pages: facts.checksums.then_some(problems.bad_page_count),
            missing: problems.missing.into(),
            warnings: problems.warnings.into(),
            facts: all,
            tags: vec![format!("cluster={}", d.settings.cluster)],
            own,
        })
    }

    /// Configuration files from elsewhere: their paths by name, and the nodes.
    fn outside_files(
        &self,
        d: &Described<'_>,
        meta: &Meta,
        problems: &mut Problems,
    ) -> Result<(std::collections::BTreeMap<String, String>, Vec<Node>)> {
        let (mut paths, mut nodes) = (std::collections::BTreeMap::new(), Vec::new());
        for (path, content) in d.server.outside_files()? {
            let content = match content {
                Ok(content) => content,
                Err(e) if matches!(e.kind(), Kind::Cancelled | Kind::Unavailable) => return Err(e),
                Err(e) => {
                    problems.warnings.push(format!("a configuration file is not in the backup: {}", e.chain()));
                    continue;
                }
            };
            let name = free_name(&path, &paths);
            nodes.push(entries::bytes(d.writer, &name, meta.file.clone(), &content)?);
            paths.insert(name, path);
        }
        Ok((paths, nodes))
    }
}

/// The tablespaces of the snapshot, of those that were known before and after. One that came or went meanwhile is what its log makes
/// of it; one that was there all along is missed if nothing of it was read: each has at least a directory.
fn stored_tablespaces(
    d: &Described<'_>,
    (spaces, inside): (&[Node], &[Node]),
    (before, after): (Vec<Tablespace>, Vec<Tablespace>),
    problems: &mut Problems,
) -> Result<Vec<Tablespace>> {
    let nothing = NodeKind::Dir { subtree: Some(entries::tree(d.writer, &mut [])?) };
    let is_stored = |t: &Tablespace| {
        let name = t.oid.to_string();
        spaces.iter().chain(inside).any(|n| n.name == name.as_bytes() && n.kind != nothing)
    };
    let stayed = |t: &Tablespace| before.iter().any(|b| b.oid == t.oid);
    for missed in after.iter().filter(|t| stayed(t) && !is_stored(t)) {
        let why = match d.settings.data_directory {
            Some(_) => "mount its directory at the same path, or leave `data_directory` out to let the server send it",
            None if missed.path.starts_with('/') => "the server did not send it",
            None => {
                "the server does not send one whose link is relative or that lies in the data directory; let `data_directory` be read, or make the link absolute"
            }
        };
        problems.missing.push(format!("tablespace {} in {} is not in the backup: {why}", missed.oid, missed.path));
    }
    let mut all: Vec<Tablespace> = after.iter().filter(|t| is_stored(t) || stayed(t)).cloned().collect();
    let gone = |t: &Tablespace| !t.is_inside() && is_stored(t) && !after.iter().any(|a| a.oid == t.oid);
    all.extend(before.iter().filter(|t| gone(t)).cloned());
    all.sort_by_key(|t| t.oid);
    Ok(all)
}

/// The last part of a path, with a number in front if it is taken.
fn free_name(path: &str, taken: &std::collections::BTreeMap<String, String>) -> String {
    let last = path.rsplit('/').find(|p| !p.is_empty() && *p != "." && *p != "..").unwrap_or("file");
    let numbered = (2..).map(|n| format!("{n}-{last}"));
    std::iter::once(last.to_owned()).chain(numbered).find(|n| !taken.contains_key(n)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_are_told_apart() {
        let mut taken = std::collections::BTreeMap::new();
        for (path, expected) in
            [("/etc/pg/a.conf", "a.conf"), ("/etc/b/a.conf", "2-a.conf"), ("/a.conf", "3-a.conf"), ("/x/..", "x")]
        {
            let name = free_name(path, &taken);
            assert_eq!(name, expected);
            taken.insert(name, path.to_owned());
        }
    }
}
