//! Azurite as Azure Blob server: one over http for the whole run, one over https with OAuth for the tests of tokens.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use strongroom::runtime::{Secret, SecretText};
use strongroom::store::{AzureAuth, Settings};

use super::watched::{Certificates, Watched, folder, free_ports, tool};

/// The well-known account and key of the emulator.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server.
#[derive(Debug)]
pub struct Azurite {
    server: Watched,
    pub port: u16,
    /// `None` over plain http.
    pub certificates: Option<Certificates>,
}

/// The server over http, where shared keys and signatures are checked.
pub fn shared() -> &'static Azurite {
    static SERVER: OnceLock<Azurite> = OnceLock::new();
    SERVER.get_or_init(|| Azurite::start(false))
}

/// The server over https, where bearer tokens are accepted, too.
pub fn shared_https() -> &'static Azurite {
    static SERVER: OnceLock<Azurite> = OnceLock::new();
    SERVER.get_or_init(|| Azurite::start(true))
}

impl Azurite {
    pub fn start(https: bool) -> Self {
        (0..5).find_map(|_| Self::try_start(https)).expect("Azurite does not start")
    }

    fn try_start(https: bool) -> Option<Self> {
        let azurite = tool("azurite-3.33.0", "azurite.sh").join("node_modules/.bin/azurite-blob");
        let dir = folder("azurite");
        let port = free_ports(1, false)[0];
        let mut command = Command::new(azurite);
        command.args(["--inMemoryPersistence", "--blobHost", "127.0.0.1", "--silent", "--skipApiVersionCheck", "--blobPort"]).arg(port.to_string());
        let certificates = https.then(|| Certificates::make(&dir));
        if let Some(made) = &certificates {
            command.arg("--cert").arg(&made.certificate).arg("--key").arg(&made.key).args(["--oauth", "basic"]);
        }
        let server = Watched::start("Azurite", dir, &command);
        let up = server.wait(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        up.then_some(Self { server, port, certificates })
    }

    pub fn endpoint(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// Settings for a place of one's own in `container`, with the account's key.
    pub fn settings(&self, container: &str) -> Settings {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("test/{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut settings = Settings::new(format!("azblob://{container}/{prefix}").parse().unwrap());
        settings.allow_http = true;
        settings.azure.account = ACCOUNT.to_owned();
        settings.azure.endpoint = Some(self.endpoint());
        settings.azure.auth = AzureAuth::SharedKey(Secret::Value(SecretText::new(KEY.to_owned())));
        settings.azure.ca_file = self.certificates.as_ref().map(|c| c.ca.clone());
        settings
    }
}
