//! A shared store is a store: wrappers take either.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Arc<dyn Store> {
    fn location(&self) -> String {
        self.as_ref().location()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        self.as_ref().put(key, payload, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        self.as_ref().get(key, range).await
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        self.as_ref().get_versioned(key).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.as_ref().head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.as_ref().delete(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        self.as_ref().list(prefix)
    }

    async fn now(&self) -> Result<Time> {
        self.as_ref().now().await
    }
}
