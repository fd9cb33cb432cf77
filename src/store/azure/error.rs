//! What a failed request means, in words that help.

use azure_core::error::ErrorKind as SdkKind;
use azure_core::http::RawResponse;
use azure_core::http::headers::{HeaderName, Headers};

use crate::model::Time;
use crate::store::{AzureAuth, Error, ErrorKind};

/// Azure refuses requests whose date differs by more.
const MAX_SKEW: f64 = 15.0 * 60.0;

/// What an explanation needs to know.
#[derive(Debug)]
pub(super) struct Scene {
    /// `azblob://container/prefix`.
    pub(super) location: String,
    /// Account and container, for hints.
    pub(super) account: String,
    pub(super) container: String,
    pub(super) auth: AzureAuth,
}

/// The code of a refusal, e.g. `BlobNotFound`; empty where the store did not answer.
pub(super) fn code(error: &azure_core::Error) -> &str {
    match error.kind() {
        SdkKind::HttpResponse { error_code: Some(code), .. } => code,
        _ => "",
    }
}

/// A header's text.
pub(super) fn header<'a>(headers: &'a Headers, name: &'static str) -> Option<&'a str> {
    headers.get_optional_str(&HeaderName::from_static(name))
}

/// The `Date` of a reply.
fn date(headers: &Headers) -> Option<Time> {
    time(header(headers, "date")?)
}

/// A time as HTTP writes it.
pub(super) fn time(text: &str) -> Option<Time> {
    azure_core::time::parse_rfc7231(text).ok().map(|t| Time::new(t.unix_timestamp(), 0))
}

/// The reply inside an error, if there was one.
fn reply(error: &azure_core::Error) -> Option<&RawResponse> {
    match error.kind() {
        SdkKind::HttpResponse { raw_response, .. } => raw_response.as_deref(),
        _ => None,
    }
}

/// Turns an SDK error into ours. `doing` is e.g. `put index/ab…`; `now` is this machine's time.
pub(super) fn explain(error: azure_core::Error, doing: &str, scene: &Scene, now: Time) -> Error {
    let what = format!("{doing} in {}", scene.location);
    let Some(status) = error.http_status().map(u16::from) else { return unanswered(&error, what, scene) };
    let code = code(&error).to_owned();
    let headers = reply(&error).map(RawResponse::headers);
    let skew = headers.and_then(date).map(|theirs| now.seconds_since(theirs)).filter(|s| s.abs() > MAX_SKEW);
    let Scene { account, container, .. } = scene;
    let (kind, hint) = match (status, code.as_str()) {
        (401 | 403, _) if let Some(skew) = skew => {
            let way = if skew > 0.0 { "ahead of" } else { "behind" };
            let hint = format!("This machine's clock is {} minutes {way} the store's: set it (NTP).", (skew.abs() / 60.0) as u64);
            (ErrorKind::ClockSkew, hint)
        }
        (_, "ContainerNotFound" | "ContainerDisabled") => (
            ErrorKind::NoSuchStore,
            format!(
                "Create the container {container} in the storage account {account}, or correct its name; containers are never created by this program."
            ),
        ),
        (_, "BlobNotFound") => (ErrorKind::NotFound, String::new()),
        (_, "BlobAlreadyExists") => (ErrorKind::AlreadyExists, String::new()),
        (_, "ConditionNotMet" | "TargetConditionNotMet") => (ErrorKind::Conflict, String::new()),
        (
            _,
            "AuthorizationPermissionMismatch"
            | "InsufficientAccountPermissions"
            | "AuthorizationServiceMismatch"
            | "AuthorizationResourceTypeMismatch",
        ) => (ErrorKind::Denied, permission(&scene.auth)),
        (_, "AuthorizationSourceIPMismatch" | "AuthorizationProtocolMismatch") => {
            (ErrorKind::Denied, "The shared access signature does not allow this address or protocol.".to_owned())
        }
        (_, "KeyBasedAuthenticationNotPermitted") => {
            (ErrorKind::Denied, format!("The storage account {account} forbids keys: use workload_identity or managed_identity."))
        }
        (_, "AccountIsDisabled") => (ErrorKind::Denied, format!("The storage account {account} is disabled.")),
        (_, "PublicAccessNotPermitted" | "ResourceNotFound" | "NoAuthenticationInformation") => {
            (ErrorKind::Denied, format!("The request carried no valid credentials for the storage account {account}."))
        }
        (_, "BlobImmutableDueToPolicy" | "LeaseIdMissing" | "SnapshotsPresent") => (
            ErrorKind::Denied,
            "A lease, a snapshot, a legal hold or an immutability policy of the container protects the blob.".to_owned(),
        ),
        (_, "BlobArchived" | "BlobBeingRehydrated") => (
            ErrorKind::Invalid,
            "The blob is in the Archive tier: rehydrate it, and exclude the prefix from lifecycle rules that archive.".to_owned(),
        ),
        (_, "InvalidBlockList" | "InvalidBlobOrBlock") => (ErrorKind::Unavailable, String::new()),
        (401 | 403, _) => (ErrorKind::Denied, credentials(&scene.auth, account)),
        (408 | 429 | 500.., _) | (_, "ServerBusy" | "OperationTimedOut" | "ContainerBeingDeleted") => {
            (ErrorKind::Unavailable, String::new())
        }
        (400 | 411 | 413 | 416, _) => (ErrorKind::Invalid, String::new()),
        (404, _) => {
            (ErrorKind::Other, "The answer does not come from a blob service: check `endpoint` and what lies between.".to_owned())
        }
        _ => (ErrorKind::Other, String::new()),
    };
    let cause = message(reply(&error)).map_or_else(|| format!("{status} {code}"), |m| format!("{status} {code}: {m}"));
    let out = Error::new(kind, what).because(cause);
    if hint.is_empty() { out } else { out.hint(hint) }
}

fn permission(auth: &AzureAuth) -> String {
    match auth {
        AzureAuth::Sas(_) => "The shared access signature must allow read, write, delete, create and list (sp=rwdlc) on the container.",
        _ => "Give the identity the role \"Storage Blob Data Contributor\" on the container; a new role takes some minutes to work.",
    }
    .to_owned()
}

fn credentials(auth: &AzureAuth, account: &str) -> String {
    match auth {
        AzureAuth::SharedKey(_) => format!("Check that the key belongs to the storage account {account} and was not rotated, and the account's firewall."),
        AzureAuth::Sas(_) => "Check that the shared access signature is whole, has not expired and allows rwdlc on the container, and the account's firewall.".to_owned(),
        _ => format!("Check that the identity has the role \"Storage Blob Data Contributor\" on the container, and the firewall of {account}."),
    }
}

/// No reply: the network, TLS, or no token.
fn unanswered(error: &azure_core::Error, what: String, scene: &Scene) -> Error {
    let (mut texts, mut tls, mut refused): (Vec<String>, bool, bool) = (Vec::new(), false, false);
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        let text = e.to_string();
        if !text.is_empty() && !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        tls |= e.is::<rustls::Error>();
        // A token service that said no, as opposed to one that did not answer.
        let status = e.downcast_ref::<azure_core::Error>().and_then(azure_core::Error::http_status).map(u16::from);
        refused |= status.is_some_and(|s| (400..500).contains(&s) && !matches!(s, 408 | 410 | 429));
        // What an I/O error wraps is not among its sources.
        next = match e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => e.source(),
        };
    }
    let credential = matches!(error.kind(), SdkKind::Credential);
    let cause = texts.join(": ");
    let text = cause.to_lowercase();
    refused |=
        credential && ["aadsts", "invalid_client", "unauthorized_client", "invalid_grant"].iter().any(|t| text.contains(t));
    let (kind, hint) = if tls {
        (
            ErrorKind::Tls,
            "Set `ca_file` to the certificate of the authority that signed the endpoint's, or install ca-certificates."
                .to_owned(),
        )
    } else if credential && refused {
        (
            ErrorKind::Denied,
            "The token was refused: check tenant and client id and the federated credential of the identity.".to_owned(),
        )
    } else if credential {
        (
            ErrorKind::Unavailable,
            "No token could be had: check the identity of this pod or machine, and that the token service can be reached."
                .to_owned(),
        )
    } else if text.contains("dns error") {
        (
            ErrorKind::Unavailable,
            format!("The name of the endpoint is not known: check the storage account's name ({}) and DNS.", scene.account),
        )
    } else if matches!(error.kind(), SdkKind::Connection | SdkKind::Io) {
        return Error::new(ErrorKind::Unavailable, what).because(cause);
    } else {
        return Error::new(ErrorKind::Other, what).because(cause);
    };
    Error::new(kind, what).because(cause).hint(hint)
}

/// The service's own sentence: the first line of `<Message>`, and the detail of a refused signature unless that is the
/// string to sign.
fn message(reply: Option<&RawResponse>) -> Option<String> {
    let body = String::from_utf8_lossy(reply?.body().as_ref()).into_owned();
    let field = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        let line = text.lines().next().unwrap_or_default().trim();
        let line = ["Server used following string", "String to sign", "The MAC signature found"]
            .iter()
            .fold(line, |line, cut| line.split(cut).next().unwrap_or_default());
        let line: String = line.trim().chars().take(300).collect();
        (!line.is_empty()).then_some(line)
    };
    match (field("Message"), field("AuthenticationErrorDetail")) {
        (Some(m), Some(d)) => Some(format!("{m} {d}")),
        (m, d) => m.or(d),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Secret, SecretText};
    use azure_core::http::StatusCode;

    fn refused(status: u16, code: &'static str, date: &'static str, body: &'static str) -> Error {
        let mut headers = Headers::new();
        headers.insert("date", date);
        let raw_response = Some(Box::new(RawResponse::from_bytes(StatusCode::from(status), headers, body)));
        let kind = SdkKind::HttpResponse { status: StatusCode::from(status), error_code: Some(code.to_owned()), raw_response };
        let auth = AzureAuth::SharedKey(Secret::Value(SecretText::new("x".to_owned())));
        let scene = Scene { location: "azblob://box/x".into(), account: "acme".into(), container: "box".into(), auth };
        explain(
            azure_core::Error::with_message(kind, "m"),
            "read a",
            &scene,
            time("Fri, 26 Jun 2015 23:39:12 GMT").expect("time"),
        )
    }

    #[test]
    fn refusals_are_told_apart() {
        let same = "Fri, 26 Jun 2015 23:39:15 GMT";
        let cases = [
            (404, "BlobNotFound", ErrorKind::NotFound),
            (404, "ContainerNotFound", ErrorKind::NoSuchStore),
            (404, "404", ErrorKind::Other),
            (409, "BlobAlreadyExists", ErrorKind::AlreadyExists),
            (412, "ConditionNotMet", ErrorKind::Conflict),
            (403, "AuthenticationFailed", ErrorKind::Denied),
            (403, "AuthorizationPermissionMismatch", ErrorKind::Denied),
            (409, "BlobImmutableDueToPolicy", ErrorKind::Denied),
            (503, "ServerBusy", ErrorKind::Unavailable),
            (500, "InternalError", ErrorKind::Unavailable),
            (429, "429", ErrorKind::Unavailable),
            (400, "InvalidHeaderValue", ErrorKind::Invalid),
        ];
        for (status, code, kind) in cases {
            assert_eq!(refused(status, code, same, "").kind(), kind, "{status} {code}");
        }
        let skewed = refused(403, "AuthenticationFailed", "Fri, 26 Jun 2015 23:59:15 GMT", "");
        assert_eq!(skewed.kind(), ErrorKind::ClockSkew);
        assert!(skewed.hint_text().is_some_and(|h| h.contains("20 minutes behind")), "{skewed:?}");
    }

    #[test]
    fn the_services_words_without_the_string_to_sign() {
        let body = "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate the request.\nRequestId:1</Message>\
                    <AuthenticationErrorDetail>The MAC signature found in the HTTP request 'abc=' is not the same. Server used following string to sign: 'GET'.</AuthenticationErrorDetail></Error>";
        let error = refused(403, "AuthenticationFailed", "Fri, 26 Jun 2015 23:39:15 GMT", body);
        assert_eq!(
            error.chain(),
            "read a in azblob://box/x: 403 AuthenticationFailed: Server failed to authenticate the request."
        );
        assert!(error.hint_text().is_some_and(|h| h.contains("key belongs to the storage account acme")));
    }
}
