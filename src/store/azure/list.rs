//! Listing, page by page.

use std::collections::VecDeque;

use azure_storage_blob::models::{BlobContainerClientListBlobsOptions, BlobItem};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};

use super::{AzureStore, version};
use crate::model::Time;
use crate::store::{Error, ErrorKind, Key, ObjectMeta, Result};

/// What is left of the page that was read last, and where the next one begins.
struct Page {
    items: VecDeque<ObjectMeta>,
    next: Option<String>,
    last: Option<Key>,
    started: bool,
}

impl AzureStore {
    pub(super) fn pages<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        let page = Page { items: VecDeque::new(), next: None, last: None, started: false };
        let objects = futures::stream::unfold(Some(page), move |page| async move {
            let mut page = page?;
            loop {
                if let Some(meta) = page.items.pop_front() {
                    if page.last.as_ref().is_some_and(|last| meta.key <= *last) {
                        return Some((Err(self.disordered(&meta.key)), None));
                    }
                    page.last = Some(meta.key.clone());
                    return Some((Ok(meta), Some(page)));
                }
                if page.started && page.next.is_none() {
                    return None;
                }
                page.started = true;
                let next = page.next.take();
                match self.retrier.run(0, |_| self.page(prefix, next.clone())).await {
                    Ok((items, next)) => (page.items, page.next) = (items, next),
                    Err(e) => return Some((Err(e), None)),
                }
            }
        });
        objects.boxed()
    }

    async fn page(&self, prefix: &str, marker: Option<String>) -> Result<(VecDeque<ObjectMeta>, Option<String>)> {
        let doing = format!("list {prefix}*");
        let full = format!("{}{prefix}", self.prefix);
        let options = BlobContainerClientListBlobsOptions {
            marker,
            prefix: (!full.is_empty()).then_some(full),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let pages = self.container.list_blobs(Some(options)).map_err(|e| self.explain(e, &doing))?;
        let page = pages.into_pages().try_next().await.map_err(|e| self.explain(e, &doing))?;
        let Some(page) = page else { return Ok((VecDeque::new(), None)) };
        let page = page.into_model().map_err(|e| self.explain(e, &doing))?;
        let items = page.blob_items.into_iter().filter_map(|item| self.object(item)).collect::<Result<_>>()?;
        Ok((items, page.next_marker.filter(|m| !m.is_empty())))
    }

    /// `None` for what cannot be an object of ours: names that are no keys.
    fn object(&self, item: BlobItem) -> Option<Result<ObjectMeta>> {
        let name = item.name?;
        let key = Key::new(name.strip_prefix(&self.prefix)?).ok()?;
        let properties = item.properties?;
        let (Some(size), Some(modified)) = (properties.content_length, properties.last_modified) else {
            let what = format!("list {}: the entry {key} lacks size or time", self.scene.location);
            return Some(Err(Error::new(ErrorKind::Other, what)));
        };
        let version = properties.etag.map(|e| version(e.as_ref()));
        Some(Ok(ObjectMeta { key, size, modified: Time::new(modified.unix_timestamp(), 0), version }))
    }

    /// Callers rely on the order; going on would lose objects.
    fn disordered(&self, key: &Key) -> Error {
        Error::new(ErrorKind::Invalid, format!("list {}: {key} does not come in the order of names", self.scene.location))
            .hint("Accounts with a hierarchical namespace sort directories in their own way: use one without.")
    }
}
