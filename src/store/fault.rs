//! A store that misbehaves on order, for tests of everything above: errors, lost replies, hangs, slowness, short reads,
//! bursts of 503, death at a chosen write. It also keeps a log of operations, so that a test can enumerate the writes
//! of a run and repeat the run with each of them failing.
//!
//! ```
//! # use std::sync::Arc;
//! # use strongroom::store::fault::{Fault, FaultStore, Op, Rule, When};
//! # use strongroom::store::{ErrorKind, local::LocalStore};
//! # let inner = LocalStore::open("/tmp/x".into(), Arc::new(strongroom::runtime::SystemClock)).unwrap();
//! let store = FaultStore::new(inner, 42);
//! // The third write and everything after it fails, as if the process had died there.
//! store.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).writes().when(When::From(3)));
//! // One get in ten under `data/` is cut short.
//! store.add(Rule::new(Fault::Truncate(100)).on([Op::Get]).prefix("data/").when(When::Chance(0.1)));
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Error, ErrorKind, Key, ObjectMeta, Payload, PutMode, Result, Store, Version};
use crate::model::Time;

/// An operation of the trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`Store::put`]
    Put,
    /// [`Store::get`]
    Get,
    /// [`Store::get_versioned`]
    GetVersioned,
    /// [`Store::head`]
    Head,
    /// [`Store::delete`]
    Delete,
    /// [`Store::list`]
    List,
    /// [`Store::now`]
    Now,
}

impl Op {
    /// Whether it changes the store.
    #[must_use]
    pub fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }
}

/// What goes wrong.
#[derive(Clone)]
pub enum Fault {
    /// The operation is not done and fails with this kind.
    Error(ErrorKind),
    /// The operation is done and its reply lost: [`ErrorKind::Unavailable`].
    LostReply,
    /// It never comes back (until dropped), and is not done.
    Hang,
    /// It is done and then never comes back.
    HangAfter,
    /// It waits this long and is done then.
    Slow(Duration),
    /// Reads return at most this many bytes as if that were all; listings at most this many objects. Breaks the
    /// contract on purpose: whoever reads must notice by hash or length.
    Truncate(usize),
    /// The first bit of what is read is flipped. Breaks the contract on purpose, too.
    Corrupt,
    /// Called before the operation is done, e.g. to abort the process there; then it goes on.
    Before(Hook),
    /// Called after the operation was done and before its reply is seen.
    After(Hook),
}

/// Called with what is about to be, or was, done.
pub type Hook = Arc<dyn Fn(&Logged) + Send + Sync>;

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(kind) => write!(f, "Error({kind:?})"),
            Self::LostReply => f.write_str("LostReply"),
            Self::Hang => f.write_str("Hang"),
            Self::HangAfter => f.write_str("HangAfter"),
            Self::Slow(time) => write!(f, "Slow({time:?})"),
            Self::Truncate(bytes) => write!(f, "Truncate({bytes})"),
            Self::Corrupt => f.write_str("Corrupt"),
            Self::Before(_) => f.write_str("Before(…)"),
            Self::After(_) => f.write_str("After(…)"),
        }
    }
}

/// Which of the operations that a rule selects it strikes; counted from 1, for each rule on its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// All.
    Always,
    /// Only this one.
    Nth(u64),
    /// The first so many: a burst that passes.
    First(u64),
    /// This one and all after it: a store or process that is gone.
    From(u64),
    /// Each with this probability, by the store's seed.
    Chance(f64),
}

/// A fault with the operations it applies to.
#[derive(Debug, Clone)]
pub struct Rule {
    ops: Option<Vec<Op>>,
    prefix: String,
    when: When,
    fault: Fault,
}

impl Rule {
    /// Strikes always, at every operation.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { ops: None, prefix: String::new(), when: When::Always, fault }
    }

    /// Only at these operations.
    #[must_use]
    pub fn on(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.ops = Some(ops.into_iter().collect());
        self
    }

    /// Only at puts and deletes. With [`When::Nth`] this is "fail write number n".
    #[must_use]
    pub fn writes(self) -> Self {
        self.on([Op::Put, Op::Delete])
    }

    /// Only for keys (of listings: prefixes) that start like this.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Only sometimes.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    fn selects(&self, entry: &Logged) -> bool {
        self.ops.as_ref().is_none_or(|ops| ops.contains(&entry.op)) && entry.key.starts_with(&self.prefix)
    }
}

/// One operation as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Which.
    pub op: Op,
    /// The key, a listing's prefix, or nothing.
    pub key: String,
    /// Payload length of a put.
    pub bytes: u64,
    /// Its number among the writes, from 1; `None` for reads.
    pub write: Option<u64>,
}

#[derive(Debug)]
struct State {
    rules: Vec<(Rule, u64)>,
    log: Vec<Logged>,
    writes: u64,
    rng: StdRng,
}

/// The wrapper. Cheap to clone; clones share rules and log.
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    state: Arc<Mutex<State>>,
}

impl FaultStore {
    /// Behaves well until rules are added. The same seed and order of operations give the same faults.
    pub fn new(inner: impl Store + 'static, seed: u64) -> Self {
        Self::over(Arc::new(inner), seed)
    }

    /// [`FaultStore::new`] over a store that is shared already.
    #[must_use]
    pub fn over(inner: Arc<dyn Store>, seed: u64) -> Self {
        let state = State { rules: Vec::new(), log: Vec::new(), writes: 0, rng: StdRng::seed_from_u64(seed) };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// Adds a rule. Several that strike at once apply in the order in which they were added.
    pub fn add(&self, rule: Rule) {
        self.state.lock().rules.push((rule, 0));
    }

    /// Behaves well again. The log stays.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }

    /// Everything asked for so far, in order.
    #[must_use]
    pub fn log(&self) -> Vec<Logged> {
        self.state.lock().log.clone()
    }

    /// Puts and deletes asked for so far, in order; entry i is write number i + 1.
    #[must_use]
    pub fn writes(&self) -> Vec<Logged> {
        self.log().into_iter().filter(|l| l.write.is_some()).collect()
    }

    /// Logs an operation and decides what goes wrong with it.
    fn begin(&self, op: Op, key: &str, bytes: u64) -> Plan {
        let mut state = self.state.lock();
        let State { rules, log, writes, rng } = &mut *state;
        let write = op.is_write().then(|| {
            *writes += 1;
            *writes
        });
        let entry = Logged { op, key: key.to_owned(), bytes, write };
        log.push(entry.clone());
        let mut faults = Vec::new();
        for (rule, seen) in rules.iter_mut().filter(|(rule, _)| rule.selects(&entry)) {
            *seen += 1;
            let strikes = match rule.when {
                When::Always => true,
                When::Nth(n) => *seen == n,
                When::First(n) => *seen <= n,
                When::From(n) => *seen >= n,
                When::Chance(p) => rng.random_bool(p.clamp(0.0, 1.0)),
            };
            if strikes {
                faults.push(rule.fault.clone());
            }
        }
        Plan { entry, faults }
    }
}

/// What will go wrong with one operation.
struct Plan {
    entry: Logged,
    faults: Vec<Fault>,
}

impl Plan {
    fn error(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, format!("{:?} {}: {why}", self.entry.op, self.entry.key))
    }

    async fn before(&self) -> Result<()> {
        for fault in &self.faults {
            match fault {
                Fault::Error(kind) => return Err(self.error(*kind, "injected error")),
                Fault::Hang => std::future::pending().await,
                Fault::Slow(time) => tokio::time::sleep(*time).await,
                Fault::Before(hook) => hook(&self.entry),
                Fault::LostReply | Fault::HangAfter | Fault::Truncate(_) | Fault::Corrupt | Fault::After(_) => {}
            }
        }
        Ok(())
    }

    async fn after(&self) -> Result<()> {
        for fault in &self.faults {
            match fault {
                Fault::LostReply => return Err(self.error(ErrorKind::Unavailable, "injected loss of the reply")),
                Fault::HangAfter => std::future::pending().await,
                Fault::After(hook) => hook(&self.entry),
                Fault::Error(_) | Fault::Hang | Fault::Slow(_) | Fault::Truncate(_) | Fault::Corrupt | Fault::Before(_) => {}
            }
        }
        Ok(())
    }

    fn bytes(&self, mut bytes: Bytes) -> Bytes {
        for fault in &self.faults {
            match fault {
                Fault::Truncate(n) => bytes.truncate(*n),
                Fault::Corrupt => {
                    let mut copy = bytes.to_vec();
                    if let Some(first) = copy.first_mut() {
                        *first ^= 1;
                    }
                    bytes = copy.into();
                }
                _ => {}
            }
        }
        bytes
    }

    fn limit(&self) -> usize {
        let limits = self.faults.iter().filter_map(|f| if let Fault::Truncate(n) = f { Some(*n) } else { None });
        limits.min().unwrap_or(usize::MAX)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for FaultStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &Key, payload: Payload, mode: PutMode) -> Result<Version> {
        let plan = self.begin(Op::Put, key.as_str(), payload.len());
        plan.before().await?;
        // The store's own refusal is a reply, too, and is lost like one.
        let done = self.inner.put(key, payload, mode).await;
        plan.after().await?;
        done
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let plan = self.begin(Op::Get, key.as_str(), 0);
        plan.before().await?;
        let done = self.inner.get(key, range).await;
        plan.after().await?;
        Ok(plan.bytes(done?))
    }

    async fn get_versioned(&self, key: &Key) -> Result<(Bytes, Version)> {
        let plan = self.begin(Op::GetVersioned, key.as_str(), 0);
        plan.before().await?;
        let done = self.inner.get_versioned(key).await;
        plan.after().await?;
        done.map(|(bytes, version)| (plan.bytes(bytes), version))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let plan = self.begin(Op::Head, key.as_str(), 0);
        plan.before().await?;
        let done = self.inner.head(key).await;
        plan.after().await?;
        done
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let plan = self.begin(Op::Delete, key.as_str(), 0);
        plan.before().await?;
        let done = self.inner.delete(key).await;
        plan.after().await?;
        done
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta>> {
        let start = async move {
            let plan = self.begin(Op::List, prefix, 0);
            if let Err(e) = plan.before().await {
                return futures::stream::once(async { Err(e) }).boxed();
            }
            let listed = self.inner.list(prefix).take(plan.limit());
            // A lost reply is one in the middle: what came before it was seen.
            let end = futures::stream::once(async move { plan.after().await }).filter_map(|r| async { r.err().map(Err) });
            listed.chain(end).boxed()
        };
        futures::stream::once(start).flatten().boxed()
    }

    async fn now(&self) -> Result<Time> {
        let plan = self.begin(Op::Now, "", 0);
        plan.before().await?;
        let done = self.inner.now().await;
        plan.after().await?;
        done
    }
}
