//! A backup into memory: as simple as can be, so that what a test finds is about the rooms under test.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use strongroom::crypto::sha256;
use strongroom::error::{Error, Kind, Result};
use strongroom::model::{Id, Node, NodeKind};
use strongroom::restore::directory::{self, Blobs, Got, Options, Progress, Report, Root, Want, WriteChunks};
use strongroom::runtime::Cancel;
use strongroom::source::volume::{Dir, FoundKind, Problem, Settings, Volume};

/// Blobs and trees by id.
#[derive(Default)]
pub struct Memory {
    pub data: Mutex<HashMap<Id, Vec<u8>>>,
    pub trees: Mutex<HashMap<Id, Vec<Node>>>,
    /// Chunk length of [`Memory::add`].
    pub chunk: usize,
    /// Fetched so far, in bytes.
    pub fetched: AtomicU64,
}

impl Memory {
    pub fn new() -> Self {
        Self { chunk: 256 << 10, ..Self::default() }
    }

    /// Stores content in chunks of one length.
    pub fn add(&self, content: &[u8]) -> Vec<Id> {
        content
            .chunks(self.chunk)
            .map(|c| {
                let id = sha256(c);
                self.data.lock().entry(id).or_insert_with(|| c.to_vec());
                id
            })
            .collect()
    }

    /// Stores a directory. Its id is derived from what it prints as.
    pub fn add_tree(&self, nodes: Vec<Node>) -> Id {
        let id = sha256(format!("{nodes:?}").as_bytes());
        self.trees.lock().insert(id, nodes);
        id
    }

    /// Backs up a volume.
    pub fn backup(&self, settings: &Settings) -> (Root, Vec<Problem>) {
        let volume = Volume::open(settings).unwrap();
        let mut problems = Vec::new();
        let tree = self.directory(&volume, &volume.root().unwrap(), &mut problems);
        let meta = volume.lineage().unwrap().pop().map(|n| n.meta);
        (Root { tree, meta }, problems)
    }

    pub fn backup_of(&self, path: &Path) -> Root {
        let (root, problems) = self.backup(&Settings { path: path.to_owned(), ..Settings::default() });
        assert!(problems.is_empty(), "{problems:?}");
        root
    }

    fn directory(&self, volume: &Volume, dir: &Dir, problems: &mut Vec<Problem>) -> Id {
        let listing = volume.list(dir).unwrap();
        problems.extend(listing.problems);
        assert!(listing.entries.is_sorted_by(|a, b| a.name < b.name));
        let mut nodes = Vec::new();
        for mut found in listing.entries {
            if let Err(p) = volume.complete(dir, &mut found) {
                problems.push(p);
            }
            let mut node = volume.to_node(&found);
            match found.kind {
                FoundKind::Dir => match volume.enter(dir, &found) {
                    Ok(below) => node.kind = NodeKind::Dir { subtree: Some(self.directory(volume, &below, problems)) },
                    Err(p) => {
                        problems.push(p);
                        continue;
                    }
                },
                FoundKind::File => match volume.open_file(dir, &found) {
                    Ok(mut file) => {
                        // Both ways of reading must agree.
                        let content = if found.size < 100_000 {
                            file.read_small(512 << 10).unwrap().unwrap()
                        } else {
                            let mut content = Vec::new();
                            file.read_to_end(&mut content).unwrap();
                            content
                        };
                        assert!(!file.changed().unwrap());
                        node.kind = NodeKind::File { size: content.len() as u64, content: self.add(&content) };
                    }
                    Err(p) => {
                        problems.push(p);
                        continue;
                    }
                },
                _ => {}
            }
            nodes.push(node);
        }
        self.add_tree(nodes)
    }
}

impl Blobs for Memory {
    fn tree(&self, id: Id, visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
        let nodes = self.trees.lock().get(&id).cloned().ok_or_else(|| Error::new(Kind::Corrupt, "no such tree"))?;
        nodes.into_iter().try_for_each(visit)
    }

    fn length(&self, id: &Id) -> Result<u32> {
        self.data
            .lock()
            .get(id)
            .map(|d| d.len() as u32)
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("blob {} is lost", id.short())))
    }

    /// From four threads, each with every fourth want, backwards: no order may be relied on.
    fn fetch(&self, wants: Vec<Want>, write: &WriteChunks<'_>, cancel: &Cancel) -> Result<()> {
        cancel.check()?;
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (wants, failure) = (&wants, &failure);
                scope.spawn(move || {
                    for want in wants.iter().rev().skip(n).step_by(4) {
                        let data = self.data.lock().get(&want.id).cloned().unwrap();
                        let damaged = sha256(&data) != want.id;
                        let done = if damaged {
                            Err(Error::new(Kind::Corrupt, "damaged blob"))
                        } else {
                            write(&[Got { number: want.number, offset: want.offset, data: &data }])
                        };
                        if let Err(e) = done {
                            failure.lock().get_or_insert(e);
                            return;
                        }
                        self.fetched.fetch_add(data.len() as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn ids(&self, contents: &[&[u8]]) -> Vec<Id> {
        contents.iter().map(|c| sha256(c)).collect()
    }
}

/// Restores, and insists that nothing went wrong.
pub fn restore_whole(memory: &Memory, root: &Root, to: &Path, options: &Options) -> Progress {
    let progress = Progress::default();
    let report = restore(memory, root, to, options, &progress);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.problem_count, 0);
    progress
}

/// Restores.
pub fn restore(memory: &Memory, root: &Root, to: &Path, options: &Options, progress: &Progress) -> Report {
    directory::restore(memory, root, to, options, progress, &Cancel::new()).unwrap()
}
