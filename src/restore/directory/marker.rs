//! `--if-empty`: restore a volume before its first use, exactly once, and never guess.
//!
//! The target remembers in `.strongroom/`: `restoring` while a restore is under way, `restored` once the question is
//! settled, either way. So a restart in the middle goes on with the same snapshot, and a volume that an application has since
//! emptied on purpose is not filled again.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Time};

/// Directory of the marks, at the top of a target. Neither backed up nor removed.
pub const DIR: &str = ".strongroom";
const RESTORING: &str = "restoring";
const RESTORED: &str = "restored";
/// What a fresh file system has of its own.
const NOTHING: [&str; 2] = ["lost+found", DIR];

/// What a target is before anything was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Missing, or without any entry that counts, and without marks.
    Empty,
    /// A restore of this snapshot was begun and not finished.
    Restoring(Id),
    /// The question was settled before.
    Settled,
    /// It has entries that no restore of ours left.
    Occupied,
}

/// What the repository said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<S> {
    /// It was reached, and this is the snapshot to restore.
    Found(S),
    /// It was reached, and it has no snapshot of this job.
    Nothing,
    /// It could not be found out: not reached, not allowed, wrong password, damaged, or no repository there.
    Unknown,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<S> {
    /// Restore it: [`begin`], restore, [`finish`].
    Restore(S),
    /// There is nothing to restore: [`finish`] without a snapshot, so that it is not asked again.
    Fresh,
    /// The target is in use or was settled before. Nothing is to be done, and the repository need not be asked.
    LeaveAlone,
    /// Fail, so that whoever waits for the volume goes on waiting: unknown is not empty.
    CouldNotFindOut,
}

impl TargetState {
    /// Whether the repository must be asked at all.
    #[must_use]
    pub fn needs_answer(self) -> bool {
        matches!(self, Self::Empty | Self::Restoring(_))
    }
}

/// The whole rule. `found` of a restore that was begun should be the snapshot it was begun with; if that one is gone,
/// the caller gives the newest, and what the first left is overwritten.
#[must_use]
pub fn decide<S>(state: TargetState, answer: Answer<S>) -> Decision<S> {
    match (state, answer) {
        (TargetState::Settled | TargetState::Occupied, _) => Decision::LeaveAlone,
        (_, Answer::Found(snapshot)) => Decision::Restore(snapshot),
        (TargetState::Empty, Answer::Nothing) => Decision::Fresh,
        // Half a restore is there, so there was a snapshot; that none is found now is no reason to start with half of it.
        (TargetState::Restoring(_), Answer::Nothing) | (_, Answer::Unknown) => Decision::CouldNotFindOut,
    }
}

/// Looks at a target.
///
/// # Errors
/// It cannot be read, or a mark in it makes no sense.
pub fn inspect(to: &Path) -> Result<TargetState> {
    let doing = || format!("look at {}", to.display());
    let marks = to.join(DIR);
    if marks.join(RESTORED).try_exists().context(doing)? {
        return Ok(TargetState::Settled);
    }
    match std::fs::read_to_string(marks.join(RESTORING)) {
        Ok(text) => {
            let bad = |e| {
                Error::new(Kind::Failed, format!("{} does not name a snapshot", marks.join(RESTORING).display()))
                    .because(e)
                    .hint("A restore was cut off. Remove the file and what that restore left, or restore without --if-empty.")
            };
            return Ok(TargetState::Restoring(text.trim().parse().map_err(bad)?));
        }
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(e) => return Err(e).context(doing),
    }
    let entries = match std::fs::read_dir(to) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(TargetState::Empty),
        Err(e) => return Err(e).context(doing),
    };
    for entry in entries {
        let name = entry.context(doing)?.file_name();
        if !NOTHING.iter().any(|n| name == *n) {
            return Ok(TargetState::Occupied);
        }
    }
    Ok(TargetState::Empty)
}

/// Marks the target as being restored. Durable before it returns.
///
/// # Errors
/// The mark cannot be written; nothing was restored then.
pub fn begin(to: &Path, snapshot: Id) -> Result<()> {
    write(to, RESTORING, &format!("{snapshot}\n"))
}

/// Marks the question as settled, with the snapshot that was restored, if any. Everything restored is durable before the
/// mark is, so a power cut cannot leave a mark on half a volume.
///
/// # Errors
/// Data or mark cannot be written; the restore will be done again.
pub fn finish(to: &Path, snapshot: Option<Id>, now: Time) -> Result<()> {
    let doing = || format!("write what was restored to {}", to.display());
    std::fs::create_dir_all(to).context(doing)?;
    rustix::fs::syncfs(File::open(to).context(doing)?).map_err(std::io::Error::from).context(doing)?;
    let text = match snapshot {
        Some(id) => format!("{id} {now}\n"),
        None => format!("fresh {now}\n"),
    };
    write(to, RESTORED, &text)?;
    match std::fs::remove_file(to.join(DIR).join(RESTORING)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context(doing),
        _ => Ok(()),
    }
}

/// A file is written under another name first, so that a mark is whole or not there.
fn write(to: &Path, name: &str, text: &str) -> Result<()> {
    let dir: PathBuf = to.join(DIR);
    let doing = || format!("mark {} as {name}", to.display());
    std::fs::create_dir_all(&dir).context(doing)?;
    let unfinished = dir.join(format!("{name}.new"));
    let mut file = File::create(&unfinished).context(doing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).context(doing)?;
    std::fs::rename(&unfinished, dir.join(name)).context(doing)?;
    for dir in [dir.as_path(), to] {
        File::open(dir).and_then(|d| d.sync_all()).context(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_never_taken_for_empty() {
        let id = Id([1; 32]);
        for (state, answer, wanted) in [
            (TargetState::Empty, Answer::Found(7), Decision::Restore(7)),
            (TargetState::Empty, Answer::Nothing, Decision::Fresh),
            (TargetState::Empty, Answer::Unknown, Decision::CouldNotFindOut),
            (TargetState::Restoring(id), Answer::Found(7), Decision::Restore(7)),
            (TargetState::Restoring(id), Answer::Nothing, Decision::CouldNotFindOut),
            (TargetState::Restoring(id), Answer::Unknown, Decision::CouldNotFindOut),
            (TargetState::Settled, Answer::Found(7), Decision::LeaveAlone),
            (TargetState::Settled, Answer::Unknown, Decision::LeaveAlone),
            (TargetState::Occupied, Answer::Found(7), Decision::LeaveAlone),
            (TargetState::Occupied, Answer::Unknown, Decision::LeaveAlone),
        ] {
            assert_eq!(decide(state, answer), wanted, "{state:?} {answer:?}");
        }
    }

    #[test]
    fn marks_tell_what_happened() {
        let dir = tempfile::tempdir().expect("a directory");
        let to = dir.path().join("volume");
        let id = Id([0xab; 32]);
        assert_eq!(inspect(&to).expect("state"), TargetState::Empty, "missing");
        std::fs::create_dir_all(to.join("lost+found")).expect("mkdir");
        assert_eq!(inspect(&to).expect("state"), TargetState::Empty, "a new file system");
        begin(&to, id).expect("begin");
        std::fs::write(to.join("half"), "x").expect("write");
        assert_eq!(inspect(&to).expect("state"), TargetState::Restoring(id));
        finish(&to, Some(id), Time::new(0, 0)).expect("finish");
        assert_eq!(inspect(&to).expect("state"), TargetState::Settled);
        assert!(!to.join(DIR).join(RESTORING).exists());
        std::fs::remove_file(to.join("half")).expect("remove");
        assert_eq!(inspect(&to).expect("state"), TargetState::Settled, "emptied by its user");

        let other = dir.path().join("other");
        std::fs::create_dir_all(other.join("data")).expect("mkdir");
        assert_eq!(inspect(&other).expect("state"), TargetState::Occupied);
        std::fs::create_dir_all(other.join(DIR)).expect("mkdir");
        std::fs::write(other.join(DIR).join(RESTORING), "nonsense").expect("write");
        assert!(inspect(&other).is_err());
    }
}
