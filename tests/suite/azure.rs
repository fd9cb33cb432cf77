//! The Azure Blob store against Azurite: the contract, refusals in clear words, a repository, the program itself.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use strongroom::runtime::{Cancel, Clock as _, SecretText, SystemClock};
use strongroom::store::{
    AccessTier, AzureAuth, AzureStore, Error, ErrorKind, Key, OpenOptions, Payload, PutMode, Retrier, RetryPolicy, Settings,
    Store, Version, open,
};

use crate::support::azurite::{self, Azurite, sas, secret, shared};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

fn retrier() -> Retrier {
    Retrier::new(RetryPolicy::within(std::time::Duration::from_secs(20)), Arc::default(), 1)
}

async fn bare(settings: &Settings) -> AzureStore {
    AzureStore::open(settings, Arc::new(SystemClock), retrier()).await.unwrap()
}

/// A container of its own; more than 1 MiB goes in blocks of 256 KiB.
fn settings() -> Settings {
    let server = shared();
    let mut settings = server.settings(&format!("{}/deep/er", server.container()));
    settings.azure.block_above = 1 << 20;
    settings.azure.block_size = 256 << 10;
    settings
}

fn kind<T: std::fmt::Debug>(done: Result<T, Error>) -> ErrorKind {
    done.expect_err("a refusal").kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_back_whole_and_in_ranges() {
    let store = bare(&settings()).await;
    for (name, len) in [("empty", 0), ("one", 1), ("small", 100_000), ("large", (1 << 20) + 1), ("larger", 3_000_000)] {
        let data = bytes(len);
        // In uneven pieces, as packs are.
        let payload = Payload(data.chunks(77_777).map(Bytes::copy_from_slice).collect());
        let (k, len) = (key(name), len as u64);
        let version = store.put(&k, payload, PutMode::Overwrite).await.unwrap();
        assert!(store.get(&k, None).await.unwrap() == data, "{name}");
        let meta = store.head(&k).await.unwrap();
        assert_eq!((meta.size, meta.version.as_ref()), (len, Some(&version)), "{name}");
        let (again, same) = store.get_versioned(&k).await.unwrap();
        assert!(again == data && same == version);
        assert!(store.get(&k, Some(0..0)).await.unwrap().is_empty());
        let past = store.get(&k, Some(len..len + 1)).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::Invalid, "{name}: {past:?}");
        if len > 10 {
            assert!(store.get(&k, Some(3..10)).await.unwrap() == data[3..10]);
            assert!(store.get(&k, Some(len - 4..len + 100)).await.unwrap() == data[len as usize - 4..]);
        }
    }
    assert_eq!(kind(store.get(&key("none"), None).await), ErrorKind::NotFound);
    assert_eq!(kind(store.get(&key("none"), Some(0..0)).await), ErrorKind::NotFound);
    assert_eq!(kind(store.head(&key("none")).await), ErrorKind::NotFound);
    let now = store.now().await.unwrap().seconds_since(SystemClock.now());
    assert!(now.abs() < 10.0, "{now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_for_whole_puts_and_for_blocks() {
    let store = Arc::new(bare(&settings()).await);
    for len in [10, 2_000_000] {
        let k = key(&format!("race/{len}"));
        let tries = (0..8u8).map(|n| {
            let (store, k) = (store.clone(), k.clone());
            async move { store.put(&k, Payload::from(vec![n; len]), PutMode::Create).await }
        });
        let done: Vec<_> = futures::stream::iter(tries).buffer_unordered(8).collect().await;
        // A loser whose blocks were dropped by the winner's commit is told to try again, which the retry layer does.
        let won = done.iter().filter(|d| d.is_ok()).count();
        assert_eq!(won, 1, "{done:?}");
        for refused in done.into_iter().filter_map(Result::err) {
            assert!(matches!(refused.kind(), ErrorKind::AlreadyExists | ErrorKind::Unavailable), "{refused:?}");
        }
        assert_eq!(kind(store.put(&k, Payload::from(vec![99; len]), PutMode::Create).await), ErrorKind::AlreadyExists);

        let first = store.head(&k).await.unwrap().version.unwrap();
        let second = store.put(&k, Payload::from(vec![1; len]), PutMode::Update(first.clone())).await.unwrap();
        assert_ne!(first, second);
        assert_eq!(kind(store.put(&k, Payload::from(vec![2; len]), PutMode::Update(first)).await), ErrorKind::Conflict);
        assert!(store.get(&k, None).await.unwrap() == vec![1; len]);
        store.delete(&k).await.unwrap();
        store.delete(&k).await.unwrap();
        assert_eq!(kind(store.put(&k, Payload::from(vec![3; len]), PutMode::Update(second)).await), ErrorKind::Conflict);
        assert_eq!(
            kind(store.put(&k, Payload::from(vec![3; len]), PutMode::Update(Version("0x0".into()))).await),
            ErrorKind::Conflict
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_whole_and_in_order() {
    let settings = settings();
    let store = bare(&settings).await;
    let names: Vec<String> = (0..1200).map(|n| format!("many/{:04}", n * 7 % 1200)).collect();
    let puts = names.iter().map(|name| {
        let (store, k) = (&store, key(name));
        async move { store.put(&k, Payload::from(vec![7; 3]), PutMode::Create).await }
    });
    futures::stream::iter(puts).buffer_unordered(16).try_collect::<Vec<_>>().await.unwrap();
    let odd = ["odd/dir a", "odd/ö ß", "odd/x+y&z=1%20?#.bin", "odd/a/b", "odd/a.b", "odd/'\"<>"];
    assert_eq!(kind(store.head(&key("odd/\\back")).await), ErrorKind::Invalid, "Azure would make a slash of it");
    for name in odd {
        store.put(&key(name), Payload::from(name.as_bytes().to_vec()), PutMode::Create).await.unwrap();
        assert_eq!(store.get(&key(name), None).await.unwrap(), name.as_bytes(), "{name}");
    }
    let listed = |prefix: &'static str| store.list(prefix).map_ok(|m| (m.key.to_string(), m.size)).try_collect::<Vec<_>>();
    let mut expected = names;
    expected.sort();
    let found = listed("many/").await.unwrap();
    assert_eq!(found.len(), 1200);
    assert!(found.iter().zip(&expected).all(|((name, size), e)| name == e && *size == 3));
    assert_eq!(listed("many/119").await.unwrap().len(), 10);
    assert_eq!(listed("nothing/").await.unwrap(), []);
    let mut odd: Vec<_> = odd.iter().map(|n| ((*n).to_owned(), n.len() as u64)).collect();
    odd.sort();
    assert_eq!(listed("odd/").await.unwrap(), odd);
    assert_eq!(listed("").await.unwrap().len(), 1206);
    // A listing's state is the one that updates take.
    let entry = store.list("many/0000").try_collect::<Vec<_>>().await.unwrap().remove(0);
    assert_eq!(entry, store.head(&entry.key).await.unwrap());

    // Another prefix of the same container sees nothing of it.
    let mut beside = settings;
    beside.url = beside.url.to_string().replace("/deep/er", "/deep/e").parse().unwrap();
    assert_eq!(bare(&beside).await.list("").count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let good = settings();
    let mut wrong_key = good.clone();
    wrong_key.azure.auth = AzureAuth::SharedKey(secret("d3JvbmcgYnV0IGJhc2U2NA=="));
    let error = bare(&wrong_key).await.head(&key("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.hint_text().unwrap().contains("key belongs to the storage account devstoreaccount1"), "{error:?}");

    let mut no_base64 = good.clone();
    no_base64.azure.auth = AzureAuth::SharedKey(secret("AccountKey=x"));
    assert_eq!(kind(AzureStore::open(&no_base64, Arc::new(SystemClock), retrier()).await), ErrorKind::Invalid);

    let missing = bare(&shared().settings("no-such-container/x")).await;
    let errors = [
        // First: later it is known from the other answers.
        missing.now().await.unwrap_err(),
        missing.head(&key("x")).await.unwrap_err(),
        missing.get(&key("x"), None).await.unwrap_err(),
        missing.put(&key("x"), Payload::from("x"), PutMode::Create).await.unwrap_err(),
        missing.delete(&key("x")).await.unwrap_err(),
        missing.list("").try_collect::<Vec<_>>().await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::NoSuchStore, "{error:?}");
        assert!(error.hint_text().unwrap().contains("Create the container no-such-container"), "{error:?}");
    }

    let mut down = good.clone();
    down.azure.endpoint = Some("http://127.0.0.1:9/devstoreaccount1".into());
    assert_eq!(kind(bare(&down).await.head(&key("x")).await), ErrorKind::Unavailable);
    // The same through the retry layer, which says how long it tried.
    down.deadline = std::time::Duration::from_secs(1);
    let error = open(&down, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap().head(&key("x")).await.unwrap_err();
    assert!(error.chain().contains("tried"), "{error:?}");

    let mut token = good;
    token.azure.auth = AzureAuth::ManagedIdentity { client_id: None };
    token.azure.trust_endpoint = true;
    assert_eq!(kind(AzureStore::open(&token, Arc::new(SystemClock), retrier()).await), ErrorKind::Invalid, "a token without TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_opens_what_it_allows_and_is_never_shown() {
    let mut settings = settings();
    settings.azure.auth = AzureAuth::Sas(secret(&format!("?{}", sas("rwdlc"))));
    settings.azure.access_tier = Some(AccessTier::Cool);
    let store = bare(&settings).await;
    for len in [5, 2_000_000] {
        store.put(&key("dir/a b"), Payload::from(bytes(len)), PutMode::Overwrite).await.unwrap();
        assert!(store.get(&key("dir/a b"), None).await.unwrap() == bytes(len));
    }
    assert_eq!(store.list("dir/").count().await, 1);
    store.now().await.unwrap();

    settings.azure.auth = AzureAuth::Sas(secret(&sas("rl")));
    let reader = bare(&settings).await;
    reader.head(&key("dir/a b")).await.unwrap();
    let error = reader.put(&key("x"), Payload::from("x"), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.hint_text().unwrap().contains("rwdlc"), "{error:?}");

    settings.azure.endpoint = Some("http://127.0.0.1:9/devstoreaccount1".into());
    let error = bare(&settings).await.head(&key("x")).await.unwrap_err();
    assert!(!format!("{error:?} {}", error.chain()).contains("sig="), "{error:?}");
}

/// Passes everything on, but for the first connections cuts the answer off after so many bytes.
struct Cutter {
    port: u16,
    cuts: Arc<AtomicU32>,
}

impl Cutter {
    fn start(to: u16, after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, cuts) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
        let left = cuts.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(up, server, &AtomicU32::new(0), usize::MAX));
                let left = left.clone();
                std::thread::spawn(move || pass(down, client, &left, after));
            }
        });
        Self { port, cuts }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, cuts: &AtomicU32, after: usize) {
    let (mut buffer, mut passed) = ([0; 8192], 0);
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        passed += n;
        let cut = passed > after && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |c| c.checked_sub(1)).is_ok();
        if cut || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // Not both ways: a reset would take away what was passed on already. Either end may be gone.
    drop(to.shutdown(std::net::Shutdown::Write));
    drop(from.shutdown(std::net::Shutdown::Read));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_continued() {
    let mut settings = settings();
    bare(&settings).await.put(&key("x"), Payload::from(bytes(900_000)), PutMode::Create).await.unwrap();
    let cutter = Cutter::start(shared().port(), 200_000);
    settings.azure.endpoint = Some(format!("http://127.0.0.1:{}/{}", cutter.port, azurite::ACCOUNT));
    for range in [None, Some(1_000..850_000)] {
        // Not even the retry layer is there: the store itself goes on. A new one each time, for new connections.
        let store = bare(&settings).await;
        cutter.cuts.store(3, Ordering::SeqCst);
        let expected = bytes(900_000);
        let expected = range.clone().map_or(&expected[..], |r| &expected[r.start as usize..r.end as usize]);
        assert!(store.get(&key("x"), range).await.unwrap() == expected);
        assert_eq!(cutter.cuts.load(Ordering::SeqCst), 0, "all three cuts were met");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_filled_and_read_back() {
    use crate::engine::{content, env, holder, store_files};
    use strongroom::model::NodeKind;
    use strongroom::repository::{InitOutcome, Repository, WriterOptions};

    let store = open(&settings(), &OpenOptions::new(Arc::new(SystemClock))).await.unwrap();
    let password = SecretText::new("correct horse".into());
    let (repo, outcome) = Repository::init(store.clone(), &password, &env(), &holder()).await.unwrap();
    assert_eq!(outcome, InitOutcome::Created);
    let files: Vec<(String, Vec<u8>)> = vec![("big".into(), content(5_000_000, 1)), ("small".into(), content(1_000, 2))];
    store_files(&repo, files.clone(), WriterOptions { pack_size: 4 << 20, ..WriterOptions::default() }).await;

    let again = Repository::open(store, &password, &env()).await.unwrap();
    let snapshots = again.load_snapshots().await.unwrap();
    let reader = again.reader(again.load_index().await.unwrap());
    let tree = snapshots[0].file.tree;
    let read = tokio::task::spawn_blocking(move || {
        let nodes = reader.tree(tree).unwrap();
        nodes
            .iter()
            .map(|node| {
                let NodeKind::File { content, .. } = &node.kind else { panic!("not a file") };
                let mut read = Vec::new();
                reader.file(content).read_to_end(&mut read).unwrap();
                read
            })
            .collect::<Vec<_>>()
    });
    assert!(read.await.unwrap().iter().eq(files.iter().map(|(_, data)| data)));
    again.lock(strongroom::repository::LockMode::Exclusive, &holder(), &Cancel::new()).await.unwrap().release().await.unwrap();
}

#[test]
fn the_program_backs_up_to_azure_and_restores() {
    use crate::cli::run;

    let server = shared();
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::write(d.join("p"), "secret\n").unwrap();
    std::fs::write(d.join("key"), format!("{}\n", azurite::KEY)).unwrap();
    std::fs::create_dir(d.join("data")).unwrap();
    std::fs::write(d.join("data/a.txt"), "alpha").unwrap();
    let config = |container: &str| {
        let text = format!(
            "repository:\n  url: azblob://{container}/backups\n  password: {{ file: {d}/p }}\n  allow_http: true\n  azure: {{ account: devstoreaccount1, endpoint: \"{}\", key: {{ file: {d}/key }} }}\ntenants:\n  acme:\n    jobs:\n      files: {{ volume: {{ path: {d}/data }} }}\n",
            server.endpoint(),
            d = d.display()
        );
        std::fs::write(d.join("c.yaml"), text).unwrap();
    };
    config(&server.container());
    run(d, &["--config", "c.yaml", "init"]).ok();
    run(d, &["--config", "c.yaml", "backup", "--all"]).ok();
    let list = run(d, &["--config", "c.yaml", "--json", "snapshots"]).ok().json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 1, "{list}");
    run(d, &["--config", "c.yaml", "check", "--read-data"]).ok();
    let file = d.join("data/a.txt").canonicalize().unwrap();
    assert_eq!(run(d, &["--config", "c.yaml", "cat", "latest", file.to_str().unwrap()]).ok().out, "alpha");

    config("no-such-container");
    run(d, &["--config", "c.yaml", "backup", "--all"]).exits(10);
    let failed = run(d, &["--config", "c.yaml", "init"]).exits(1);
    assert!(failed.err.contains("Create the container no-such-container"), "{}", failed.err);
}

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").args(args.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives a token for storage to whom brings the right assertion, and refuses others in Entra's words.
const TOKEN_SERVICE: &str = r#"
import base64, http.server, json, ssl, sys, time, urllib.parse
def part(value): return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
class Service(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        good = self.path == "/tenant-1/oauth2/v2.0/token" and form["client_assertion"] == ["assertion-1"]
        now = int(time.time())
        claims = {"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant-1/", "iat": now, "nbf": now - 60, "exp": now + 3600}
        token = part({"alg": "none", "typ": "JWT"}) + "." + part(claims) + ".x"
        answer = {"token_type": "Bearer", "expires_in": 3600, "access_token": token} if good else {"error": "invalid_client", "error_description": "AADSTS700211: No matching federated identity record found."}
        body = json.dumps(answer).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.crt", "server.key")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
server.socket = context.wrap_socket(server.socket, server_side=True)
import threading
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_workload_identity() {
    use std::io::BufRead as _;

    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(d, &format!("req -x509 {new} -days 30 -keyout ca.key -out ca.crt -subj /CN=ca"));
    openssl(d, &format!("req {new} -keyout server.key -out server.csr -subj /CN=server"));
    std::fs::write(d.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(d, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile san -out server.crt");
    let server = Azurite::with_tls(&d.join("server.crt"), &d.join("server.key"));
    // Ends when its standard input is closed, however this process ends.
    let mut service = Command::new("python3");
    service.args(["-c", TOKEN_SERVICE]).current_dir(d).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut service = service.spawn().unwrap();
    let mut port = String::new();
    std::io::BufReader::new(service.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();

    let mut settings = server.settings("not-made-yet");
    settings.allow_http = false;
    settings.azure.endpoint = Some(server.endpoint().replace("http:", "https:"));
    let error = bare(&settings).await.head(&key("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    assert!(error.hint_text().unwrap().contains("ca_file"), "{error:?}");
    settings.azure.ca_file = Some(d.join("ca.crt"));
    assert_eq!(kind(bare(&settings).await.head(&key("x")).await), ErrorKind::NoSuchStore);

    std::fs::write(d.join("token"), "assertion-1").unwrap();
    settings.azure.auth = AzureAuth::WorkloadIdentity {
        tenant_id: Some("tenant-1".into()),
        client_id: Some("client-1".into()),
        token_file: Some(d.join("token")),
    };
    settings.azure.authority = Some(format!("https://127.0.0.1:{}", port.trim()));
    assert_eq!(
        kind(AzureStore::open(&settings, Arc::new(SystemClock), retrier()).await),
        ErrorKind::Invalid,
        "a stranger's endpoint"
    );
    settings.azure.trust_endpoint = true;
    // The answer to a token that was accepted.
    let error = bare(&settings).await.head(&key("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchStore, "{error:?}");

    std::fs::write(d.join("token"), "assertion-2").unwrap();
    let error = bare(&settings).await.head(&key("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.chain().contains("AADSTS700211"), "{error:?}");
    settings.azure.authority = Some("https://127.0.0.1:9".into());
    assert_eq!(kind(bare(&settings).await.head(&key("x")).await), ErrorKind::Unavailable);
    drop(service.stdin.take());
    service.wait().unwrap();
}
