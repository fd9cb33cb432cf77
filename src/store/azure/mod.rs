//! An Azure Blob container. Blobs are block blobs; the SDK's own retries are off, `retry` decides.
//!
//! A large put is staged in blocks and becomes visible with the commit of their list, which carries the condition.
//! What a killed put staged is never listed and thrown away by Azure after a week.

mod body;
mod client;
mod credentials;
mod error;
mod list;
mod read;
mod shared_key;

use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::{ClientOptions, Etag, RequestContent, RetryOptions, Transport, Url, XmlFormat};
use azure_storage_blob::models::{
    AccessTier as SdkTier, BlobClientUploadOptions, BlockBlobClientCommitBlockListOptions, BlockLookupList,
};
use azure_storage_blob::{BlobClient, BlobClientOptions, BlobContainerClient, BlobContainerClientOptions, BlockBlobClient};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};

use super::server::{ServerClock, part_size, parts};
use super::{
    AccessTier, Error, ErrorKind, Key, ObjectMeta, Payload, PutMode, Result, Retrier, Settings, Store, StoreUrl, Version,
};
use crate::model::Time;
use crate::runtime::Clock;
use error::{Scene, code, explain, header, time};

/// The protocol version that is spoken: the first with the Cold tier, which clouds of their own know as well.
const PROTOCOL: &str = "2021-12-02";
/// The most blocks a blob may have.
const MAX_BLOCKS: u64 = 50_000;
/// How many blocks of one put are under way at once.
const PARALLEL_BLOCKS: usize = 4;

/// A container, or what lies below a prefix of it.
pub struct AzureStore {
    scene: Scene,
    /// Without a trailing `/`.
    container_url: Url,
    container: BlobContainerClient,
    options: ClientOptions,
    /// Empty, or ends with `/`.
    prefix: String,
    tier: Option<SdkTier>,
    block_above: u64,
    block_size: u64,
    clock: Arc<dyn Clock>,
    /// The store's own clock, as its last answer told it.
    server_clock: Arc<ServerClock>,
    /// For the pages of a listing and the blocks of a put, so that one failure does not start all of it again.
    retrier: Retrier,
}

impl fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureStore").field("scene", &self.scene).finish_non_exhaustive()
    }
}

fn quoted(version: &Version) -> Etag {
    Etag::from(format!("\"{}\"", version.0))
}

/// Listings give ETags without quotes, headers with them.
fn version(etag: &str) -> Version {
    Version(etag.trim_matches('"').to_owned())
}

impl AzureStore {
    /// Reads keys and certificates; asks the store nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for settings that cannot work: another kind of store, an unreadable secret, tokens for an
    /// endpoint that is not trusted.
    pub async fn open(settings: &Settings, clock: Arc<dyn Clock>, retrier: Retrier) -> Result<Self> {
        settings.check()?;
        let azure = &settings.azure;
        let StoreUrl::Azure { container, prefix } = &settings.url else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is not an Azure container", settings.url)));
        };
        let endpoint = azure.endpoint.clone().unwrap_or_else(|| format!("https://{}.blob.core.windows.net", azure.account));
        let mut container_url = Url::parse(&endpoint)
            .map_err(|e| Error::new(ErrorKind::Invalid, format!("`{endpoint}` is not the URL of a blob service")).because(e))?;
        match container_url.path_segments_mut() {
            Ok(mut path) => path.pop_if_empty().push(container),
            Err(()) => return Err(Error::new(ErrorKind::Invalid, format!("`{endpoint}` is not the URL of a blob service"))),
        };
        let server_clock = Arc::<ServerClock>::default();
        let transport = Transport::new(Arc::new(client::Wire::new(settings, server_clock.clone())?));
        let policy = credentials::policy(azure, &container_url, &transport, clock.clone()).await?;
        let options = ClientOptions {
            per_try_policies: vec![policy],
            retry: RetryOptions::none(),
            transport: Some(transport),
            ..ClientOptions::default()
        };
        let container_options = BlobContainerClientOptions { client_options: options.clone(), version: PROTOCOL.to_owned() };
        let scene = Scene {
            location: settings.url.to_string(),
            account: azure.account.clone(),
            container: container.clone(),
            auth: azure.auth.clone(),
        };
        let client = BlobContainerClient::new(container_url.clone(), None, Some(container_options));
        Ok(Self {
            container: client
                .map_err(|e| Error::new(ErrorKind::Invalid, format!("open {}", scene.location)).because(e.to_string()))?,
            scene,
            container_url,
            options,
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            tier: azure.access_tier.map(|tier| match tier {
                AccessTier::Hot => SdkTier::Hot,
                AccessTier::Cool => SdkTier::Cool,
                AccessTier::Cold => SdkTier::Cold,
            }),
            block_above: azure.block_above,
            block_size: azure.block_size.max(1),
            clock,
            server_clock,
            retrier,
        })
    }

    /// The client of one blob. Slashes stay slashes, which the SDK's own way would encode.
    fn blob(&self, key: &str) -> Result<BlobClient> {
        if key.contains('\\') {
            let what = format!("`{key}` cannot be a key of {}: Azure takes `\\` for `/`", self.scene.location);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let mut url = self.container_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(self.prefix.split_terminator('/')).extend(key.split('/'));
        }
        let options = BlobClientOptions { client_options: self.options.clone(), version: PROTOCOL.to_owned() };
        BlobClient::new(url, None, Some(options)).map_err(|e| self.explain(e, &format!("name {key}")))
    }

    fn explain(&self, error: azure_core::Error, doing: &str) -> Error {
        explain(error, doing, &self.scene, self.clock.now())
    }

    /// A refused put in terms of its condition.
    fn refused(&self, error: azure_core::Error, key: &Key, mode: &PutMode) -> Error {
        let kind = match (mode, code(&error)) {
            (PutMode::Create, "BlobAlreadyExists" | "ConditionNotMet") => ErrorKind::AlreadyExists,
            (PutMode::Update(_), "ConditionNotMet" | "BlobNotFound") => ErrorKind::Conflict,
            _ => return self.explain(error, &format!("put {key}")),
        };
        let why = if kind == ErrorKind::AlreadyExists { "it is there already" } else { "it was changed in between" };
        Error::new(kind, format!("put {key} in {}: {why}", self.scene.location))
    }

    async fn put_whole(&self, key: &Key, payload: Payload, mode: &PutMode) -> Result<Version> {
        let (if_match, if_none_match) = conditions(mode);
        let options = BlobClientUploadOptions {
            if_match,
            if_none_match,
            tier: self.tier.clone(),
            // Never in parts: those are ours to cut.
            partition_size: NonZero::new(payload.len().max(1)),
            ..BlobClientUploadOptions::default()
        };
        let done = self.blob(key.as_str())?.upload(body::content(payload), Some(options)).await;
        let done = done.map_err(|e| self.refused(e, key, mode))?;
        done.etag.map(|e| version(e.as_ref())).ok_or_else(|| self.no_etag(key))
    }

    async fn put_blocks(&self, key: &Key, payload: Payload, mode: &PutMode) -> Result<Version> {
        let size = part_size(payload.len(), self.block_size, MAX_BLOCKS);
        let blob = self.blob(key.as_str())?.block_blob_client();
        // Of one length, and different for each put: two puts of one key must not mix their blocks.
        let put: [u8; 16] = rand::random();
        let numbered = (0u64..).zip(parts(&payload, size));
        let blocks: Vec<(Vec<u8>, Payload)> =
            numbered.map(|(n, part)| ([&put[..], &n.to_be_bytes()[..]].concat(), part)).collect();
        let ids = blocks.iter().map(|(id, _)| id.clone()).collect();
        let mut staged = futures::stream::iter(blocks)
            .map(|(id, part)| self.stage(key, &blob, id, part).boxed_send())
            .buffer_unordered(PARALLEL_BLOCKS);
        while staged.try_next().await?.is_some() {}
        drop(staged);
        let list = BlockLookupList { latest: Some(ids), ..BlockLookupList::default() };
        let list: RequestContent<BlockLookupList, XmlFormat> =
            list.try_into().map_err(|e| self.explain(e, &format!("put {key}")))?;
        let (if_match, if_none_match) = conditions(mode);
        let options = BlockBlobClientCommitBlockListOptions {
            if_match,
            if_none_match,
            tier: self.tier.clone(),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        let done = blob.commit_block_list(list, Some(options)).await.map_err(|e| self.refused(e, key, mode))?;
        header(done.headers(), "etag").map(version).ok_or_else(|| self.no_etag(key))
    }

    /// Sends one block; sending it again changes nothing.
    async fn stage(&self, key: &Key, blob: &BlockBlobClient, id: Vec<u8>, part: Payload) -> Result<()> {
        let send = |_| async {
            let sent = blob.stage_block(&id, part.len(), body::content(part.clone()), None).await;
            sent.map(|_| ()).map_err(|e| self.explain(e, &format!("put {key}")))
        };
        self.retrier.run(part.len(), send).await
    }

    fn no_etag(&self, key: &Key) -> Error {
        Error::new(ErrorKind::Other, format!("put {key} in {}: the reply has no ETag", self.scene.location))
    }
}

fn conditions(mode: &PutMode) -> (Option<Etag>, Option<Etag>) {
    match mode {
        PutMode::Overwrite => (None, None),
        PutMode::Create => (None, Some(Etag::from("*"))),
        PutMode::Update(version) => (Some(quoted(version)), None),
    }
}

/// Names the type of a future that borrows, which the compiler cannot follow through `buffer_unordered` otherwise.
trait BoxedSend: Future + Send + Sized {
    fn boxed_send<'a>(self) -> futures::future::BoxFuture<'a, Self::Output>
    where
        Self: 'a,
    {
        Box::pin(self)
    }
}

impl<F: Future + Send> BoxedSend for F {}

#[async_trait]
impl Store for AzureStore {
    fn location(&self) -> String {
        self.scene.location.clone()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        if payload.len() > self.block_above {
            self.put_blocks(key, payload, &mode).await
        } else {
            self.put_whole(key, payload, &mode).await
        }
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        if range.as_ref().is_some_and(Range::is_empty) {
            self.head(key).await?;
            return Ok(Bytes::new());
        }
        Ok(self.read(key, range).await?.0)
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        self.read(key, None).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let found =
            self.blob(key.as_str())?.get_properties(None).await.map_err(|e| self.explain(e, &format!("look at {key}")))?;
        let headers = found.headers();
        let size = header(headers, "content-length").and_then(|l| l.parse().ok());
        let modified = header(headers, "last-modified").and_then(time);
        let (Some(size), Some(modified)) = (size, modified) else {
            return Err(Error::new(
                ErrorKind::Other,
                format!("look at {key} in {}: the reply lacks size or time", self.scene.location),
            ));
        };
        Ok(ObjectMeta { key: key.clone(), size, modified, version: header(headers, "etag").map(version) })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        match self.blob(key.as_str())?.delete(None).await {
            Ok(_) => Ok(()),
            Err(e) if code(&e) == "BlobNotFound" => Ok(()),
            Err(e) => Err(self.explain(e, &format!("delete {key}"))),
        }
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        self.pages(prefix)
    }

    /// Asked by looking at a blob, which needs no more rights than reading does; whether it is there does not matter.
    async fn now(&self) -> Result<Time> {
        if let Some(now) = self.server_clock.now() {
            return Ok(now);
        }
        match self.blob("config")?.get_properties(None).await {
            Err(e) if code(&e) != "BlobNotFound" => return Err(self.explain(e, "ask for the time")),
            _ => {}
        }
        let told = self.server_clock.now();
        told.ok_or_else(|| {
            Error::new(ErrorKind::Other, format!("ask for the time of {}: the reply has no date", self.scene.location))
        })
    }
}
