//! `strongroom wal push`: one file, and in the same breath those that the server will ask for next.
//!
//! The answer is about the asked file alone: success means that the store has it. The first call that finds a backlog starts a
//! [`helper`], which stores what waits while the server asks for one file after the other. Without one, a call stores in advance what
//! waits, and remembers it for a while ([`super::lately`]), so that the calls about it end at once. What failed in advance is simply
//! asked for again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;
use strongroom_client::cluster;
use strongroom_client::message::{Reply, Request as Message, Server};
use tokio::time::Instant;

use super::helper;
use super::lately::Lately;
use super::server::{Local, only_system};
use super::shipper::system_of;
use super::{backfill, open, spool};
use crate::app::{Context, blocking};
use crate::config::settings::WalJob;
use crate::error::{Context as _, Result};
use crate::model::WalFile;
use crate::wal::{Folder, Pushed, ready_files};

/// Files that one call sends in advance at most …
const AHEAD: usize = 256;
/// … and for how long it begins new ones: the server waits.
const AHEAD_TIME: Duration = Duration::from_secs(20);
/// With so many stored, the archive is told how far it is.
const WORTH_A_NOTE: usize = 8;
/// So many that wait are a backlog.
const BACKLOG: usize = 3;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The file, as PostgreSQL names it (`%p`).
    pub path: PathBuf,
    /// The server's data directory, where the path does not tell.
    pub data_directory: Option<PathBuf>,
    /// The program that helps later calls, started with these arguments and the directory to serve in; `None`: none is started.
    pub helper: Option<helper::Program>,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the file.
    pub file: String,
    /// `stored`, `same`: it was there already; `known`: it was stored in advance by an earlier call.
    pub result: &'static str,
    /// Files that were stored in advance.
    pub ahead: usize,
}

/// A file that is ready, and where it lies.
type Waiting = (WalFile, PathBuf);

/// Refuses a path that does not end in the name of a file of an archive.
///
/// # Errors
/// [`crate::error::Kind::Usage`].
pub fn check_name(path: &Path) -> Result<WalFile> {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default().parse()
}

/// Stores the file. When this returns, the server may forget it.
///
/// # Errors
/// [`crate::error::Kind::Usage`] for a name that is no file of an archive, before anything else is looked at. [`crate::error::Kind::Denied`] on a restored server
/// that was not adopted. [`crate::error::Kind::Failed`] if the file is another system's, or other content is stored under its name (nothing is
/// overwritten). The store's failures: the same call may succeed later.
pub async fn run(ctx: &Context, job: &WalJob, request: &Request) -> Result<Report> {
    let file = check_name(&request.path)?;
    let name = file.to_string();
    let report = one(ctx, job, request, &name, &file).await;
    report.context(|| format!("job {}", job.selector()))
}

async fn one(ctx: &Context, job: &WalJob, request: &Request, name: &str, file: &WalFile) -> Result<Report> {
    let repository = &ctx.tenant(&job.tenant)?.repository;
    let lately = spool(ctx, job).map(|dir| Lately::new(dir.join("stored"), repository, &job.settings.cluster));
    let now = ctx.clock().now();
    let (local, source, known) = {
        let (job, request, lately, name) = (job.clone(), request.clone(), lately.clone(), name.to_owned());
        blocking(move || {
            let local = Local::find(request.data_directory.as_deref(), Some(&request.path), &job);
            local.refuse_restored(&job)?;
            let source = File::open(&request.path).context(|| format!("open {}", request.path.display()))?;
            let known = lately.is_some_and(|l| l.knows(&name, &source, now));
            Ok((local, source, known))
        })
        .await?
    };
    let report = |result, ahead| Report { file: name.to_owned(), result, ahead };
    if known {
        return Ok(report("known", 0));
    }
    if stored_by_helper(request, name, &source, &local).await? {
        return Ok(report("stored", 0));
    }
    let (system, source) = system_of(source, local.system, file).await?;
    let archive = open(ctx, job).await?;
    let system = match system {
        Some(system) => system,
        None => only_system(&archive).await?,
    };
    let folder = archive.folder(system);
    let waiting = match &lately {
        Some(lately) => behind(name, &request.path, lately, ctx).await,
        None => Vec::new(),
    };
    if let WalFile::History(timeline) = file {
        let pushed = folder.push(file, source).await?;
        if let Some(pg_wal) = local.pg_wal() {
            backfill::run(&folder, &pg_wal, *timeline).await?;
        }
        return Ok(report(word(pushed), 0));
    }
    let (pushed, ahead) = together(ctx, job, &folder, (file, source), waiting, lately).await?;
    if ahead >= WORTH_A_NOTE {
        folder.flush().await;
    }
    Ok(report(word(pushed), ahead))
}

/// Whether a helper has stored it: one that is there, or a new one for a backlog.
async fn stored_by_helper(request: &Request, name: &str, source: &File, local: &Local) -> Result<bool> {
    // It looks for what waits where the file lies.
    let Some(dir) = helper::directory(&request.path, helper::PUSH) else { return Ok(false) };
    let Some(program) = &request.helper else { return Ok(false) };
    let server = local.system.map(|s| Server { identifier: s.identifier, major: s.major });
    let message = Message::Push { job: program.key.clone(), names: vec![name.to_owned()], server };
    match helper::ask(&dir, &message, source).await? {
        helper::Heard::Reply(reply) => return Ok(reply == Reply::Stored),
        helper::Heard::Another => return Ok(false),
        helper::Heard::Nobody => {}
    }
    let worth_one = {
        let (name, pg_wal) = (name.to_owned(), dir.parent().map(Path::to_path_buf).unwrap_or_default());
        // A server in service has sessions to lose.
        blocking(move || Ok(!helper::server_inherits() && cluster::waiting(&pg_wal, &name, BACKLOG).len() >= BACKLOG)).await?
    };
    if !worth_one {
        return Ok(false);
    }
    let reply = helper::ask_new(program, &dir, &message, source).await?;
    Ok(reply == Some(Reply::Stored))
}

/// What is ready behind the asked file, and was not stored yet.
async fn behind(name: &str, path: &Path, lately: &Lately, ctx: &Context) -> Vec<Waiting> {
    let Some(dir) = path.parent().map(Path::to_path_buf) else { return Vec::new() };
    let (name, lately, now) = (name.to_owned(), lately.clone(), ctx.clock().now());
    let found = blocking(move || {
        lately.tidy(now);
        // No status directory: nobody waits.
        let ready = ready_files(&dir).unwrap_or_default();
        // History files change what the archive knows, so they are pushed alone.
        let later = ready.into_iter().filter(|f| !matches!(f, WalFile::History(_)) && f.to_string() > name);
        Ok(later.map(|f| (dir.join(f.to_string()), f)).map(|(path, f)| (f, path)).take(AHEAD).collect())
    });
    found.await.unwrap_or_default()
}

/// The asked file first, then the others, several at once.
async fn together(
    ctx: &Context,
    job: &WalJob,
    folder: &Folder,
    (file, source): (&WalFile, File),
    waiting: Vec<Waiting>,
    lately: Option<Lately>,
) -> Result<(Pushed, usize)> {
    let length = source.metadata().context(|| "look at the file")?.len();
    let parallel = super::parallel(job, length, crate::app::memory_share(ctx.settings(), 2));
    let asked = folder.push(file, source).await;
    if waiting.is_empty() || asked.is_err() {
        return Ok((asked?, 0));
    }
    let began = Instant::now();
    let in_time = |_: &Waiting| {
        let go_on = began.elapsed() < AHEAD_TIME && !ctx.cancel().is_cancelled();
        async move { go_on }
    };
    let mut pushes = std::pin::pin!(
        stream::iter(waiting).take_while(in_time).map(|one| ahead(ctx, folder, one, lately.as_ref())).buffered(parallel)
    );
    let mut stored = 0;
    while let Some(done) = pushes.next().await {
        if let Err(e) = done {
            // The server asks for it next, and gets the error then.
            tracing::debug!("sent in advance in vain: {}", e.chain());
            break;
        }
        stored += 1;
    }
    Ok((asked?, stored))
}

async fn ahead(ctx: &Context, folder: &Folder, (file, path): Waiting, lately: Option<&Lately>) -> Result<()> {
    let name = file.to_string();
    let (lately, now) = (lately.cloned(), ctx.clock().now());
    let opened = {
        let (lately, name) = (lately.clone(), name.clone());
        blocking(move || {
            let source = File::open(&path).context(|| format!("open {}", path.display()))?;
            let meta = source.metadata().context(|| "look at the file")?;
            let known = lately.is_some_and(|l| l.knows(&name, &source, now));
            Ok((source, meta, known))
        })
    };
    let (source, meta, known) = opened.await?;
    if known {
        return Ok(());
    }
    folder.push(&file, source).await?;
    let now = ctx.clock().now();
    blocking(move || lately.map_or(Ok(()), |l| l.keep(&name, &meta, now))).await
}

fn word(pushed: Pushed) -> &'static str {
    match pushed {
        Pushed::Stored => "stored",
        Pushed::Same => "same",
    }
}
