//! Brings a volume (or any snapshot's files) back into a directory.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::facts::{is_complete, is_of_job};
use super::read_lock::with_read_lock;
use super::restore::{Source, choose, source_of};
use super::select::{self, Found, Pick, Reference};
use super::{Context, memory_share};
use crate::crypto::sha256_many;
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::{Id, JobName, Node, NodeKind, Selector, TenantName};
use crate::repository::{self, BlobType, Reader, Snapshot};
use crate::restore::directory::marker::{self, Answer, Decision, TargetState};
use crate::restore::directory::{self, Blobs, Got, Root, Want, WriteChunks};
pub use crate::restore::directory::{Options, Progress, Report};
use crate::runtime::Cancel;
use crate::source::SourceSettings;

/// What a thread that fetches takes, in bytes; two rounds are fetched at the same time.
const FETCH_THREAD: u64 = 8 << 20;

/// Restores a snapshot's files into `to`: of a volume its content, of a snapshot with several paths the whole tree.
/// `memory` bytes are what the process may use: about a quarter goes to threads that fetch.
///
/// # Errors
/// As [`directory::restore`]. Files that could not be restored are in the report instead.
pub async fn run(
    found: &Found,
    to: PathBuf,
    options: Options,
    progress: Arc<Progress>,
    memory: u64,
    cancel: &Cancel,
) -> Result<Report> {
    with_read_lock(&found.repository, cancel, async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let (snapshot, cancel) = (found.snapshot.clone(), cancel.clone());
        super::blocking(move || restore(reader, &snapshot, &to, options, &progress, memory, &cancel)).await
    })
    .await
}

fn restore(
    reader: Reader,
    snapshot: &Snapshot,
    to: &Path,
    mut options: Options,
    progress: &Progress,
    memory: u64,
    cancel: &Cancel,
) -> Result<Report> {
    let root = root(&reader, snapshot, &mut options)?;
    let blobs = Stored::new(reader, memory);
    directory::restore(&blobs, &root, to, &options, progress, cancel)
}

/// At least two, so that one waits for the store while the other works.
fn fetch_threads(memory: u64) -> usize {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let affordable = usize::try_from(memory / 4 / (2 * FETCH_THREAD)).unwrap_or(usize::MAX);
    processors.min(affordable).clamp(2, 16)
}

/// What [`if_empty`] did.
#[derive(Debug)]
pub enum IfEmpty {
    /// It restored this snapshot. If the report has problems, the next call tries again.
    Restored(Id, Report),
    /// The repository was read and has no snapshot of the job: the volume is new. Not asked again.
    NothingToRestore,
    /// The volume has content, or the question was settled before.
    LeftAlone,
}

/// Restores a job's snapshot into `to` if that is empty, once: for whatever runs before an application starts.
///
/// # Errors
/// Also whenever it could not be found out whether there is a snapshot: repository not there or not reached, wrong
/// password, or only incomplete or altered snapshots. Unknown is not empty, so whoever waits must go on waiting.
/// [`Kind::Usage`] for a job or a snapshot of another source: its files alone are not what it restores to.
pub async fn if_empty(
    ctx: &Context,
    tenant: &TenantName,
    job: &JobName,
    pick: &Pick,
    to: PathBuf,
    mut options: Options,
    progress: Arc<Progress>,
) -> Result<IfEmpty> {
    let target = to.clone();
    let state = super::blocking(move || marker::inspect(&target)).await?;
    if !state.needs_answer() {
        return Ok(IfEmpty::LeftAlone);
    }
    let (answer, why) = match ask(ctx, tenant, job, pick, state).await {
        Ok(Some(found)) => (Answer::Found(found), None),
        Ok(None) => (Answer::Nothing, None),
        Err(e) => (Answer::Unknown, Some(e)),
    };
    match marker::decide(state, answer) {
        Decision::LeaveAlone => Ok(IfEmpty::LeftAlone),
        Decision::Fresh => {
            let now = ctx.clock().now();
            super::blocking(move || marker::finish(&to, None, now)).await?;
            Ok(IfEmpty::NothingToRestore)
        }
        Decision::CouldNotFindOut => {
            let gone = || Error::new(Kind::Failed, "a restore was begun and its snapshot is gone, with all others of the job");
            Err(why.unwrap_or_else(gone).context(format!("find out whether {tenant}/{job} has a snapshot for {}", to.display())))
        }
        Decision::Restore(found) => {
            let id = found.snapshot.id;
            match state {
                // What the other snapshot left, of which none is known any more, is not to stay among the files of this one. The
                // mark goes on naming the other one, so that this holds after one more interruption, too.
                TargetState::Restoring(begun) if begun != id => options.delete = true,
                _ => {
                    let target = to.clone();
                    super::blocking(move || marker::begin(&target, id)).await?;
                }
            }
            let report = run(&found, to.clone(), options, progress, memory_share(ctx.settings(), 1), ctx.cancel()).await?;
            if report.problem_count == 0 {
                let now = ctx.clock().now();
                super::blocking(move || marker::finish(&to, Some(id), now)).await?;
            }
            Ok(IfEmpty::Restored(id, report))
        }
    }
}

/// `None` only if the repository was read and there is nothing of this job in it, whole or not.
async fn ask(ctx: &Context, tenant: &TenantName, job: &JobName, pick: &Pick, state: TargetState) -> Result<Option<Found>> {
    // Before anything is decided: the answer "there is no backup yet" leaves a mark, too.
    if let Some(configured) = ctx.tenant(tenant)?.jobs.get(job)
        && !matches!(configured.source, SourceSettings::Volume(_))
    {
        return Err(no_volume(format!("{tenant}/{job} backs up no volume ({})", configured.source.kind())));
    }
    let repository = ctx.repository(tenant).await?;
    let snapshots = repository.load_snapshots().await?;
    let now = ctx.store_time(repository.store()).await?;
    if !snapshots.iter().any(|s| is_of_job(&s.file, job)) {
        return Ok(None);
    }
    // A restore that was cut off goes on with its own snapshot, as long as that exists.
    let begun = match state {
        TargetState::Restoring(id) => select::pick(&snapshots, Some(job), &Pick::Id(id.to_hex()), now).ok(),
        _ => None,
    };
    let found = match begun {
        Some((snapshot, mut warnings)) => {
            if !is_complete(&snapshot.file) {
                warnings.push("it goes on with the incomplete snapshot that it was begun with".to_owned());
            }
            Found { tenant: tenant.clone(), repository, snapshot, warnings }
        }
        None => {
            let selector = Some(Selector { tenant: tenant.clone(), job: Some(job.clone()) });
            choose(ctx, &Reference { selector, pick: pick.clone() }).await?
        }
    };
    if source_of(&found)? != Source::Volume {
        return Err(no_volume(format!("snapshot {} of {tenant}/{job} is not of a volume", found.snapshot.id.short())));
    }
    Ok(Some(found))
}

fn no_volume(what: String) -> Error {
    Error::new(Kind::Usage, what).hint("--if-empty is for volumes. Restore without it, into a place of the right kind.")
}

/// The tree whose content belongs into the target.
fn root(reader: &Reader, snapshot: &Snapshot, options: &mut Options) -> Result<Root> {
    let whole = Root { tree: snapshot.file.tree, meta: None };
    let [path] = snapshot.file.paths.as_slice() else { return Ok(whole) };
    let mut at = whole;
    for part in Path::new(path).components() {
        let Component::Normal(name) = part else { continue };
        let name = std::os::unix::ffi::OsStrExt::as_bytes(name);
        let node = reader.entry(at.tree, name)?;
        match node {
            Some(Node { kind: NodeKind::Dir { subtree: Some(tree) }, meta, .. }) => at = Root { tree, meta: Some(meta) },
            // What was backed up is one file: it goes into the target by its name.
            Some(_) => {
                options.include.push(format!("/{}", globset::escape(&String::from_utf8_lossy(name))));
                at.meta = None;
                return Ok(at);
            }
            // Paths and tree disagree, as in snapshots of streams by other programs: all of it.
            None => return Ok(Root { tree: snapshot.file.tree, meta: None }),
        }
    }
    Ok(at)
}

/// A repository as the restore room wants it.
pub(super) struct Stored {
    reader: Reader,
    threads: usize,
}

impl Stored {
    /// `memory`: the budget in bytes, of which a quarter may hold what is fetched.
    pub(super) fn new(reader: Reader, memory: u64) -> Self {
        Self { reader, threads: fetch_threads(memory) }
    }
}

/// A pack or tree that is not there is a damaged repository, which costs some files; not a reason to stop.
fn lost(e: Error) -> Error {
    if e.kind() == Kind::NotFound { e.with_kind(Kind::Corrupt) } else { e }
}

impl Blobs for Stored {
    fn tree(&self, id: Id, visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
        self.reader.visit_tree(id, visit).map_err(lost)
    }

    fn length(&self, id: &Id) -> Result<u32> {
        match self.reader.index().get(BlobType::Data, id) {
            Some(place) => Ok(place.plain_len()),
            None => Err(Error::new(Kind::Corrupt, format!("blob {id} is in no index")).hint("Run `strongroom check`.")),
        }
    }

    fn fetch(&self, wants: Vec<Want>, write: &WriteChunks<'_>, cancel: &Cancel) -> Result<()> {
        let wants = wants.into_iter().map(|w| repository::Want { id: w.id, file: w.number, offset: w.offset }).collect();
        let write = |fetched: &[repository::Fetched<'_>]| {
            let got = fetched.iter().map(|f| Got { number: f.file, offset: f.offset, data: f.data });
            write(&got.collect::<Vec<_>>())
        };
        self.reader.fetch(wants, self.threads, &write, cancel).map_err(lost).context(|| "fetch from the repository")
    }

    fn ids(&self, contents: &[&[u8]]) -> Vec<Id> {
        sha256_many(contents)
    }
}
