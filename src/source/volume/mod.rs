//! Files of a mounted volume: listing, metadata, exclusion, reading.
//!
//! The archiver walks; this room answers about one directory or one file at a time and may be asked from many threads.
//! Everything is opened relative to the directory above it and never through a symbolic link, so a tree that changes
//! while it is read cannot lead out of the volume.
//!
//! **System calls.** A directory costs an open, its `getdents64` and a close; an entry one `newfstatat`; a new or changed
//! entry one `llistxattr` on top (equal ctime means the parent's attributes); a file that is read an open, two `fstat`, its
//! reads and a close. Entries are asked for in inode order, which is how most file systems lay them out.
//!
//! **Memory.** A directory's names, and about 300 bytes for each of some 2,000 entries at a time ([`Volume::look_at_some`]).
//!
//! **Not done on purpose.** Pages read are not dropped from the page cache: they may be the application's own.

mod attributes;
mod blank;
mod devices;
mod directory;
mod entry;
mod file;
pub mod hooks;
mod listing;
mod owners;
mod problem;
mod settings;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::model::Node;

pub use crate::model::Globs;
pub use blank::{Totals, looks_blank};
pub use directory::Dir;
pub use entry::{Found, FoundKind};
pub use file::OpenFile;
pub use hooks::{Hook, Hooks};
pub use listing::{Listing, Names};
pub use problem::{Problem, ProblemKind};
pub use settings::{OnChange, Settings};

use devices::Devices;
use owners::Owners;

/// How long, and over a whole walk how often, a thread waits for others to close a file when too many are open.
const WAIT: Duration = Duration::from_millis(5);
const WAITS: u32 = 20_000;

/// An open volume. Shared by the threads that read it.
#[derive(Debug)]
pub struct Volume {
    settings: Settings,
    exclude: Option<Globs>,
    include: Option<Globs>,
    owners: Owners,
    devices: Devices,
    /// `O_NOATIME` is allowed for owners and privileged processes only; cleared at the first refusal.
    no_atime: AtomicBool,
    /// How often it was waited for a free descriptor.
    waited: AtomicU32,
}

impl Volume {
    /// Checks the settings and that the directory is there. Reads the user and group names of this machine.
    ///
    /// # Errors
    /// [`Kind::Config`] for a relative path or a bad glob; a path that is no directory or may not be read.
    pub fn open(settings: &Settings) -> Result<Self> {
        let path = &settings.path;
        let plain = path.components().all(|c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_)));
        if !path.is_absolute() || !plain {
            return Err(Error::new(Kind::Config, format!("volume path {} is not absolute and plain", path.display()))
                .hint("Write it from / and without `..`."));
        }
        let root = rustix::fs::statat(rustix::fs::CWD, path.as_path(), AtFlags::empty())
            .map_err(std::io::Error::from)
            .context(|| format!("open volume {}", path.display()))
            .map_err(|e| e.hint("Check that the path is right and that the volume is mounted."))?;
        crate::runtime::raise_open_files();
        Ok(Self {
            exclude: Globs::build(&settings.exclude)?,
            include: Globs::build(&settings.include)?,
            settings: settings.clone(),
            owners: Owners::of_this_machine(),
            devices: Devices::new(root.st_dev),
            no_atime: AtomicBool::new(true),
            waited: AtomicU32::new(0),
        })
    }

    /// What it was opened with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The volume's own directory. The only one that is reached through symbolic links, if its path has any.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn root(&self) -> Result<Dir> {
        let fd = self
            .open_at(rustix::fs::CWD, self.settings.path.as_path(), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(std::io::Error::from)
            .context(|| format!("open volume {}", self.settings.path.display()))?;
        Ok(Dir::root(fd, self.settings.path.clone()))
    }

    /// The directories from below `/` down to the volume's own, without subtrees: what stands above the volume in a
    /// snapshot. Empty if the volume is `/`. Extended attributes are read for the last one only.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn lineage(&self) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        let mut path = std::path::PathBuf::from("/");
        for part in self.settings.path.components() {
            let std::path::Component::Normal(name) = part else { continue };
            path.push(name);
            let stat = rustix::fs::statat(rustix::fs::CWD, path.as_path(), AtFlags::empty())
                .map_err(std::io::Error::from)
                .context(|| format!("read {}", path.display()))?;
            let found = self.found(std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec(), FoundKind::Dir, &stat, &path);
            nodes.push(self.to_node(&found));
        }
        if let Some(last) = nodes.last_mut() {
            let root = self.root()?;
            last.meta.xattrs =
                attributes::of_directory(&root).context(|| format!("read the attributes of {}", self.settings.path.display()))?;
        }
        Ok(nodes)
    }

    /// Opens a listed directory.
    ///
    /// # Errors
    /// It vanished, was replaced by something else, or may not be read.
    pub fn enter(&self, dir: &Dir, found: &Found) -> Result<Dir, Problem> {
        let opened = self.open_at(dir.fd(), found.name.as_slice(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW);
        match opened {
            Ok(fd) => Ok(dir.child(fd, &found.name, self.settings.one_file_system && !self.devices.is_root(found.device))),
            Err(e) => Err(Problem::from_errno(dir, found, "open", e)),
        }
    }

    /// Opens without touching access times where that is allowed. Where too much is open it waits a little for others to
    /// close something.
    fn open_at<P: rustix::path::Arg + Copy>(
        &self,
        dir: impl AsFd,
        path: P,
        flags: OFlags,
    ) -> rustix::io::Result<rustix::fd::OwnedFd> {
        loop {
            let no_atime = if self.no_atime.load(Ordering::Relaxed) { OFlags::NOATIME } else { OFlags::empty() };
            match rustix::fs::openat(&dir, path, flags | OFlags::CLOEXEC | no_atime, Mode::empty()) {
                Err(Errno::PERM) if !no_atime.is_empty() => self.no_atime.store(false, Ordering::Relaxed),
                Err(Errno::MFILE | Errno::NFILE) if self.waited.fetch_add(1, Ordering::Relaxed) < WAITS => {
                    std::thread::sleep(WAIT)
                }
                other => return other,
            }
        }
    }

    fn found(&self, name: Vec<u8>, kind: FoundKind, stat: &Stat, path: &std::path::Path) -> Found {
        Found::new(name, kind, stat, self.settings.with_atime, &self.owners, self.devices.id(stat.st_dev, path))
    }
}
