//! SeaweedFS as S3 server: one for the whole run, over http and https. Every test takes a prefix of its own.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use strongroom::runtime::{Secret, SecretText, SystemClock};
use strongroom::store::{Key, OpenOptions, Payload, PutMode, Settings};

use super::watched::{Certificates, Watched, folder, free_ports, http_answers, tool};

pub const BUCKET: &str = "bucket1";
const IDENTITIES: &str = r#"{"identities":[
    {"name":"admin","credentials":[{"accessKey":"testkey","secretKey":"testsecret"}],"actions":["Admin","Read","Write","List","Tagging"]},
    {"name":"ro","credentials":[{"accessKey":"rokey","secretKey":"rosecret"}],"actions":["Read","List"]}]}"#;

/// A running server.
#[derive(Debug)]
pub struct SeaweedFs {
    server: Watched,
    pub http: u16,
    pub https: u16,
    pub certificates: Certificates,
}

/// The server that all tests share.
pub fn shared() -> &'static SeaweedFs {
    static SERVER: OnceLock<SeaweedFs> = OnceLock::new();
    SERVER.get_or_init(SeaweedFs::start)
}

impl SeaweedFs {
    pub fn start() -> Self {
        // Another process may take a port between our look and its start.
        (0..5).find_map(|_| Self::try_start()).expect("SeaweedFS does not start")
    }

    fn try_start() -> Option<Self> {
        let weed = tool("seaweedfs-4.48", "seaweedfs.sh").join("bin/weed");
        let dir = folder("seaweedfs");
        let certificates = Certificates::make(&dir);
        std::fs::write(dir.join("s3.json"), IDENTITIES).unwrap();
        let ports = free_ports(6, true);
        let data = dir.join("data");
        std::fs::create_dir(&data).unwrap();
        let mut command = Command::new(weed);
        command.arg("-logtostderr=true").arg("mini").arg(format!("-dir={}", data.display()));
        command.args("-ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false -admin.ui=false -webdav=false -s3.port.iceberg=0 -s3.port.lance=0".split(' '));
        command.args(
            "-s3.autoCreateBucket=false -s3.allowDeleteBucketNotEmpty=false -master.volumeSizeLimitMB=64 -volume.max=200"
                .split(' '),
        );
        for (name, port) in
            ["master.port", "volume.port", "filer.port", "admin.port", "s3.port", "s3.port.https"].iter().zip(&ports)
        {
            command.arg(format!("-{name}={port}"));
        }
        command.arg(format!("-s3.config={}", dir.join("s3.json").display())).arg(format!("-bucket={BUCKET}"));
        command.arg(format!("-s3.cert.file={}", certificates.certificate.display()));
        command.arg(format!("-s3.key.file={}", certificates.key.display()));
        let server = Watched::start("SeaweedFS", dir, &command);
        let (http, https) = (ports[4], ports[5]);
        let up = server.wait(|| http_answers(&format!("127.0.0.1:{http}"), "/healthz", &[200]));
        let ready = Self { server, http, https, certificates };
        (up && ready.takes_writes()).then_some(ready)
    }

    /// Healthy it is before its bucket is made and can be written to.
    fn takes_writes(&self) -> bool {
        let settings = self.settings();
        let ask = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = strongroom::store::open(&settings, &OpenOptions::new(Arc::new(SystemClock))).await.unwrap();
                store.put(&Key::new("ready").unwrap(), Payload::from("yes"), PutMode::Overwrite).await.is_ok()
            })
        };
        // On a thread of its own: we may be on one that belongs to another runtime.
        self.server.wait(|| std::thread::scope(|s| s.spawn(ask.clone()).join().unwrap()))
    }

    /// Settings for a place of one's own, over http.
    pub fn settings(&self) -> Settings {
        self.settings_at(&format!("http://127.0.0.1:{}", self.http))
    }

    /// The same over https, with the authority to trust.
    pub fn https_settings(&self) -> Settings {
        let mut settings = self.settings_at(&format!("https://127.0.0.1:{}", self.https));
        settings.s3.ca_file = Some(self.certificates.ca.clone());
        settings
    }

    /// The same through another address, e.g. a proxy's.
    pub fn settings_at(&self, endpoint: &str) -> Settings {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test-{}/{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut settings = Settings::new(format!("s3://{BUCKET}/{prefix}").parse().unwrap());
        settings.allow_http = true;
        settings.s3.endpoint = Some(endpoint.to_owned());
        login(&mut settings, "testkey", "testsecret");
        settings
    }
}

/// Sets static keys.
pub fn login(settings: &mut Settings, id: &str, secret: &str) {
    let value = |text: &str| Some(Secret::Value(SecretText::new(text.to_owned())));
    settings.s3.access_key_id = value(id);
    settings.s3.secret_access_key = value(secret);
}
