//! Signing with the account's key, which the SDK does not do: "Authorize with Shared Key", the blob flavour of the
//! protocol since 2015-02-21.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::{Error as SdkError, ErrorKind as SdkKind};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use azure_core::time::to_rfc7231;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::credentials::Rotating;
use crate::runtime::Clock;
use crate::store::{Error, ErrorKind, Result};

/// Headers that take part in their own place, in this order; `content-length` is left out where it is 0.
const STANDARD_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Signs every request. The last thing before the transport, because later changes would break the signature.
#[derive(Debug)]
pub(super) struct SharedKey {
    pub(super) account: String,
    pub(super) key: Rotating<hmac::Key>,
    pub(super) clock: Arc<dyn Clock>,
}

/// The key as Azure shows it, decoded.
pub(super) fn parse_key(text: &str) -> Result<hmac::Key> {
    let decoded = STANDARD.decode(text.trim()).ok().filter(|k| !k.is_empty());
    let decoded = decoded.ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "the key of the storage account is not base64")
            .hint("Copy one of the two keys under \"Access keys\" of the storage account, not a connection string.")
    })?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &decoded))
}

#[async_trait]
impl Policy for SharedKey {
    async fn send(&self, ctx: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let now = azure_core::time::OffsetDateTime::from_unix_timestamp(self.clock.now().secs)
            .map_err(|e| SdkError::new(SdkKind::Other, e))?;
        request.insert_header("x-ms-date", to_rfc7231(&now));
        // The HTTP client would add it after us.
        if let Some(length @ 1..) = request.body().len() {
            request.insert_header("content-length", length.to_string());
        }
        let signed = string_to_sign(request, &self.account);
        let signature = STANDARD.encode(hmac::sign(&self.key.current(), signed.as_bytes()));
        request.insert_header("authorization", format!("SharedKey {}:{signature}", self.account));
        match next.split_first() {
            Some((policy, rest)) => policy.send(ctx, request, rest).await,
            None => Err(SdkError::with_message(SdkKind::Other, "the pipeline has no transport")),
        }
    }
}

fn string_to_sign(request: &Request, account: &str) -> String {
    let mut plain = BTreeMap::new();
    let mut special = BTreeMap::new();
    for (name, value) in request.headers().iter() {
        let name = name.as_str().to_ascii_lowercase();
        if name.starts_with("x-ms-") {
            special.insert(name, value.as_str().trim().to_owned());
        } else {
            plain.insert(name, value.as_str().trim().to_owned());
        }
    }
    let mut out = String::from(request.method().as_ref());
    for name in STANDARD_HEADERS {
        out.push('\n');
        match plain.get(name).map(String::as_str) {
            Some("0") if name == "content-length" => {}
            Some(value) => out.push_str(value),
            None => {}
        }
    }
    out.push('\n');
    for (name, value) in special {
        out.push_str(&format!("{name}:{value}\n"));
    }
    // The path as it is sent, still encoded; behind the account even where the path starts with it (emulators).
    out.push_str(&format!("/{account}{}", request.url().path()));
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in request.url().query_pairs() {
        query.entry(name.to_lowercase()).or_default().push(value.into_owned());
    }
    for (name, mut values) in query {
        values.sort();
        out.push_str(&format!("\n{name}:{}", values.join(",")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_core::http::Method;

    fn request(method: Method, url: &str, headers: &[(&'static str, &'static str)]) -> Request {
        let mut request = Request::new(url.parse().expect("url"), method);
        for (name, value) in headers {
            request.insert_header(*name, *value);
        }
        request
    }

    /// The examples of Microsoft's "Authorize with Shared Key" page.
    #[test]
    fn documented_examples() {
        let list = request(
            Method::Get,
            "https://myaccount.blob.core.windows.net/mycontainer?comp=metadata&restype=container&timeout=20",
            &[("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("x-ms-version", "2015-02-21")],
        );
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                        /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(string_to_sign(&list, "myaccount"), expected);

        let repeated = request(
            Method::Get,
            "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=list&include=snapshots&include=metadata&include=uncommittedblobs",
            &[],
        );
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\n/myaccount/mycontainer\ncomp:list\n\
                        include:metadata,snapshots,uncommittedblobs\nrestype:container";
        assert_eq!(string_to_sign(&repeated, "myaccount"), expected);
    }

    #[test]
    fn a_put_with_every_kind_of_header() {
        let put = request(
            Method::Put,
            "http://127.0.0.1:10000/devstoreaccount1/c/a%20b/x%2By?blockid=QUJD%3D&comp=block",
            &[
                ("content-length", "11"),
                ("content-type", "text/plain; charset=UTF-8"),
                ("if-none-match", "*"),
                ("range", "bytes=0-9"),
                ("x-ms-version", "2021-12-02"),
                ("x-ms-blob-type", "BlockBlob"),
                ("user-agent", "not signed"),
            ],
        );
        let expected = "PUT\n\n\n11\n\ntext/plain; charset=UTF-8\n\n\n\n*\n\nbytes=0-9\n\
                        x-ms-blob-type:BlockBlob\nx-ms-version:2021-12-02\n\
                        /devstoreaccount1/devstoreaccount1/c/a%20b/x%2By\nblockid:QUJD=\ncomp:block";
        assert_eq!(string_to_sign(&put, "devstoreaccount1"), expected);
        let empty = request(Method::Put, "https://a.blob.core.windows.net/c/b", &[("content-length", "0")]);
        assert_eq!(string_to_sign(&empty, "a"), "PUT\n\n\n\n\n\n\n\n\n\n\n\n/a/c/b");
    }

    #[test]
    fn signatures() {
        // RFC 4231, test case 2.
        let key = parse_key(&STANDARD.encode("Jefe")).expect("key");
        let tag = hmac::sign(&key, b"what do ya want for nothing?");
        assert_eq!(hex::encode(tag), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        for bad in ["", "not base64!", "AccountName=x;AccountKey=y"] {
            assert_eq!(parse_key(bad).map(|_| ()).map_err(|e| e.kind()), Err(ErrorKind::Invalid), "{bad}");
        }
    }
}
