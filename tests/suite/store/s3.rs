//! S3 against SeaweedFS, over http and https.

use std::sync::Arc;

use strongroom::runtime::{Secret, SystemClock};
use strongroom::store::{Checksum, ErrorKind, OpenOptions, Payload, PutMode, Settings, Store};

use super::conformance::{Fixture, conformance, key, keys, pattern};
use crate::support::proxy::{Proxy, Trick};
use crate::support::seaweedfs::{self, login};

async fn open(settings: &Settings) -> Arc<dyn Store> {
    strongroom::store::open(settings, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap()
}

/// Starts the server where it may block.
async fn server() -> &'static seaweedfs::SeaweedFs {
    tokio::task::spawn_blocking(seaweedfs::shared).await.unwrap()
}

/// With parts from 5 MiB on, so that large objects go that way.
async fn http() -> Fixture {
    let mut settings = server().await.settings();
    (settings.s3.multipart_above, settings.s3.part_size) = (5 << 20, 5 << 20);
    Fixture::shared(open(&settings).await, ())
}

async fn https_with_checksums() -> Fixture {
    let mut settings = server().await.https_settings();
    (settings.s3.multipart_above, settings.s3.part_size) = (5 << 20, 5 << 20);
    settings.s3.checksum = Checksum::Always;
    Fixture::shared(open(&settings).await, ())
}

conformance!(http_contract, http());
conformance!(https_contract, https_with_checksums());

/// A server without conditional puts has every promise but the one about races.
#[tokio::test(flavor = "multi_thread")]
async fn without_conditions_it_looks_first() {
    let mut settings = server().await.settings();
    settings.s3.conditional_puts = false;
    let store = open(&settings).await;
    super::conformance::create_refuses_what_is_there(store.as_ref()).await;
    super::conformance::updates_need_the_current_state(store.as_ref()).await;
}

/// How a store with these settings refuses to read and to write.
async fn refusals(settings: &Settings) -> Vec<strongroom::store::Error> {
    let store = open(settings).await;
    let mut errors = vec![store.get(&key("config"), None).await.unwrap_err(), store.head(&key("config")).await.unwrap_err()];
    errors.push(store.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap_err());
    errors.push(futures::TryStreamExt::try_collect::<Vec<_>>(store.list("")).await.unwrap_err());
    errors
}

#[track_caller]
fn all(errors: &[strongroom::store::Error], kind: ErrorKind, hint: &str) {
    for e in errors {
        assert_eq!(e.kind(), kind, "{}", e.chain());
        assert!(e.hint_text().is_some_and(|h| h.contains(hint)), "{}: {:?}", e.chain(), e.hint_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_is_wrong() {
    let server = server().await;
    let mut wrong = server.settings();
    login(&mut wrong, "testkey", "not the secret");
    all(&refusals(&wrong).await, ErrorKind::Denied, "secret access key is wrong");
    login(&mut wrong, "nobody", "testsecret");
    all(&refusals(&wrong).await, ErrorKind::Denied, "access key id is unknown");

    let mut missing = server.settings();
    missing.url = "s3://no-such-bucket/x".parse().unwrap();
    all(&refusals(&missing).await, ErrorKind::NoSuchStore, "no-such-bucket");

    // The authority is not named, or another one is.
    let mut strange = server.https_settings();
    strange.s3.ca_file = None;
    all(&refusals(&strange).await, ErrorKind::Tls, "s3.ca_file");
    let dir = tempfile::tempdir().unwrap();
    strange.s3.ca_file = Some(crate::support::watched::Certificates::make(dir.path()).ca);
    all(&refusals(&strange).await, ErrorKind::Tls, "s3.ca_file");
    std::fs::write(dir.path().join("empty"), "").unwrap();
    strange.s3.ca_file = Some(dir.path().join("empty"));
    let unreadable = strongroom::store::open(&strange, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap_err();
    assert!(unreadable.chain().contains("no certificate"), "{}", unreadable.chain());

    // Nobody listens there: tried again until the deadline, and said so.
    let mut nobody = server.settings_at("http://127.0.0.1:9");
    nobody.deadline = std::time::Duration::from_secs(5);
    let gone = open(&nobody).await.head(&key("config")).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Unavailable);
    assert!(gone.to_string().contains("tried") && gone.chain().contains("refused"), "{}", gone.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_credentials_read() {
    let settings = server().await.settings();
    open(&settings).await.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap();
    let mut reader = settings.clone();
    login(&mut reader, "rokey", "rosecret");
    let store = open(&reader).await;
    assert_eq!(store.get(&key("config"), None).await.unwrap(), "x");
    assert_eq!(keys(store.as_ref(), "").await, ["config"]);
    store.now().await.unwrap();
    let refused = store.put(&key("lock"), Payload::from("x"), PutMode::Create).await.unwrap_err();
    all(&[refused, store.delete(&key("config")).await.unwrap_err()], ErrorKind::Denied, "not allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_keys_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "testsecret\n").unwrap();
    let mut settings = server().await.settings();
    settings.s3.secret_access_key = Some(Secret::File(file.clone()));
    std::fs::write(&file, "the old one").unwrap();
    let store = open(&settings).await;
    assert_eq!(store.put(&key("a"), Payload::from("x"), PutMode::Create).await.unwrap_err().kind(), ErrorKind::Denied);
    std::fs::write(&file, "testsecret").unwrap();
    // Not more often than every two seconds.
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    store.put(&key("a"), Payload::from("x"), PutMode::Create).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_bodies_are_continued() {
    let server = server().await;
    let proxy = Proxy::start(server.http).await;
    let settings = server.settings_at(&format!("http://127.0.0.1:{}", proxy.port));
    let options = OpenOptions::new(Arc::new(SystemClock));
    let store = strongroom::store::open(&settings, &options).await.unwrap();
    let content = pattern(3_000_000, 5);
    store.put(&key("pack"), Payload::from(content.clone()), PutMode::Create).await.unwrap();
    for bytes in [1_000_000, 500_000, 900_000] {
        proxy.arm("GET", Trick::Cut(bytes));
    }
    let before = options.counter.snapshot();
    assert!(store.get(&key("pack"), None).await.unwrap() == content);
    let counts = options.counter.snapshot() - before;
    assert_eq!((proxy.left(), counts.get), (0, 4), "{counts}");
    assert!(counts.bytes_in < 3_100_000, "nothing is read twice: {counts}");
    proxy.arm("GET", Trick::Cut(700_000));
    assert!(store.get(&key("pack"), Some(1_000_000..2_500_000)).await.unwrap() == content[1_000_000..2_500_000]);
    // Not even the head arrives.
    proxy.arm("GET", Trick::Cut(10));
    assert!(store.get_versioned(&key("pack")).await.unwrap().0 == content);
    assert_eq!(proxy.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_and_busy_servers_pass() {
    let server = server().await;
    let proxy = Proxy::start(server.http).await;
    let mut settings = server.settings_at(&format!("http://127.0.0.1:{}", proxy.port));
    (settings.s3.multipart_above, settings.s3.part_size) = (5 << 20, 5 << 20);
    let store = open(&settings).await;
    proxy.arm("PUT", Trick::LoseReply);
    let version = store.put(&key("config"), Payload::from("mine"), PutMode::Create).await.unwrap();
    proxy.arm("PUT", Trick::LoseReply);
    store.put(&key("config"), Payload::from("mine again"), PutMode::Update(version)).await.unwrap();
    proxy.arm("PUT", Trick::Unavailable);
    let theirs = store.put(&key("config"), Payload::from("other"), PutMode::Create).await.unwrap_err();
    assert_eq!(theirs.kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.get(&key("config"), None).await.unwrap(), "mine again");

    // Parts are sent again one by one; the completion whose reply is lost is found to be ours.
    let content = pattern(11 << 20, 6);
    proxy.arm("PUT", Trick::Unavailable);
    proxy.arm("PUT", Trick::LoseReply);
    // The first POST begins the upload and goes through, the second completes it.
    proxy.arm("POST", Trick::Cut(usize::MAX));
    proxy.arm("POST", Trick::LoseReply);
    store.put(&key("large"), Payload::from(content.clone()), PutMode::Create).await.unwrap();
    assert!(store.get(&key("large"), None).await.unwrap() == content);

    for method in ["DELETE", "HEAD", "GET"] {
        proxy.arm(method, Trick::Unavailable);
        proxy.arm(method, Trick::LoseReply);
    }
    store.head(&key("config")).await.unwrap();
    assert_eq!(keys(store.as_ref(), "").await, ["config", "large"]);
    store.delete(&key("config")).await.unwrap();
    assert_eq!(keys(store.as_ref(), "").await, ["large"]);
    assert_eq!(proxy.left(), 0);
}

/// What a proxy says that knows no way to the store.
const NO_ROUTE: &str =
    "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 19\r\nConnection: close\r\n\r\n404 page not found\n";
const NO_ROUTE_NOR_WORDS: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn only_an_s3_server_can_say_that_an_object_is_not_there() {
    let server = server().await;
    let proxy = Proxy::start(server.http).await;
    let store = open(&server.settings_at(&format!("http://127.0.0.1:{}", proxy.port))).await;
    store.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap();
    for answer in [NO_ROUTE, NO_ROUTE_NOR_WORDS] {
        for method in ["GET", "GET", "PUT"] {
            proxy.arm(method, Trick::Answer(answer));
        }
        assert_eq!(store.get(&key("config"), None).await.unwrap(), "x");
        assert_eq!(proxy.left(), 1);
        store.put(&key("config"), Payload::from("x"), PutMode::Overwrite).await.unwrap();
        proxy.arm("GET", Trick::Answer(answer));
        assert_eq!(keys(store.as_ref(), "").await, ["config"]);
        proxy.arm("DELETE", Trick::Answer(answer));
        store.delete(&key("config")).await.unwrap();
        assert_eq!(proxy.left(), 0);
        assert_eq!(store.get(&key("config"), None).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(store.head(&key("config")).await.unwrap_err().kind(), ErrorKind::NotFound);
        store.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap();
    }
}

/// A page that says that there is more and not where.
const NO_TOKEN: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: 95\r\nConnection: close\r\n\r\n\
    <ListBucketResult><KeyCount>0</KeyCount><IsTruncated>true</IsTruncated>     </ListBucketResult>";

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_cannot_go_on_is_not_whole() {
    let server = server().await;
    let proxy = Proxy::start(server.http).await;
    let store = open(&server.settings_at(&format!("http://127.0.0.1:{}", proxy.port))).await;
    store.put(&key("config"), Payload::from("x"), PutMode::Create).await.unwrap();
    proxy.arm("GET", Trick::Answer(NO_TOKEN));
    let cut = futures::TryStreamExt::try_collect::<Vec<_>>(store.list("")).await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::Other, "{}", cut.chain());
    assert!(cut.hint_text().is_some() && cut.chain().contains("there is more"), "{}", cut.chain());
    assert_eq!(keys(store.as_ref(), "").await, ["config"]);
}
