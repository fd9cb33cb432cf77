//! A PostgreSQL cluster from a base backup: data directory, tablespaces, configuration, recovery settings.
//!
//! **Order.** A cluster that is not whole must not start. `global/pg_control` is what no server starts without, so it is
//! removed before anything is touched and put back last, in one step, when all else is on disk. In between: the mark of a
//! restored cluster ([`MARKER`]), without which its server might archive into the archive that it came from; files that
//! belong to a running server or a former recovery away; links to tablespaces; files; configuration; recovery settings and
//! the signal file; then everything to disk.
//!
//! **Over an existing directory** (`delta`): files are compared chunk by chunk and only what differs is written; what the
//! backup does not have is removed, left-over log too. Only over a data directory, and never over one with a server that runs or
//! that may run: with a `postmaster.pid`, it must have been shut down.
//!
//! **Crash.** A restore that was cut off leaves no `pg_control`, and is repeated with `delta`.

mod config;
mod folder;
pub mod libraries;
pub mod plan;
mod running;
mod tablespaces;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::directory::{self, Blobs, Got, Progress, Root, Want};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{BaseBackup, Id, Metadata, Node, NodeKind, TABLESPACES, Time};
use crate::postgres::control::{self, Control};
use crate::postgres::recovery::{self, Recovery};
use crate::runtime::Cancel;
use config::Outside;
use folder::{Folder, Owner};
use tablespaces::LINKS;

pub use tablespaces::{Placed, place};

/// In a restored data directory until it is adopted: while it is there, nothing is archived from it.
pub const MARKER: &str = "strongroom.restored";
/// What a server, or a recovery, leaves and must not find again.
const STALE: [&str; 9] = [
    PID_FILE,
    "postmaster.opts",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
];
/// There from a server's start until it has shut down.
const PID_FILE: &str = "postmaster.pid";
/// Where `pg_control` is.
const CONTROL: (&str, &str) = ("global", "pg_control");
/// No configuration file is larger.
const LARGEST: u64 = 64 << 20;

/// What to restore.
pub struct Source<'a> {
    /// Its trees and chunks.
    pub blobs: &'a dyn Blobs,
    /// The snapshot's root, with `data` and `config`.
    pub root: Id,
    /// What the backup says about itself.
    pub facts: &'a BaseBackup,
}

impl Source<'_> {
    /// The entries of a directory; those of a cluster are few enough to be held.
    fn entries(&self, tree: Id) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        self.blobs.tree(tree, &mut |node| {
            nodes.push(node);
            Ok(())
        })?;
        Ok(nodes)
    }
}

/// Where to, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The data directory.
    pub to: PathBuf,
    /// Where each tablespace goes; see [`place`].
    pub tablespaces: Vec<Placed>,
    /// Restore over an existing data directory.
    pub delta: bool,
    /// Read everything again afterwards and compare it.
    pub verify: bool,
    /// Recover from an archive. `None`: from the log in the backup, to its end.
    pub recovery: Option<Recovery>,
    /// The server shall be a standby: it goes on recovering until it is promoted.
    pub standby: bool,
    /// Let the restored server archive as the backed-up one did.
    pub archive: bool,
    /// Further settings, stronger than those of the backup.
    pub settings: Vec<(String, String)>,
    /// What is known of this restore, for [`MARKER`].
    pub mark: Mark,
}

/// What [`MARKER`] says.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// 1.
    pub version: u32,
    /// The snapshot that was restored.
    pub snapshot: Id,
    /// The system that it is of, in decimal digits.
    pub system_identifier: String,
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// When the restore began.
    pub time: Time,
}

/// What a restore did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// What deserves a look. Each is one sentence.
    pub notes: Vec<String>,
    /// Where tablespaces went.
    pub tablespaces: Vec<Placed>,
}

/// Makes sure that a directory may be restored into, without changing anything. See [`restore`].
///
/// # Errors
/// As [`restore`], of those that can be known before.
pub fn check(request: &Request) -> Result<()> {
    let to = &request.to;
    let data = match std::fs::metadata(to) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e).context(|| format!("look at {}", to.display())),
        Ok(m) if !m.is_dir() => return Err(Error::new(Kind::Failed, format!("{} is not a directory", to.display()))),
        Ok(_) => Some(Folder::open(to)?),
    };
    if let Some(data) = &data {
        let mut names = data.names()?;
        names.retain(|n| n != b"lost+found");
        let was_started = names.iter().any(|n| n == PID_FILE.as_bytes());
        if was_started
            && let Some(pid_file) = data.read(PID_FILE).unwrap_or(None)
            && let Some(why) = running::evidence(to, &String::from_utf8_lossy(&pid_file))
        {
            return Err(Error::new(Kind::Failed, format!("a server runs in {}: {why}", to.display()))
                .hint("Stop it (`pg_ctl stop`), or restore into another directory."));
        }
        let is_ours = |name: &[u8]| name == b"PG_VERSION" || name == MARKER.as_bytes();
        match (names.is_empty(), request.delta) {
            (true, _) => {}
            (false, false) => {
                return Err(Error::new(Kind::Failed, format!("{} is not empty", to.display()))
                    .hint("Restore into an empty directory, or over an existing data directory with --delta."));
            }
            (false, true) if !names.iter().any(|n| is_ours(n)) => {
                return Err(Error::new(Kind::Failed, format!("{} is no data directory of PostgreSQL", to.display()))
                    .hint("--delta removes everything that the backup does not have, so it only goes over a data directory."));
            }
            // Nothing is seen of a server in another container, or on another machine.
            (false, true) if was_started && !running::is_shut_down(to) => {
                let what = format!("a server may run in {}: it has a {PID_FILE} and was not shut down", to.display());
                return Err(Error::new(Kind::Failed, what).hint(format!(
                    "Stop it, in its container or on its machine too. If you are sure that no server runs (it crashed, say), remove {PID_FILE}."
                )));
            }
            (false, true) => {}
        }
    }
    request.tablespaces.iter().try_for_each(|t| tablespaces::check(t, data.as_ref(), request.delta))
}

/// Restores the cluster. Blocks. `progress` counts all of it.
///
/// # Errors
/// [`Kind::Failed`] if the target is not empty, not a data directory (with `delta`), or a server runs, or may run, in it;
/// [`Kind::Corrupt`] for a snapshot that is no base backup; [`Kind::Incomplete`] if any file could not be restored. After
/// an error the cluster does not start; the same call with `delta` goes on.
pub fn restore(source: &Source<'_>, request: &Request, progress: &Progress, cancel: &Cancel) -> Result<Report> {
    check(request)?;
    let tree = Tree::open(source)?;
    let control = tree.control(source, cancel)?;
    let owner = Owner::of(Some(&tree.meta));
    std::fs::create_dir_all(&request.to).context(|| format!("make {}", request.to.display()))?;
    let data = Folder::open(&request.to)?;
    owner.give(&data.fd, true).map_err(|e| data.failed("set owner and mode of", ".", e))?;
    disarm(&data, request, owner)?;
    tablespaces::link(&data, &request.tablespaces, owner)?;

    files(source, request, &tree, progress, cancel)?;
    owner.give(&data.fd, true).map_err(|e| data.failed("set owner and mode of", ".", e))?;
    let mut notes = config::put(&data, &tree.outside(source, cancel)?, owner)?;
    notes.extend(owned_by_root(&tree.meta));
    settings(&data, request, &control.parsed, owner)?;
    check_label(&data)?;

    cancel.check()?;
    data.sync_all()?;
    for tablespace in &request.tablespaces {
        Folder::open(&tablespace.path)?.sync_all()?;
    }
    // The last step: the cluster can start.
    let global = data.below(CONTROL.0)?.ok_or_else(|| Error::new(Kind::Corrupt, "the snapshot has no directory `global`"))?;
    global.write(CONTROL.1, &control.bytes, owner)?;
    if request.archive {
        data.remove(MARKER)?;
        data.sync()?;
    }
    Ok(Report { notes, tablespaces: request.tablespaces.clone() })
}

/// From here on the directory does not start a server.
fn disarm(data: &Folder, request: &Request, owner: Owner) -> Result<()> {
    if let Some(global) = data.below(CONTROL.0)? {
        global.remove(CONTROL.1)?;
        global.sync()?;
    }
    let mark = serde_json::to_vec_pretty(&request.mark).map_err(|e| Error::new(Kind::Bug, "write a mark").because(e))?;
    data.write(MARKER, &mark, owner)?;
    for name in STALE {
        data.remove(name)?;
    }
    data.sync()
}

/// The files of the data directory and of the tablespaces, all but `pg_control`.
fn files(source: &Source<'_>, request: &Request, tree: &Tree, progress: &Progress, cancel: &Cancel) -> Result<()> {
    // WAL and tablespaces may be on file systems of their own, and all of them are the cluster's.
    let (delete, delete_mounted) = (request.delta, true);
    let mut options = directory::Options { delete, delete_mounted, verify: request.verify, ..directory::Options::default() };
    options.exclude = vec![format!("/{}/{}", CONTROL.0, CONTROL.1), format!("/{MARKER}")];
    options
        .exclude
        .extend(tree.tablespaces.keys().chain(request.tablespaces.iter().map(|t| &t.oid)).map(|o| format!("/{LINKS}/{o}")));
    let root = Root { tree: tree.data, meta: Some(tree.meta.clone()) };
    whole(directory::restore(source.blobs, &root, &request.to, &options, progress, cancel)?)?;
    for tablespace in &request.tablespaces {
        let Some((below, _)) = tree.tablespaces.get(&tablespace.oid) else {
            return Err(Error::new(Kind::Corrupt, format!("the snapshot lacks tablespace {}", tablespace.was))
                .hint("Run `strongroom check`, and restore another snapshot."));
        };
        // Other versions keep theirs in directories beside: nothing but our own is touched.
        let names = source.entries(*below)?.into_iter();
        let include: Vec<String> = names.map(|n| format!("/{}", globset::escape(&n.display_name()))).collect();
        if include.is_empty() {
            continue;
        }
        let options = directory::Options { include, exclude: Vec::new(), ..options.clone() };
        let root = Root { tree: *below, meta: None };
        let report = directory::restore(source.blobs, &root, &tablespace.path, &options, progress, cancel)?;
        whole(report).context(|| format!("restore tablespace {}", tablespace.was))?;
    }
    // Inside the data directory: those that were there, and one of which nobody knew any more when the backup ended.
    let inside = tree.tablespaces.iter().filter(|(oid, _)| !request.tablespaces.iter().any(|t| t.oid == **oid));
    let owner = Owner::of(Some(&tree.meta));
    for (oid, (below, meta)) in inside {
        // No link is followed on the way, whatever was restored or stood there before.
        Folder::open(&request.to)?.make(LINKS, owner)?.make(&oid.to_string(), owner)?;
        let root = Root { tree: *below, meta: Some(meta.clone()) };
        let options = directory::Options { exclude: Vec::new(), ..options.clone() };
        let to = request.to.join(LINKS).join(oid.to_string());
        whole(directory::restore(source.blobs, &root, &to, &options, progress, cancel)?)?;
    }
    Ok(())
}

/// A cluster that lacks a file is no cluster.
fn whole(report: directory::Report) -> Result<()> {
    for problem in &report.problems {
        tracing::error!("not restored: {problem}");
    }
    if report.problem_count == 0 {
        return Ok(());
    }
    let first = report.problems.first().cloned().unwrap_or_default();
    let what =
        format!("{} entries of the cluster were not restored, so it was left unable to start: {first}", report.problem_count);
    Err(Error::new(Kind::Incomplete, what)
        .hint("Remove the cause and run the same command again with --delta, or restore another snapshot."))
}

/// What the restored server is told.
fn settings(data: &Folder, request: &Request, control: &Control, owner: Owner) -> Result<()> {
    const AUTO: &str = "postgresql.auto.conf";
    let mut settings: Vec<(&str, String)> = config::capacity(data, control)?;
    if let Some(recovery) = &request.recovery {
        settings.extend(recovery.settings());
    }
    if !request.archive {
        settings.push(("archive_mode", "off".to_owned()));
    }
    settings.extend(request.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let old = data.read(AUTO)?.unwrap_or_default();
    data.write(AUTO, recovery::auto_conf(&String::from_utf8_lossy(&old), &settings).as_bytes(), owner)?;
    let signal = match (request.standby, &request.recovery) {
        (true, _) => "standby.signal",
        (false, Some(_)) => "recovery.signal",
        (false, None) => return Ok(()),
    };
    data.write(signal, b"", owner)
}

/// Without its label a base backup starts as if it had crashed, and is damaged by that.
fn check_label(data: &Folder) -> Result<()> {
    match data.read("backup_label")? {
        Some(label) if !label.is_empty() => Ok(()),
        _ => Err(Error::new(Kind::Corrupt, "the snapshot has no backup_label: it is no base backup, or was altered")
            .hint("Restore another snapshot.")),
    }
}

/// No server runs as root, nor with files of root's.
fn owned_by_root(meta: &Metadata) -> Option<String> {
    let root = rustix::process::geteuid().is_root() && meta.uid == 0;
    root.then(|| {
        "the files belong to root, as recorded: give them to the server's user (`chown -R`) before it is started".to_owned()
    })
}

/// `pg_control`, and what it says.
struct ControlFile {
    bytes: Vec<u8>,
    parsed: Control,
}

/// The parts of a base backup's snapshot.
struct Tree {
    data: Id,
    meta: Metadata,
    control: Node,
    tablespaces: BTreeMap<u32, (Id, Metadata)>,
    config: Option<Id>,
}

impl Tree {
    fn open(source: &Source<'_>) -> Result<Self> {
        let no_base = |what: &str| {
            Error::new(Kind::Corrupt, format!("the snapshot has no {what}: it is no base backup, or was altered"))
                .hint("Restore another snapshot.")
        };
        let dir = |tree: Id, name: &str| -> Result<Option<(Id, Metadata)>> {
            let node = source.entries(tree)?.into_iter().find(|n| n.name == name.as_bytes());
            Ok(match node {
                Some(Node { kind: NodeKind::Dir { subtree: Some(id) }, meta, .. }) => Some((id, meta)),
                _ => None,
            })
        };
        let (data, meta) = dir(source.root, "data")?.ok_or_else(|| no_base("directory `data`"))?;
        let (global, _) = dir(data, CONTROL.0)?.ok_or_else(|| no_base("directory `data/global`"))?;
        let control = source.entries(global)?.into_iter().find(|n| n.name == CONTROL.1.as_bytes());
        // A link there would lead what lies below it out of the target.
        let links = source.entries(data)?.into_iter().find(|n| n.name == LINKS.as_bytes());
        if links.is_some_and(|n| !matches!(n.kind, NodeKind::Dir { .. })) {
            return Err(no_base("directory `data/pg_tblspc`, but something else of that name"));
        }
        let mut tablespaces = BTreeMap::new();
        // Those that lay inside the data directory, or are of a former version; then all others.
        for above in [dir(data, LINKS)?, dir(source.root, TABLESPACES)?].into_iter().flatten() {
            for node in source.entries(above.0)? {
                if let (Ok(oid), NodeKind::Dir { subtree: Some(id) }) = (node.display_name().parse(), node.kind) {
                    tablespaces.insert(oid, (id, node.meta));
                }
            }
        }
        let config = dir(source.root, "config")?.map(|(id, _)| id);
        Ok(Self { data, meta, control: control.ok_or_else(|| no_base("pg_control"))?, tablespaces, config })
    }

    /// The control file, checked: a cluster that starts with a wrong one is damaged.
    fn control(&self, source: &Source<'_>, cancel: &Cancel) -> Result<ControlFile> {
        let doing = || "read pg_control of the snapshot";
        let bytes = content(source, &self.control, cancel).context(doing)?;
        let parsed = control::parse(&bytes).context(doing)?;
        let facts = source.facts;
        if (parsed.system_identifier, parsed.wal_segment_size) != (facts.system_identifier, facts.segment_size) {
            return Err(Error::new(Kind::Corrupt, "pg_control of the snapshot is of another cluster than its manifest says"));
        }
        Ok(ControlFile { bytes, parsed })
    }

    fn outside(&self, source: &Source<'_>, cancel: &Cancel) -> Result<Vec<Outside>> {
        let Some(tree) = self.config else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        for node in source.entries(tree)? {
            if let NodeKind::File { .. } = node.kind {
                let name = node.display_name().into_owned();
                let path = source.facts.outside_files.get(&name).cloned().unwrap_or_else(|| name.clone());
                out.push(Outside { content: content(source, &node, cancel)?, path, name });
            }
        }
        Ok(out)
    }
}

/// A small file's content.
fn content(source: &Source<'_>, node: &Node, cancel: &Cancel) -> Result<Vec<u8>> {
    let bad = |why: &str| Error::new(Kind::Corrupt, format!("{} of the snapshot {why}", node.display_name()));
    let NodeKind::File { size, content } = &node.kind else { return Err(bad("is no file")) };
    if *size > LARGEST {
        return Err(bad("is too large for what it is"));
    }
    let mut wants = Vec::new();
    let mut offset = 0u64;
    for id in content {
        wants.push(Want { id: *id, number: 0, offset });
        offset += u64::from(source.blobs.length(id)?);
    }
    if offset != *size {
        return Err(bad("is not as long as it should be"));
    }
    let buffer = Mutex::new(vec![0u8; usize::try_from(*size).unwrap_or(0)]);
    let write = |got: &[Got<'_>]| {
        let mut buffer = buffer.lock();
        for chunk in got {
            let at = usize::try_from(chunk.offset).unwrap_or(usize::MAX);
            let place = buffer.get_mut(at..at.saturating_add(chunk.data.len()));
            place.ok_or_else(|| bad("has chunks of other lengths"))?.copy_from_slice(chunk.data);
        }
        Ok(())
    };
    source.blobs.fetch(wants, &write, cancel)?;
    Ok(buffer.into_inner())
}

/// Whether a directory holds a restored cluster that was not adopted yet.
#[must_use]
pub fn is_marked(data: &Path) -> bool {
    data.join(MARKER).exists()
}
