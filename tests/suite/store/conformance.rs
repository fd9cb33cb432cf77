//! The contract of `strongroom::store::Store`, as functions that any store must pass. Each takes a store of its own
//! prefix, so that all of them may share one bucket and run at once. `conformance!` makes ordinary tests of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use strongroom::model::Time;
use strongroom::runtime::{Clock, SystemClock};
use strongroom::store::{ErrorKind, Key, Payload, PutMode, Store, Version};

/// A store with nothing in it, and what must live as long as it.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    _keep: Box<dyn std::any::Any + Send>,
}

impl Fixture {
    pub fn new(store: impl Store + 'static, keep: impl Send + 'static) -> Self {
        Self { store: Arc::new(store), _keep: Box::new(keep) }
    }

    pub fn shared(store: Arc<dyn Store>, keep: impl Send + 'static) -> Self {
        Self { store, _keep: Box::new(keep) }
    }
}

/// One module of tests for one kind of store. `$open` is a future of a [`Fixture`];
/// where objects of more than 5 MiB take another way (parts, blocks), it is opened so that they do.
macro_rules! conformance {
    ($name:ident, $open:expr) => {
        $crate::store::conformance::conformance!(@ $name, $open,
            a_put_is_read_back create_refuses_what_is_there one_of_many_creates_wins updates_need_the_current_state
            concurrent_updates_lose_nothing versions_agree ranges_are_clamped_and_refused missing_objects_are_said_to_be_missing
            removing_twice_succeeds listings_are_cut_by_text long_listings_are_whole odd_names_are_kept
            the_clock_and_times_are_about_now large_objects_are_whole readers_never_see_half a_dropped_put_is_all_or_nothing
        );
    };
    (@ $name:ident, $open:expr, $($case:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    let fixture: $crate::store::conformance::Fixture = $open.await;
                    $crate::store::conformance::$case(fixture.store.as_ref()).await;
                }
            )*
        }
    };
}
pub(crate) use conformance;

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// The keys that are listed, sorted: some servers have another order.
pub async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut keys: Vec<String> = store.list(prefix).map_ok(|m| m.key.to_string()).try_collect().await.unwrap();
    keys.sort_unstable();
    keys
}

/// Bytes that differ everywhere, so that a shifted or repeated piece is noticed.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&state.rotate_left(17).to_le_bytes());
    }
    out.truncate(len);
    out
}

#[track_caller]
fn refused<T: std::fmt::Debug>(done: strongroom::store::Result<T>, kind: ErrorKind) {
    let error = done.expect_err("it should be refused");
    assert_eq!(error.kind(), kind, "{}", error.chain());
}

pub async fn a_put_is_read_back(store: &dyn Store) {
    for (i, len) in [0, 1, 1000, 3 << 20].into_iter().enumerate() {
        let (key, content) = (key(&format!("folder/{i}")), pattern(len, i as u64));
        let pieces = content.chunks(700_000).map(Bytes::copy_from_slice).collect();
        store.put(&key, Payload(pieces), PutMode::Overwrite).await.unwrap();
        assert_eq!(store.get(&key, None).await.unwrap(), content);
        let meta = store.head(&key).await.unwrap();
        assert_eq!((meta.size, &meta.key), (len as u64, &key));
    }
    let again = key("folder/1");
    store.put(&again, Payload::from("other"), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get(&again, None).await.unwrap(), "other");
    // Pieces without bytes are no pieces.
    store.put(&again, Payload(vec![Bytes::new(), "x".into(), Bytes::new(), "y".into()]), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get(&again, None).await.unwrap(), "xy");
}

pub async fn create_refuses_what_is_there(store: &dyn Store) {
    let key = key("config");
    store.put(&key, Payload::from("first"), PutMode::Create).await.unwrap();
    refused(store.put(&key, Payload::from("second"), PutMode::Create).await, ErrorKind::AlreadyExists);
    // Also with the same bytes: without a lost reply before it, it is simply not ours.
    refused(store.put(&key, Payload::from("first"), PutMode::Create).await, ErrorKind::AlreadyExists);
    assert_eq!(store.get(&key, None).await.unwrap(), "first");
    store.delete(&key).await.unwrap();
    store.put(&key, Payload::from("third"), PutMode::Create).await.unwrap();
}

pub async fn one_of_many_creates_wins(store: &dyn Store) {
    for round in 0..3 {
        let key = key(&format!("race/{round}"));
        let puts = (0..12).map(|i| {
            let key = key.clone();
            async move { (i, store.put(&key, Payload::from(format!("writer {i}")), PutMode::Create).await) }
        });
        let mut winners = Vec::new();
        for (i, done) in futures::future::join_all(puts).await {
            match done {
                Ok(_) => winners.push(i),
                Err(e) => assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{}", e.chain()),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(store.get(&key, None).await.unwrap(), format!("writer {}", winners[0]));
    }
}

pub async fn updates_need_the_current_state(store: &dyn Store) {
    let key = key("state");
    let nothing = PutMode::Update(Version("\"0123456789abcdef0123456789abcdef\"".to_owned()));
    refused(store.put(&key, Payload::from("x"), nothing).await, ErrorKind::Conflict);
    refused(store.get(&key, None).await, ErrorKind::NotFound);
    let first = store.put(&key, Payload::from("1"), PutMode::Create).await.unwrap();
    let second = store.put(&key, Payload::from("2"), PutMode::Update(first.clone())).await.unwrap();
    assert_ne!(first, second);
    refused(store.put(&key, Payload::from("3"), PutMode::Update(first)).await, ErrorKind::Conflict);
    assert_eq!(store.get(&key, None).await.unwrap(), "2");
    store.delete(&key).await.unwrap();
    refused(store.put(&key, Payload::from("4"), PutMode::Update(second)).await, ErrorKind::Conflict);
    refused(store.get(&key, None).await, ErrorKind::NotFound);
}

/// Read-modify-write as it has to be done: each change can be recognised, because after a lost reply a conflict does not
/// say whether the own change was replaced or never made.
pub async fn concurrent_updates_lose_nothing(store: &dyn Store) {
    let key = key("list");
    store.put(&key, Payload::from(""), PutMode::Create).await.unwrap();
    let add = |i: u32| {
        let (key, mine) = (key.clone(), format!("[{i}]"));
        async move {
            loop {
                let (bytes, version) = store.get_versioned(&key).await.unwrap();
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                if text.contains(&mine) {
                    return;
                }
                match store.put(&key, Payload::from(text + &mine), PutMode::Update(version)).await {
                    Ok(_) => return,
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{}", e.chain()),
                }
            }
        }
    };
    stream::iter(0..20).for_each_concurrent(5, add).await;
    let text = String::from_utf8(store.get(&key, None).await.unwrap().to_vec()).unwrap();
    let mut found: Vec<u32> = text.trim_matches(['[', ']']).split("][").map(|n| n.parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (0..20).collect::<Vec<_>>(), "{text}");
}

pub async fn versions_agree(store: &dyn Store) {
    for len in [3, 2 << 20] {
        let key = key(&format!("version/{len}"));
        let put = store.put(&key, Payload::from(pattern(len, 1)), PutMode::Overwrite).await.unwrap();
        let (bytes, got) = store.get_versioned(&key).await.unwrap();
        assert_eq!(bytes.len(), len);
        assert_eq!(put, got);
        assert_eq!(store.head(&key).await.unwrap().version.as_ref(), Some(&put));
        if let Some(listed) =
            store.list("version/").try_collect::<Vec<_>>().await.unwrap().into_iter().find(|m| m.key == key).unwrap().version
        {
            assert_eq!(listed, put);
        }
        let other = store.put(&key, Payload::from(pattern(len, 2)), PutMode::Update(put.clone())).await.unwrap();
        assert_ne!(other, put);
    }
}

pub async fn ranges_are_clamped_and_refused(store: &dyn Store) {
    let (key, content) = (key("ranges"), pattern(1_000_000, 7));
    store.put(&key, Payload::from(content.clone()), PutMode::Overwrite).await.unwrap();
    for (from, to) in [(0, 1), (0, 1_000_000), (5, 500_005), (999_999, 1_000_000), (999_990, 5_000_000), (0, u64::MAX)] {
        let expected = &content[from as usize..to.min(1_000_000) as usize];
        assert_eq!(store.get(&key, Some(from..to)).await.unwrap(), expected, "{from}..{to}");
    }
    for at in [0, 10, 1_000_000, 2_000_000] {
        assert_eq!(store.get(&key, Some(at..at)).await.unwrap(), "", "{at}");
    }
    refused(store.get(&key, Some(1_000_000..1_000_001)).await, ErrorKind::Invalid);
    refused(store.get(&key, Some(2_000_000..u64::MAX)).await, ErrorKind::Invalid);
    let empty = self::key("empty");
    store.put(&empty, Payload::default(), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get(&empty, None).await.unwrap(), "");
    assert_eq!(store.get(&empty, Some(0..0)).await.unwrap(), "");
    refused(store.get(&empty, Some(0..10)).await, ErrorKind::Invalid);
}

pub async fn missing_objects_are_said_to_be_missing(store: &dyn Store) {
    store.put(&key("here/it/is"), Payload::from("x"), PutMode::Overwrite).await.unwrap();
    for missing in ["nowhere", "here", "here/it", "here/it/is/not", "here/it/i"] {
        let key = key(missing);
        refused(store.get(&key, None).await, ErrorKind::NotFound);
        refused(store.get(&key, Some(0..10)).await, ErrorKind::NotFound);
        refused(store.get(&key, Some(3..3)).await, ErrorKind::NotFound);
        refused(store.get_versioned(&key).await, ErrorKind::NotFound);
        refused(store.head(&key).await, ErrorKind::NotFound);
    }
}

pub async fn removing_twice_succeeds(store: &dyn Store) {
    let key = key("gone");
    store.delete(&key).await.unwrap();
    store.delete(&self::key("never/was/here")).await.unwrap();
    store.put(&key, Payload::from("x"), PutMode::Overwrite).await.unwrap();
    assert_eq!(keys(store, "go").await, ["gone"]);
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    assert_eq!(keys(store, "").await, [""; 0]);
    refused(store.head(&key).await, ErrorKind::NotFound);
}

// `-` and `.` come before `/`, `0` after it: a walk that sorts bare directory names gets this wrong.
const NAMES: [&str; 15] = [
    "B",
    "a-b",
    "a.b/c",
    "a/0",
    "a/b",
    "a/b-c",
    "a/b0",
    "a0",
    "aa/b/c/d",
    "aa/b/c0",
    "data/00/x",
    "data/01/y",
    "data/0a",
    "z",
    "ä",
];

/// Not part of [`conformance!`]: not all servers do.
pub async fn listings_are_in_byte_order(store: &dyn Store) {
    for name in NAMES {
        store.put(&key(name), Payload::from(name), PutMode::Overwrite).await.unwrap();
    }
    let listed: Vec<String> = store.list("").map_ok(|m| m.key.to_string()).try_collect().await.unwrap();
    assert_eq!(listed, NAMES);
}

pub async fn listings_are_cut_by_text(store: &dyn Store) {
    let names = NAMES;
    for name in names {
        store.put(&key(name), Payload::from(name), PutMode::Overwrite).await.unwrap();
    }
    assert_eq!(keys(store, "").await, names);
    for (prefix, found) in [
        ("a", &names[1..10]),
        ("a/", &names[3..7]),
        ("a/b", &names[4..7]),
        ("aa/b/c", &names[8..10]),
        ("data/0", &names[10..13]),
        ("data/00/", &names[10..11]),
        ("data/00/x", &names[10..11]),
        ("ä", &names[14..]),
    ] {
        assert_eq!(keys(store, prefix).await, found, "{prefix}");
    }
    for nothing in ["b", "a/b/", "data/00/x/", "data/2", "missing/folder/", "/", "/a", "../", "a/../a/"] {
        assert_eq!(keys(store, nothing).await, [""; 0], "{nothing}");
    }
    let sizes: Vec<u64> = store.list("aa").map_ok(|m| m.size).try_collect().await.unwrap();
    assert_eq!(sizes, [8, 7]);
    // A listing that is not read to its end is no harm.
    assert_eq!(store.list("").take(2).count().await, 2);
}

pub async fn long_listings_are_whole(store: &dyn Store) {
    let names: BTreeSet<String> = (0..1205).map(|i| format!("many/{:02x}/{i}", i % 7)).collect();
    let puts = stream::iter(&names)
        .map(|name| async move { store.put(&key(name), Payload::from("x"), PutMode::Create).await.map(|_| ()) });
    puts.buffer_unordered(16).try_collect::<()>().await.unwrap();
    assert_eq!(keys(store, "many/").await, names.into_iter().collect::<Vec<_>>());
    assert_eq!(keys(store, "many/03/").await.len(), 172);
}

pub async fn odd_names_are_kept(store: &dyn Store) {
    let mut names = vec![
        "a b",
        "a+b",
        "a%20b",
        "a%2Fb",
        "100%",
        "q?x=1&y=2",
        "h#frag",
        "x=y",
        "semi;colon",
        "it's",
        "\"quoted\"",
        "<tag>&amp;",
        "..a",
        "a..b",
        "...",
        "ümläut",
        "日本/語",
        "😀",
        "~t",
        "*",
        "(p)",
        "[b]",
        "{c}",
        "a,b",
        "a:b",
        "@",
        "!",
        "$x",
        "^",
        "`",
        "|",
        "e\u{301}",
        "\u{a0}nbsp",
    ];
    for name in &names {
        store.put(&key(name), Payload::from(*name), PutMode::Create).await.unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
    }
    for name in &names {
        assert_eq!(store.get(&key(name), None).await.unwrap(), *name);
        assert_eq!(store.head(&key(name)).await.unwrap().size, name.len() as u64);
        assert_eq!(keys(store, name).await.first().map(String::as_str), Some(*name));
    }
    names.sort_unstable();
    assert_eq!(keys(store, "").await, names);
    for name in names {
        store.delete(&key(name)).await.unwrap();
        refused(store.get(&key(name), None).await, ErrorKind::NotFound);
    }
    let long = key(&["n".repeat(120).as_str(); 3].join("/"));
    store.put(&long, Payload::from("x"), PutMode::Create).await.unwrap();
    assert_eq!(store.get(&long, None).await.unwrap(), "x");
}

pub async fn the_clock_and_times_are_about_now(store: &dyn Store) {
    let near = |t: Time| SystemClock.now().seconds_since(t).abs() < 60.0;
    assert!(near(store.now().await.unwrap()));
    let key = key("dated");
    store.put(&key, Payload::from("x"), PutMode::Overwrite).await.unwrap();
    assert!(near(store.head(&key).await.unwrap().modified));
    let listed: Vec<_> = store.list("dated").try_collect().await.unwrap();
    assert!(near(listed[0].modified), "{:?}", listed[0]);
    let first = store.now().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let passed = store.now().await.unwrap().seconds_since(first);
    assert!((0.0..60.0).contains(&passed), "{passed}");
}

pub async fn large_objects_are_whole(store: &dyn Store) {
    let (key, content) = (key("large"), pattern(12 << 20, 3));
    let pieces = || Payload(content.chunks(3_000_001).map(Bytes::copy_from_slice).collect());
    let first = store.put(&key, pieces(), PutMode::Create).await.unwrap();
    refused(store.put(&key, pieces(), PutMode::Create).await, ErrorKind::AlreadyExists);
    assert!(store.get(&key, None).await.unwrap() == content);
    assert!(store.get(&key, Some(5_000_000..11_000_000)).await.unwrap() == content[5_000_000..11_000_000]);
    let other = pattern(11 << 20, 4);
    let second = store.put(&key, Payload::from(other.clone()), PutMode::Update(first.clone())).await.unwrap();
    refused(store.put(&key, pieces(), PutMode::Update(first)).await, ErrorKind::Conflict);
    let (bytes, version) = store.get_versioned(&key).await.unwrap();
    assert!(bytes == other && version == second);
    store.put(&key, pieces(), PutMode::Overwrite).await.unwrap();
    assert!(store.get(&key, None).await.unwrap() == content);
}

pub async fn readers_never_see_half(store: &dyn Store) {
    let key = key("replaced");
    let contents: Vec<Bytes> = (0..4u64).map(|i| pattern(200_000 + i as usize, i).into()).collect();
    store.put(&key, Payload::from(contents[0].clone()), PutMode::Overwrite).await.unwrap();
    let write = async {
        for i in 0..24 {
            store.put(&key, Payload::from(contents[i % 4].clone()), PutMode::Overwrite).await.unwrap();
        }
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let read = async {
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let seen = store.get(&key, None).await.unwrap();
            assert!(contents.contains(&seen), "{} bytes", seen.len());
            let (seen, _) = store.get_versioned(&key).await.unwrap();
            assert!(contents.contains(&seen));
        }
    };
    let write = async {
        write.await;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    futures::join!(write, read);
}

pub async fn a_dropped_put_is_all_or_nothing(store: &dyn Store) {
    let content = Bytes::from(pattern(2 << 20, 9));
    for i in 0..8u64 {
        let key = key(&format!("dropped/{i}"));
        let put = store.put(&key, Payload::from(content.clone()), PutMode::Create);
        let finished = tokio::time::timeout(Duration::from_micros(200 * i * i * i), put).await;
        match store.get(&key, None).await {
            Ok(bytes) => assert!(bytes == content),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "{}", e.chain());
                assert!(!matches!(finished, Ok(Ok(_))), "acknowledged and not there");
            }
        }
    }
    for meta in store.list("dropped/").try_collect::<Vec<_>>().await.unwrap() {
        assert_eq!(meta.size, content.len() as u64);
    }
}
