//! A volume into trees: directories are listed in parallel, unchanged files taken from the parent snapshot, others read
//! and handed to the writer; a directory is stored when its last entry is done, from the bottom up.
//!
//! **Threads.** A few walkers take tasks from a stack (last in, first out, so that few directories are open at a time).
//! Whoever finishes the last entry of a directory stores it: a walker or one of the writer's lanes.
//!
//! **Memory.** Entries of the directories that are open, and nothing else.

mod read;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::stats::ArchiveStats;
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Node, NodeKind, Time};
use crate::repository::{BlobType, Done, Lane, Reader, SMALL_FILE, Writer, encode_tree};
use crate::runtime::Cancel;
use crate::source::volume::{Dir, Found, FoundKind, Problem, Volume};

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
    /// What could not be read or changed while it was.
    pub(super) problems: Vec<Problem>,
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
    problems: Mutex<Vec<Problem>>,
    links: Mutex<HashMap<(u64, u64), Vec<Id>>>,
    root: Mutex<Option<Id>>,
}

#[derive(Default)]
struct Stack {
    tasks: Vec<Task>,
    busy: usize,
    over: bool,
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
        at: usize,
    },
}

/// Where a directory's tree belongs once it is stored.
struct Place {
    open: Arc<OpenDir>,
    at: usize,
    /// The parent's tree for it, to see whether the directory above is the same.
    was: Option<Id>,
}

/// A directory whose entries are being worked on.
struct OpenDir {
    dir: Dir,
    nodes: Mutex<Vec<Option<Node>>>,
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
    let parent_tree = parent.as_ref().map(|p| p.tree);
    let walk = Arc::new(Walk {
        volume,
        writer: writer.clone(),
        parent,
        stats,
        cancel: cancel.clone(),
        stack: Mutex::new(Stack { tasks: vec![Task::Root { dir: root, was: parent_tree }], busy: 0, over: false }),
        work: Condvar::new(),
        problems: Mutex::default(),
        links: Mutex::default(),
        root: Mutex::default(),
    });
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
    // Walkers are done; lanes may still be storing the last directories.
    while walk.root.lock().is_none() {
        writer.check()?;
        cancel.check()?;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    writer.check()?;
    let tree = walk.root.lock().ok_or_else(|| Error::new(Kind::Bug, "a volume without a tree"))?;
    let problems = std::mem::take(&mut *walk.problems.lock());
    Ok(Archived { tree, problems })
}

impl Walk {
    fn run(self: &Arc<Self>) {
        while let Some(task) = self.take() {
            let done = match task {
                Task::Root { dir, was } => self.directory(dir, was, None),
                Task::Dir { found, place } => self.enter(&found, place),
                Task::File { open, found, at } => self.large_file(&open, &found, at),
            };
            if let Err(e) = done {
                self.writer.fail(e);
                self.stop();
            }
            self.put_back();
        }
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

    fn stop(&self) {
        self.stack.lock().over = true;
        self.work.notify_all();
    }

    fn problem(&self, problem: Problem) {
        self.problems.lock().push(problem);
    }

    /// Lists a directory, settles what is unchanged, reads small files, and leaves directories and large files as tasks.
    fn directory(self: &Arc<Self>, dir: Dir, parent_tree: Option<Id>, place: Option<Place>) -> Result<()> {
        let mut names = self.volume.names(&dir)?;
        let mut was = match (&self.parent, parent_tree) {
            // A parent that cannot be read must not stop the backup: everything below is read anew.
            (Some(parent), Some(id)) => match parent.reader.tree(id) {
                Ok(nodes) => Some(nodes.into_iter().peekable()),
                Err(e) => {
                    tracing::warn!("the parent snapshot cannot be used for {}: {}", dir.path().display(), e.chain());
                    None
                }
            },
            _ => None,
        };
        let has_parent = was.is_some();
        let open = Arc::new(OpenDir {
            dir,
            nodes: Mutex::new(Vec::new()),
            pending: AtomicUsize::new(1),
            same: AtomicBool::new(has_parent),
            was: if has_parent { parent_tree } else { None },
            place,
        });
        open.nodes.lock().reserve_exact(names.len());
        // Part by part, so that a directory with very many entries needs no more memory than its nodes take.
        while let Some(listing) = self.volume.look_at_some(&open.dir, &mut names) {
            self.problems.lock().extend(listing.problems);
            let first = open.nodes.lock().len();
            let mut nodes: Vec<Option<Node>> = Vec::with_capacity(listing.entries.len());
            let (mut small, mut later) = (Vec::new(), Vec::new());
            for mut found in listing.entries {
                let old = was.as_mut().and_then(|was| {
                    while was.next_if(|n| n.name < found.name).is_some() {
                        open.same.store(false, Ordering::Relaxed);
                    }
                    was.next_if(|n| n.name == found.name)
                });
                let at = first + nodes.len();
                let node = self.settle(&open, &mut found, old, at, &mut small, &mut later)?;
                nodes.push(node);
            }
            open.nodes.lock().extend(nodes);
            open.pending.fetch_add(small.len() + later.len(), Ordering::AcqRel);
            self.push(later.into_iter().rev());
            for (found, at) in small {
                self.cancel.check()?;
                self.small_file(&open, &found, at)?;
            }
        }
        if was.as_mut().is_some_and(|was| was.peek().is_some()) {
            open.same.store(false, Ordering::Relaxed);
        }
        self.entry_done(&open, Via::Walker)
    }

    /// Decides what an entry needs. Its node is complete but for content and subtree.
    fn settle(
        &self,
        open: &Arc<OpenDir>,
        found: &mut Found,
        old: Option<Node>,
        at: usize,
        small: &mut Vec<(Found, usize)>,
        later: &mut Vec<Task>,
    ) -> Result<Option<Node>> {
        if found.kind == FoundKind::File {
            add(&self.stats.bytes_total, found.size);
        }
        if let (Some(old), Some(parent)) = (&old, &self.parent)
            && self.volume.unchanged(found, old, parent.scanned)
            && self.content_is_stored(old)
        {
            // Equal ctime: extended attributes and link target are the parent's.
            let node = self.volume.to_node_like(found, old);
            self.note_same(open, &node, Some(old));
            if found.kind == FoundKind::File {
                add(&self.stats.files_unmodified, 1);
            }
            return Ok(Some(node));
        }
        if let Err(problem) = self.volume.complete(&open.dir, found) {
            let gone = problem.is_gone();
            self.problem(problem);
            if gone {
                open.same.store(false, Ordering::Relaxed);
                return Ok(None);
            }
        }
        let node = self.volume.to_node(found);
        match found.kind {
            FoundKind::Dir => {
                let was = match &old {
                    Some(Node { kind: NodeKind::Dir { subtree }, .. }) => *subtree,
                    _ => None,
                };
                self.note_same(open, &node, old.as_ref());
                later.push(Task::Dir { found: found.clone(), place: Place { open: open.clone(), at, was } });
            }
            FoundKind::File => {
                open.same.store(false, Ordering::Relaxed);
                add(if old.is_some() { &self.stats.files_changed } else { &self.stats.files_new }, 1);
                if found.size == 0 {
                    // Nothing to read: an empty file has no blobs.
                } else if found.size <= SMALL_FILE {
                    small.push((found.clone(), at));
                } else {
                    later.push(Task::File { open: open.clone(), found: found.clone(), at });
                }
            }
            _ => self.note_same(open, &node, old.as_ref()),
        }
        Ok(Some(node))
    }

    /// Opens a directory that was listed and goes on with it. One that may not be read is recorded as an empty one.
    fn enter(self: &Arc<Self>, found: &Found, place: Place) -> Result<()> {
        let problem = match self.volume.enter(&place.open.dir, found) {
            Ok(dir) => return self.directory(dir, place.was, Some(place)),
            Err(problem) => problem,
        };
        place.open.same.store(false, Ordering::Relaxed);
        let empty = if problem.is_gone() { None } else { Some(self.writer.tree(&[])?) };
        if let Some(slot) = place.open.nodes.lock().get_mut(place.at) {
            match (empty, slot.as_mut()) {
                (Some(tree), Some(node)) => {
                    node.kind = NodeKind::Dir { subtree: Some(tree) };
                    node.error = Some(problem.to_string());
                }
                _ => *slot = None,
            }
        }
        self.problem(problem);
        self.entry_done(&place.open, Via::Walker)
    }

    fn note_same(&self, open: &OpenDir, node: &Node, old: Option<&Node>) {
        let same = old.is_some_and(|old| match (&node.kind, &old.kind) {
            // Subtrees are compared when they are stored.
            (NodeKind::Dir { .. }, NodeKind::Dir { .. }) => {
                node.meta == old.meta && node.name == old.name && node.error == old.error
            }
            _ => node == old,
        });
        if !same {
            open.same.store(false, Ordering::Relaxed);
        }
    }

    fn content_is_stored(&self, old: &Node) -> bool {
        match &old.kind {
            NodeKind::File { content, .. } => content.iter().all(|id| self.writer.has_data(id)),
            NodeKind::Dir { .. } => false,
            _ => true,
        }
    }

    /// One entry less to wait for; at the last one, stores the directory, and so on upwards.
    fn entry_done(self: &Arc<Self>, open: &Arc<OpenDir>, mut via: Via<'_>) -> Result<()> {
        let mut open = open.clone();
        while open.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            let same = open.same.load(Ordering::Acquire);
            let tree = match (same, open.was) {
                (true, Some(was)) => {
                    add(&self.stats.dirs_unmodified, 1);
                    was
                }
                _ => {
                    add(if open.was.is_some() { &self.stats.dirs_changed } else { &self.stats.dirs_new }, 1);
                    let nodes: Vec<Node> = std::mem::take(&mut *open.nodes.lock()).into_iter().flatten().collect();
                    match &mut via {
                        Via::Lane(lane) => match lane.save_tree(&nodes) {
                            Some(saved) => saved.id,
                            None => return Ok(()),
                        },
                        Via::Walker => return self.hand_in_tree(&open, &nodes),
                    }
                }
            };
            match self.set_subtree(&open, tree) {
                Some(above) => open = above,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// A walker has no compressor: a lane stores the tree and goes on upwards.
    fn hand_in_tree(self: &Arc<Self>, open: &Arc<OpenDir>, nodes: &[Node]) -> Result<()> {
        let bytes = encode_tree(nodes).context(|| format!("back up directory {}", open.dir.path().display()))?;
        let (walk, open) = (self.clone(), open.clone());
        let done: Done = Box::new(move |lane, saved| {
            let Some(saved) = saved else { return };
            if let Some(above) = walk.set_subtree(&open, saved.id)
                && let Err(e) = walk.entry_done(&above, Via::Lane(lane))
            {
                lane.fail(e);
            }
        });
        self.writer.submit(BlobType::Tree, Bytes::from(bytes), done);
        Ok(())
    }

    /// Notes a stored tree in the directory above, which is returned; `None` at the root.
    fn set_subtree(&self, open: &OpenDir, tree: Id) -> Option<Arc<OpenDir>> {
        let Some(place) = &open.place else {
            *self.root.lock() = Some(tree);
            return None;
        };
        if place.was != Some(tree) {
            place.open.same.store(false, Ordering::Release);
        }
        if let Some(Some(node)) = place.open.nodes.lock().get_mut(place.at) {
            node.kind = NodeKind::Dir { subtree: Some(tree) };
        }
        Some(place.open.clone())
    }
}
