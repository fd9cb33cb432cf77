//! One stream into one file or onto standard output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::runtime::Cancel;

const BUFFER: usize = 1 << 20;

/// Copies everything from a snapshot's file to `to`, looking at `cancel` on the way. Returns the number of bytes.
///
/// # Errors
/// Reading or writing failed; [`Kind::Cancelled`].
pub fn copy(from: &mut dyn Read, to: &mut dyn Write, cancel: &Cancel) -> Result<u64> {
    let mut buffer = vec![0u8; BUFFER];
    let mut total = 0u64;
    loop {
        cancel.check()?;
        let Some(part) = read_some(from, &mut buffer)? else { break };
        to.write_all(part).context(|| "write what was restored")?;
        total = total.saturating_add(part.len() as u64);
    }
    to.flush().context(|| "write what was restored")?;
    Ok(total)
}

/// The next bytes of a snapshot's file; `None` at its end.
pub(super) fn read_some<'a>(from: &mut dyn Read, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(None),
            Ok(n) => return Ok(buffer.get(..n)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // The repository's reader hands its own errors through.
            Err(e) => {
                return Err(match e.downcast::<Error>() {
                    Ok(ours) => ours.context("read the snapshot"),
                    Err(e) => Error::new(Kind::Failed, "read the snapshot").because(e),
                });
            }
        }
    }
}

/// Writes a file whole or not at all: a temporary file beside it, then fsync and rename. An existing file is replaced.
/// Killed in between, it leaves a file named `.<name>.strongroom-<pid>`. Returns the number of bytes.
///
/// # Errors
/// As [`copy`]; the folder does not exist or may not be written.
pub fn write_file(from: &mut dyn Read, path: &Path, cancel: &Cancel) -> Result<u64> {
    let doing = || format!("write {}", path.display());
    let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
        return Err(Error::new(Kind::Usage, format!("{} is a directory", path.display())).hint("Name the file to write."));
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".strongroom-{}", std::process::id()));
    let scratch = folder.join(hidden);

    let write = || -> Result<u64> {
        let mut file = File::create(&scratch).context(|| "create a temporary file beside it")?;
        let bytes = copy(from, &mut file, cancel)?;
        file.sync_all().context(|| "sync it")?;
        std::fs::rename(&scratch, path).context(|| "put it in place")?;
        File::open(&folder).and_then(|f| f.sync_all()).context(|| "sync its folder")?;
        Ok(bytes)
    };
    let mut write = write;
    let result = write().context(doing);
    if result.is_err()
        && let Err(e) = std::fs::remove_file(&scratch)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %scratch.display(), error = %e, "a temporary file stays behind");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(Error::new(Kind::Corrupt, "a blob is damaged")))
        }
    }

    #[test]
    fn a_file_is_replaced_whole_or_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let cancel = Cancel::new();
        assert_eq!(write_file(&mut &b"first"[..], &path, &cancel).unwrap(), 5);
        let mut half = (&b"half"[..]).chain(Broken);
        let error = write_file(&mut half, &path, &cancel).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.chain().ends_with("read the snapshot: a blob is damaged"), "{}", error.chain());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(write_file(&mut &b""[..], dir.path(), &cancel).unwrap_err().kind(), Kind::Usage);
        cancel.cancel();
        assert_eq!(write_file(&mut &b"x"[..], &path, &cancel).unwrap_err().kind(), Kind::Cancelled);
    }
}
