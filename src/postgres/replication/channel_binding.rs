//! `tls-server-end-point` (RFC 5929): ties a SCRAM login to the certificate of this very TLS connection, so that nobody in
//! between can pass it on.

use ring::digest::{SHA256, SHA384, SHA512, digest};

/// Object identifiers of signature algorithms, as they are encoded, and the hash that each of them uses. MD5 and SHA-1 count as
/// SHA-256, as the RFC says.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];

/// The hash of a certificate that the login is bound to. `None` where its signature names no single hash (Ed25519, RSA-PSS):
/// then there is no binding.
pub(super) fn of_certificate(der: &[u8]) -> Option<Vec<u8>> {
    let (certificate, _) = element(der, 0x30)?;
    let (_, after_body) = element(certificate, 0x30)?;
    let (algorithm, _) = element(after_body, 0x30)?;
    let (oid, _) = element(algorithm, 0x06)?;
    let algorithm = match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => &SHA256,
        (Some([12]), _) | (_, Some([3, 3])) => &SHA384,
        (Some([13]), _) | (_, Some([3, 4])) => &SHA512,
        _ => return None,
    };
    Some(digest(algorithm, der).as_ref().to_vec())
}

/// The content of the DER element that begins here, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = match usize::from(*length) {
        short @ 0..=0x7F => (short, rest),
        long => {
            let (digits, rest) = rest.split_at_checked(long & 0x7F)?;
            if digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that is nothing but its outer shape.
    fn certificate(oid: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| [&[tag, 0x81, u8::try_from(content.len()).unwrap()], content].concat();
        let algorithm = wrap(0x30, &wrap(0x06, oid));
        wrap(0x30, &[wrap(0x30, &[1; 40]), algorithm].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (oid, bytes) in [
            ([RSA, &[11]].concat(), Some(32)),
            ([RSA, &[5]].concat(), Some(32)),
            ([RSA, &[12]].concat(), Some(48)),
            ([RSA, &[13]].concat(), Some(64)),
            ([RSA, &[10]].concat(), None),
            ([ECDSA, &[3, 2]].concat(), Some(32)),
            ([ECDSA, &[3, 4]].concat(), Some(64)),
            (vec![0x2B, 0x65, 0x70], None),
        ] {
            assert_eq!(of_certificate(&certificate(&oid)).map(|h| h.len()), bytes, "{oid:x?}");
        }
        let whole = certificate(&[RSA, &[11]].concat());
        assert_eq!(of_certificate(&whole), Some(digest(&SHA256, &whole).as_ref().to_vec()));
        for cut in 0..whole.len() {
            assert_eq!(of_certificate(&whole[..cut]), None);
        }
    }
}
