//! Tries again what may pass, within a deadline, and resolves what is ambiguous.
//!
//! Only [`ErrorKind::Unavailable`] is tried again (and silence past the deadline is one). Between tries it waits from
//! 0.2 s, doubling up to 10 s, each wait shortened by up to half at random so that many clients do not come back
//! together. The layers below do not retry on their own, so the deadline here is the whole of it.
//!
//! **An ambiguous put is resolved, not guessed.** When a conditional put is refused after an earlier try of the same put
//! had failed without a clear answer, that earlier try may have succeeded. The object is then read back: with exactly our
//! bytes in it, the put succeeded; with other bytes, somebody else's object is there and the refusal stands. (Two
//! processes that create the same bytes under the same key both succeed then. Who must know which of them it was puts
//! something random inside, as [`super::lease`] does.) What cannot be told apart: an update that took effect and was
//! replaced before we looked. It is reported as a conflict, which is what the caller finds when it reads again.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{Counter, Error, ErrorKind, Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;

/// A large transfer gets a second for each of these bytes on top of the deadline.
const SLOWEST: u64 = 256 << 10;
/// What a read of a whole object is expected to be at most.
const WHOLE: u64 = 64 << 20;

/// How long and how often to try.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The first wait.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// For one operation, waits and tries together. Credentials that expire are renewed well within it.
    pub deadline: Duration,
}

impl RetryPolicy {
    /// The waits described above.
    #[must_use]
    pub fn within(deadline: Duration) -> Self {
        Self { first_wait: Duration::from_millis(200), longest_wait: Duration::from_secs(10), deadline }
    }
}

/// Runs operations again until they succeed, fail for good, or the deadline has passed. Shared by the wrapper and by
/// stores whose listings are made of many requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Retrier {
    policy: RetryPolicy,
    counter: Arc<Counter>,
    rng: Arc<Mutex<StdRng>>,
}

impl Retrier {
    /// `seed` decides the random part of waits.
    #[must_use]
    pub fn new(policy: RetryPolicy, counter: Arc<Counter>, seed: u64) -> Self {
        Self { policy, counter, rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))) }
    }

    /// Runs `attempt` (told how many went before it) until it gives something else than [`ErrorKind::Unavailable`].
    ///
    /// # Errors
    /// The last failure, with the number of tries.
    pub async fn run<T, F: Future<Output = Result<T>> + Send>(
        &self,
        bytes: u64,
        mut attempt: impl FnMut(u32) -> F + Send,
    ) -> Result<T> {
        let started = Instant::now();
        let deadline = started + self.policy.deadline + Duration::from_secs(bytes / SLOWEST);
        let mut tries = 0;
        let mut last: Option<Error> = None;
        loop {
            let done = match tokio::time::timeout_at(deadline, attempt(tries)).await {
                Ok(done) => done,
                // What went wrong before tells more than that the last try was cut off.
                Err(_) => Err(last.take().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "no answer from the store"))),
            };
            tries += 1;
            match done {
                Err(e) if e.kind() == ErrorKind::Unavailable => {
                    let wait = self.wait(tries);
                    if Instant::now() + wait >= deadline {
                        return Err(e.gave_up(tries, started.elapsed()));
                    }
                    tracing::debug!(tries, ?wait, "{}: trying again", e.chain());
                    self.counter.retried();
                    last = Some(e);
                    tokio::time::sleep(wait).await;
                }
                done => return done,
            }
        }
    }

    fn wait(&self, tries: u32) -> Duration {
        let doubled = self.policy.first_wait.saturating_mul(1 << tries.saturating_sub(1).min(16));
        doubled.min(self.policy.longest_wait).mul_f64(self.rng.lock().random_range(0.5..=1.0))
    }
}

/// The wrapper. Goes around everything else that a store is made of.
#[derive(Debug)]
pub struct Retry<S> {
    inner: S,
    retrier: Retrier,
}

impl<S: Store> Retry<S> {
    /// Tries again as `retrier` says.
    pub fn new(inner: S, retrier: Retrier) -> Self {
        Self { inner, retrier }
    }

    /// Whether the object is exactly `payload`, and its state; `None` if it is gone.
    async fn is_ours(&self, key: &Key, payload: &Payload) -> Result<Option<(bool, Version)>> {
        let found = async {
            let meta = self.inner.head(key).await?;
            if meta.size != payload.len() {
                return Ok((false, meta.version.unwrap_or(Version(String::new()))));
            }
            let (bytes, version) = self.inner.get_versioned(key).await?;
            Ok::<_, Error>((payload.is(&bytes), version))
        };
        match found.await {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// One try of a put; `ambiguous` is whether an earlier one may have succeeded.
    async fn try_put(&self, key: &Key, payload: Payload, mode: PutMode, ambiguous: bool) -> Result<Version> {
        let refusal = match self.inner.put(key, payload.clone(), mode.clone()).await {
            Err(e) if ambiguous && matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => e,
            done => return done,
        };
        // A failure to find out is a failure of this try: tried again if it may pass, never reported as a refusal.
        match self.is_ours(key, &payload).await? {
            Some((true, version)) => Ok(version),
            Some((false, _)) => Err(refusal),
            // Gone: for an update that is a conflict; a create may have its turn now.
            None if mode == PutMode::Create => self.inner.put(key, payload, mode).await,
            None => Err(refusal),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Retry<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        let size = payload.len();
        self.retrier.run(size, |tries| self.try_put(key, payload.clone(), mode.clone(), tries > 0)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let size = range.as_ref().map_or(WHOLE, |r| r.end.saturating_sub(r.start));
        self.retrier.run(size, |_| self.inner.get(key, range.clone())).await
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        self.retrier.run(WHOLE, |_| self.inner.get_versioned(key)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.retrier.run(0, |_| self.inner.head(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.retrier.run(0, |_| self.inner.delete(key)).await
    }

    /// A listing that breaks is started again and what was seen already left out, so that it is whole. That needs
    /// ascending keys; where the store has another order, a broken listing is an error.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        let objects = futures::stream::unfold(Some(Listing::default()), move |listing| async move {
            let listing = tokio::sync::Mutex::new(listing?);
            let next = self.retrier.run(0, |_| async {
                let mut listing = listing.lock().await;
                listing.next(|| self.inner.list(prefix)).await
            });
            match next.await {
                Ok(Some(meta)) => Some((Ok(meta), Some(listing.into_inner()))),
                Ok(None) => None,
                Err(e) => Some((Err(e), None)),
            }
        });
        objects.boxed()
    }

    async fn now(&self) -> Result<Time> {
        self.retrier.run(0, |_| self.inner.now()).await
    }
}

/// A listing that can be begun again.
#[derive(Default)]
struct Listing<'a> {
    stream: Option<BoxStream<'a, Result<ObjectMeta>>>,
    last: Option<Key>,
    /// The store does not list in ascending order.
    unordered: bool,
    /// Begun again, and not yet past `last`.
    behind: bool,
}

impl<'a> Listing<'a> {
    async fn next(&mut self, open: impl Fn() -> BoxStream<'a, Result<ObjectMeta>>) -> Result<Option<ObjectMeta>> {
        loop {
            let next = self.stream.get_or_insert_with(&open).next().await;
            let Some(next) = next else { return Ok(None) };
            match next {
                Ok(meta) if self.behind && self.last.as_ref().is_some_and(|last| meta.key <= *last) => {}
                Ok(meta) => {
                    self.behind = false;
                    self.unordered |= self.last.as_ref().is_some_and(|last| meta.key < *last);
                    self.last = Some(meta.key.clone());
                    return Ok(Some(meta));
                }
                Err(e) if self.unordered && e.kind() == ErrorKind::Unavailable => {
                    return Err(Error::new(ErrorKind::Other, "the listing broke off and cannot be continued").because(e));
                }
                Err(e) => {
                    (self.stream, self.behind) = (None, true);
                    return Err(e);
                }
            }
        }
    }
}
