//! Counts what a store is asked for, because requests cost money and tests hold budgets on them.

use std::fmt;
use std::ops::{Range, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

use super::{Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;

/// What kind of request is counted. S3 and Azure bill by about these classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Writes: puts, parts, blocks, starts and ends of multipart uploads.
    Put,
    /// Reads of content.
    Get,
    /// Questions about one object, and about the store's clock.
    Head,
    /// One page of a listing (the whole listing of a local store).
    List,
    /// Removals, and given-up multipart uploads.
    Delete,
}

/// Adds up requests and bytes. One may be shared by many stores; adding is one relaxed atomic each.
#[derive(Debug, Default)]
pub struct Counter {
    put: AtomicU64,
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    retries: AtomicU64,
}

impl Counter {
    /// One request went out, successful or not.
    pub fn request(&self, request: Request) {
        let counter = match request {
            Request::Put => &self.put,
            Request::Get => &self.get,
            Request::Head => &self.head,
            Request::List => &self.list,
            Request::Delete => &self.delete,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Payload bytes were sent.
    pub fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// Content bytes arrived.
    pub fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    /// An operation was tried again.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    /// The sums now. Not one instant: requests that run meanwhile may be in some sums and not in others.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        Counts {
            put: self.put.load(Relaxed),
            get: self.get.load(Relaxed),
            head: self.head.load(Relaxed),
            list: self.list.load(Relaxed),
            delete: self.delete.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            retries: self.retries.load(Relaxed),
        }
    }
}

/// Sums of a [`Counter`]; subtract an earlier snapshot to get one run's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// See [`Request::Put`].
    pub put: u64,
    /// See [`Request::Get`].
    pub get: u64,
    /// See [`Request::Head`].
    pub head: u64,
    /// See [`Request::List`].
    pub list: u64,
    /// See [`Request::Delete`].
    pub delete: u64,
    /// Payload bytes sent, those of repeated attempts included.
    pub bytes_out: u64,
    /// Content bytes received, those of repeated attempts included.
    pub bytes_in: u64,
    /// Operations that were tried again.
    pub retries: u64,
}

impl Counts {
    /// All requests together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.put + self.get + self.head + self.list + self.delete
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            put: self.put.saturating_sub(earlier.put),
            get: self.get.saturating_sub(earlier.get),
            head: self.head.saturating_sub(earlier.head),
            list: self.list.saturating_sub(earlier.list),
            delete: self.delete.saturating_sub(earlier.delete),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            retries: self.retries.saturating_sub(earlier.retries),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { put, get, head, list, delete, bytes_out, bytes_in, retries } = self;
        write!(
            f,
            "{put} PUT, {get} GET, {head} HEAD, {list} LIST, {delete} DELETE, {bytes_out} bytes sent, {bytes_in} bytes received"
        )?;
        if *retries > 0 {
            write!(f, ", {retries} retries")?;
        }
        Ok(())
    }
}

/// Counts calls of the trait, one request each. For stores that are not reached over a network, and for tests;
/// S3 and Azure count what really goes over the wire, parts and pages included.
#[derive(Debug)]
pub struct Counted<S> {
    inner: S,
    counter: Arc<Counter>,
}

impl<S: Store> Counted<S> {
    /// Counts into `counter`, which may be shared.
    pub fn new(inner: S, counter: Arc<Counter>) -> Self {
        Self { inner, counter }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Counted<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        self.counter.request(Request::Put);
        self.counter.sent(payload.len());
        self.inner.put(key, payload, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        self.counter.request(Request::Get);
        let bytes = self.inner.get(key, range).await?;
        self.counter.received(bytes.len() as u64);
        Ok(bytes)
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        self.counter.request(Request::Get);
        let found = self.inner.get_versioned(key).await?;
        self.counter.received(found.0.len() as u64);
        Ok(found)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.counter.request(Request::Head);
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.counter.request(Request::Delete);
        self.inner.delete(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        let counted = futures::stream::once(async move {
            self.counter.request(Request::List);
            self.inner.list(prefix)
        });
        counted.flatten().boxed()
    }

    async fn now(&self) -> Result<Time> {
        self.inner.now().await
    }
}
