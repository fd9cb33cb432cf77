//! An S3 bucket, Amazon's or that of a server that speaks like it.
//!
//! **Conditional puts** are `If-None-Match: *` and `If-Match`, on the put or on the completion of a multipart upload; told
//! from other refusals by error code. Servers that ignore them need `conditional_puts: false`: then it looks first and
//! writes then, which protects from mistakes but not from a race.
//! **Versions** are ETags. **Listings** are in the server's order, which on Amazon's S3 is the byte order of keys.
//! **Credentials** are asked for at the first request; when the store refuses them, they are read anew once.
//!
//! **What leaks**: parts of a multipart upload whose process was killed. Give the bucket a lifecycle rule that aborts
//! incomplete uploads after a few days.

mod client;
mod errors;
mod read;
mod write;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::errors::{Failure, explain, explain_head};
use super::count::Request;
use super::server::{ServerClock, full_key, short_key};
use super::{
    Checksum, Counter, Error, ErrorKind, Key, ObjectMeta, Payload, PutMode, Result, Retrier, Settings, Sse, Store, StoreUrl,
    Version,
};
use crate::model::Time;

/// Credentials are not read anew more often than this.
const RENEWAL: Duration = Duration::from_secs(2);

/// A bucket, or a part of one. Cheap to clone. Does not retry (but for the parts of uploads and the pages of listings,
/// which must not be begun anew): put a [`super::Retry`] around it.
#[derive(Debug, Clone)]
pub struct S3Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: String,
    prefix: String,
    location: String,
    factory: client::Factory,
    client: Mutex<(Client, Instant)>,
    clock: Arc<ServerClock>,
    counter: Arc<Counter>,
    retrier: Retrier,
    /// Whether the bucket is known to exist.
    known: AtomicBool,
    checksums: bool,
    sse: (Option<ServerSideEncryption>, Option<String>),
    storage_class: Option<StorageClass>,
    multipart_above: u64,
    part_size: u64,
    conditional_puts: bool,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

fn version(e_tag: Option<String>) -> Version {
    Version(e_tag.unwrap_or_default())
}

impl S3Store {
    /// Makes the client. Asks the bucket nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for settings that cannot work: no region, unreadable certificates.
    pub async fn new(settings: &Settings, counter: Arc<Counter>, retrier: Retrier) -> Result<Self> {
        let StoreUrl::S3 { bucket, prefix } = &settings.url else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is not in S3", settings.url)));
        };
        let (s3, clock) = (&settings.s3, Arc::<ServerClock>::default());
        let factory = client::Factory::new(settings, clock.clone()).await?;
        let sse = match &s3.sse {
            Sse::None => (None, None),
            Sse::Aes256 => (Some(ServerSideEncryption::Aes256), None),
            Sse::Kms { key_id } => (Some(ServerSideEncryption::AwsKms), key_id.clone()),
        };
        Ok(Self(Arc::new(Inner {
            bucket: bucket.clone(),
            prefix: prefix.clone(),
            location: settings.url.to_string(),
            client: Mutex::new((factory.client(), Instant::now())),
            factory,
            clock,
            counter,
            retrier,
            known: AtomicBool::new(false),
            checksums: s3.checksum == Checksum::Always || (s3.checksum == Checksum::Auto && s3.endpoint.is_none()),
            sse,
            storage_class: s3.storage_class.as_deref().map(StorageClass::from),
            multipart_above: s3.multipart_above,
            part_size: s3.part_size,
            conditional_puts: s3.conditional_puts,
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
        })))
    }
}

impl Inner {
    fn seen(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// Runs a request, and once more with credentials read anew if it was refused because of them.
    async fn call<T, F>(&self, request: impl Fn(Client) -> F + Send + Sync) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let (client, made) = self.client.lock().clone();
        match request(client).await {
            Err(refused) if refused.credentials => {
                let renewed = {
                    let mut current = self.client.lock();
                    if current.1 == made {
                        if made.elapsed() < RENEWAL {
                            return Err(refused);
                        }
                        *current = (self.factory.client(), Instant::now());
                    }
                    current.0.clone()
                };
                request(renewed).await
            }
            done => done,
        }
    }

    async fn look(&self, client: &Client, key: &Key) -> Result<ObjectMeta, Failure> {
        let what = || format!("look at {key} in {}", self.location);
        self.counter.request(Request::Head);
        let asked = client.head_object().bucket(&self.bucket).key(full_key(&self.prefix, key)).send().await;
        let meta = match asked {
            Ok(meta) => meta,
            Err(e) => {
                let failure = explain_head(what(), &self.bucket, e);
                // An answer to HEAD has no body and so no code: ask again for what it means, unless that is known.
                let unclear =
                    failure.status.is_some_and(|s| s == 403 || s == 400 || (s == 404 && !self.known.load(Ordering::Relaxed)));
                return Err(if unclear { self.read(client, key, Some(0..1)).await.err().unwrap_or(failure) } else { failure });
            }
        };
        self.seen();
        let size = meta.content_length.and_then(|l| u64::try_from(l).ok());
        let Some(size) = size else {
            let error = Error::new(ErrorKind::Unavailable, what()).because("the answer has no length");
            return Err(Failure { error, status: None, credentials: false });
        };
        let modified = meta.last_modified.map_or(Time::default(), |t| Time::new(t.secs(), t.subsec_nanos()));
        Ok(ObjectMeta { key: key.clone(), size, modified, version: meta.e_tag.map(Version) })
    }

    /// What conditions would have checked, for servers that do not.
    async fn check(&self, client: &Client, key: &Key, mode: &PutMode) -> Result<(), Failure> {
        if self.conditional_puts || *mode == PutMode::Overwrite {
            return Ok(());
        }
        let found = match self.look(client, key).await {
            Ok(meta) => meta.version,
            Err(e) if e.error.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let kind = match (mode, found) {
            (PutMode::Create, Some(_)) => ErrorKind::AlreadyExists,
            (PutMode::Update(expected), found) if found.as_ref() != Some(expected) => ErrorKind::Conflict,
            _ => return Ok(()),
        };
        let error = Error::new(kind, format!("put {key} to {}: another object is there", self.location));
        Err(Failure { error, status: None, credentials: false })
    }

    /// A page of a listing and where the next one begins.
    async fn page(&self, prefix: &str, from: Option<String>) -> Result<(Vec<ObjectMeta>, Option<String>), Failure> {
        self.call(|client| {
            let from = from.clone();
            async move {
                self.counter.request(Request::List);
                let below = if self.prefix.is_empty() { prefix.to_owned() } else { format!("{}/{prefix}", self.prefix) };
                let asked = client.list_objects_v2().bucket(&self.bucket).prefix(below).set_continuation_token(from).send().await;
                let answer = asked.map_err(|e| explain(format!("list {prefix}* in {}", self.location), &self.bucket, e))?;
                self.seen();
                let next = match (answer.is_truncated, answer.next_continuation_token) {
                    (Some(true), None) => {
                        let what = format!("list {prefix}* in {}", self.location);
                        let error = Error::new(ErrorKind::Other, what)
                            .because("the server says that there is more and not how to go on")
                            .hint("This S3 server does not list as the protocol wants it: see whether a newer version does.");
                        return Err(Failure { error, status: None, credentials: false });
                    }
                    (Some(true), token) => token,
                    _ => None,
                };
                let objects = answer.contents.unwrap_or_default().into_iter().filter_map(|object| {
                    let key = short_key(&self.prefix, object.key.as_deref()?)?;
                    Some(ObjectMeta {
                        key: key.as_str().starts_with(prefix).then_some(key)?,
                        size: u64::try_from(object.size?).ok()?,
                        modified: object.last_modified.map_or(Time::default(), |t| Time::new(t.secs(), t.subsec_nanos())),
                        version: object.e_tag.map(Version),
                    })
                });
                Ok((objects.collect(), next))
            }
        })
        .await
    }
}

#[async_trait]
impl Store for S3Store {
    fn location(&self) -> String {
        self.0.location.clone()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        let s = &self.0;
        let put = |client: Client| {
            let (payload, mode) = (&payload, &mode);
            async move {
                s.check(&client, key, mode).await?;
                if payload.len() > s.multipart_above {
                    s.put_in_parts(&client, key, payload, mode).await
                } else {
                    s.put_whole(&client, key, payload, mode).await
                }
            }
        };
        s.call(put).await.map_err(|f| f.error)
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return self.head(key).await.map(|_| Bytes::new());
        }
        let s = &self.0;
        let read = s
            .call(|client| {
                let range = range.clone();
                async move { s.read(&client, key, range).await }
            })
            .await;
        read.map(|(bytes, _)| bytes).map_err(|f| f.error)
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        let s = &self.0;
        s.call(|client| async move { s.read(&client, key, None).await }).await.map_err(|f| f.error)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let s = &self.0;
        s.call(|client| async move { s.look(&client, key).await }).await.map_err(|f| f.error)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let s = &self.0;
        let delete = |client: Client| async move {
            s.counter.request(Request::Delete);
            let asked = client.delete_object().bucket(&s.bucket).key(full_key(&s.prefix, key)).send().await;
            asked.map_err(|e| explain(format!("delete {key} from {}", s.location), &s.bucket, e))?;
            s.seen();
            Ok(())
        };
        match s.call(delete).await {
            // Some servers say so; it is what was wanted.
            Err(f) if f.error.kind() == ErrorKind::NotFound => Ok(()),
            done => done.map_err(|f| f.error),
        }
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        if !super::can_start_a_key(prefix) {
            return stream::empty().boxed();
        }
        let pages = stream::unfold(Some(None::<String>), move |from| async move {
            let from = from?;
            // A page is retried here: with many pages a listing that began anew at each failure might never end.
            let page = self
                .0
                .retrier
                .run(0, |_| {
                    let from = from.clone();
                    async move { self.0.page(prefix, from).await.map_err(|f| f.error) }
                })
                .await;
            match page {
                Ok((objects, next)) => Some((objects.into_iter().map(Ok).collect::<Vec<_>>(), next.map(Some))),
                Err(e) => Some((vec![Err(e)], None)),
            }
        });
        pages.flat_map(stream::iter).boxed()
    }

    async fn now(&self) -> Result<Time> {
        let s = &self.0;
        if let Some(now) = s.clock.now() {
            return Ok(now);
        }
        let ask = |client: Client| async move {
            s.counter.request(Request::Head);
            let asked = client.head_bucket().bucket(&s.bucket).send().await;
            match (asked, s.clock.now()) {
                // Also a refusal tells the time.
                (_, Some(now)) => Ok(now),
                (Ok(_), None) => {
                    let error = Error::new(ErrorKind::Other, format!("{} does not tell the time", s.location));
                    Err(Failure { error, status: None, credentials: false })
                }
                (Err(e), None) => Err(explain_head(format!("ask {} for the time", s.location), &s.bucket, e)),
            }
        };
        s.call(ask).await.map_err(|f| f.error)
    }
}
