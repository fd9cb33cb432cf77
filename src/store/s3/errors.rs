//! What a failed S3 request means. Decided by the server's error code, never by its text.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::store::server::{Innermost, clock_skew, find_cause, transport_error};
use crate::store::{Error, ErrorKind};

/// A failed request: what it means, and what the callers in this folder need to know besides.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// The HTTP status, if there was an answer.
    pub(super) status: Option<u16>,
    /// Other credentials might help: they were refused as such.
    pub(super) credentials: bool,
}

/// Of a request whose answer has a body. "Not found" is believed only with the code of an S3 server: a proxy that does not
/// know where to go says 404, too, and what it says of an object must not pass for the store's word.
pub(super) fn explain<E>(what: impl Into<String>, bucket: &str, failed: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let status = failed.raw_response().map(|r| r.status().as_u16());
    // Of an answer without a body the SDK says `NotFound` by itself.
    let is_empty = failed.raw_response().is_none_or(|r| r.body().bytes().is_none_or(<[u8]>::is_empty));
    let has_code = matches!(&failed, SdkError::ServiceError(s) if s.err().code().is_some_and(|c| !c.is_empty()));
    if status == Some(404) && (is_empty || !has_code) {
        let error = Error::new(ErrorKind::Unavailable, what)
            .because("status 404 without an S3 error code")
            .hint("This answer does not come from an S3 server: check `s3.endpoint` and what lies between.");
        return Failure { error, status, credentials: false };
    }
    explain_head(what, bucket, failed)
}

/// Of a HEAD: it has no body, so that its answers have no code and the status must do.
pub(super) fn explain_head<E>(what: impl Into<String>, bucket: &str, failed: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let what = what.into();
    let raw = failed.raw_response();
    let status = raw.map(|r| r.status().as_u16());
    let region = raw.and_then(|r| r.headers().get("x-amz-bucket-region")).map(str::to_owned);
    let failure = |error, credentials| Failure { error, status, credentials };
    match &failed {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or_default().to_owned();
            let message = service.err().message().unwrap_or_default().to_owned();
            let cause = match (code.is_empty(), message.is_empty()) {
                (true, _) => format!("status {}", status.unwrap_or_default()),
                (false, true) => code.clone(),
                (false, false) => format!("{code}: {message}"),
            };
            let (error, credentials) = by_code(what, bucket, &code, status.unwrap_or_default(), region, cause);
            failure(error, credentials)
        }
        SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) => failure(before_an_answer(what, failed), false),
        SdkError::TimeoutError(_) => {
            failure(Error::new(ErrorKind::Unavailable, what).because(Innermost::of(failed.into())), false)
        }
        // An answer that cannot be read: cut off, or from something that is no S3 server.
        _ => failure(Error::new(ErrorKind::Unavailable, what).because(Innermost::of(failed.into())), false),
    }
}

fn by_code(what: String, bucket: &str, code: &str, status: u16, region: Option<String>, cause: String) -> (Error, bool) {
    let simple = |kind| (Error::new(kind, what.clone()).because(cause.clone()), false);
    let hinted = |kind, hint: String| (Error::new(kind, what.clone()).because(cause.clone()).hint(hint), false);
    match code {
        "NoSuchKey" | "NotFound" => simple(ErrorKind::NotFound),
        "NoSuchBucket" => hinted(ErrorKind::NoSuchStore, format!("Check the name and region of bucket {bucket}, and create it if it is new.")),
        "RequestTimeTooSkewed" => (clock_skew(what, cause), false),
        "InvalidAccessKeyId" => (denied(what, cause, "The access key id is unknown to this store: check it and the endpoint."), true),
        "SignatureDoesNotMatch" => (denied(what, cause, "The secret access key is wrong."), true),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "ExpiredTokenException" => {
            (denied(what, cause, "The temporary credentials are expired or not for this store: renew them."), true)
        }
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => (
            denied(
                what,
                cause,
                "The credentials are valid but not allowed to do this. Needed are s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, \
                 s3:DeleteObject and s3:AbortMultipartUpload on its objects.",
            ),
            // Some stores say only this to an unknown key.
            true,
        ),
        c if c.starts_with("KMS.") => hinted(ErrorKind::Denied, "Check the KMS key of `s3.sse` and the right to use it.".to_owned()),
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            let there = region.map_or("Set `s3.region` to the region that the bucket is in.".to_owned(), |r| format!("The bucket is in region {r}: set `s3.region: {r}`."));
            hinted(ErrorKind::Invalid, there)
        }
        "PreconditionFailed" => simple(ErrorKind::Conflict),
        // Another conditional write runs at this moment; which of them wins is not decided yet.
        "ConditionalRequestConflict" | "OperationAborted" => simple(ErrorKind::Unavailable),
        "InvalidRange" => simple(ErrorKind::Invalid),
        // Damaged on the way; the next try may arrive whole.
        "BadDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" | "InvalidDigest" | "IncompleteBody" | "RequestTimeout" => {
            simple(ErrorKind::Unavailable)
        }
        "NoSuchUpload" => simple(ErrorKind::Unavailable),
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" | "ServiceQuotaExceededException" => {
            hinted(ErrorKind::Full, "The store's quota or disk is used up: make room, or prune with less kept.".to_owned())
        }
        "InvalidObjectState" => hinted(
            ErrorKind::Invalid,
            "The object is in an archive class that cannot be read at once: restore it to a readable class first.".to_owned(),
        ),
        "NotImplemented" => hinted(
            ErrorKind::Invalid,
            "This S3 server lacks something: try `s3.checksum: when_required` or `s3.conditional_puts: false`, and no `sse` or `storage_class`.".to_owned(),
        ),
        _ => by_status(what, status, region, cause),
    }
}

fn by_status(what: String, status: u16, region: Option<String>, cause: String) -> (Error, bool) {
    let kind = match status {
        301 | 307 | 308 => {
            return by_code(what, "", "PermanentRedirect", 0, region, cause);
        }
        401 | 403 => {
            return (denied(what, cause, "The credentials are wrong, or not allowed to do this."), true);
        }
        404 => ErrorKind::NotFound,
        412 => ErrorKind::Conflict,
        416 => ErrorKind::Invalid,
        507 => ErrorKind::Full,
        408 | 409 | 425 | 429 | 500..=599 => ErrorKind::Unavailable,
        400..=499 => ErrorKind::Invalid,
        _ => ErrorKind::Other,
    };
    (Error::new(kind, what).because(cause), false)
}

fn denied(what: String, cause: String, hint: &str) -> Error {
    Error::new(ErrorKind::Denied, what).because(cause).hint(hint)
}

/// No answer: no credentials, no connection, no TLS, or a request that could not be made.
fn before_an_answer<E>(what: String, failed: SdkError<E, HttpResponse>) -> Error
where
    E: StdError + Send + Sync + 'static,
{
    let is_construction = matches!(failed, SdkError::ConstructionFailure(_));
    let boxed: Box<dyn StdError + Send + Sync> = failed.into();
    // The chain asks services of its own, which may be down; everything else about credentials needs a person.
    let credentials = find_cause(boxed.as_ref(), &|e| {
        e.downcast_ref::<CredentialsError>().map(|c| match c {
            CredentialsError::ProviderTimedOut(_) => ErrorKind::Unavailable,
            _ => ErrorKind::Denied,
        })
    });
    match credentials {
        Some(ErrorKind::Denied) => Error::new(ErrorKind::Denied, format!("{what}: there are no usable credentials")).because(Innermost::of(boxed)).hint(
            "Set `s3.access_key_id` and `s3.secret_access_key`, or give the environment what the AWS tools use (variables, profile, web or pod identity).",
        ),
        Some(kind) => Error::new(kind, format!("{what}: no credentials yet")).because(Innermost::of(boxed)),
        None if is_construction => Error::new(ErrorKind::Invalid, what).because(Innermost::of(boxed)),
        None => transport_error(what, "s3.ca_file", boxed),
    }
}
