//! What this machine stored in advance, a moment ago: so that the server's next call is answered without a password, a
//! connection and a request.
//!
//! An answer is a small file. It counts for one file of the server (its name, device, inode, length and time), one place of the store, and
//! [`LIFE`]: long enough for a backlog, too short for a repository to be removed and made anew under it. It is a shortcut only;
//! without it the archive is asked.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::settings::Repository;
use crate::error::{Context, Result};
use crate::model::Time;

/// How long an answer counts.
const LIFE: Duration = Duration::from_secs(600);
const ENDING: &str = ".stored";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Lately {
    dir: PathBuf,
    /// Where the archive is.
    place: String,
}

impl Lately {
    /// In `dir`, which is made when something is kept.
    pub(super) fn new(dir: PathBuf, repository: &Repository, cluster: &str) -> Self {
        let store = &repository.store;
        let place =
            format!("{:?} {:?} {:?} {} {cluster}", store.url, store.s3.endpoint, store.azure.endpoint, store.azure.account);
        Self { dir, place: blake3::hash(place.as_bytes()).to_hex().to_string() }
    }

    /// Whether this very file was stored. Blocks.
    pub(super) fn knows(&self, name: &str, file: &File, now: Time) -> bool {
        let told = fs::read_to_string(self.path(name)).unwrap_or_default();
        let mut words = told.lines();
        let Ok(meta) = file.metadata() else { return false };
        let same = words.next() == Some(self.print(&meta).as_str());
        let kept = words.next().and_then(|secs| secs.parse::<i64>().ok());
        same && kept.is_some_and(|at| (0..=LIFE.as_secs().cast_signed()).contains(&now.secs.saturating_sub(at)))
    }

    /// Keeps the answer for a file that was stored. Blocks.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub(super) fn keep(&self, name: &str, file: &Metadata, now: Time) -> Result<()> {
        let doing = || format!("write to {}", self.dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).context(doing)?;
        let fresh = self.dir.join(format!(".{name}.{}", std::process::id()));
        // Lost in a crash of the machine, the answer is asked for again; half of it is none.
        fs::write(&fresh, format!("{}\n{}\n", self.print(file), now.secs)).context(doing)?;
        fs::rename(&fresh, self.path(name)).context(doing)
    }

    /// Removes what does not count any more. Blocks.
    pub(super) fn tidy(&self, now: Time) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let ours = name.to_string_lossy().ends_with(ENDING) || name.to_string_lossy().starts_with('.');
            let old = entry.metadata().is_ok_and(|m| now.secs.saturating_sub(m.mtime()) > LIFE.as_secs().cast_signed());
            if ours && old {
                // Somebody else may have been faster.
                fs::remove_file(entry.path()).ok();
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{ENDING}"))
    }

    fn print(&self, m: &Metadata) -> String {
        format!("{} {} {} {} {}.{:09}", self.place, m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_one_file_one_place_and_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let lately = Lately { dir: dir.path().join("x/y"), place: "here".into() };
        let path = dir.path().join("segment");
        fs::write(&path, b"one").unwrap();
        let file = File::open(&path).unwrap();
        let now = Time::new(1_000_000, 0);
        assert!(!lately.knows("a", &file, now));
        lately.keep("a", &file.metadata().unwrap(), now).unwrap();
        assert!(lately.knows("a", &file, Time::new(1_000_600, 0)) && !lately.knows("b", &file, now));
        assert!(!lately.knows("a", &file, Time::new(1_000_601, 0)) && !lately.knows("a", &file, Time::new(999_999, 0)));
        assert!(!Lately { place: "there".into(), ..lately.clone() }.knows("a", &file, now));
        fs::write(&path, b"four").unwrap();
        assert!(!lately.knows("a", &file, now));
    }
}
