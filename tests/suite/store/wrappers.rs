//! The wrappers: each passes the contract over a local store, and does what it is for.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use strongroom::model::Time;
use strongroom::runtime::{SystemClock, TestClock};
use strongroom::store::fault::{Fault, FaultStore, Op, Rule, When};
use strongroom::store::{
    Counted, Counter, ErrorKind, Lease, LocalStore, OpenOptions, Payload, PutMode, Retrier, Retry, RetryPolicy, Settings, Store,
    lease,
};

use super::conformance::{Fixture, conformance, key, keys};
use super::local::temp_store;

fn retrier(counter: &Arc<Counter>) -> Retrier {
    let policy = RetryPolicy {
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(5),
        deadline: Duration::from_secs(60),
    };
    Retrier::new(policy, counter.clone(), 1)
}

async fn counted() -> Fixture {
    let (store, dir) = temp_store();
    Fixture::new(Counted::new(store, Arc::default()), dir)
}

async fn well_behaved() -> Fixture {
    let (store, dir) = temp_store();
    Fixture::new(FaultStore::new(store, 1), dir)
}

async fn opened() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(format!("file://{}", dir.path().display()).parse().unwrap()).join("production/acme").unwrap();
    Fixture::shared(strongroom::store::open(&settings, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap(), dir)
}

/// A third of all requests fail, a third of the rest lose their replies: with retries it is a store like any other.
async fn retried() -> Fixture {
    let (store, dir) = temp_store();
    let faulty = FaultStore::new(store, 7);
    faulty.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).when(When::Chance(0.3)));
    faulty.add(Rule::new(Fault::LostReply).when(When::Chance(0.3)));
    Fixture::new(Retry::new(faulty, retrier(&Arc::default())), dir)
}

conformance!(counted_contract, counted());
conformance!(fault_contract, well_behaved());
conformance!(open_contract, opened());
conformance!(retry_contract, retried());

#[tokio::test]
async fn requests_and_bytes_are_counted() {
    let (store, _dir) = temp_store();
    let counter = Arc::<Counter>::default();
    let store = Counted::new(store, counter.clone());
    store.put(&key("a"), Payload::from("12345"), PutMode::Create).await.unwrap();
    let before = counter.snapshot();
    store.put(&key("a"), Payload::from("123"), PutMode::Overwrite).await.unwrap();
    store.get(&key("a"), Some(0..2)).await.unwrap();
    store.get_versioned(&key("a")).await.unwrap();
    store.head(&key("a")).await.unwrap();
    keys(&store, "").await;
    store.delete(&key("a")).await.unwrap();
    let counts = counter.snapshot() - before;
    assert_eq!(counts.to_string(), "1 PUT, 2 GET, 1 HEAD, 1 LIST, 1 DELETE, 3 bytes sent, 5 bytes received");
    assert_eq!(counts.requests(), 6);
}

#[tokio::test]
async fn faults_strike_where_they_are_told_to() {
    let (store, _dir) = temp_store();
    let store = FaultStore::new(store, 1);
    store.add(Rule::new(Fault::Error(ErrorKind::Full)).writes().prefix("data/").when(When::Nth(2)));
    for (name, ok) in [("data/1", true), ("index/1", true), ("data/2", false), ("data/3", true)] {
        let put = store.put(&key(name), Payload::from("x"), PutMode::Create).await;
        assert_eq!(put.is_ok(), ok, "{name}");
    }
    assert_eq!(keys(&store, "").await, ["data/1", "data/3", "index/1"]);
    let writes: Vec<_> = store.writes().into_iter().map(|w| (w.key, w.write)).collect();
    assert_eq!(writes[2], ("data/2".to_owned(), Some(3)));
    store.clear();

    store.add(Rule::new(Fault::LostReply).on([Op::Put]));
    assert_eq!(store.put(&key("lost"), Payload::from("x"), PutMode::Create).await.unwrap_err().kind(), ErrorKind::Unavailable);
    store.clear();
    assert_eq!(store.get(&key("lost"), None).await.unwrap(), "x");

    store.add(Rule::new(Fault::Truncate(1)));
    store.put(&key("short"), Payload::from("abc"), PutMode::Create).await.unwrap();
    assert_eq!(store.get(&key("short"), None).await.unwrap(), "a");
    assert_eq!(keys(&store, "").await.len(), 1);
    store.clear();

    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hook = {
        let seen = seen.clone();
        Arc::new(move |l: &strongroom::store::fault::Logged| seen.lock().unwrap().push(l.key.clone()))
    };
    store.add(Rule::new(Fault::Before(hook)).writes().when(When::From(2)));
    for name in ["one", "two", "three"] {
        store.put(&key(name), Payload::from("x"), PutMode::Create).await.unwrap();
    }
    assert_eq!(*seen.lock().unwrap(), ["two", "three"]);
    store.clear();

    store.add(Rule::new(Fault::Hang).on([Op::Head]));
    assert!(tokio::time::timeout(Duration::from_millis(50), store.head(&key("one"))).await.is_err());
}

#[tokio::test]
async fn a_lost_reply_is_not_somebody_else() {
    let (inner, _dir) = temp_store();
    let faulty = FaultStore::new(inner.clone(), 1);
    let counter = Arc::<Counter>::default();
    let store = Retry::new(faulty.clone(), retrier(&counter));
    faulty.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::Nth(1)));
    let version = store.put(&key("config"), Payload::from("mine"), PutMode::Create).await.unwrap();
    assert_eq!(counter.snapshot().retries, 1);
    faulty.clear();
    faulty.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::Nth(1)));
    let version = store.put(&key("config"), Payload::from("mine 2"), PutMode::Update(version)).await.unwrap();
    assert_eq!(inner.head(&key("config")).await.unwrap().version, Some(version.clone()));

    // Somebody else's object is somebody else's, also after a failure in between; same length, other bytes.
    faulty.clear();
    faulty.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Put]).when(When::First(2)));
    let theirs = store.put(&key("config"), Payload::from("mine 3"), PutMode::Create).await.unwrap_err();
    assert_eq!(theirs.kind(), ErrorKind::AlreadyExists);
    inner.put(&key("config"), Payload::from("theirs"), PutMode::Overwrite).await.unwrap();
    faulty.clear();
    faulty.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::First(2)));
    let theirs = store.put(&key("config"), Payload::from("mine 4"), PutMode::Update(version)).await.unwrap_err();
    assert_eq!(theirs.kind(), ErrorKind::Conflict);
    assert_eq!(inner.get(&key("config"), None).await.unwrap(), "theirs");

    // When it cannot be found out whose it is, that is what is said.
    faulty.clear();
    faulty.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::Nth(1)));
    faulty.add(Rule::new(Fault::Error(ErrorKind::Denied)).on([Op::Head, Op::GetVersioned]));
    let unknown = store.put(&key("new"), Payload::from("x"), PutMode::Create).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Denied);
}

#[tokio::test(start_paused = true)]
async fn retries_end_with_the_deadline_and_at_lasting_errors() {
    let (inner, _dir) = temp_store();
    let faulty = FaultStore::new(inner, 1);
    let counter = Arc::<Counter>::default();
    let store = Retry::new(faulty.clone(), Retrier::new(RetryPolicy::within(Duration::from_secs(60)), counter.clone(), 1));
    faulty.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::Head]));
    let started = tokio::time::Instant::now();
    let gave_up = store.head(&key("x")).await.unwrap_err();
    let spent = started.elapsed();
    assert!((Duration::from_secs(45)..=Duration::from_secs(60)).contains(&spent), "{spent:?}");
    assert!(gave_up.to_string().contains("tried") && (8..20).contains(&counter.snapshot().retries), "{gave_up}");

    faulty.add(Rule::new(Fault::Error(ErrorKind::Denied)).on([Op::Get]));
    let before = counter.snapshot().retries;
    assert_eq!(store.get(&key("x"), None).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(counter.snapshot().retries, before);

    faulty.add(Rule::new(Fault::Hang).on([Op::Delete]));
    assert_eq!(store.delete(&key("x")).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn broken_listings_go_on_where_they_were() {
    let (inner, _dir) = temp_store();
    for i in 0..30 {
        inner.put(&key(&format!("k{i:02}")), Payload::from("x"), PutMode::Create).await.unwrap();
    }
    let faulty = FaultStore::new(inner, 1);
    // The first try shows ten objects and breaks, the second nothing, the third all.
    faulty.add(Rule::new(Fault::Truncate(10)).on([Op::List]).when(When::Nth(1)));
    faulty.add(Rule::new(Fault::LostReply).on([Op::List]).when(When::Nth(1)));
    faulty.add(Rule::new(Fault::Error(ErrorKind::Unavailable)).on([Op::List]).when(When::Nth(2)));
    let store = Retry::new(faulty, retrier(&Arc::default()));
    assert_eq!(keys(&store, "").await, (0..30).map(|i| format!("k{i:02}")).collect::<Vec<_>>());
    let all: Vec<_> = store.list("k1").try_collect().await.unwrap();
    assert_eq!(all.len(), 10);
}

fn leased(clock: &TestClock) -> (LocalStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (LocalStore::below(dir.path().to_owned(), "", Arc::new(clock.clone())).unwrap(), dir)
}

#[tokio::test]
async fn a_lease_has_one_holder_and_is_taken_over_when_it_expired() {
    let clock = TestClock::new(Time::new(1_000_000, 0));
    let (store, _dir) = leased(&clock);
    let store: Arc<dyn Store> = Arc::new(store);
    let mut rng = StdRng::seed_from_u64(1);
    let (name, ttl) = (key("strongroom/leases/acme/orders"), Duration::from_secs(60));
    assert_eq!(lease::peek(store.as_ref(), &name).await.unwrap(), None);
    let mut first = Lease::acquire(store.clone(), name.clone(), "pod-a", ttl, &mut rng).await.unwrap().unwrap();
    assert!(first.held() && first.remaining() <= ttl);
    assert!(Lease::acquire(store.clone(), name.clone(), "pod-b", ttl, &mut rng).await.unwrap().is_none());
    assert_eq!(lease::peek(store.as_ref(), &name).await.unwrap().unwrap().owner, "pod-a");

    clock.set(Time::new(1_000_050, 0));
    first.refresh().await.unwrap();
    // Past the first end and into the grace of the second.
    clock.set(Time::new(1_000_120, 0));
    assert!(Lease::acquire(store.clone(), name.clone(), "pod-b", ttl, &mut rng).await.unwrap().is_none());
    clock.set(Time::new(1_000_126, 0));
    let second = Lease::acquire(store.clone(), name.clone(), "pod-b", ttl, &mut rng).await.unwrap().unwrap();
    assert_eq!(first.refresh().await.unwrap_err().kind(), ErrorKind::Conflict);
    // Releasing what was taken over leaves the new holder alone.
    first.release().await.unwrap();
    assert_eq!(lease::peek(store.as_ref(), &name).await.unwrap().unwrap().owner, "pod-b");
    second.release().await.unwrap();
    assert_eq!(lease::peek(store.as_ref(), &name).await.unwrap(), None);
    assert!(Lease::acquire(store.clone(), name.clone(), "pod-c", ttl, &mut rng).await.unwrap().is_some());

    store.put(&name, Payload::from("not a lease"), PutMode::Overwrite).await.unwrap();
    assert_eq!(Lease::acquire(store, name, "pod-d", ttl, &mut rng).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_want_a_lease_one_gets_it() {
    let clock = TestClock::new(Time::new(1_000_000, 0));
    let (store, _dir) = leased(&clock);
    let store: Arc<dyn Store> = Arc::new(store);
    for round in 0..3u64 {
        // The first round creates, the others take over.
        clock.set(Time::new(1_000_000 + 1000 * round as i64, 0));
        let tries = (0..10u64).map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(100 * round + i);
                Lease::acquire(store, key("lease"), &format!("{i}"), Duration::from_secs(60), &mut rng).await.unwrap().is_some()
            })
        });
        let got = futures::future::join_all(tries).await.into_iter().filter(|r| *r.as_ref().unwrap()).count();
        assert_eq!(got, 1);
    }
}

#[tokio::test]
async fn a_lease_survives_lost_replies() {
    let clock = TestClock::new(Time::new(1_000_000, 0));
    let (inner, _dir) = leased(&clock);
    let faulty = FaultStore::new(inner, 1);
    let store: Arc<dyn Store> = Arc::new(Retry::new(faulty.clone(), retrier(&Arc::default())));
    faulty.add(Rule::new(Fault::LostReply).on([Op::Put]).when(When::Chance(0.5)));
    let mut rng = StdRng::seed_from_u64(1);
    let mut held = Lease::acquire(store.clone(), key("lease"), "a", Duration::from_secs(60), &mut rng).await.unwrap().unwrap();
    for _ in 0..10 {
        held.refresh().await.unwrap();
    }
    // A refresh whose reply never came, and that was given up: the next one finds our own token.
    faulty.clear();
    faulty.add(Rule::new(Fault::HangAfter).on([Op::Put]));
    assert!(tokio::time::timeout(Duration::from_millis(300), held.refresh()).await.is_err());
    faulty.clear();
    held.refresh().await.unwrap();
    held.release().await.unwrap();
}
