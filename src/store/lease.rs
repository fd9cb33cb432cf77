//! A lease in the store: at most one holder of a name at a time, across processes and machines, with takeover after
//! the holder is gone. Used so that a job does not overlap with itself.
//!
//! **Contract.** A lease is a small JSON object, written by conditional puts only. It says who holds it and until when,
//! by **the store's clock**. Somebody else takes it once it is expired for more than [`GRACE`] (which covers the few
//! seconds that a store's clock may be old); a released one is taken at once. The object is never deleted, because
//! there is no conditional delete: release marks it free.
//!
//! **What it does not promise.** A holder that is frozen past its lease finds out only at its next [`Lease::refresh`] or
//! [`Lease::held`]; two may then believe for a moment that they hold it. A lease saves work; safety must not depend on it
//! (the repository's own locks and conditional puts are for that). On stores without conditional puts
//! (`conditional_puts: false`) two that start at the same instant may both get it.

use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Error, ErrorKind, Key, Payload, PutMode, Result, Store, Version};
use crate::model::Time;

/// How long past its end a lease is still respected.
pub const GRACE: Duration = Duration::from_secs(15);

/// Times a lost race is tried again before the lease counts as somebody else's.
const TRIES: u32 = 3;

/// The stored form. Version history: 1 = this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    version: u32,
    /// Who, for messages: host, process, run.
    owner: String,
    /// Random for each acquisition: tells two of the same name apart, also after a lost reply.
    token: String,
    acquired: Time,
    /// By the store's clock.
    expires: Time,
    released: bool,
    /// Raised at each write, so that a refresh in the same second is a new state even where states are told by content.
    serial: u64,
}

/// Who holds a lease, as [`peek`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The name given at [`Lease::acquire`].
    pub owner: String,
    /// When it was taken.
    pub acquired: Time,
    /// When it ends unless it is refreshed.
    pub expires: Time,
}

/// A lease that this process holds. Dropping it without [`Lease::release`] leaves it to expire.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn Store>,
    key: Key,
    body: Body,
    version: Version,
    ttl: Duration,
    /// On this machine's monotonic clock, from before the store was asked for the time: never too late.
    until: Instant,
}

impl Lease {
    /// Takes the lease `key` for `ttl`, or tells that somebody else holds it (`None`; [`peek`] says who). `rng` makes the
    /// token. Refresh it well before the end, e.g. every third of `ttl`; choose `ttl` of at least a minute.
    ///
    /// # Errors
    /// The store's failures. Then the lease may have been taken all the same and has to expire. An object that is no
    /// lease is [`ErrorKind::Invalid`] and stays.
    pub async fn acquire(
        store: Arc<dyn Store>,
        key: Key,
        owner: &str,
        ttl: Duration,
        rng: &mut (dyn RngCore + Send),
    ) -> Result<Option<Self>> {
        Self::acquire_or_inherit(store, key, owner, ttl, rng, &|_| false).await
    }

    /// As [`Lease::acquire`], and takes at once a lease whose owner `is_dead`: only say so where it is proven (a process of
    /// this machine that is gone), since a living owner loses the lease.
    ///
    /// # Errors
    /// As [`Lease::acquire`].
    pub async fn acquire_or_inherit(
        store: Arc<dyn Store>,
        key: Key,
        owner: &str,
        ttl: Duration,
        rng: &mut (dyn RngCore + Send),
        is_dead: &(dyn Fn(&str) -> bool + Send + Sync),
    ) -> Result<Option<Self>> {
        let mut token = [0u8; 16];
        rng.fill_bytes(&mut token);
        let token = hex::encode(token);
        for _ in 0..TRIES {
            let asked = Instant::now();
            let now = store.now().await?;
            let fresh = |serial| Body {
                version: 1,
                owner: owner.to_owned(),
                token: token.clone(),
                acquired: now,
                expires: later(now, ttl),
                released: false,
                serial,
            };
            let (body, mode) = match store.get_versioned(&key).await {
                Err(e) if e.kind() == ErrorKind::NotFound => (fresh(0), PutMode::Create),
                Err(e) => return Err(e),
                Ok((bytes, version)) => {
                    let found = parse(store.as_ref(), &key, &bytes)?;
                    if !found.is_free(now) && !is_dead(&found.owner) {
                        return Ok(None);
                    }
                    if !found.released {
                        tracing::warn!(key = %key, owner = %found.owner, expires = %found.expires, "taking over the lease of somebody who is gone");
                    }
                    (fresh(found.serial.wrapping_add(1)), PutMode::Update(version))
                }
            };
            match store.put(&key, payload(&body)?, mode).await {
                Ok(version) => return Ok(Some(Self { store, key, body, version, ttl, until: asked + ttl })),
                // Somebody was faster; they hold it now, or released it again already.
                Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Extends it by another `ttl` from now.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it was taken over: stop working. Otherwise the store's failures: try again while
    /// [`Lease::held`].
    pub async fn refresh(&mut self) -> Result<()> {
        let asked = Instant::now();
        let now = self.store.now().await?;
        let body = Body { expires: later(now, self.ttl), serial: self.body.serial.wrapping_add(1), ..self.body.clone() };
        self.write(body).await?;
        self.until = asked + self.ttl;
        Ok(())
    }

    /// Whether it has not ended yet, judged on this machine alone. Check before steps that must not overlap.
    #[must_use]
    pub fn held(&self) -> bool {
        Instant::now() < self.until
    }

    /// Time left until it ends, by this machine's monotonic clock.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Gives it back, so that the next one gets it at once. One that was taken over meanwhile is left alone.
    ///
    /// # Errors
    /// The store's failures; it expires then.
    pub async fn release(mut self) -> Result<()> {
        let body = Body { released: true, serial: self.body.serial.wrapping_add(1), ..self.body.clone() };
        match self.write(body).await {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
            done => done,
        }
    }

    async fn write(&mut self, body: Body) -> Result<()> {
        let put = self.store.put(&self.key, payload(&body)?, PutMode::Update(self.version.clone())).await;
        let version = match put {
            Ok(version) => version,
            // Perhaps by an earlier write of ours whose reply we never saw (a refresh that was cancelled half-way).
            Err(e) if e.kind() == ErrorKind::Conflict => match self.store.get_versioned(&self.key).await {
                Ok((bytes, version)) if parse(self.store.as_ref(), &self.key, &bytes)?.token == self.body.token => {
                    self.store.put(&self.key, payload(&body)?, PutMode::Update(version)).await?
                }
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("lease {} in {} was taken over", self.key, self.store.location()),
                    )
                    .because(e)
                    .hint("The process was stopped or cut off from its store for longer than the lease lasts."));
                }
            },
            Err(e) => return Err(e),
        };
        self.version = version;
        self.body = body;
        Ok(())
    }
}

/// Who holds the lease now, if somebody does.
///
/// # Errors
/// As [`Lease::acquire`].
pub async fn peek(store: &dyn Store, key: &Key) -> Result<Option<Holder>> {
    let bytes = match store.get_versioned(key).await {
        Ok((bytes, _)) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let body = parse(store, key, &bytes)?;
    let free = body.is_free(store.now().await?);
    Ok((!free).then_some(Holder { owner: body.owner, acquired: body.acquired, expires: body.expires }))
}

impl Body {
    fn is_free(&self, now: Time) -> bool {
        self.released || now.seconds_since(self.expires) > GRACE.as_secs_f64()
    }
}

fn later(now: Time, by: Duration) -> Time {
    Time::new(now.secs.saturating_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX)), now.nanos + by.subsec_nanos())
}

fn payload(body: &Body) -> Result<Payload> {
    let json = serde_json::to_vec(body).map_err(|e| Error::new(ErrorKind::Other, "write a lease as JSON").because(e))?;
    Ok(Payload::from(json))
}

fn parse(store: &dyn Store, key: &Key, bytes: &[u8]) -> Result<Body> {
    let invalid = || {
        Error::new(ErrorKind::Invalid, format!("{key} in {} is not a lease this program understands", store.location()))
            .hint("If no newer program uses this store, delete that object.")
    };
    let body: Body = serde_json::from_slice(bytes).map_err(|e| invalid().because(e))?;
    if body.version == 1 { Ok(body) } else { Err(invalid()) }
}
