//! One directory: names, then what each is.

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

use super::entry::{Found, FoundKind};
use super::problem::{Problem, ProblemKind};
use super::{Dir, Volume};
use crate::error::{Context, Result};

/// Names of about 1,500 entries a system call.
const BUFFER: usize = 64 << 10;
/// Names that are looked at in one go: enough for the order of inodes to help, little memory.
const PART: usize = 2048;
/// Marks that a restore leaves at the top of a volume; about this copy, not about the data.
const MARKS: &[u8] = b".strongroom";
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
/// See <https://bford.info/cachedir/>.
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What a directory holds, or a part of it.
#[derive(Debug, Default)]
pub struct Listing {
    /// In ascending order of raw names; without what is excluded, without sockets and, at the top, without
    /// `.strongroom`.
    pub entries: Vec<Found>,
    /// What could not be listed.
    pub problems: Vec<Problem>,
}

/// The names in a directory, in ascending order, and how many of them were asked about. About 24 bytes each and the name.
#[derive(Debug, Default)]
pub struct Names {
    list: Vec<Name>,
    bytes: Vec<u8>,
    at: usize,
    problems: Vec<Problem>,
}

/// A name as `getdents64` gives it.
#[derive(Debug, Clone, Copy)]
struct Name {
    inode: u64,
    start: u32,
    len: u16,
    kind: FileType,
}

impl Names {
    /// How many there are, asked about or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether all were asked about.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.at >= self.list.len() && self.problems.is_empty()
    }

    fn of(&self, name: &Name) -> &[u8] {
        bytes_of(&self.bytes, name)
    }

    fn add(&mut self, inode: u64, kind: FileType, name: &[u8]) -> rustix::io::Result<()> {
        // 4 GiB of names in one directory.
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        let len = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.list.push(Name { inode, start, len, kind });
        Ok(())
    }
}

fn bytes_of<'a>(bytes: &'a [u8], name: &Name) -> &'a [u8] {
    let start = name.start as usize;
    bytes.get(start..start + usize::from(name.len)).unwrap_or_default()
}

impl Volume {
    /// Lists a directory as a whole. An entry that vanishes meanwhile is a problem of kind [`ProblemKind::Gone`]; a directory
    /// below the volume that stops being readable half-way is one of kind [`ProblemKind::Unreadable`] and what came so far.
    ///
    /// # Errors
    /// The volume's own directory cannot be read.
    pub fn list(&self, dir: &Dir) -> Result<Listing> {
        let mut names = self.names(dir)?;
        let mut whole = Listing::default();
        while let Some(part) = self.look_at_some(dir, &mut names) {
            whole.entries.extend(part.entries);
            whole.problems.extend(part.problems);
        }
        Ok(whole)
    }

    /// Reads the names in a directory: the first half of a listing in bounded memory.
    ///
    /// # Errors
    /// The volume's own directory cannot be read. Of one below, that is a problem in the first part.
    pub fn names(&self, dir: &Dir) -> Result<Names> {
        let mut names = Names::default();
        if dir.is_foreign() {
            return Ok(names);
        }
        if let Err(e) = self.read_names(dir, &mut names) {
            if dir.is_root() {
                return Err(std::io::Error::from(e)).context(|| format!("list volume {}", dir.path().display()));
            }
            names.problems.push(Problem::at(dir.path().to_owned(), "list", e));
        }
        let Names { list, bytes, .. } = &mut names;
        let is_tag = |n: &Name| bytes_of(bytes, n) == CACHE_TAG;
        if self.settings.exclude_caches && !dir.is_root() && list.iter().any(is_tag) && is_cache(dir) {
            list.retain(is_tag);
        }
        list.sort_unstable_by(|a, b| bytes_of(bytes, a).cmp(bytes_of(bytes, b)));
        Ok(names)
    }

    /// The second half: asks what the next [`PART`] names are. `None` after the last.
    pub fn look_at_some(&self, dir: &Dir, names: &mut Names) -> Option<Listing> {
        let end = names.len().min(names.at.saturating_add(PART));
        let mut part: Vec<Name> = names.list.get(names.at..end)?.to_vec();
        let mut listing = Listing { entries: Vec::with_capacity(part.len()), problems: std::mem::take(&mut names.problems) };
        if part.is_empty() && listing.problems.is_empty() {
            return None;
        }
        names.at = end;
        // The order in which most file systems lay inodes out: fewer seeks and fewer block reads on a cold cache.
        part.sort_unstable_by_key(|n| n.inode);
        for name in &part {
            match self.look(dir, names.of(name), name.kind) {
                Ok(found) => listing.entries.extend(found),
                Err(problem) => listing.problems.push(problem),
            }
        }
        listing.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Some(listing)
    }

    fn read_names(&self, dir: &Dir, names: &mut Names) -> rustix::io::Result<()> {
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        let mut entries = RawDir::new(dir.fd(), buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Err(Errno::INTR) => continue,
                // Removed after it was opened: it has no entries.
                Err(Errno::NOENT) => return Ok(()),
                other => other?,
            };
            let (name, kind) = (entry.file_name().to_bytes(), entry.file_type());
            if name == b"." || name == b".." || kind == FileType::Socket || (dir.is_root() && name == MARKS) {
                continue;
            }
            // Asked before the entry is looked at, which saves a call; where the kind is unknown, asked again after it.
            if kind != FileType::Unknown && !self.keeps(dir, name, kind == FileType::Directory) {
                continue;
            }
            names.add(entry.ino(), kind, name)?;
        }
        Ok(())
    }

    fn look(&self, dir: &Dir, name: &[u8], listed: FileType) -> std::result::Result<Option<Found>, Problem> {
        let path = || dir.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        let stat =
            rustix::fs::statat(dir.fd(), name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Problem::at(path(), "look at", e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let Some(kind) = FoundKind::of(kind) else {
            return match kind {
                FileType::Socket => Ok(None),
                _ => Err(Problem::new(ProblemKind::Unreadable, path(), "is of a kind that is not known")),
            };
        };
        if listed == FileType::Unknown && !self.keeps(dir, name, kind == FoundKind::Dir) {
            return Ok(None);
        }
        // Mount points are kept as empty directories, files that are mounted (as Kubernetes does) are left out.
        if self.settings.one_file_system && kind != FoundKind::Dir && !self.devices.is_root(stat.st_dev) {
            return Ok(None);
        }
        let at = if self.devices.is_root(stat.st_dev) { std::path::PathBuf::new() } else { path() };
        Ok(Some(self.found(name.to_vec(), kind, &stat, &at)))
    }

    /// Whether the globs let an entry in.
    fn keeps(&self, dir: &Dir, name: &[u8], is_dir: bool) -> bool {
        if self.exclude.is_none() && self.include.is_none() {
            return true;
        }
        let path = dir.relative_of(name);
        if self.exclude.as_ref().is_some_and(|globs| globs.matches(&path, is_dir)) {
            return false;
        }
        self.include
            .as_ref()
            .is_none_or(|globs| globs.matches_or_contains(&path, is_dir) || (is_dir && globs.may_match_below(&path)))
    }
}

fn is_cache(dir: &Dir) -> bool {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut start = [0; CACHE_SIGNATURE.len()];
    openat(dir.fd(), CACHE_TAG, flags, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut start))
        .is_ok_and(|n| n == start.len() && start == CACHE_SIGNATURE)
}
