//! Reading: blobs, trees, whole files in order ([`FileReader`]), and many files at once planned by pack ([`Reader::fetch`]).
//!
//! Every blob is checked against its name before its bytes are used.

mod arena;
mod fetch;
mod file;
mod nodes;
mod trees;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::index::{BlobPlace, BlobType, Index};
use super::pack::{Codec, LEVEL_OFF};
use super::{Repository, streamed, tree};
use crate::error::{Context, Error, Kind, Result};
use crate::model::{Id, Node};

pub use fetch::{Fetched, TakeFetched, Want};
pub use file::FileReader;
pub use nodes::Nodes;

/// Reads blobs of a repository as its index was when it was loaded. Cloning shares caches. Calls block.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    repo: Repository,
    index: Arc<Index>,
    codecs: Mutex<Vec<Codec>>,
    trees: trees::TreePacks,
}

impl Reader {
    /// A reader over `index`.
    #[must_use]
    pub fn new(repo: &Repository, index: Arc<Index>) -> Self {
        let trees = trees::TreePacks::new(&index);
        Self { shared: Arc::new(Shared { repo: repo.clone(), index, codecs: Mutex::default(), trees }) }
    }

    /// The index it reads by.
    #[must_use]
    pub fn index(&self) -> &Arc<Index> {
        &self.shared.index
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the tree is not in the index or damaged; the store's failures.
    pub fn tree(&self, id: Id) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        self.visit_tree(id, &mut |node| {
            nodes.push(node);
            Ok(())
        })?;
        Ok(nodes)
    }

    /// The entry of a directory that has this name.
    ///
    /// # Errors
    /// As [`Reader::tree`].
    pub fn entry(&self, tree: Id, name: &[u8]) -> Result<Option<Node>> {
        let mut found = None;
        self.visit_tree(tree, &mut |node| {
            if node.name == name {
                found = Some(node);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Hands over the entries of a directory one by one: a huge one is never held as nodes.
    ///
    /// # Errors
    /// As [`Reader::tree`], possibly after entries were handed over; the first error of `visit`.
    pub fn visit_tree(&self, id: Id, visit: &mut dyn FnMut(Node) -> Result<()>) -> Result<()> {
        let doing = || format!("read directory tree {}", id.short());
        let place = self.place(BlobType::Tree, &id)?;
        let stored = self.shared.trees.read(&self.shared.repo, &self.shared.index, place).context(doing)?;
        if streamed::is_large(&place) {
            return streamed::visit(self.shared.repo.key(), &id, &stored, &place, visit).context(doing);
        }
        self.with_codec(|codec| tree::visit_tree(codec.open(self.shared.repo.key(), &id, &stored, place.uncompressed)?, visit))
            .context(doing)
    }

    fn is_large_tree(&self, id: &Id) -> Result<bool> {
        Ok(streamed::is_large(&self.place(BlobType::Tree, id)?))
    }

    /// A blob's content.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the blob is not in the index or damaged; the store's failures.
    pub fn blob(&self, kind: BlobType, id: &Id) -> Result<Bytes> {
        let place = self.place(kind, id)?;
        let stored = self.range(place.pack, u64::from(place.offset), u64::from(place.length))?;
        self.with_codec(|codec| {
            Ok(Bytes::copy_from_slice(codec.open(self.shared.repo.key(), id, &stored, place.uncompressed)?))
        })
    }

    /// A file's content, in order, with read-ahead.
    #[must_use]
    pub fn file(&self, content: &[Id]) -> FileReader {
        FileReader::new(self.clone(), content)
    }

    /// Length of a file by its blobs.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if a blob is not in the index.
    pub fn length(&self, content: &[Id]) -> Result<u64> {
        content.iter().try_fold(0, |sum, id| Ok(sum + u64::from(self.place(BlobType::Data, id)?.plain_len())))
    }

    fn place(&self, kind: BlobType, id: &Id) -> Result<BlobPlace> {
        self.shared.index.get(kind, id).ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("blob {id} is in no index")).hint(
                "Run `strongroom check`. If a pack was lost, `restic repair index` and a new backup may bring the data back.",
            )
        })
    }

    fn range(&self, pack: u32, offset: u64, length: u64) -> Result<Bytes> {
        let repo = &self.shared.repo;
        let id = self.shared.index.pack_id(pack).ok_or_else(|| Error::new(Kind::Bug, "a pack without a number"))?;
        let key = repo.pack_key(&id)?;
        let bytes = repo.runtime().block_on(repo.store().get(&key, Some(offset..offset + length)))?;
        if bytes.len() as u64 != length {
            return Err(Error::new(
                Kind::Corrupt,
                format!("pack {} is cut short: {} bytes at {offset} instead of {length}", id.short(), bytes.len()),
            ));
        }
        Ok(bytes)
    }

    fn with_codec<T>(&self, f: impl FnOnce(&mut Codec) -> Result<T>) -> Result<T> {
        let kept = self.shared.codecs.lock().pop();
        let mut codec = match kept {
            Some(codec) => codec,
            None => Codec::new(LEVEL_OFF)?,
        };
        let out = f(&mut codec);
        self.shared.codecs.lock().push(codec);
        out
    }
}
