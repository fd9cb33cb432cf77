//! Everything a store needs to be opened: plain values, already checked for form, no I/O. `config` fills them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{Error, ErrorKind, Result, StoreUrl};
use crate::runtime::Secret;

/// One store and how to reach it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub url: StoreUrl,
    /// Used for `s3://`.
    pub s3: S3Settings,
    /// Used for `azblob://`.
    pub azure: AzureSettings,
    /// Whether `http://` endpoints are accepted; otherwise TLS is required.
    pub allow_http: bool,
    /// How long one operation may take in all, retries included. Puts and gets of large objects get more: one second
    /// for each 256 KiB on top. Must be at least one second.
    pub deadline: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How long the store may be silent in the middle of an exchange before that attempt is given up.
    pub idle_timeout: Duration,
    /// Upper limit of bytes per second sent to this store by this process; 0 = none.
    pub upload_rate: u64,
    /// Upper limit of bytes per second read from this store by this process; 0 = none.
    pub download_rate: u64,
}

impl Settings {
    /// Defaults for everything but the address.
    #[must_use]
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            s3: S3Settings::default(),
            azure: AzureSettings::default(),
            allow_http: false,
            deadline: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            upload_rate: 0,
            download_rate: 0,
        }
    }

    /// The same settings for a place further down: see [`StoreUrl::join`].
    ///
    /// # Errors
    /// As [`StoreUrl::join`].
    pub fn join(&self, below: &str) -> Result<Self> {
        Ok(Self { url: self.url.join(below)?, ..self.clone() })
    }

    /// Every mistake that can be seen without a network, each with the setting's path below the repository's (`s3.endpoint`).
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut endpoint = |path, endpoint: &Option<String>| match endpoint.as_deref().map(url::Url::parse) {
            None => {}
            Some(Err(e)) => found.push((path, format!("is not a URL: {e}"))),
            Some(Ok(u)) if !u.username().is_empty() || u.password().is_some() || u.query().is_some() => {
                found.push((path, "must not hold credentials or a query".to_owned()));
            }
            Some(Ok(u)) if u.scheme() == "http" && !self.allow_http => {
                found.push((path, "is plain http, which needs `allow_http: true`".to_owned()));
            }
            Some(Ok(u)) if !matches!(u.scheme(), "http" | "https") => found.push((path, "must start with https://".to_owned())),
            Some(Ok(_)) => {}
        };
        match &self.url {
            StoreUrl::S3 { .. } => {
                endpoint("s3.endpoint", &self.s3.endpoint);
                if self.s3.access_key_id.is_some() != self.s3.secret_access_key.is_some() {
                    found.push(("s3.secret_access_key", "access_key_id and secret_access_key need each other".to_owned()));
                }
                if self.s3.session_token.is_some() && self.s3.access_key_id.is_none() {
                    found.push(("s3.session_token", "needs access_key_id and secret_access_key".to_owned()));
                }
                if !(S3Settings::MIN_PART..=S3Settings::MAX_PART).contains(&self.s3.part_size) {
                    found.push(("s3.part_size", "must be between 5 MiB and 5 GiB".to_owned()));
                }
                if self.s3.multipart_above > S3Settings::MAX_PART {
                    found.push(("s3.multipart_above", "must be at most 5 GiB".to_owned()));
                }
            }
            StoreUrl::Azure { .. } => {
                endpoint("azure.endpoint", &self.azure.endpoint);
                if self.azure.account.is_empty() {
                    found.push(("azure.account", "is missing".to_owned()));
                }
                if self.azure.block_size == 0 || self.azure.block_size > AzureSettings::MAX_BLOCK {
                    found.push(("azure.block_size", "must be between 1 byte and 4000 MiB".to_owned()));
                }
                if self.azure.block_above > AzureSettings::MAX_PUT {
                    found.push(("azure.block_above", "must be at most 5000 MiB".to_owned()));
                }
            }
            StoreUrl::File { .. } => {}
        }
        if self.deadline < Duration::from_secs(1) {
            found.push(("deadline", "must be at least one second".to_owned()));
        }
        found
    }

    /// [`Settings::mistakes`] as one error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with all of them.
    pub fn check(&self) -> Result<()> {
        let mistakes: Vec<String> = self.mistakes().into_iter().map(|(path, why)| format!("{path} {why}")).collect();
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, format!("the settings of {} are wrong: {}", self.url, mistakes.join("; "))))
    }
}

/// When checksums beyond the transport's are sent and asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// `Always` on Amazon's own endpoints, `WhenRequired` on others, many of which do not know the newer algorithms.
    #[default]
    Auto,
    /// CRC-32C with every upload, and checked on every download where the store has one.
    Always,
    /// Only where the operation requires one.
    WhenRequired,
}

/// Encryption at rest, done by the store (on top of the repository's own).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sse {
    /// The bucket's default.
    #[default]
    None,
    /// Keys managed by the store (SSE-S3).
    Aes256,
    /// Keys in KMS (SSE-KMS).
    Kms {
        /// Key id, alias or ARN; `None` is the account's default key.
        key_id: Option<String>,
    },
}

/// How to reach a bucket.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// E.g. `eu-central-1`. `None`: from the environment or profile, else `us-east-1` for custom endpoints.
    pub region: Option<String>,
    /// For S3-compatible servers, e.g. `https://minio.example:9000`. `None`: Amazon's of the region.
    pub endpoint: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`. `None`: only with a custom endpoint.
    pub path_style: Option<bool>,
    /// Checksum mode.
    pub checksum: Checksum,
    /// Encryption at rest.
    pub sse: Sse,
    /// E.g. `STANDARD_IA`. `None`: the bucket's default. Classes that need a restore before reading do not work.
    pub storage_class: Option<String>,
    /// PEM file of certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Static keys; `None`: the default chain (environment, profile, web identity, container and pod identity, instance).
    pub access_key_id: Option<Secret>,
    /// With `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// With temporary static keys.
    pub session_token: Option<Secret>,
    /// Objects larger than this many bytes are sent in parts.
    pub multipart_above: u64,
    /// Bytes of a part but the last, 5 MiB to 5 GiB; raised where an object would have more than 10,000 parts.
    pub part_size: u64,
    /// Whether the store honours `If-None-Match` and `If-Match` on writes. Where it does not, creates and updates look
    /// first and write then, which is no protection against another process in between.
    pub conditional_puts: bool,
}

impl S3Settings {
    /// The smallest part the protocol allows.
    pub const MIN_PART: u64 = 5 << 20;
    /// The largest part, and the largest put in one request.
    pub const MAX_PART: u64 = 5 << 30;
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            region: None,
            endpoint: None,
            path_style: None,
            checksum: Checksum::Auto,
            sse: Sse::None,
            storage_class: None,
            ca_file: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            multipart_above: 64 << 20,
            part_size: 16 << 20,
            conditional_puts: true,
        }
    }
}

/// Who we are to Azure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AzureAuth {
    /// What the environment offers: workload identity if `AZURE_FEDERATED_TOKEN_FILE` is set, a client secret if
    /// `AZURE_CLIENT_SECRET` is, else managed identity.
    #[default]
    Environment,
    /// A federated token file, as AKS projects it; `None` is taken from `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and
    /// `AZURE_FEDERATED_TOKEN_FILE`. The file is read again when it changes.
    WorkloadIdentity {
        /// Directory (tenant) id.
        tenant_id: Option<String>,
        /// Client (application) id.
        client_id: Option<String>,
        /// The token file.
        token_file: Option<PathBuf>,
    },
    /// The machine's or pod's managed identity; the client id chooses a user-assigned one.
    ManagedIdentity {
        /// Of a user-assigned identity.
        client_id: Option<String>,
    },
    /// An application with a secret.
    ClientSecret {
        /// Directory (tenant) id.
        tenant_id: String,
        /// Client (application) id.
        client_id: String,
        /// Its secret.
        secret: Secret,
    },
    /// The account's key, base64 as Azure shows it.
    SharedKey(Secret),
    /// A shared access signature: the query string, with or without `?`.
    Sas(Secret),
}

impl AzureAuth {
    /// Whether it sends bearer tokens, which must go to trusted places only.
    #[must_use]
    pub fn uses_tokens(&self) -> bool {
        !matches!(self, Self::SharedKey(_) | Self::Sas(_))
    }
}

/// How to reach a container.
#[derive(Debug, Clone)]
pub struct AzureSettings {
    /// Storage account.
    pub account: String,
    /// Who we are.
    pub auth: AzureAuth,
    /// `None`: `https://<account>.blob.core.windows.net`. For other clouds and emulators the whole URL below which
    /// containers are, e.g. `http://127.0.0.1:10000/devstoreaccount1`.
    pub endpoint: Option<String>,
    /// Whether bearer tokens may go to an endpoint outside Microsoft's storage domains. Only for endpoints that were
    /// trusted when the process started, never from a reloaded or a tenant's configuration.
    pub trust_endpoint: bool,
    /// Where tokens come from instead of `https://login.microsoftonline.com/`; other clouds have their own.
    pub authority: Option<String>,
    /// `Hot`, `Cool` or `Cold`. `None`: the account's default. `Archive` cannot be read back and is refused.
    pub access_tier: Option<AccessTier>,
    /// PEM file of certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Objects larger than this many bytes are sent in blocks.
    pub block_above: u64,
    /// Bytes of a block but the last; raised where an object would have more than 50,000 blocks.
    pub block_size: u64,
}

impl AzureSettings {
    /// The largest block of the service versions we speak.
    pub const MAX_BLOCK: u64 = 4000 << 20;
    /// The largest put in one request.
    pub const MAX_PUT: u64 = 5000 << 20;
}

impl Default for AzureSettings {
    fn default() -> Self {
        Self {
            account: String::new(),
            auth: AzureAuth::default(),
            endpoint: None,
            trust_endpoint: false,
            authority: None,
            access_tier: None,
            ca_file: None,
            block_above: 64 << 20,
            block_size: 16 << 20,
        }
    }
}

/// Tiers that can be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTier {
    /// For data that is read often.
    Hot,
    /// Kept at least 30 days.
    Cool,
    /// Kept at least 90 days.
    Cold,
}

impl fmt::Display for AccessTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hot => "Hot",
            Self::Cool => "Cool",
            Self::Cold => "Cold",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut s = Settings::new("s3://bucket/x".parse().expect("url"));
        assert_eq!(s.mistakes(), []);
        s.s3.endpoint = Some("http://127.0.0.1:1".to_owned());
        s.s3.access_key_id = Some(Secret::Env("X".to_owned()));
        s.s3.part_size = 1;
        let paths: Vec<_> = s.mistakes().into_iter().map(|(p, _)| p).collect();
        assert_eq!(paths, ["s3.endpoint", "s3.secret_access_key", "s3.part_size"]);
        s.allow_http = true;
        assert_eq!(s.mistakes().len(), 2);
        let azure = Settings::new("azblob://container".parse().expect("url"));
        assert!(azure.check().is_err_and(|e| e.to_string().contains("azure.account is missing")));
    }
}
