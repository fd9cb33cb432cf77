//! Where objects are kept: a local directory, an S3 bucket, an Azure container. One trait, whose docs are the contract.
//!
//! A store is flat: keys to immutable-at-rest byte strings. Everything above relies on exactly four promises:
//!
//! 1. **A put is atomic.** A reader sees all of an object or none of it, and an acknowledged put survives a crash.
//! 2. **[`PutMode::Create`] has one winner**, however many processes race, where the store supports conditional
//!    puts. A lost reply is resolved by reading the object back, so the winner never sees its own object as somebody else's.
//! 3. **Listing after an acknowledged put or delete shows it** (all supported stores are strongly consistent).
//! 4. **"Not found" is an answer, not a guess**: [`ErrorKind::NotFound`] is returned only when the store said so.
//!
//! Not promised: that a put that failed left nothing behind (the object may be there, whole), nor any order between
//! two puts that run at the same time.

pub mod azure;
pub mod count;
pub mod fault;
pub mod lease;
mod limit;
pub mod local;
mod open;
pub mod retry;
pub mod s3;
mod server;
mod settings;
mod shared;
mod tls;
mod url;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use azure::AzureStore;
pub use count::{Counted, Counter, Counts};
pub use lease::Lease;
pub use limit::Limited;
pub use local::LocalStore;
pub use open::{OpenOptions, open};
pub use retry::{Retrier, Retry, RetryPolicy};
pub use settings::{AccessTier, AzureAuth, AzureSettings, Checksum, S3Settings, Settings, Sse};
pub use url::StoreUrl;

use crate::model::Time;

/// `Result` with a store [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An object's name below the store's root: `/`-separated segments, each non-empty, none `.` or `..`, no control characters, no
/// leading or trailing `/`, at most 900 bytes. Listing prefixes are plain text and may end anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks the rules above.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the offending key.
    pub fn new(key: impl Into<String>) -> Result<Self> {
        let key = key.into();
        let bad =
            key.len() > 900 || key.chars().any(char::is_control) || key.split('/').any(|s| s.is_empty() || s == "." || s == "..");
        if bad {
            return Err(Error::new(ErrorKind::Invalid, format!("`{}` cannot be an object key", key.escape_debug())));
        }
        Ok(Self(key))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bytes of a put: pieces that are sent one after another, so that a pack is never copied together.
#[derive(Debug, Clone, Default)]
pub struct Payload(pub Vec<Bytes>);

impl Payload {
    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|b| b.len() as u64).sum()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// Whether the pieces together are exactly `bytes`.
    #[must_use]
    pub fn is(&self, mut bytes: &[u8]) -> bool {
        for piece in &self.0 {
            match bytes.strip_prefix(&piece[..]) {
                Some(rest) => bytes = rest,
                None => return false,
            }
        }
        bytes.is_empty()
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(b: T) -> Self {
        Self(vec![b.into()])
    }
}

/// What distinguishes one state of an object from the next (an ETag). Opaque; compare for equality only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// Under which condition a put takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Always: replaces what is there.
    Overwrite,
    /// Only if there is no such object, else [`ErrorKind::AlreadyExists`].
    Create,
    /// Only if the object is still in this state, else [`ErrorKind::Conflict`] (also when it is gone).
    Update(Version),
}

/// What a listing or a head tells about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key below the store's root.
    pub key: Key,
    /// Length in bytes.
    pub size: u64,
    /// Last put, by the store's clock; whole seconds on most stores.
    pub modified: Time,
    /// Its state, where a listing gives it.
    pub version: Option<Version>,
}

/// A key-value store of byte strings. See the module's four promises.
///
/// Every method is safe to call from many tasks at once, and to drop half-way: a dropped put may or may not have
/// taken effect, never in part. Wrappers forward every method.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// For messages: the URL without credentials.
    fn location(&self) -> String;

    /// Stores `payload` under `key`, atomically and durably, and tells the new state.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] (only [`PutMode::Create`]) means that somebody else's object is there;
    /// [`ErrorKind::Conflict`] (only [`PutMode::Update`]) that another state is there, or nothing. With retries below, an
    /// update that took effect, lost its reply and was then replaced by somebody else is a conflict, too: put something
    /// into the bytes that tells your own changes. After any other error the object may be there, whole.
    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version>;

    /// Reads a byte range, or all of it. Held in memory, so ask for ranges of large objects.
    /// A range that reaches past the end returns what there is; one that starts at or past the end returns nothing
    /// for an empty range and [`ErrorKind::Invalid`] else. Length and content are whole or it is an error.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the store said that there is no such object.
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes>;

    /// Reads all of a small object together with its state, for read-modify-write with [`PutMode::Update`].
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)>;

    /// Size, time and state of an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the store said that there is no such object.
    async fn head(&self, key: &Key) -> Result<ObjectMeta>;

    /// Removes an object. Removing what is not there succeeds, so that a retry after a lost reply does.
    ///
    /// # Errors
    /// Any but [`ErrorKind::NotFound`].
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Every object whose key starts with `prefix`, read page by page. A prefix without objects (or whose directory is
    /// missing) lists nothing. The stream ends after its first error. Temporary files of a local store are not listed.
    ///
    /// Each object is listed once, in ascending byte order of keys on local stores, Amazon's S3 and Azure; some servers
    /// that speak S3 walk directories instead (`a/b` before `a-b`). Who needs an order sorts.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>>;

    /// The store's own clock, to judge leases, locks and future-dated snapshots by; at most a few seconds old.
    ///
    /// # Errors
    /// When the store cannot be reached.
    async fn now(&self) -> Result<Time>;
}

/// What a caller can do about a store's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store said that the object does not exist.
    NotFound,
    /// A create met somebody else's object.
    AlreadyExists,
    /// An update met another state.
    Conflict,
    /// Credentials are missing, wrong or not allowed to do this. Not retried.
    Denied,
    /// The bucket, container or root directory does not exist. Not retried.
    NoSuchStore,
    /// No room or quota. Not retried within the run.
    Full,
    /// The request can never succeed as it is (bad key, bad range, wrong region, bad settings). Not retried.
    Invalid,
    /// Timeouts, 5xx, resets, throttling: still failing after all retries; a later run may succeed.
    Unavailable,
    /// TLS could not be established or the peer not be trusted. Not retried.
    Tls,
    /// This machine's clock differs too much from the store's. Not retried.
    ClockSkew,
    /// The work was cancelled.
    Cancelled,
    /// Anything else.
    Other,
}

/// A store's failure: kind, what was being done to which object, cause, hint.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// `what` names the object and the operation, e.g. `put snapshots/ab12… to s3://bucket/root`.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can do next, if there is something to say.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// `what: cause: deeper cause`, without the hint.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut out = self.what.clone();
        let mut next = std::error::Error::source(self);
        while let Some(e) = next {
            let text = e.to_string();
            if !text.is_empty() && !out.ends_with(&text) {
                out.push_str(": ");
                out.push_str(&text);
            }
            next = e.source();
        }
        out
    }

    /// The same failure under another kind, for a caller that knows what was asked for.
    fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Says how long it was tried.
    fn gave_up(mut self, tries: u32, spent: Duration) -> Self {
        if tries > 1 {
            self.what.push_str(&format!(" (tried {tries} times in {} s)", spent.as_secs()));
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

impl From<Error> for crate::error::Error {
    fn from(e: Error) -> Self {
        use crate::error::Kind;
        let kind = match e.kind {
            ErrorKind::NotFound | ErrorKind::NoSuchStore => Kind::NotFound,
            ErrorKind::Denied => Kind::Denied,
            ErrorKind::Unavailable => Kind::Unavailable,
            ErrorKind::Cancelled => Kind::Cancelled,
            _ => Kind::Failed,
        };
        let out = crate::error::Error::new(kind, e.what);
        let out = match e.source {
            Some(s) => out.because(s),
            None => out,
        };
        match e.hint {
            Some(h) => out.hint(h),
            None => out,
        }
    }
}

/// Whether a key can start like this. Servers that know directories make something else of `//` or `..`.
fn can_start_a_key(prefix: &str) -> bool {
    match prefix.rsplit_once('/') {
        Some((folders, _)) => Key::new(folders).is_ok(),
        None => true,
    }
}

/// The part of an object of `size` bytes that a [`Store::get`] of `range` returns.
fn clamp_range(key: &Key, range: Option<Range<u64>>, size: u64) -> Result<Range<u64>> {
    let range = range.unwrap_or(0..size);
    if range.is_empty() {
        return Ok(0..0);
    }
    if range.start >= size {
        let what = format!("read {key} from byte {}: it has {size} bytes", range.start);
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    Ok(range.start..range.end.min(size))
}

impl<T> crate::error::Context<T> for Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> crate::error::Result<T> {
        self.map_err(|e| crate::error::Error::from(e).context(what()))
    }
}
