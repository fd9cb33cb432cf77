//! The settings of a store, whatever its kind.

use std::path::PathBuf;
use std::time::Duration;

use super::super::mistake::Collector;
use super::super::raw::{RawAccessTier, RawAzure, RawAzureAuth, RawChecksum, RawS3, RawSecret, RawTimeouts};
use super::job::duration;
use super::secret::Names;
use crate::runtime::Secret;
use crate::store::{AccessTier, AzureAuth, AzureSettings, Checksum, S3Settings, Settings, Sse, StoreUrl};

/// Bytes a second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    pub(super) upload: u64,
    pub(super) read: u64,
}

/// A block and the path it was written at.
pub(super) struct Block<'a, T> {
    pub(super) raw: &'a T,
    pub(super) path: String,
}

/// Everything that says something about a store.
pub(super) struct Blocks<'a> {
    pub(super) url_path: &'a str,
    pub(super) s3: Option<Block<'a, RawS3>>,
    pub(super) azure: Option<Block<'a, RawAzure>>,
    pub(super) timeouts: Option<Block<'a, RawTimeouts>>,
    pub(super) allow_http: bool,
    pub(super) limits: Rates,
}

/// `None` after a mistake that leaves nothing to go on with.
pub(super) fn settings(url: StoreUrl, from: &Blocks<'_>, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<Settings> {
    let mut made = Settings::new(url);
    made.allow_http = from.allow_http;
    (made.upload_rate, made.download_rate) = (from.limits.upload, from.limits.read);
    if let Some(Block { raw, path }) = &from.timeouts {
        let set = |text: &Option<String>, field: &str, into: &mut Duration, out: &mut Collector<'_>| {
            if let Some(d) = duration(text.as_ref(), &format!("{path}.{field}"), out) {
                *into = d;
            }
        };
        set(&raw.operation, "operation", &mut made.deadline, out);
        set(&raw.connect, "connect", &mut made.connect_timeout, out);
        set(&raw.idle, "idle", &mut made.idle_timeout, out);
    }
    let kind = match &made.url {
        StoreUrl::File { .. } => "local",
        StoreUrl::S3 { .. } => "S3",
        StoreUrl::Azure { .. } => "Azure",
    };
    if let Some(Block { raw, path }) = &from.s3 {
        if kind != "S3" {
            out.add(path.clone(), format!("`s3` does not belong to a {kind} store"));
        }
        made.s3 = s3(raw, path, names, out);
    }
    if let Some(Block { raw, path }) = &from.azure {
        if kind != "Azure" {
            out.add(path.clone(), format!("`azure` does not belong to a {kind} store"));
        }
        made.azure = azure(raw, path, names, out)?;
    }
    let above = from.url_path.strip_suffix(".url").unwrap_or(from.url_path);
    for (path, why) in made.mistakes() {
        // At the block it was written in, which may be the default repository's.
        let at = match (path.split_once('.'), &from.s3, &from.azure) {
            (Some(("s3", field)), Some(s3), _) => format!("{}.{field}", s3.path),
            (Some(("azure", field)), _, Some(azure)) => format!("{}.{field}", azure.path),
            _ => format!("{above}.{path}"),
        };
        out.add(at, why);
    }
    Some(made)
}

fn s3(raw: &RawS3, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> S3Settings {
    let usual = S3Settings::default();
    let sse = match raw.sse.as_ref().map(|s| (s.s3 == Some(true), s.kms_key_id.clone())) {
        None | Some((false, None)) => Sse::None,
        Some((true, None)) => Sse::Aes256,
        Some((false, key_id)) => Sse::Kms { key_id },
        Some((true, Some(_))) => {
            out.add(format!("{path}.sse"), "`s3` and `kms_key_id` exclude each other");
            Sse::None
        }
    };
    S3Settings {
        region: raw.region.clone(),
        endpoint: raw.endpoint.clone(),
        path_style: raw.path_style,
        checksum: match raw.checksum {
            None | Some(RawChecksum::Auto) => Checksum::Auto,
            Some(RawChecksum::Always) => Checksum::Always,
            Some(RawChecksum::WhenRequired) => Checksum::WhenRequired,
        },
        sse,
        storage_class: raw.storage_class.clone(),
        ca_file: raw.ca_file.as_ref().map(PathBuf::from),
        access_key_id: raw.access_key_id.as_ref().and_then(|s| names.secret_or_text(s, &format!("{path}.access_key_id"), out)),
        secret_access_key: secret(raw.secret_access_key.as_ref(), path, "secret_access_key", names, out),
        session_token: secret(raw.session_token.as_ref(), path, "session_token", names, out),
        conditional_puts: raw.conditional_puts.unwrap_or(usual.conditional_puts),
        ..usual
    }
}

fn azure(raw: &RawAzure, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<AzureSettings> {
    let auth = auth(raw, path, names, out);
    let account = raw.account.clone().unwrap_or_default();
    let plain = account.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    // That it is missing is told with the store's other settings.
    if !account.is_empty() && (!plain || !(3..=24).contains(&account.len())) {
        out.add(format!("{path}.account"), format!("`{}` is not the name of a storage account", account.escape_debug()));
    }
    Some(AzureSettings {
        account,
        auth: auth?,
        endpoint: raw.endpoint.clone(),
        authority: raw.authority.clone(),
        access_tier: raw.access_tier.map(|t| match t {
            RawAccessTier::Hot => AccessTier::Hot,
            RawAccessTier::Cool => AccessTier::Cool,
            RawAccessTier::Cold => AccessTier::Cold,
        }),
        ca_file: raw.ca_file.as_ref().map(PathBuf::from),
        ..AzureSettings::default()
    })
}

fn auth(raw: &RawAzure, path: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<AzureAuth> {
    let key = secret(raw.key.as_ref(), path, "key", names, out);
    let sas = secret(raw.sas.as_ref(), path, "sas", names, out);
    let client_secret = secret(raw.client_secret.as_ref(), path, "client_secret", names, out);
    let kind = raw.auth.unwrap_or(match (&raw.key, &raw.sas, &raw.client_secret) {
        (Some(_), _, _) => RawAzureAuth::SharedKey,
        (_, Some(_), _) => RawAzureAuth::Sas,
        (_, _, Some(_)) => RawAzureAuth::ClientSecret,
        _ => RawAzureAuth::Environment,
    });
    let mut needs = |field: &str, given: bool| {
        if !given {
            out.add(format!("{path}.{field}"), format!("`auth` asks for `{field}`, and there is none"));
        }
    };
    match kind {
        RawAzureAuth::Environment => Some(AzureAuth::Environment),
        RawAzureAuth::WorkloadIdentity => Some(AzureAuth::WorkloadIdentity {
            tenant_id: raw.tenant_id.clone(),
            client_id: raw.client_id.clone(),
            token_file: raw.token_file.as_ref().map(PathBuf::from),
        }),
        RawAzureAuth::ManagedIdentity => Some(AzureAuth::ManagedIdentity { client_id: raw.client_id.clone() }),
        RawAzureAuth::ClientSecret => {
            needs("tenant_id", raw.tenant_id.is_some());
            needs("client_id", raw.client_id.is_some());
            needs("client_secret", raw.client_secret.is_some());
            Some(AzureAuth::ClientSecret {
                tenant_id: raw.tenant_id.clone()?,
                client_id: raw.client_id.clone()?,
                secret: client_secret?,
            })
        }
        RawAzureAuth::SharedKey => {
            needs("key", raw.key.is_some());
            key.map(AzureAuth::SharedKey)
        }
        RawAzureAuth::Sas => {
            needs("sas", raw.sas.is_some());
            sas.map(AzureAuth::Sas)
        }
    }
}

fn secret(raw: Option<&RawSecret>, path: &str, field: &str, names: &mut Names<'_>, out: &mut Collector<'_>) -> Option<Secret> {
    names.secret(raw?, &format!("{path}.{field}"), out)
}
