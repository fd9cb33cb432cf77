//! What is in a directory of the target already. Memory: 12 bytes an entry and its name.

use std::os::fd::BorrowedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::remove;

/// Names and kinds of a directory's entries that were not asked for yet.
#[derive(Debug, Default)]
pub(super) struct Present {
    names: Vec<u8>,
    /// In ascending order of name.
    list: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    start: u32,
    len: u16,
    kind: FileType,
    taken: bool,
}

fn name_of<'a>(names: &'a [u8], entry: &Entry) -> &'a [u8] {
    let start = entry.start as usize;
    names.get(start..start + usize::from(entry.len)).unwrap_or_default()
}

impl Present {
    pub(super) fn read(dir: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let (mut names, mut list) = (Vec::new(), Vec::new());
        remove::each_entry(dir, &mut |name, kind| {
            // 4 GiB of names in one directory.
            let start = u32::try_from(names.len()).map_err(|_| Errno::OVERFLOW)?;
            let len = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
            names.extend_from_slice(name);
            list.push(Entry { start, len, kind, taken: false });
            Ok(())
        })?;
        list.sort_unstable_by(|a, b| name_of(&names, a).cmp(name_of(&names, b)));
        Ok(Self { names, list })
    }

    /// What has this name, the first time that it is asked for.
    pub(super) fn take(&mut self, name: &[u8]) -> Option<FileType> {
        let at = self.list.binary_search_by(|e| name_of(&self.names, e).cmp(name)).ok()?;
        let entry = self.list.get_mut(at)?;
        (!std::mem::replace(&mut entry.taken, true)).then_some(entry.kind)
    }

    /// What was never asked for.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&[u8], FileType)> {
        self.list.iter().filter(|e| !e.taken).map(|e| (name_of(&self.names, e), e.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn every_entry_is_found_once_and_the_rest_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["b", "a", "longer name"] {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        std::fs::create_dir(dir.path().join("dir")).expect("a directory");
        let fd = std::fs::File::open(dir.path()).expect("opens");
        let mut present = Present::read(fd.as_fd()).expect("reads");
        assert_eq!(present.take(b"dir"), Some(FileType::Directory));
        assert_eq!((present.take(b"a"), present.take(b"a"), present.take(b"c")), (Some(FileType::RegularFile), None, None));
        assert_eq!(present.rest().map(|(name, _)| name.to_vec()).collect::<Vec<_>>(), [b"b".to_vec(), b"longer name".to_vec()]);
    }
}
