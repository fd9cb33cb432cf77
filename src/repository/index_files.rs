//! Reading all index files: fetched a few ahead, decoded one after another on one thread whose memory is used again, so
//! that a large index costs little more than itself while it is loaded.

use bytes::Bytes;
use futures::StreamExt;

use super::index::IndexFile;
use super::{Repository, raw};
use crate::error::{Context, Error, Kind, Result};
use crate::model::Id;
use crate::store::ObjectMeta;

/// Files fetched ahead.
const AHEAD: usize = 4;

/// Where index files are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The local cache, where they are in it.
    Cache,
    /// The store, always: for checks.
    Store,
}

/// Hands every index file to `add`, in no order, with what `into` collects. Files that are gone by now, and no longer
/// listed, were replaced by others and are passed over.
///
/// # Errors
/// The first error of `add`, which gets the errors of single files; failures of the store to list.
pub(super) async fn read_all<T: Send + 'static>(
    repo: &Repository,
    listed: Vec<(Id, ObjectMeta)>,
    source: Source,
    mut into: T,
    mut add: impl FnMut(&mut T, Id, Result<IndexFile>) -> Result<()> + Send + 'static,
) -> Result<T> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Id, Result<Bytes>)>(1);
    let decoding = {
        let repo = repo.clone();
        tokio::task::spawn_blocking(move || {
            let mut missing = Vec::new();
            let mut decoder = raw::Decoder::default();
            while let Some((id, loaded)) = receiver.blocking_recv() {
                let file =
                    loaded.and_then(|bytes| decoder.decode(repo.key(), &bytes)).context(|| format!("read index {}", id.short()));
                match file {
                    Err(e) if e.kind() == Kind::NotFound => missing.push(id),
                    file => add(&mut into, id, file)?,
                }
            }
            Ok::<_, Error>((into, add, missing))
        })
    };
    let load = |id: Id| async move {
        let loaded = match source {
            Source::Cache => repo.load_cached("index", &id).await,
            Source::Store => raw::load(repo.store().as_ref(), "index", &id).await,
        };
        (id, loaded)
    };
    let mut loads = futures::stream::iter(listed).map(|(id, _)| load(id)).buffer_unordered(AHEAD);
    while let Some(loaded) = loads.next().await {
        // The receiver goes away early only with an error, which it returns below.
        if sender.send(loaded).await.is_err() {
            break;
        }
    }
    drop(sender);
    let (mut into, mut add, missing) =
        decoding.await.map_err(|e| Error::new(Kind::Bug, "an index thread ended").because(e))??;
    for id in raw::contradicted(repo.store().as_ref(), "index", missing).await? {
        add(&mut into, id, Err(raw::contradiction().context(format!("read index {}", id.short()))))?;
    }
    Ok(into)
}
