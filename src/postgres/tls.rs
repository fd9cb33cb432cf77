//! TLS as libpq's `sslmode` means it, on rustls.
//!
//! `prefer` and `require` do not verify the server unless a root file exists; `verify-ca` verifies the chain,
//! `verify-full` the host name too. A self-signed server certificate that is itself the root file is accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::settings::ConnectionSettings;
use crate::error::{Error, Kind, Result};

/// The TLS configuration for these settings. Reads certificate files.
pub(super) fn config(settings: &ConnectionSettings) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(Kind::Bug, "set up TLS").because(e))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier(settings)?));
    let mut config = match client_identity(settings)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| Error::new(Kind::Config, "the client certificate (sslcert, sslkey) cannot be used").because(e))?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.get("sslsni") != Some("0");
    if settings.get("sslnegotiation") == Some("direct") {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

fn verifier(settings: &ConnectionSettings) -> Result<Verifier> {
    let mode = settings.ssl_mode();
    let given = settings.get("sslrootcert");
    let default = home(".postgresql/root.crt").filter(|p| p.exists());
    let algorithms = default_provider().signature_verification_algorithms.supported_schemes();
    let trusted: Vec<CertificateDer<'static>> = match (given, default) {
        (Some("system"), _) => rustls_native_certs::load_native_certs().certs,
        (Some(path), _) => certificates(Path::new(path), "sslrootcert")?,
        (None, Some(path)) => certificates(&path, "sslrootcert")?,
        (None, None) if mode.starts_with("verify-") => {
            return Err(Error::new(Kind::Config, format!("sslmode={mode} needs to know which certificates to trust"))
                .hint("Add sslrootcert=FILE (the authority's certificate) or sslrootcert=system."));
        }
        (None, None) => return Ok(Verifier { check: Check::Nothing, trusted: Vec::new(), chain: None, algorithms }),
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        return Err(Error::new(Kind::Config, "sslrootcert holds no usable certificate"));
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    if let Some(path) = settings.get("sslcrl") {
        let lists = CertificateRevocationListDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        builder =
            builder.with_crls(lists.map_err(|e| unreadable("sslcrl", Path::new(path), e))?).allow_unknown_revocation_status();
    }
    let chain = builder.build().map_err(|e| Error::new(Kind::Config, "sslrootcert or sslcrl cannot be used").because(e))?;
    // With sslrootcert=system libpq insists on the name as well.
    let check = if mode == "verify-full" || given == Some("system") { Check::ChainAndName } else { Check::Chain };
    Ok(Verifier { check, trusted, chain: Some(chain), algorithms })
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client_identity(settings: &ConnectionSettings) -> Result<Option<Identity>> {
    let path = |key: &str, default: &str| settings.get(key).map(PathBuf::from).or_else(|| home(default).filter(|p| p.exists()));
    let Some(cert) = path("sslcert", ".postgresql/postgresql.crt") else { return Ok(None) };
    let key = path("sslkey", ".postgresql/postgresql.key")
        .ok_or_else(|| Error::new(Kind::Config, "sslcert is given, but no sslkey").hint("Add sslkey=FILE."))?;
    let chain = certificates(&cert, "sslcert")?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| unreadable("sslkey", &key, e))?;
    Ok(Some((chain, key)))
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| unreadable(what, path, e))
}

fn unreadable(what: &str, path: &Path, error: rustls::pki_types::pem::Error) -> Error {
    Error::new(Kind::Config, format!("cannot read {what} {}", path.display())).because(error.to_string())
}

fn home(file: &str) -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(file))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    trusted: Vec<CertificateDer<'static>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: Vec<SignatureScheme>,
}

impl Verifier {
    fn signature(
        &self,
        verify: impl FnOnce(&WebPkiServerVerifier) -> Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Whoever stands in the middle could present a certificate of his own: without a chain nothing is verified.
        self.chain.as_deref().map_or_else(|| Ok(HandshakeSignatureValid::assertion()), verify)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        if self.trusted.iter().any(|t| t == cert) {
            // The server's own certificate is the trusted one: there is no chain to follow.
            if self.check == Check::ChainAndName {
                rustls::client::verify_server_name(&rustls::server::ParsedCertificate::try_from(cert)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match chain.verify_server_cert(cert, intermediates, name, stapled, now) {
            // The chain is verified before the name.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Chain => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(|chain| chain.verify_tls12_signature(message, cert, dss))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(|chain| chain.verify_tls13_signature(message, cert, dss))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.clone()
    }
}
