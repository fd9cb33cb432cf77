//! `strongroom wal fetch`: one file of the archive, whole and in its place, or the proof that there is none.
//!
//! The first call of a recovery starts a [`helper`], which has the archive open and reads ahead while the server replays; the next ones
//! find it there. What it has ready is moved into its place. Without one, the archive is opened here.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use strongroom_client::message::{Reply, Request as Message, Server};

use super::Delivery;
use super::helper;
use super::server::Local;
use super::shipper::Shipper;
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{SystemId, WalFile};
use crate::wal::Mode;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the file (`%f`).
    pub name: String,
    /// Where it is to be (`%p`). Replaced as a whole, or not touched.
    pub to: PathBuf,
    /// Who asks.
    pub mode: Mode,
    /// The server's data directory, where the path does not tell.
    pub data_directory: Option<PathBuf>,
    /// The program that helps later calls, started with these arguments and the directory to serve in; `None`: none is started.
    pub helper: Option<helper::Program>,
}

/// Delivers a file, or tells that it is proven missing.
///
/// # Errors
/// Everything else: nobody knows whether the file exists, and a recovery must not go on as if it did not.
pub async fn run(ctx: &Context, job: &WalJob, request: &Request) -> Result<Delivery> {
    let file: WalFile = request.name.parse()?;
    let (found, system) = {
        let (job, request) = (job.clone(), request.clone());
        blocking(move || {
            let local = Local::find(request.data_directory.as_deref(), Some(&request.to), &job);
            let (scratch, out) = beside(&request.to)?;
            Ok(((scratch, out), local.system))
        })
        .await?
    };
    let (scratch, out) = found;
    let delivery = deliver(ctx, job, request, &file, out, system).await;
    let (to, placed) = (request.to.clone(), delivery);
    blocking(move || match placed {
        Ok((Delivery::Delivered { bytes, until }, Written::Here(out))) => {
            place(&out, bytes, &scratch, &to)?;
            Ok(Delivery::Delivered { bytes, until })
        }
        other => {
            // The next call would empty it.
            fs::remove_file(&scratch).ok();
            other.map(|(delivery, _)| delivery)
        }
    })
    .await
}

async fn deliver(
    ctx: &Context,
    job: &WalJob,
    request: &Request,
    file: &WalFile,
    mut out: File,
    system: Option<SystemId>,
) -> Result<(Delivery, Written)> {
    let dir = helper::directory(&request.to, helper::PREFETCH).filter(|_| request.mode != Mode::Rewind);
    if let (Some(dir), Some(program)) = (dir, &request.helper) {
        let message = Message::Take {
            job: program.key.clone(),
            name: request.name.clone(),
            mode: mode_name(request.mode).to_owned(),
            server: system.map(|s| Server { identifier: s.identifier, major: s.major }),
        };
        // Only segments are many.
        let many = matches!(file, WalFile::Segment(_)) && job.settings.prefetch > 0;
        // A standby would have one for years, and has sessions to lose. A recovery has one for as long as it takes, and takes much
        // longer without.
        let start = many && (request.mode == Mode::Recovery || !blocking(|| Ok(helper::server_inherits())).await?);
        let reply = match helper::ask(&dir, &message, &out).await? {
            helper::Heard::Reply(reply) => Some(reply),
            helper::Heard::Nobody if start => helper::ask_new(program, &dir, &message, &out).await?,
            helper::Heard::Nobody | helper::Heard::Another => None,
        };
        match reply {
            Some(Reply::Delivered(bytes)) => return Ok((Delivery::Delivered { bytes, until: None }, Written::Here(out))),
            Some(Reply::Ready { bytes, place }) => {
                let to = request.to.clone();
                match blocking(move || place_ready(&dir, &place, bytes, &to)).await {
                    Ok(()) => return Ok((Delivery::Delivered { bytes, until: None }, Written::InPlace)),
                    // The helper ended just now, and tidied up.
                    Err(e) => tracing::warn!("{} was fetched ahead in vain: {}", request.name, e.chain()),
                }
            }
            Some(Reply::Missing(why)) => return Ok((Delivery::Missing(why), Written::Here(out))),
            _ => {}
        }
        // Whoever did not answer in time may still write to the file that was given.
        let to = request.to.clone();
        out = blocking(move || Ok(beside(&to)?.1)).await?;
    }
    let shipper = Shipper::new(ctx.clone(), job.clone(), None, None);
    let given = out.try_clone().context(|| "open the file once more")?;
    let delivery = shipper.fetch(&request.name, given, request.mode, system).await?;
    Ok((delivery, Written::Here(out)))
}

/// Where what was delivered, if it was, is.
enum Written {
    /// In the file that was given.
    Here(File),
    /// Where it is to be.
    InPlace,
}

/// Moves what a helper has ready in its directory to where it is to be. Blocks.
pub(super) fn place_ready(dir: &Path, ready: &str, bytes: u64, to: &Path) -> Result<()> {
    if !Path::new(ready).components().all(|c| matches!(c, std::path::Component::Normal(_))) {
        return Err(Error::new(Kind::Bug, format!("{} leads elsewhere", ready.escape_debug())));
    }
    let from = dir.join(ready);
    // The name came from somebody else: a link, or a pipe that is never written to, is not followed.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let written = OpenOptions::new().read(true).custom_flags(flags).open(&from);
    let written = written.context(|| format!("open {}", from.display()))?;
    let meta = written.metadata().context(|| format!("look at {}", from.display()))?;
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::new(Kind::Denied, format!("{} is no file of our own", from.display())));
    }
    place(&written, bytes, &from, to)
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Recovery => "recovery",
        Mode::Standby => "standby",
        Mode::Rewind => "rewind",
    }
}

fn scratch_of(to: &Path) -> PathBuf {
    let mut scratch = to.as_os_str().to_owned();
    scratch.push(".strongroom");
    scratch.into()
}

/// A file beside `to`, under a name that PostgreSQL takes no notice of.
pub(super) fn beside(to: &Path) -> Result<(PathBuf, File)> {
    let scratch = scratch_of(to);
    // Not the file of a call that was killed: who serves that one may still write to it.
    match fs::remove_file(&scratch) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(|| format!("remove {}", scratch.display())),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&scratch);
    let file = file.context(|| format!("create {}", scratch.display()))?;
    Ok((scratch, file))
}

/// All of it is written before it has its name. It is not synced: the server syncs what it keeps when it renames the file
/// (`durable_rename` in `xlogarchive.c`), and after a crash of the machine it asks for the file again.
pub(super) fn place(out: &File, bytes: u64, scratch: &Path, to: &Path) -> Result<()> {
    let doing = || format!("write {}", to.display());
    let there = out.metadata().context(doing)?.len();
    if there != bytes {
        return Err(Error::new(Kind::Failed, format!("{}: {there} bytes were written of {bytes}", to.display())));
    }
    fs::rename(scratch, to).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_call_that_was_killed_is_not_written_to_again() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("RECOVERYXLOG");
        let (_, mut old) = beside(&to).unwrap();
        let (scratch, mut new) = beside(&to).unwrap();
        new.write_all(b"new").unwrap();
        old.write_all(b"older").unwrap();
        place(&new, 3, &scratch, &to).unwrap();
        old.set_len(0).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }

    #[test]
    fn only_a_file_of_our_own_is_moved_into_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, to) = (dir.path(), dir.path().join("to"));
        fs::write(dir.join("whole"), "abc").unwrap();
        std::os::unix::fs::symlink(dir.join("whole"), dir.join("link")).unwrap();
        fs::create_dir(dir.join("folder")).unwrap();
        for bad in ["link", "folder", "../x", "/etc/passwd", "missing"] {
            assert!(place_ready(dir, bad, 3, &to).is_err(), "{bad}");
        }
        assert!(place_ready(dir, "whole", 4, &to).is_err(), "it is longer");
        assert!(!to.exists());
        place_ready(dir, "whole", 3, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"abc");
    }
}
