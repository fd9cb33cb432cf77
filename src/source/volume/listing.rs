//! One directory: names, then what each is.

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

use super::entry::{Found, FoundKind};
use super::problem::{Problem, ProblemKind};
use super::{Dir, Volume};
use crate::error::{Context, Result};

/// Names of about 1,500 entries a system call.
const BUFFER: usize = 64 << 10;
/// Marks that a restore leaves at the top of a volume; about this copy, not about the data.
const MARKS: &[u8] = b".strongroom";
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
/// See <https://bford.info/cachedir/>.
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// In ascending order of raw names; without what is excluded, without sockets and, at the
    /// top, without `.strongroom`.
    pub entries: Vec<Found>,
    /// What could not be listed.
    pub problems: Vec<Problem>,
}

/// A name as `getdents64` gives it.
struct Name {
    inode: u64,
    kind: FileType,
    bytes: Vec<u8>,
}

impl Volume {
    /// Lists a directory. An entry that vanishes meanwhile is a problem of kind [`ProblemKind::Gone`]; a directory below
    /// the volume that stops being readable half-way is one of kind [`ProblemKind::Unreadable`] and what came so far.
    ///
    /// # Errors
    /// The volume's own directory cannot be read.
    pub fn list(&self, dir: &Dir) -> Result<Listing> {
        let mut listing = Listing::default();
        if dir.is_foreign() {
            return Ok(listing);
        }
        let mut names = Vec::new();
        if let Err(e) = self.names(dir, &mut names) {
            if dir.is_root() {
                return Err(std::io::Error::from(e)).context(|| format!("list volume {}", dir.path().display()));
            }
            listing.problems.push(Problem::at(dir.path().to_owned(), "list", e));
        }
        if self.settings.exclude_caches && !dir.is_root() && names.iter().any(|n| n.bytes == CACHE_TAG) && is_cache(dir) {
            names.retain(|n| n.bytes == CACHE_TAG);
        }
        // The order in which most file systems lay inodes out: fewer seeks and fewer block reads on a cold cache.
        names.sort_unstable_by_key(|n| n.inode);
        listing.entries.reserve_exact(names.len());
        for name in names {
            match self.look(dir, name) {
                Ok(found) => listing.entries.extend(found),
                Err(problem) => listing.problems.push(problem),
            }
        }
        listing.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    fn names(&self, dir: &Dir, names: &mut Vec<Name>) -> rustix::io::Result<()> {
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
            names.push(Name { inode: entry.ino(), kind, bytes: name.to_vec() });
        }
        Ok(())
    }

    fn look(&self, dir: &Dir, name: Name) -> std::result::Result<Option<Found>, Problem> {
        let path = || dir.path().join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name.bytes));
        let stat = rustix::fs::statat(dir.fd(), name.bytes.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Problem::at(path(), "look at", e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let Some(kind) = FoundKind::of(kind) else {
            return match kind {
                FileType::Socket => Ok(None),
                _ => Err(Problem::new(ProblemKind::Unreadable, path(), "is of a kind that is not known")),
            };
        };
        if name.kind == FileType::Unknown && !self.keeps(dir, &name.bytes, kind == FoundKind::Dir) {
            return Ok(None);
        }
        // Mount points are kept as empty directories, files that are mounted (as Kubernetes does) are left out.
        if self.settings.one_file_system && kind != FoundKind::Dir && !self.devices.is_root(stat.st_dev) {
            return Ok(None);
        }
        let at = if self.devices.is_root(stat.st_dev) { std::path::PathBuf::new() } else { path() };
        Ok(Some(self.found(name.bytes, kind, &stat, &at)))
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
        self.include.as_ref().is_none_or(|globs| globs.matches_or_contains(&path, is_dir) || (is_dir && globs.may_match_below(&path)))
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
