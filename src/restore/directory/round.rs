//! A round: so many files, compared with what is there, then fetched together.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::compare::{self, Chunk};
use super::content::Target;
use super::job::Job;
use super::{Got, Want};
use crate::error::{Error, Kind, Result};

/// Files of a round at most.
pub(super) const FILES: usize = 8192;
/// Chunks of a round at most; a larger file takes part in several.
pub(super) const CHUNKS: usize = 32_768;

/// A part of a file: some of its chunks, from an offset on.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) target: Arc<Target>,
    pub(super) chunks: Range<usize>,
    pub(super) offset: u64,
    /// Something is there to compare with.
    pub(super) exists: bool,
}

#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) slices: Vec<Slice>,
    pub(super) chunks: usize,
}

impl Round {
    pub(super) fn is_full(&self) -> bool {
        self.slices.len() >= FILES || self.chunks >= CHUNKS
    }

    /// Restores everything in it.
    ///
    /// # Errors
    /// What ends the whole restore; failures of single files are noted.
    pub(super) fn run(&self, job: &Job<'_>) -> Result<()> {
        let wants: Mutex<Wants> = Mutex::default();
        let existing: Vec<usize> = (0..self.slices.len()).filter(|i| self.slices.get(*i).is_some_and(|s| s.exists)).collect();
        for slice in self.slices.iter().filter(|s| !s.exists) {
            let chunks = slice.lengths(job)?;
            wants.lock().add(slice, &chunks);
        }
        in_parallel(job, &existing, |i, buffer| match self.slices.get(i) {
            Some(slice) => slice.compare(job, buffer, &wants),
            None => Ok(()),
        })?;
        let wants = wants.into_inner();
        let done: Vec<AtomicBool> = wants.list.iter().map(|_| AtomicBool::new(false)).collect();
        Fetch { job, slices: &wants.slices, owners: &wants.owners, done: &done }.go(wants.list.clone())?;
        if job.options.verify {
            let all: Vec<usize> = (0..self.slices.len()).collect();
            in_parallel(job, &all, |i, buffer| self.slices.get(i).map_or(Ok(()), |slice| slice.verify(job, buffer)))?;
        }
        Ok(())
    }
}

/// What is to be fetched, and for which file each want is.
#[derive(Default)]
struct Wants {
    list: Vec<Want>,
    /// Of each want its file, as a place in `slices`.
    owners: Vec<u32>,
    slices: Vec<Arc<Target>>,
}

impl Wants {
    fn add(&mut self, slice: &Slice, chunks: &[Chunk]) {
        if chunks.is_empty() {
            return;
        }
        let owner = u32::try_from(self.slices.len()).unwrap_or(u32::MAX);
        self.slices.push(slice.target.clone());
        for chunk in chunks {
            let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
            self.list.push(Want { id: chunk.id, number, offset: chunk.offset });
            self.owners.push(owner);
        }
    }
}

impl Slice {
    /// Its chunks with their places. Empty, and the chunks counted as done, if one of them is lost.
    fn lengths(&self, job: &Job<'_>) -> Result<Vec<Chunk>> {
        let target = &self.target;
        let ids = target.content.get(self.chunks.clone()).unwrap_or_default();
        let mut chunks = Vec::with_capacity(ids.len());
        let mut offset = self.offset;
        for id in ids {
            match job.blobs.length(id) {
                Ok(length) => {
                    chunks.push(Chunk { id: *id, offset, length });
                    offset = offset.saturating_add(length.into());
                }
                Err(e) => {
                    target.give_up_damaged(job, e)?;
                    break;
                }
            }
        }
        if self.chunks.end == target.content.len() && !target.has_failed() && offset != target.size {
            let why = format!("is recorded with {} bytes but its chunks have {offset}", target.size);
            target.give_up_damaged(job, Error::new(Kind::Corrupt, why))?;
        }
        if target.has_failed() {
            target.chunks_done(job, u32::try_from(ids.len()).unwrap_or(u32::MAX))?;
            return Ok(Vec::new());
        }
        Ok(chunks)
    }

    /// Finds what is in place already; wants the rest.
    fn compare(&self, job: &Job<'_>, buffer: &mut Vec<u8>, wants: &Mutex<Wants>) -> Result<()> {
        let target = &self.target;
        let chunks = self.lengths(job)?;
        if chunks.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let mut missing = Vec::new();
        let mut reused = 0;
        let compared = target.existing(job).and_then(|found| {
            let Some((fd, stat)) = found else {
                missing.extend_from_slice(&chunks);
                return Ok(());
            };
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            #[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between processors")]
            let same_time =
                stat.st_mtime as i64 == target.meta.mtime.secs && stat.st_mtime_nsec as u32 == target.meta.mtime.nanos;
            if job.options.trust_times && size == target.size && same_time {
                reused = chunks.iter().map(|c| u64::from(c.length)).sum();
                return Ok(());
            }
            compare::chunks(job.blobs, fd.as_fd(), size, &chunks, buffer, |chunk, same| {
                if same { reused += u64::from(chunk.length) } else { missing.push(*chunk) }
            })
        });
        if let Err(e) = compared {
            target.give_up(job, "compare", e)?;
            return target.chunks_done(job, count);
        }
        Job::count(&job.progress.bytes_reused, reused);
        let in_place = count - u32::try_from(missing.len()).unwrap_or(u32::MAX);
        wants.lock().add(self, &missing);
        target.chunks_done(job, in_place)
    }

    fn verify(&self, job: &Job<'_>, buffer: &mut Vec<u8>) -> Result<()> {
        let target = &self.target;
        if target.has_failed() {
            return Ok(());
        }
        let chunks = self.lengths(job)?;
        let mut wrong = 0;
        let read = target.reopen(job).and_then(|fd| {
            let size = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
            if size != target.size {
                wrong += 1;
            }
            compare::chunks(job.blobs, fd.as_fd(), size, &chunks, buffer, |_, same| wrong += usize::from(!same))
        });
        match read {
            Err(e) => job.failed(&target.path(), "verify", e),
            Ok(()) if wrong > 0 => {
                job.problem(&target.path(), format_args!("differs from the snapshot in {wrong} places after it was restored"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

struct Fetch<'a> {
    job: &'a Job<'a>,
    slices: &'a [Arc<Target>],
    owners: &'a [u32],
    done: &'a [AtomicBool],
}

impl Fetch<'_> {
    fn target(&self, number: u32) -> Option<&Arc<Target>> {
        self.slices.get(*self.owners.get(number as usize)? as usize)
    }

    /// Fetches all; around a damaged chunk, in halves, so that only the files that need it are lost.
    fn go(&self, wants: Vec<Want>) -> Result<()> {
        if wants.is_empty() {
            return Ok(());
        }
        let again = wants.clone();
        let write = |got: &[Got<'_>]| self.write(got);
        let error = match self.job.blobs.fetch(wants, &write, &self.job.cancel) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == Kind::Corrupt => e,
            Err(e) => return Err(e),
        };
        let mut left: Vec<Want> = again.into_iter().filter(|w| !self.is_done(w.number)).collect();
        match left.as_slice() {
            [] => Err(error),
            [one] => {
                let Some(target) = self.target(one.number) else { return Err(error) };
                target.give_up_damaged(self.job, error)?;
                target.chunks_done(self.job, 1)
            }
            _ => {
                let second = left.split_off(left.len() / 2);
                self.go(left)?;
                self.go(second)
            }
        }
    }

    fn is_done(&self, number: u32) -> bool {
        self.done.get(number as usize).is_none_or(|d| d.load(Ordering::Acquire))
    }

    /// Neighbours in a file are written together.
    fn write(&self, got: &[Got<'_>]) -> Result<()> {
        let mut got: Vec<&Got<'_>> = got.iter().collect();
        // Numbers were given in the order of files and offsets.
        got.sort_unstable_by_key(|g| g.number);
        let mut run: Option<Run<'_>> = None;
        for chunk in got {
            let (Some(target), Some(done)) = (self.target(chunk.number), self.done.get(chunk.number as usize)) else {
                return Err(Error::new(Kind::Bug, "a chunk that was not asked for"));
            };
            if done.swap(true, Ordering::AcqRel) {
                continue;
            }
            match &mut run {
                Some(run) if run.goes_on(target, chunk.offset) => {
                    run.end += chunk.data.len() as u64;
                    run.pieces.push(chunk.data);
                }
                _ => {
                    let next = Run {
                        target,
                        offset: chunk.offset,
                        end: chunk.offset.saturating_add(chunk.data.len() as u64),
                        pieces: vec![chunk.data],
                    };
                    if let Some(run) = run.replace(next) {
                        run.target.write(self.job, run.offset, &run.pieces)?;
                    }
                }
            }
        }
        run.map_or(Ok(()), |run| run.target.write(self.job, run.offset, &run.pieces))
    }
}

/// Chunks of one file, one after the other.
struct Run<'a> {
    target: &'a Arc<Target>,
    offset: u64,
    end: u64,
    pieces: Vec<&'a [u8]>,
}

impl Run<'_> {
    fn goes_on(&self, target: &Arc<Target>, offset: u64) -> bool {
        Arc::ptr_eq(self.target, target) && self.end == offset && self.pieces.len() < super::output::PIECES
    }
}

/// Works through `items` on as many threads as asked for, each with a buffer of its own.
fn in_parallel(job: &Job<'_>, items: &[usize], work: impl Fn(usize, &mut Vec<u8>) -> Result<()> + Sync) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = if job.options.threads == 0 { processors } else { job.options.threads };
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let run = || {
        let mut buffer = Vec::new();
        while failure.lock().is_none() {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(e) = job.cancel.check().and_then(|()| work(*item, &mut buffer)) {
                failure.lock().get_or_insert(e);
            }
        }
    };
    if items.len() < 2 || threads < 2 {
        run();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads.min(items.len()) {
                scope.spawn(run);
            }
        });
    }
    match failure.into_inner() {
        Some(e) => Err(e),
        None => Ok(()),
    }
}
