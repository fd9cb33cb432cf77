//! Certificates to trust.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Fails unless `pem` holds at least one certificate and all of them can be read: the client libraries ignore what they
/// cannot read and then trust nobody.
pub(super) fn check_pem(pem: &[u8]) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("there is no certificate in it (PEM is expected)".to_owned()) } else { Ok(()) }
}
