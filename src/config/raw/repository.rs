//! Repositories, stores and secrets as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

/// Where a repository is kept and how it is opened.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Repository")]
pub struct RawRepository {
    /// `s3://bucket/prefix`, `azblob://container/prefix` or `file:///absolute/path`.
    pub url: Option<String>,
    /// Below the URL, where each tenant's repository lies. `{root}` (the URL's own path), `{environment}` and
    /// `{tenant}` are filled in. Default: `{root}/{environment}/{tenant}`.
    pub layout: Option<String>,
    /// The password that opens the repository.
    pub password: Option<RawSecret>,
    /// Settings of an S3 store.
    pub s3: Option<RawS3>,
    /// Settings of an Azure Blob store.
    pub azure: Option<RawAzure>,
    /// Whether plain `http://` endpoints may be used. Default: false.
    pub allow_http: Option<bool>,
    /// How long the store may take.
    pub timeouts: Option<RawTimeouts>,
    /// zstd level of new data, 1 (fast) to 19 (small). Default: 1.
    pub compression: Option<i64>,
}

/// S3 and what speaks like it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "S3")]
pub struct RawS3 {
    /// Region of the bucket. Default: what the environment says, else `us-east-1`.
    pub region: Option<String>,
    /// Another server than AWS: `https://host:port`.
    pub endpoint: Option<String>,
    /// Put the bucket into the path instead of the host name. Default: true with an endpoint of its own, else false.
    pub path_style: Option<bool>,
    /// Which checksums are sent. Default: `auto`.
    pub checksum: Option<RawChecksum>,
    /// Server-side encryption. Default: the bucket's.
    pub sse: Option<RawSse>,
    /// Storage class of packs, e.g. `STANDARD_IA`. Default: the bucket's.
    pub storage_class: Option<String>,
    /// A PEM file with the certificate authority that signed the endpoint's certificate.
    pub ca_file: Option<String>,
    /// Access key. Default: the usual chain (environment, profile, web identity, pod identity, instance).
    pub access_key_id: Option<RawSecretOrText>,
    /// Secret of that key.
    pub secret_access_key: Option<RawSecret>,
    /// Session token of temporary keys.
    pub session_token: Option<RawSecret>,
    /// Whether the server honours conditional writes. Default: true. `strongroom doctor` finds out.
    pub conditional_puts: Option<bool>,
}

/// Which checksums are sent with S3 requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Checksum")]
pub enum RawChecksum {
    /// `when_required` where an endpoint of another server is set, else `always`.
    Auto,
    /// Only where the operation demands it, for servers that know no newer checksums.
    WhenRequired,
    /// With every upload, and checked on every download where the store has one.
    Always,
}

/// Server-side encryption of an S3 bucket: one of the two.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Sse")]
pub struct RawSse {
    /// SSE-S3: keys of the store itself.
    pub s3: Option<bool>,
    /// SSE-KMS with this key (id, alias or ARN).
    pub kms_key_id: Option<String>,
}

/// Azure Blob Storage.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Azure")]
pub struct RawAzure {
    /// Storage account.
    pub account: Option<String>,
    /// How to prove who we are. Default: `shared_key`, `sas` or `client_secret` where one is given, else `environment`.
    pub auth: Option<RawAzureAuth>,
    /// The account's key, for `shared_key`.
    pub key: Option<RawSecret>,
    /// A shared access signature, for `sas`.
    pub sas: Option<RawSecret>,
    /// Directory (tenant) id of Entra, for `client_secret` and, where the environment does not tell it, `workload_identity`.
    pub tenant_id: Option<String>,
    /// Client (application) id; of a user-assigned identity for `managed_identity`.
    pub client_id: Option<String>,
    /// The application's secret, for `client_secret`.
    pub client_secret: Option<RawSecret>,
    /// The projected token, for `workload_identity`, where the environment does not tell it.
    pub token_file: Option<String>,
    /// Where tokens come from instead of `https://login.microsoftonline.com/`.
    pub authority: Option<String>,
    /// Another server than `https://<account>.blob.core.windows.net`: the URL up to and including the account. Tokens go there
    /// only if it was named with `--trust-endpoint` when the process started.
    pub endpoint: Option<String>,
    /// Access tier of packs. Default: the account's.
    pub access_tier: Option<RawAccessTier>,
    /// A PEM file with the certificate authority that signed the endpoint's certificate.
    pub ca_file: Option<String>,
}

/// Access tiers that can be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "AccessTier")]
pub enum RawAccessTier {
    /// For data that is read often.
    Hot,
    /// Kept at least 30 days.
    Cool,
    /// Kept at least 90 days.
    Cold,
}

/// How to prove who we are to Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "AzureAuth")]
pub enum RawAzureAuth {
    /// What the environment offers: workload identity, a client secret, else managed identity.
    Environment,
    /// The token that Kubernetes projects into the pod.
    WorkloadIdentity,
    /// The identity of the machine.
    ManagedIdentity,
    /// An application with a secret.
    ClientSecret,
    /// The account's key.
    SharedKey,
    /// A shared access signature.
    Sas,
}

/// How long the store may take.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Timeouts")]
pub struct RawTimeouts {
    /// One operation with all its retries; large objects get more. Default: 5m.
    pub operation: Option<String>,
    /// Opening a connection. Default: 10s.
    pub connect: Option<String>,
    /// Silence in the middle of an exchange. Default: 30s.
    pub idle: Option<String>,
}

/// Where a secret is kept: exactly one of the four. `{tenant}` and `{environment}` are filled in.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Secret")]
pub struct RawSecret {
    /// Path of a file; one trailing line end is cut off.
    pub file: Option<String>,
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A program and its arguments, whose standard output it is. Needs `--allow-commands`.
    pub command: Option<Vec<String>>,
    /// The text itself, for demos.
    pub value: Option<String>,
}

impl std::fmt::Debug for RawSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self { file: Some(_), .. } => "file",
            Self { env: Some(_), .. } => "env",
            Self { command: Some(_), .. } => "command",
            _ => "value",
        };
        write!(f, "RawSecret({kind})")
    }
}

/// A secret by reference, or the text itself.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "SecretOrText")]
pub enum RawSecretOrText {
    /// The text itself.
    Text(String),
    /// Where it is kept.
    Secret(RawSecret),
}

impl std::fmt::Debug for RawSecretOrText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("RawSecret(text)"),
            Self::Secret(s) => s.fmt(f),
        }
    }
}
