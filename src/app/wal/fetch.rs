//! `strongroom wal fetch`: one file of the archive, whole and in its place, or the proof that there is none.
//!
//! The first call of a recovery opens the archive itself and starts a [`helper`]; the next ones ask the helper, which has it open
//! and reads ahead while the server replays.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use strongroom_client::call;
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
        Ok((Delivery::Delivered { bytes, until }, out)) => {
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
    out: File,
    system: Option<SystemId>,
) -> Result<(Delivery, File)> {
    let dir = helper::directory(&request.to).filter(|_| request.mode != Mode::Rewind);
    if let Some(dir) = &dir
        && let Some(delivery) = ask(dir, job, request, &out, system).await?
    {
        return Ok((delivery, out));
    }
    // Only segments are many, and a helper that is there would have answered.
    let helper = request.helper.as_ref().filter(|_| matches!(file, WalFile::Segment(_)) && job.settings.prefetch > 0);
    if let (Some(program), Some(dir)) = (helper, &dir)
        && let Err(e) = program.start(dir)
    {
        tracing::debug!("nothing is read ahead: {}", e.chain());
    }
    let shipper = Shipper::new(ctx.clone(), job.clone(), None, None);
    let given = out.try_clone().context(|| "open the file once more")?;
    let delivery = shipper.fetch(&request.name, given, request.mode, system).await?;
    Ok((delivery, out))
}

/// Asks the helper; `None` if there is none.
async fn ask(dir: &Path, job: &WalJob, request: &Request, out: &File, system: Option<SystemId>) -> Result<Option<Delivery>> {
    let message = Message::Fetch {
        job: job.name.to_string(),
        name: request.name.clone(),
        mode: mode_name(request.mode).to_owned(),
        server: system.map(|s| Server { identifier: s.identifier, major: s.major }),
    };
    let out = out.try_clone().context(|| "open the file once more")?;
    let socket = helper::socket(dir);
    let reply = match blocking(move || Ok(call::once(&socket, &message, &[out]))).await? {
        Ok(reply) => reply,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => {
            tracing::warn!("whoever reads WAL ahead does not answer: {e}");
            return Ok(None);
        }
    };
    match reply {
        Reply::Delivered(bytes) => Ok(Some(Delivery::Delivered { bytes, until: None })),
        Reply::Missing(why) => Ok(Some(Delivery::Missing(why))),
        // It ends because nobody had asked for a while.
        Reply::Error { kind, .. } if kind == Kind::Cancelled.as_str() => Ok(None),
        Reply::Error { text, .. } => Err(Error::new(Kind::Failed, text)),
        Reply::Wait | Reply::Stored => Ok(None),
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Recovery => "recovery",
        Mode::Standby => "standby",
        Mode::Rewind => "rewind",
    }
}

/// A file beside `to`, under a name that PostgreSQL takes no notice of.
fn beside(to: &Path) -> Result<(PathBuf, File)> {
    let mut scratch = to.as_os_str().to_owned();
    scratch.push(".strongroom");
    let scratch = PathBuf::from(scratch);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&scratch);
    let file = file.context(|| format!("create {}", scratch.display()))?;
    Ok((scratch, file))
}

/// All of it is written before it has its name. It is not synced: the server syncs what it keeps when it renames the file
/// (`durable_rename` in `xlogarchive.c`), and after a crash of the machine it asks for the file again.
fn place(out: &File, bytes: u64, scratch: &Path, to: &Path) -> Result<()> {
    let doing = || format!("write {}", to.display());
    let there = out.metadata().context(doing)?.len();
    if there != bytes {
        return Err(Error::new(Kind::Failed, format!("{}: {there} bytes were written of {bytes}", to.display())));
    }
    fs::rename(scratch, to).context(doing)
}
