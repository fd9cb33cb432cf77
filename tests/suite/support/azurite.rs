//! Azurite, the Azure Blob server: one for all tests, on a free port, in memory, gone when the test process is gone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use strongroom::runtime::{Secret, SecretText};
use strongroom::store::{AzureAuth, Settings};

pub const ACCOUNT: &str = "devstoreaccount1";
/// The well-known key of every emulator.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub struct Azurite {
    port: u16,
    // Ends the server when its standard input is closed.
    _watchdog: Child,
}

/// The one that all tests share: take a container of your own.
pub fn shared() -> &'static Azurite {
    static SERVER: OnceLock<Azurite> = OnceLock::new();
    SERVER.get_or_init(|| Azurite::start(&[]))
}

fn program() -> PathBuf {
    let cache = std::env::var_os("STRONGROOM_CACHE")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/strongroom"), PathBuf::from);
    let program = cache.join("azurite-3.33.0/node_modules/.bin/azurite-blob");
    assert!(program.exists(), "Azurite is not in {}: run `make tools` (tests/tools/azurite.sh)", cache.display());
    program
}

impl Azurite {
    /// One that speaks TLS and takes tokens of anybody, as long as they are for storage.
    pub fn with_tls(certificate: &Path, key: &Path) -> Self {
        let path = |p: &Path| p.to_str().unwrap().to_owned();
        Self::start(&["--cert", &path(certificate), "--key", &path(key), "--oauth", "basic"])
    }

    fn start(more: &[&str]) -> Self {
        let port = super::watched::free_ports(1, false)[0];
        let script = r#""$@" </dev/null & server=$!
            cat >/dev/null
            kill -KILL $server; wait $server 2>/dev/null"#;
        let mut watchdog = Command::new("/bin/sh");
        watchdog.args(["-c", script, "sh"]).arg(program());
        watchdog.args(["--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        // What the SDK speaks is newer than what Azurite knows of.
        watchdog.args(["--silent", "--skipApiVersionCheck"]).args(more);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let server = Self { port, _watchdog: watchdog.spawn().expect("start Azurite") };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "Azurite does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A container that nobody else uses.
    pub fn container(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let request = format!(
            "PUT /{ACCOUNT}/{name}?restype=container&{} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-ms-version: 2021-12-02\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            sas("rwdlc")
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        name
    }

    /// How to reach `container/prefix` with the account's key.
    pub fn settings(&self, place: &str) -> Settings {
        let mut settings = Settings::new(format!("azblob://{place}").parse().unwrap());
        settings.allow_http = true;
        settings.azure.account = ACCOUNT.to_owned();
        settings.azure.endpoint = Some(self.endpoint());
        settings.azure.auth = AzureAuth::SharedKey(secret(KEY));
        settings
    }
}

pub fn secret(text: &str) -> Secret {
    Secret::Value(SecretText::new(text.to_owned()))
}

/// A signature of the account with these permissions.
pub fn sas(permissions: &str) -> String {
    let (version, until) = ("2018-11-09", "2099-01-01T00:00:00Z");
    let text = format!("{ACCOUNT}\n{permissions}\nb\nsco\n\n{until}\n\nhttps,http\n{version}\n");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signature = STANDARD.encode(ring::hmac::sign(&key, text.as_bytes()));
    let pairs = [
        ("sv", version),
        ("ss", "b"),
        ("srt", "sco"),
        ("sp", permissions),
        ("se", until),
        ("spr", "https,http"),
        ("sig", &signature),
    ];
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
