//! Limits of bandwidth: bytes that go to and come from a store, each at most so many a second.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;

/// A store whose puts and gets wait so that the rates hold on average. Listings and deletes pass at once.
///
/// The unit is the operation: its bytes are paid for before a put and after a get, so a single large object is sent as
/// fast as the way allows and the next one waits the longer.
#[derive(Debug)]
pub struct Limited<S> {
    inner: S,
    up: Pace,
    down: Pace,
}

impl<S: Store> Limited<S> {
    /// Rates in bytes a second; 0: no limit.
    pub fn new(inner: S, upload: u64, download: u64) -> Self {
        Self { inner, up: Pace::new(upload), down: Pace::new(download) }
    }
}

/// When the next bytes may go.
#[derive(Debug)]
struct Pace {
    rate: u64,
    free: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, free: Mutex::new(None) }
    }

    async fn pay(&self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let start = {
            let mut free = self.free.lock();
            let start = free.map_or_else(Instant::now, |f| f.max(Instant::now()));
            *free = Some(start + Duration::from_secs_f64(bytes as f64 / self.rate as f64));
            start
        };
        tokio::time::sleep_until(start).await;
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Limited<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        self.up.pay(payload.len()).await;
        self.inner.put(key, payload, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let bytes = self.inner.get(key, range).await?;
        self.down.pay(bytes.len() as u64).await;
        Ok(bytes)
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        let (bytes, version) = self.inner.get_versioned(key).await?;
        self.down.pay(bytes.len() as u64).await;
        Ok((bytes, version))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn now(&self) -> Result<Time> {
        self.inner.now().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_spread_over_time() {
        let pace = Pace::new(1000);
        let begun = Instant::now();
        pace.pay(500).await;
        assert_eq!(begun.elapsed().as_millis(), 0);
        pace.pay(2000).await;
        assert_eq!(begun.elapsed().as_millis(), 500);
        pace.pay(1).await;
        assert_eq!(begun.elapsed().as_millis(), 2500);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // A pause is not saved up: the limit holds from now on.
        pace.pay(1000).await;
        pace.pay(1).await;
        assert_eq!(begun.elapsed().as_millis(), 63_500);
        Pace::new(0).pay(u64::MAX).await;
        assert_eq!(begun.elapsed().as_millis(), 63_500);
    }
}
