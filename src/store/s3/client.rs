//! From settings to an S3 client: endpoint, region, credentials, TLS, timeouts. The client's own retries are off, since
//! [`crate::store::Retry`] decides.

use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::meta::region::ProvideRegion;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, ConfigBag, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;

use crate::runtime::Secret;
use crate::store::server::ServerClock;
use crate::store::{Checksum, Error, ErrorKind, Result, S3Settings, Settings};

/// Idle connections are closed before the usual servers close them (20 s and up), so that a request rarely meets a dead one.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// Everything that stays when credentials are read anew.
#[derive(Debug, Clone)]
pub(super) struct Factory {
    base: aws_sdk_s3::config::Builder,
    credentials: SharedCredentialsProvider,
}

impl Factory {
    /// Reads the environment and the files the settings name; may ask the machine's metadata service for the region.
    pub(super) async fn new(settings: &Settings, clock: Arc<ServerClock>) -> Result<Self> {
        let s3 = &settings.s3;
        let (region, credentials) = identity(settings).await?;
        let custom = s3.endpoint.is_some();
        let checksums = match s3.checksum {
            Checksum::Auto => !custom,
            Checksum::Always => true,
            Checksum::WhenRequired => false,
        };
        let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).read_timeout(settings.idle_timeout);
        let stalls = StalledStreamProtectionConfig::enabled().grace_period(settings.idle_timeout).build();
        let mut base = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client(s3.ca_file.as_deref()).await?)
            .region(region)
            .force_path_style(s3.path_style.unwrap_or(custom))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts.build())
            .stalled_stream_protection(stalls)
            // A clock that is off is said to be off: snapshots, locks and retention go by it.
            .disable_clock_skew_correction(true)
            .request_checksum_calculation(if checksums {
                RequestChecksumCalculation::WhenSupported
            } else {
                RequestChecksumCalculation::WhenRequired
            })
            .response_checksum_validation(if checksums {
                ResponseChecksumValidation::WhenSupported
            } else {
                ResponseChecksumValidation::WhenRequired
            })
            .interceptor(Dates(clock));
        if let Ok(name) = AppName::new("strongroom") {
            base = base.app_name(name);
        }
        if let Some(endpoint) = &s3.endpoint {
            base = base.endpoint_url(endpoint.trim_end_matches('/'));
        }
        Ok(Self { base, credentials })
    }

    /// A client that has no credentials yet and asks for them at its first request.
    pub(super) fn client(&self) -> Client {
        // The cache of credentials belongs to the client: a new one starts empty.
        let config = self.base.clone().identity_cache(aws_sdk_s3::config::IdentityCache::lazy().build());
        Client::from_conf(config.credentials_provider(self.credentials.clone()).build())
    }
}

/// Region and credentials: the static ones of the settings, else the default chain's.
async fn identity(settings: &Settings) -> Result<(Region, SharedCredentialsProvider)> {
    let s3 = &settings.s3;
    let given = s3.region.clone().map(Region::new);
    let fallback = s3.endpoint.is_some().then(|| Region::from_static("us-east-1"));
    let no_region = || {
        Error::new(
            ErrorKind::Invalid,
            format!("{} needs a region, and neither the settings nor the environment name one", settings.url),
        )
        .hint("Set `s3.region`, e.g. eu-central-1, or AWS_REGION.")
    };
    if let Some(keys) = StaticKeys::of(s3) {
        let region = match given.or(fallback) {
            Some(region) => region,
            None => aws_config::default_provider::region::default_provider().region().await.ok_or_else(no_region)?,
        };
        return Ok((region, SharedCredentialsProvider::new(keys)));
    }
    // The system's authorities, not those of the settings: the chain talks to Amazon, not to the endpoint.
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client(None).await?);
    if let Some(region) = &given {
        loader = loader.region(region.clone());
    }
    let shared = loader.load().await;
    let region = given.or_else(|| shared.region().cloned()).or(fallback).ok_or_else(no_region)?;
    let credentials =
        shared.credentials_provider().ok_or_else(|| Error::new(ErrorKind::Denied, "there is no source of credentials"))?;
    Ok((region, credentials))
}

async fn http_client(ca_file: Option<&std::path::Path>) -> Result<SharedHttpClient> {
    let mut trust = tls::TrustStore::default();
    if let Some(path) = ca_file {
        let what = || format!("read the certificates in {}", path.display());
        let pem = tokio::fs::read(path).await.map_err(|e| Error::new(ErrorKind::Invalid, what()).because(e))?;
        super::super::tls::check_pem(&pem).map_err(|e| Error::new(ErrorKind::Invalid, what()).because(e))?;
        trust = tls::TrustStore::empty().with_pem_certificate(pem);
    }
    let context = tls::TlsContext::builder().with_trust_store(trust).build();
    let context = context.map_err(|e| Error::new(ErrorKind::Invalid, "set up TLS for S3").because(e))?;
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(provider)
        .tls_context(context)
        .pool_idle_timeout(POOL_IDLE)
        .build_https())
}

/// Keys by reference, read when the client asks for credentials.
#[derive(Debug, Clone)]
struct StaticKeys {
    id: Secret,
    secret: Secret,
    token: Option<Secret>,
}

impl StaticKeys {
    fn of(s3: &S3Settings) -> Option<Self> {
        Some(Self { id: s3.access_key_id.clone()?, secret: s3.secret_access_key.clone()?, token: s3.session_token.clone() })
    }

    fn read(&self) -> crate::error::Result<Credentials> {
        let token = self.token.as_ref().map(Secret::read).transpose()?;
        let (id, secret) = (self.id.read()?, self.secret.read()?);
        Ok(Credentials::new(id.expose(), secret.expose(), token.map(|t| t.expose().to_owned()), None, "strongroom settings"))
    }
}

impl ProvideCredentials for StaticKeys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let keys = self.clone();
        future::ProvideCredentials::new(async move {
            // A secret may be a program's output.
            let read = tokio::task::spawn_blocking(move || keys.read()).await;
            let read = read.map_err(provider::error::CredentialsError::unhandled)?;
            read.map_err(provider::error::CredentialsError::invalid_configuration)
        })
    }
}

/// Takes note of the date of every answer.
#[derive(Debug)]
struct Dates(Arc<ServerClock>);

#[dyn_dispatch_hint]
impl Intercept for Dates {
    fn name(&self) -> &'static str {
        "Dates"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.0.saw(date);
        }
        Ok(())
    }
}
