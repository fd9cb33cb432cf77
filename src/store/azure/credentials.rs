//! Who we are: a policy that every request passes last.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret as SdkSecret, TokenCredential};
use azure_core::error::{Error as SdkError, ErrorKind as SdkKind};
use azure_core::http::policies::auth::BearerTokenAuthorizationPolicy;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{ClientOptions, Context, Request, RetryOptions, Transport, Url};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::shared_key::{SharedKey, parse_key};
use crate::runtime::{Clock, Secret, SecretText};
use crate::store::{AzureAuth, AzureSettings, Error, ErrorKind, Result};

/// What a token is good for.
const SCOPE: &str = "https://storage.azure.com/.default";
/// Where tokens may go without being told so.
const CLOUDS: [&str; 3] = [".blob.core.windows.net", ".blob.core.usgovcloudapi.net", ".blob.core.chinacloudapi.cn"];
/// A key or signature is read again after this long, so that a rotated one is used.
const FRESH: Duration = Duration::from_secs(60);

/// The policy for these settings. Reads keys and signatures; asks nobody for a token yet.
pub(super) async fn policy(
    settings: &AzureSettings,
    endpoint: &Url,
    transport: &Transport,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Policy>> {
    let found = match &settings.auth {
        AzureAuth::SharedKey(secret) => {
            let key = Rotating::new(secret.clone(), parse_key).await?;
            return Ok(Arc::new(SharedKey { account: settings.account.clone(), key, clock }));
        }
        AzureAuth::Sas(secret) => return Ok(Arc::new(Sas(Rotating::new(secret.clone(), parse_sas).await?))),
        tokens => tokens.clone(),
    };
    check_token_endpoint(endpoint, settings.trust_endpoint)?;
    let credential = credential(from_environment(found)?, settings.authority.as_deref(), transport).await?;
    Ok(Arc::new(BearerTokenAuthorizationPolicy::new(credential, [SCOPE])))
}

/// A token opens every store of its holder, so it goes to the cloud itself or to whom the operator vouched for.
fn check_token_endpoint(endpoint: &Url, trusted: bool) -> Result<()> {
    let host = endpoint.host_str().unwrap_or_default();
    if endpoint.scheme() != "https" {
        let what = format!("tokens are not sent to {host} without TLS");
        return Err(Error::new(ErrorKind::Invalid, what).hint("Use an https endpoint, or authenticate with a shared key."));
    }
    if trusted || CLOUDS.iter().any(|cloud| host.ends_with(cloud)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("tokens are not sent to {host}, which is none of Azure's storage domains"))
        .hint("Let the operator list the endpoint as trusted when the process is started, or authenticate with a shared key."))
}

/// What the environment offers, where the settings leave it open.
fn from_environment(auth: AzureAuth) -> Result<AzureAuth> {
    if auth != AzureAuth::Environment {
        return Ok(auth);
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    if variable("AZURE_FEDERATED_TOKEN_FILE").is_some() {
        return Ok(AzureAuth::WorkloadIdentity { tenant_id: None, client_id: None, token_file: None });
    }
    if variable("AZURE_CLIENT_SECRET").is_none() {
        return Ok(AzureAuth::ManagedIdentity { client_id: variable("AZURE_CLIENT_ID") });
    }
    match (variable("AZURE_TENANT_ID"), variable("AZURE_CLIENT_ID")) {
        (Some(tenant_id), Some(client_id)) => {
            Ok(AzureAuth::ClientSecret { tenant_id, client_id, secret: Secret::Env("AZURE_CLIENT_SECRET".to_owned()) })
        }
        _ => Err(Error::new(ErrorKind::Invalid, "AZURE_CLIENT_SECRET is set, but AZURE_TENANT_ID or AZURE_CLIENT_ID is not")),
    }
}

async fn credential(auth: AzureAuth, authority: Option<&str>, transport: &Transport) -> Result<Arc<dyn TokenCredential>> {
    let cloud = authority.map(|host| {
        let mut custom = CustomConfiguration::default();
        custom.authority_host = host.to_owned();
        Arc::new(CloudConfiguration::Custom(custom))
    });
    let client_options =
        ClientOptions { transport: Some(transport.clone()), retry: RetryOptions::none(), cloud, ..ClientOptions::default() };
    let made: azure_core::Result<Arc<dyn TokenCredential>> = match auth {
        AzureAuth::WorkloadIdentity { tenant_id, client_id, token_file } => {
            let credential_options = ClientAssertionCredentialOptions { client_options };
            let options =
                WorkloadIdentityCredentialOptions { credential_options, client_id, tenant_id, token_file_path: token_file };
            WorkloadIdentityCredential::new(Some(options)).map(|c| c as Arc<dyn TokenCredential>)
        }
        AzureAuth::ClientSecret { tenant_id, client_id, secret } => {
            let secret = SdkSecret::new(read(secret).await?.expose().to_owned());
            let options = ClientSecretCredentialOptions { client_options };
            ClientSecretCredential::new(&tenant_id, client_id, secret, Some(options)).map(|c| c as Arc<dyn TokenCredential>)
        }
        AzureAuth::ManagedIdentity { client_id } => {
            let user_assigned_id = client_id.map(UserAssignedId::ClientId);
            let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
            ManagedIdentityCredential::new(Some(options)).map(|c| c as Arc<dyn TokenCredential>)
        }
        AzureAuth::Environment | AzureAuth::SharedKey(_) | AzureAuth::Sas(_) => {
            return Err(Error::new(ErrorKind::Other, "this kind of Azure credential has no tokens"));
        }
    };
    made.map_err(|e| {
        Error::new(ErrorKind::Invalid, "set up the Azure credential")
            .because(e.to_string())
            .hint("For workload identity the pod needs the label azure.workload.identity/use and an annotated service account.")
    })
}

async fn read(secret: Secret) -> Result<SecretText> {
    let text = tokio::task::spawn_blocking(move || secret.read()).await;
    let text = text.map_err(|e| Error::new(ErrorKind::Other, "a thread that reads a secret ended").because(e))?;
    text.map_err(|e| {
        let hint = e.hint_text().map(str::to_owned);
        let error = Error::new(ErrorKind::Invalid, "read the Azure credential").because(e.to_string());
        hint.into_iter().fold(error, Error::hint)
    })
}

/// A secret in the form it is used in. Files and variables are read again now and then.
pub(super) struct Rotating<T> {
    secret: Secret,
    parse: fn(&str) -> Result<T>,
    held: Mutex<(Instant, Arc<T>)>,
}

impl<T> Rotating<T> {
    async fn new(secret: Secret, parse: fn(&str) -> Result<T>) -> Result<Self> {
        let first = parse(read(secret.clone()).await?.expose())?;
        Ok(Self { secret, parse, held: Mutex::new((Instant::now(), Arc::new(first))) })
    }

    /// The newest one that could be read.
    pub(super) fn current(&self) -> Arc<T> {
        let mut held = self.held.lock();
        // A command may take its time and is asked only once.
        if matches!(self.secret, Secret::File(_)) && held.0.elapsed() > FRESH {
            held.0 = Instant::now();
            let again = self.secret.read().map_err(|e| e.to_string());
            match again.and_then(|text| (self.parse)(text.expose()).map_err(|e| e.to_string())) {
                Ok(new) => held.1 = Arc::new(new),
                Err(e) => tracing::warn!("{e}; the one read before is used on"),
            }
        }
        held.1.clone()
    }
}

impl<T> fmt::Debug for Rotating<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rotating({})", self.secret)
    }
}

/// Adds a shared access signature to the query. Only here, right before the transport: no log of a layer above has it.
#[derive(Debug)]
struct Sas(Rotating<SecretText>);

fn parse_sas(text: &str) -> Result<SecretText> {
    let query = text.trim().trim_start_matches('?');
    if !query.split('&').any(|pair| pair.starts_with("sig=")) || query.contains("://") {
        return Err(Error::new(ErrorKind::Invalid, "the shared access signature has no `sig=`")
            .hint("Give the query part of the signed URL only: `sv=…&sp=…&sig=…`."));
    }
    Ok(SecretText::new(query.to_owned()))
}

#[async_trait]
impl Policy for Sas {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let signature = self.0.current();
        let query = match request.url().query() {
            Some(query) if !query.is_empty() => format!("{query}&{}", signature.expose()),
            _ => signature.expose().to_owned(),
        };
        request.url_mut().set_query(Some(&query));
        match next.split_first() {
            Some((policy, rest)) => policy.send(ctx, request, rest).await,
            None => Err(SdkError::with_message(SdkKind::Other, "the pipeline has no transport")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_the_cloud_only() {
        let check = |url: &str, trusted| check_token_endpoint(&url.parse().expect("url"), trusted).is_ok();
        assert!(check("https://acme.blob.core.windows.net", false));
        assert!(check("https://acme.blob.core.usgovcloudapi.net", false));
        assert!(check("https://acme.blob.core.chinacloudapi.cn", false));
        assert!(!check("http://acme.blob.core.windows.net", false), "no TLS");
        assert!(!check("http://10.0.0.1/acme", true), "no TLS, even where trusted");
        assert!(!check("https://acme.blob.core.windows.net.example.org", false));
        assert!(!check("https://evilblob.core.windows.net.", false));
        assert!(check("https://blobs.example.org/acme", true));
        assert!(!check("https://blobs.example.org/acme", false));
    }

    #[test]
    fn signatures_are_queries() {
        assert_eq!(parse_sas("?sv=1&sig=a%3D\n").expect("sas").expose(), "sv=1&sig=a%3D");
        assert!(parse_sas("sv=1").is_err());
        assert!(parse_sas("https://x.blob.core.windows.net/c?sv=1&sig=x").is_err());
    }
}
