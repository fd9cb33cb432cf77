//! Trees: what each entry refers to is in the index, and entries are in order.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::{CheckProgress, add};
use crate::error::{Error, Kind, Result};
use crate::model::{Id, Node, NodeKind};
use crate::repository::index::{BlobType, Index};
use crate::repository::marks::Marks;
use crate::repository::survey::{Finding, Findings};
use crate::repository::walk::Visit;

pub(super) struct Structure<'a> {
    index: &'a Index,
    progress: &'a CheckProgress,
    pub(super) findings: Mutex<Findings>,
    /// First entries of the data blobs that files refer to.
    pub(super) used: Marks,
    pub(super) files: AtomicU64,
}

impl<'a> Structure<'a> {
    pub(super) fn new(index: &'a Index, findings: Mutex<Findings>, progress: &'a CheckProgress) -> Self {
        Self { index, progress, findings, used: Marks::new(index.entries(BlobType::Data).len()), files: AtomicU64::new(0) }
    }
}

impl Visit for Structure<'_> {
    fn node(&self, tree: &Id, node: &Node, last: Option<&[u8]>) -> Result<()> {
        let here = || format!("`{}` in tree {}", node.display_name().escape_debug(), tree.short());
        match last {
            None => {
                self.progress.trees.fetch_add(1, Relaxed);
            }
            Some(last) if last >= node.name.as_slice() => {
                add(&self.findings, Finding::error(format!("entry {} is out of order or there twice", here())))
            }
            Some(_) => {}
        }
        let NodeKind::File { size, content } = &node.kind else { return Ok(()) };
        self.files.fetch_add(1, Relaxed);
        let mut length = Some(0u64);
        for id in content {
            let entry = self.index.position(BlobType::Data, id).and_then(|at| {
                self.used.set(at);
                self.index.entries(BlobType::Data).get(at)
            });
            match entry {
                Some(entry) => length = length.map(|n| n + u64::from(entry.place.plain_len())),
                None => {
                    length = None;
                    add(&self.findings, Finding::error(format!("file {} needs blob {id}, which is in no index", here())));
                }
            }
        }
        if let Some(length) = length.filter(|n| n != size) {
            // Stock clients restore it, so it is not damage of the repository.
            add(&self.findings, Finding::notice(format!("file {} says it has {size} bytes; its blobs have {length}", here())));
        }
        Ok(())
    }

    fn unreadable(&self, tree: &Id, error: Error) -> Result<()> {
        match error.kind() {
            Kind::Corrupt | Kind::NotFound => {
                add(&self.findings, Finding::error(format!("tree {tree} cannot be read: {}", error.chain())));
                Ok(())
            }
            _ => Err(error),
        }
    }
}
