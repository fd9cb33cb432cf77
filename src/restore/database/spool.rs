//! The dump as a file for parallel jobs: nameless, so that nothing stays behind, with its table of contents completed.

use std::fs::{File, OpenOptions};
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::{BUFFER, Opened, Unnamed};
use crate::error::{Context, Error, Kind, Result};
use crate::postgres::archive::{ArchiveCheck, Summary};
use crate::restore::file::read_some;
use crate::runtime::Cancel;

/// Left free beside the dump.
const MARGIN: u64 = 64 << 20;

/// A spooled dump.
pub(super) struct Spool {
    file: Unnamed,
    pub(super) bytes: u64,
}

impl Spool {
    pub(super) fn path(&self) -> String {
        self.file.path()
    }
}

/// Writes the dump into `dir`, checks that it is whole, and fills in where each entry's data lies: `pg_dump` could not
/// write that into a pipe, and without it every job would search the file from the start.
pub(super) fn spool(dump: &mut Opened<'_>, dir: &Path, size: Option<u64>, cancel: &Cancel) -> Result<Spool> {
    let doing = || format!("spool the dump to {}", dir.display());
    if let Some(size) = size {
        let needed = size.saturating_add(MARGIN);
        let fs = rustix::fs::statvfs(dir).map_err(std::io::Error::from).context(doing)?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if free < needed {
            let mib = |n: u64| n >> 20;
            return Err(Error::new(
                Kind::Failed,
                format!("{} has {} MiB free, the dump needs {} MiB", dir.display(), mib(free), mib(needed)),
            )
            .hint("Name another folder with --scratch, or restore with one job, which needs no file."));
        }
    }
    let mut file = unnamed(dir).context(doing)?;
    let mut check = ArchiveCheck::new();
    let mut from = Cursor::new(std::mem::take(&mut dump.head)).chain(&mut *dump.rest);
    let mut buffer = vec![0u8; BUFFER];
    while let Some(part) = read_some(&mut from, &mut buffer)? {
        cancel.check()?;
        check.feed(part)?;
        file.write_all(part).context(doing)?;
    }
    let summary = check.finish()?;
    complete(&file, &summary).context(doing)?;
    Ok(Spool { file: Unnamed(file), bytes: summary.bytes })
}

fn complete(file: &File, summary: &Summary) -> Result<()> {
    for place in &summary.places {
        // "Position is known", then the position, lowest byte first.
        let mut field = vec![2u8];
        field.extend(place.block.to_le_bytes().iter().take(summary.offset_size));
        file.write_all_at(&field, place.field).context(|| "complete its table of contents")?;
    }
    Ok(())
}

/// A readable and writable file that no folder lists.
fn unnamed(dir: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let flag = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).unwrap_or_default();
    if let Ok(file) = options.clone().custom_flags(flag).open(dir) {
        return Ok(file);
    }
    // File systems without such files: one with a name, for a moment.
    let path = dir.join(format!(".strongroom-spool-{}-{:016x}", std::process::id(), rand::random::<u64>()));
    let file = options.create_new(true).open(&path).context(|| format!("create {}", path.display()))?;
    std::fs::remove_file(&path).context(|| format!("unlink {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_too_small_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut rest = std::io::empty();
        let mut dump = Opened { head: Vec::new(), rest: &mut rest, header: Default::default(), entries: Vec::new() };
        let error = spool(&mut dump, dir.path(), Some(u64::MAX / 2), &Cancel::new()).err().unwrap();
        assert!(error.report().contains("--scratch"), "{}", error.report());
    }

    #[test]
    fn unnamed_files_can_be_opened_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = unnamed(dir.path()).unwrap();
        file.write_all(b"abc").unwrap();
        let file = Unnamed(file);
        assert_eq!(std::fs::read(file.path()).unwrap(), b"abc");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
