//! A data directory as files: listed directory by directory, everything opened relative to the directory above it and never
//! through a symbolic link, but for the two kinds that PostgreSQL makes itself: tablespaces and a `pg_wal` on another disk.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::file::FileReader;
use super::rules::{self, Area, FileClass, Keep, Unlogged};
use super::server::{Facts, Start};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Metadata, Time};
use crate::postgres::Control;
use crate::postgres::control::State;

/// A data directory, checked to be that of the server.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// `PG_17_202406281`: the directory of this server in each tablespace.
    version_name: String,
    /// Device and inode of tablespaces, which are not to be taken a second time where they lie in the data directory.
    spaces: Vec<(u64, u64)>,
}

/// An open directory of it. Closed when dropped.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    relative: Vec<u8>,
    meta: Metadata,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// In ascending order of raw names, without what does not belong into a backup.
    pub entries: Vec<Entry>,
    /// What was left out although it may be missed: one sentence each.
    pub warnings: Vec<String>,
    /// What the server has and the backup will not: one sentence each.
    pub missing: Vec<String>,
}

/// Why an entry is left out.
enum LeftOut {
    /// Nothing that PostgreSQL reads.
    Odd(String),
    /// Part of the cluster.
    Missing(String),
}

/// A file or directory of a [`Listing`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// Raw name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Length of a file in bytes.
    pub size: u64,
    /// Owner, permissions, times.
    pub meta: Metadata,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File(FileClass),
    /// A directory to go on with.
    Dir {
        /// Reached through a symbolic link: a tablespace, or `pg_wal`.
        linked: bool,
    },
    /// A directory whose content is left out.
    Empty,
}

impl Dir {
    /// Its path for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path in the data directory, `/`-separated; empty for the data directory itself.
    #[must_use]
    pub fn relative(&self) -> &[u8] {
        &self.relative
    }

    /// Owner, permissions, times.
    #[must_use]
    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// The path in the data directory of an entry.
    #[must_use]
    pub fn relative_of(&self, name: &[u8]) -> Vec<u8> {
        match self.relative.as_slice() {
            [] => name.to_vec(),
            relative => [relative, b"/", name].concat(),
        }
    }

    fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }
}

impl DataDirectory {
    /// Opens the data directory and makes sure that it is the one of this server: same cluster, same role, same version.
    ///
    /// # Errors
    /// [`Kind::Config`] for another cluster's directory; a directory or control file that cannot be read.
    pub fn open(path: &Path, facts: &Facts) -> Result<Self> {
        let control = Control::read(path).map_err(|e| match e.kind() {
            Kind::NotFound => e.hint("Mount the server's data directory and write its path into `data_directory`, or leave `data_directory` out to let the server send the files."),
            _ => e,
        })?;
        let wrong = |what: String| {
            Err(Error::new(Kind::Config, format!("{} is not the data directory of this server: {what}", path.display()))
                .hint("Check `data_directory` and the connection URL: both must mean the same server."))
        };
        if control.system_identifier != facts.system_identifier {
            return wrong(format!(
                "its system identifier is {}, the server's is {}",
                control.system_identifier, facts.system_identifier
            ));
        }
        if control.major != facts.major {
            return wrong(format!("it is one of PostgreSQL {}, the server is {}", control.major, facts.server_version));
        }
        let standby = control.state == State::InArchiveRecovery;
        if !matches!(control.state, State::InArchiveRecovery | State::InProduction) || standby != facts.in_recovery {
            let role = if facts.in_recovery { "a standby" } else { "a primary" };
            return wrong(format!("its cluster is {}, the server is {role}", control.state));
        }
        let version_name = format!("PG_{}_{}", control.major, control.catalog_version);
        let mut directory = Self { path: path.to_owned(), version_name, spaces: Vec::new() };
        directory.spaces = directory.find_spaces()?;
        crate::runtime::raise_open_files();
        Ok(directory)
    }

    /// Makes sure, once the backup began, that the running server is writing here: its checkpoint has reached this directory.
    ///
    /// # Errors
    /// [`Kind::Config`] for a copy of the directory, or that of another standby.
    pub fn check_start(&self, start: &Start) -> Result<()> {
        let control = Control::read(&self.path)?;
        if control.redo >= start.lsn && control.timeline == start.timeline {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!(
                "{} is not the data directory of this server: its last checkpoint is at {} on timeline {}, the backup began at {} on timeline {}",
                self.path.display(),
                control.redo,
                control.timeline,
                start.lsn,
                start.timeline
            ),
        )
        .hint("It may be a copy, or belong to another server of the same cluster. Check `data_directory` and the connection URL."))
    }

    /// The directory itself.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn root(&self) -> Result<Dir> {
        open_dir(rustix::fs::CWD, &self.path, self.path.clone(), Vec::new(), OFlags::empty())
            .map_err(std::io::Error::from)
            .context(|| format!("open {}", self.path.display()))
    }

    /// Opens a listed directory. `None` if it is gone: a table space or database that was dropped.
    ///
    /// # Errors
    /// It may not be opened.
    pub fn enter(&self, dir: &Dir, entry: &Entry) -> Result<Option<Dir>> {
        let path = dir.path_of(&entry.name);
        let flags = match entry.kind {
            EntryKind::Dir { linked: true } => OFlags::empty(),
            _ => OFlags::NOFOLLOW,
        };
        match open_dir(
            dir.fd.as_fd(),
            Path::new(OsStr::from_bytes(&entry.name)),
            path.clone(),
            dir.relative_of(&entry.name),
            flags,
        ) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(std::io::Error::from(e)).context(|| format!("open {}", path.display())),
        }
    }

    /// Opens a listed file. `None` if it is gone, which replay knows about.
    ///
    /// # Errors
    /// It may not be opened.
    pub fn open_file(&self, dir: &Dir, entry: &Entry) -> Result<Option<FileReader>> {
        let path = dir.path_of(&entry.name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&dir.fd, entry.name.as_slice(), flags, Mode::empty())
            .and_then(|fd| rustix::fs::fstat(&fd).map(|stat| (fd, stat)));
        match opened {
            Ok((fd, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Some(FileReader::new(fd, path, &stat)))
            }
            Ok(_) => Err(Error::new(Kind::Failed, format!("open {}: it is no file any more", path.display()))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(std::io::Error::from(e)).context(|| format!("open {}", path.display())),
        }
    }

    /// Bytes of all files that would be read now: for progress, and for the size of chunks.
    ///
    /// # Errors
    /// As [`DataDirectory::list`].
    pub fn size(&self) -> Result<u64> {
        let mut total = 0u64;
        let mut open = vec![self.root()?];
        while let Some(dir) = open.pop() {
            for entry in self.list(&dir)?.entries {
                match entry.kind {
                    EntryKind::File(_) => total = total.saturating_add(entry.size),
                    EntryKind::Dir { .. } => open.extend(self.enter(&dir, &entry)?),
                    EntryKind::Empty => {}
                }
            }
        }
        Ok(total)
    }

    /// Lists a directory. `pg_wal` is listed with its fixed directories only: which WAL belongs to the backup is known at its end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self, dir: &Dir) -> Result<Listing> {
        let area = rules::area(&dir.relative);
        let names = names(dir).map_err(std::io::Error::from).context(|| format!("list {}", dir.path.display()))?;
        let unlogged = match area {
            Area::Database => Unlogged::among(names.iter().map(Vec::as_slice)),
            _ => Unlogged::among(std::iter::empty()),
        };
        let mut listing = Listing::default();
        for name in names {
            if unlogged.has(&name) || !self.is_wanted(dir, &name) {
                continue;
            }
            match self.look(dir, area, name) {
                Ok(Some(entry)) => listing.entries.push(entry),
                Ok(None) => {}
                Err(LeftOut::Odd(what)) => listing.warnings.push(what),
                Err(LeftOut::Missing(what)) => listing.missing.push(what),
            }
        }
        Ok(listing)
    }

    /// Of a tablespace only this server's directory, of `pg_wal` only directories.
    fn is_wanted(&self, dir: &Dir, name: &[u8]) -> bool {
        let mut parts = dir.relative.split(|b| *b == b'/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(b"pg_tblspc"), Some(_), None) => name == self.version_name.as_bytes(),
            (Some(b"pg_wal"), None, None) => matches!(name, b"archive_status" | b"summaries"),
            (Some(b"pg_wal"), ..) => false,
            _ => true,
        }
    }

    /// `Ok(None)`: left out as it should be. `Err`: left out, worth a word.
    fn look(&self, dir: &Dir, area: Area, name: Vec<u8>) -> Result<Option<Entry>, LeftOut> {
        let path = || dir.path_of(&name);
        let stat = |flags| rustix::fs::statat(&dir.fd, name.as_slice(), flags);
        let failed = |e: Errno| match e {
            Errno::NOENT => Ok(None),
            e => Err(LeftOut::Missing(format!("{}: {}", path().display(), std::io::Error::from(e)))),
        };
        let mut found = match stat(AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(e) => return failed(e),
        };
        let link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
        if link {
            if area != Area::Tablespaces && !(area == Area::Top && name == b"pg_wal") {
                let what = format!("{}: a symbolic link that PostgreSQL did not make, was left out", path().display());
                return Err(if rules::is_cluster(&dir.relative_of(&name)) { LeftOut::Missing(what) } else { LeftOut::Odd(what) });
            }
            found = match stat(AtFlags::empty()) {
                Ok(found) => found,
                // Not `failed`: a tablespace that is not mounted here is no tablespace that was dropped. Whether it is one of the
                // server's or a link that was forgotten is known at the end.
                Err(e) => return Err(LeftOut::Odd(format!("{}: its target: {}", path().display(), std::io::Error::from(e)))),
            };
        }
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory && area != Area::Tablespaces && self.spaces.contains(&identity(&found)) {
            return Ok(None);
        }
        let kind = match (kind, rules::keep(area, &name, kind == FileType::Directory)) {
            (_, Keep::No) => return Ok(None),
            (FileType::Directory, Keep::Yes) => EntryKind::Dir { linked: link },
            (FileType::Directory, Keep::Empty) => EntryKind::Empty,
            (FileType::RegularFile, _) => EntryKind::File(rules::class(area, &name)),
            (FileType::Socket, _) => return Ok(None),
            _ => return Err(LeftOut::Odd(format!("{}: neither file nor directory, was left out", path().display()))),
        };
        let size = if matches!(kind, EntryKind::File(_)) { u64::try_from(found.st_size).unwrap_or(0) } else { 0 };
        Ok(Some(Entry { kind, size, meta: metadata(&found), name }))
    }

    /// Device and inode of each tablespace's own directory. Those that cannot be had come up when they are listed.
    fn find_spaces(&self) -> Result<Vec<(u64, u64)>> {
        let links = self.path.join("pg_tblspc");
        let mut spaces = Vec::new();
        for entry in std::fs::read_dir(&links).context(|| format!("list {}", links.display()))? {
            let entry = entry.context(|| format!("list {}", links.display()))?;
            if let Ok(stat) = rustix::fs::stat(entry.path()) {
                spaces.push(identity(&stat));
            }
        }
        Ok(spaces)
    }

    /// Where a WAL segment or history file lies.
    pub(super) fn wal_path(&self, name: &str) -> PathBuf {
        self.path.join("pg_wal").join(name)
    }
}

fn open_dir(at: impl AsFd, name: &Path, path: PathBuf, relative: Vec<u8>, flags: OFlags) -> rustix::io::Result<Dir> {
    let fd = rustix::fs::openat(at, name, flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let meta = metadata(&rustix::fs::fstat(&fd)?);
    Ok(Dir { fd, path, relative, meta })
}

/// Sorted, without `.` and `..`. A directory that was removed meanwhile has none.
fn names(dir: &Dir) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir.fd)? {
        match entry {
            Ok(entry) => names.push(entry.file_name().to_bytes().to_vec()),
            Err(Errno::NOENT) => break,
            Err(e) => return Err(e),
        }
    }
    names.retain(|n| n != b"." && n != b"..");
    names.sort_unstable();
    Ok(names)
}

#[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between processors")]
fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Numbers only: names of users belong to the machine of the server, which may be another one.
#[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between processors")]
fn metadata(stat: &Stat) -> Metadata {
    let time = |secs: i64, nanos: i64| Time::new(secs, u32::try_from(nanos).unwrap_or(0));
    let mtime = time(stat.st_mtime as i64, stat.st_mtime_nsec as i64);
    Metadata {
        mode: stat.st_mode & 0o7777,
        mtime,
        atime: mtime,
        ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: u64::from(FileType::from_raw_mode(stat.st_mode) != FileType::Directory),
        ..Metadata::default()
    }
}
