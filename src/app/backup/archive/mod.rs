//! A volume into trees: directories are listed in parallel, unchanged files taken from the parent snapshot, others read
//! and handed to the writer; a directory is stored when its last entry is done, from the bottom up.
//!
//! **Threads.** A few walkers take tasks from a stack (last in, first out, so that few directories are open at a time).
//! Whoever finishes the last entry of a directory stores it: a walker or one of the writer's lanes.
//!
//! **Memory.** Entries of the directories that are open, and nothing else: about 500 bytes each. Of a directory with very
//! many about 120 bytes, since parts that are complete are encoded ([`entries`]) and its listing goes on only when what was
//! found in it so far is under way; and only one such directory is listed at a time.

mod entries;
mod finish;
mod read;
mod settle;
#[cfg(test)]
mod tests;
mod was;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use super::stats::ArchiveStats;
use super::told::Told;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Node, NodeKind, Time};
use crate::repository::{Lane, LargeTree, Reader, TreePart, Writer};
use crate::runtime::Cancel;
use crate::source::volume::{Dir, Found, Names, Problem, Volume};

use entries::{Entries, Slot, is_large};
use was::Was;

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The snapshot to compare with.
pub(super) struct Parent {
    pub(super) reader: Reader,
    /// Tree of the volume's root in it.
    pub(super) tree: Id,
    /// When its scan began.
    pub(super) scanned: Time,
}

/// The stored volume.
pub(super) struct Archived {
    /// Tree of the volume's root.
    pub(super) tree: Id,
    /// What makes the snapshot incomplete.
    pub(super) missing: Told,
    /// What else was met.
    pub(super) warnings: Told,
}

/// Everything the threads share.
struct Walk {
    volume: Volume,
    writer: Writer,
    parent: Option<Parent>,
    stats: Arc<ArchiveStats>,
    cancel: Cancel,
    stack: Mutex<Stack>,
    work: Condvar,
    missing: Mutex<Told>,
    warnings: Mutex<Told>,
    /// Content and length of what has several names.
    links: Mutex<HashMap<(u64, u64), (Vec<Id>, u64)>>,
    root: Mutex<Option<Id>>,
}

#[derive(Default)]
struct Stack {
    tasks: Vec<Task>,
    busy: usize,
    over: bool,
    /// A large directory is being listed, and these wait until it has been.
    listing_large: bool,
    parked: Vec<Task>,
}

enum Task {
    /// The volume itself, and the parent's tree for it.
    Root {
        dir: Dir,
        was: Option<Id>,
    },
    /// Opened when its turn comes: a directory may have more below it than a process may have open.
    Dir {
        found: Found,
        place: Place,
    },
    File {
        open: Arc<OpenDir>,
        found: Found,
        at: Slot,
    },
    /// The rest of a directory's listing.
    Rest(Box<Listing>),
}

/// A directory that is being listed.
struct Listing {
    open: Arc<OpenDir>,
    names: Names,
    was: Option<Was>,
    is_large: bool,
}

/// Where a directory's tree belongs once it is stored.
struct Place {
    open: Arc<OpenDir>,
    at: Slot,
    /// The parent's tree for it, to see whether the directory above is the same.
    was: Option<Id>,
}

/// A directory whose entries are being worked on.
struct OpenDir {
    dir: Dir,
    entries: Mutex<Entries>,
    /// The tree so far, if the directory is large.
    tree: Mutex<Option<LargeTree>>,
    /// Entries that are not complete, and one for the listing.
    pending: AtomicUsize,
    /// So far equal to the parent's tree.
    same: AtomicBool,
    was: Option<Id>,
    place: Option<Place>,
}

/// How a tree is stored from here.
enum Via<'a> {
    Lane(&'a mut Lane),
    Walker,
}

/// Stores the volume. Blocks; `threads` walkers.
pub(super) fn archive(
    volume: Volume,
    root: Dir,
    parent: Option<Parent>,
    writer: &Writer,
    stats: Arc<ArchiveStats>,
    cancel: &Cancel,
    threads: usize,
) -> Result<Archived> {
    let walk = Walk::new(volume, root, parent, writer, stats, cancel);
    std::thread::scope(|scope| {
        for n in 0..threads.max(1) {
            let walk = &walk;
            let spawned = std::thread::Builder::new().name(format!("walker-{n}")).spawn_scoped(scope, move || walk.run());
            if let Err(e) = spawned {
                walk.writer.fail(Error::new(Kind::Failed, "start a thread").because(e));
                walk.stop();
            }
        }
    });
    walk.archived()
}

impl Walk {
    fn new(
        volume: Volume,
        root: Dir,
        parent: Option<Parent>,
        writer: &Writer,
        stats: Arc<ArchiveStats>,
        cancel: &Cancel,
    ) -> Arc<Self> {
        let parent_tree = parent.as_ref().map(|p| p.tree);
        Arc::new(Self {
            volume,
            writer: writer.clone(),
            parent,
            stats,
            cancel: cancel.clone(),
            stack: Mutex::new(Stack { tasks: vec![Task::Root { dir: root, was: parent_tree }], ..Stack::default() }),
            work: Condvar::new(),
            missing: Mutex::default(),
            warnings: Mutex::default(),
            links: Mutex::default(),
            root: Mutex::default(),
        })
    }

    /// What came of it. Walkers are done; lanes may still be storing the last directories.
    fn archived(&self) -> Result<Archived> {
        while self.root.lock().is_none() {
            self.writer.check()?;
            self.cancel.check()?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.writer.check()?;
        let tree = self.root.lock().ok_or_else(|| Error::new(Kind::Bug, "a volume without a tree"))?;
        let (missing, warnings) = (std::mem::take(&mut *self.missing.lock()), std::mem::take(&mut *self.warnings.lock()));
        Ok(Archived { tree, missing, warnings })
    }

    fn run(self: &Arc<Self>) {
        while let Some(task) = self.take() {
            self.work_on(task);
        }
    }

    fn work_on(self: &Arc<Self>, task: Task) {
        let done = match task {
            Task::Root { dir, was } => self.root(dir, was),
            Task::Dir { found, place } => self.enter(found, place),
            Task::File { open, found, at } => self.large_file(&open, &found, at),
            Task::Rest(listing) => self.list(*listing),
        };
        if let Err(e) = done {
            self.writer.fail(e);
            self.stop();
        }
        self.put_back();
    }

    fn take(&self) -> Option<Task> {
        let mut stack = self.stack.lock();
        loop {
            if stack.over || self.cancel.is_cancelled() || self.writer.check().is_err() {
                stack.over = true;
                self.work.notify_all();
                return None;
            }
            if let Some(task) = stack.tasks.pop() {
                stack.busy += 1;
                return Some(task);
            }
            if stack.busy == 0 {
                self.work.notify_all();
                return None;
            }
            self.work.wait(&mut stack);
        }
    }

    fn put_back(&self) {
        let mut stack = self.stack.lock();
        stack.busy -= 1;
        if stack.busy == 0 {
            self.work.notify_all();
        }
    }

    fn push(&self, tasks: impl Iterator<Item = Task>) {
        self.stack.lock().tasks.extend(tasks);
        self.work.notify_all();
    }

    /// Takes the turn to list a large directory. If another one has it the task comes again later.
    fn take_turn(&self, task: impl FnOnce() -> Option<Task>) -> bool {
        let mut stack = self.stack.lock();
        if std::mem::replace(&mut stack.listing_large, true) {
            stack.parked.extend(task());
            return false;
        }
        true
    }

    fn give_turn_back(&self) {
        crate::runtime::allocator::give_back();
        let mut stack = self.stack.lock();
        stack.listing_large = false;
        if let Some(next) = stack.parked.pop() {
            stack.tasks.push(next);
            self.work.notify_all();
        }
    }

    fn stop(&self) {
        self.stack.lock().over = true;
        self.work.notify_all();
    }

    fn problem(&self, problem: Problem) {
        let incomplete = problem.makes_incomplete(self.volume.settings().on_change);
        let told = if incomplete { &self.missing } else { &self.warnings };
        told.lock().add(&problem);
    }

    fn root(self: &Arc<Self>, dir: Dir, was: Option<Id>) -> Result<()> {
        let names = self.volume.names(&dir)?;
        let is_large = is_large(names.len());
        self.stack.lock().listing_large = is_large;
        self.directory(dir, names, was, None)
    }

    /// Begins a directory. Of a large one, the turn to list it is taken.
    fn directory(self: &Arc<Self>, dir: Dir, names: Names, parent_tree: Option<Id>, place: Option<Place>) -> Result<()> {
        let is_large = is_large(names.len());
        let was = match (&self.parent, parent_tree) {
            (Some(parent), Some(id)) => Was::read(&parent.reader, id, dir.path()),
            _ => None,
        };
        let open = Arc::new(OpenDir {
            dir,
            entries: Mutex::new(Entries::new(names.len())),
            tree: Mutex::new(if is_large { Some(self.writer.large_tree(names.len())?) } else { None }),
            pending: AtomicUsize::new(1),
            same: AtomicBool::new(was.is_some()),
            was: if was.is_some() { parent_tree } else { None },
            place,
        });
        self.list(Listing { open, names, was, is_large })
    }

    /// Lists a directory part by part: settles what is unchanged, reads small files, and leaves directories, large files
    /// and the rest of the listing as tasks.
    fn list(self: &Arc<Self>, mut listing: Listing) -> Result<()> {
        let open = listing.open.clone();
        while let Some(part) = self.volume.look_at_some(&open.dir, &mut listing.names) {
            self.note_partial(&open, &part.problems);
            part.problems.into_iter().for_each(|problem| self.problem(problem));
            let number = open.entries.lock().next_part();
            let mut nodes: Vec<Option<Node>> = Vec::with_capacity(part.entries.len());
            let (mut small, mut later) = (Vec::new(), Vec::new());
            for mut found in part.entries {
                let old = listing.was.as_mut().and_then(|was| {
                    let (old, passed) = was.find(&found.name);
                    if passed {
                        open.same.store(false, Ordering::Relaxed);
                    }
                    old
                });
                let at = Slot { part: number, at: nodes.len() };
                let node = self.settle(&open, &mut found, old, at, &mut small, &mut later)?;
                nodes.push(node);
            }
            let waiting = small.len() + later.len();
            open.pending.fetch_add(waiting, Ordering::AcqRel);
            let complete = open.entries.lock().add(nodes, waiting);
            self.keep_encoded(&open, number, complete)?;
            if listing.names.is_over() {
                self.push(later.into_iter().rev());
                self.small_files(&open, small)?;
                continue;
            }
            // Below what was found in it, so that no more of it is listed than can be worked on.
            self.push(std::iter::once(Task::Rest(Box::new(listing))).chain(later.into_iter().rev()));
            return self.small_files(&open, small);
        }
        if listing.was.as_mut().is_some_and(|was| !was.is_over()) {
            open.same.store(false, Ordering::Relaxed);
        }
        let is_large = listing.is_large;
        drop(listing);
        if is_large {
            self.give_turn_back();
        }
        self.entry_done(&open, None, Via::Walker)
    }

    /// Marks a directory of which not all entries could be told, so that nobody takes what was found for everything.
    fn note_partial(&self, open: &OpenDir, problems: &[Problem]) {
        let Some(place) = &open.place else { return };
        let Some(problem) = problems.iter().find(|p| !p.is_gone()) else { return };
        place.open.same.store(false, Ordering::Relaxed);
        if let Some(Some(node)) = place.open.entries.lock().entry(place.at) {
            node.error.get_or_insert_with(|| problem.to_string());
        }
    }

    fn small_files(self: &Arc<Self>, open: &Arc<OpenDir>, small: Vec<(Found, Slot)>) -> Result<()> {
        for (found, at) in small {
            self.cancel.check()?;
            self.small_file(open, &found, at)?;
        }
        Ok(())
    }

    /// Encodes a part of a large directory whose entries are complete, and joins what can be joined.
    fn keep_encoded(&self, open: &OpenDir, part: usize, complete: Option<Vec<Node>>) -> Result<()> {
        let Some(nodes) = complete else { return Ok(()) };
        let doing = || format!("back up directory {}", open.dir.path().display());
        let encoded = TreePart::encode(&nodes).context(doing)?;
        drop(nodes);
        open.entries.lock().put(part, encoded);
        // Taken in order and joined in order, because both happen under this lock.
        let mut tree = open.tree.lock();
        let Some(tree) = tree.as_mut() else { return Ok(()) };
        loop {
            let Some(next) = open.entries.lock().next_ready() else { return Ok(()) };
            if let Some(part) = next {
                tree.add(part).context(doing)?;
            }
        }
    }

    /// Opens a directory that was listed and goes on with it. One that may not be read is recorded as an empty one.
    fn enter(self: &Arc<Self>, found: Found, place: Place) -> Result<()> {
        let problem = match self.volume.enter(&place.open.dir, &found) {
            Ok(dir) => {
                let names = self.volume.names(&dir)?;
                let (was, mut place) = (place.was, Some(place));
                // Its names are read once more when its turn comes: to keep them would take memory, too.
                let park = || place.take().map(|place| Task::Dir { found, place });
                if is_large(names.len()) && !self.take_turn(park) {
                    return Ok(());
                }
                return self.directory(dir, names, was, place);
            }
            Err(problem) => problem,
        };
        place.open.same.store(false, Ordering::Relaxed);
        let empty = if problem.is_gone() { None } else { Some(self.writer.tree(&[])?) };
        if let Some(slot) = place.open.entries.lock().entry(place.at) {
            match (empty, slot.as_mut()) {
                (Some(tree), Some(node)) => {
                    node.kind = NodeKind::Dir { subtree: Some(tree) };
                    node.error = Some(problem.to_string());
                }
                _ => *slot = None,
            }
        }
        self.problem(problem);
        self.entry_done(&place.open, Some(place.at), Via::Walker)
    }
}
