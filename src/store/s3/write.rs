//! Puts: in one request, or in parts above a size.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use futures::{StreamExt, TryStreamExt, stream};

use super::errors::{Failure, explain};
use super::{Inner, version};
use crate::store::count::Request;
use crate::store::server::{Pieces, full_key, part_size, parts};
use crate::store::{Error, ErrorKind, Key, Payload, PutMode, Version};

/// Parts of one object sent at once.
const PARTS_AT_ONCE: usize = 4;
/// The protocol's limit.
const MOST_PARTS: u64 = 10_000;
/// Slower than this many bytes a second, an upload is given up.
const SLOWEST: u64 = 256 << 10;

fn body(payload: &Payload) -> ByteStream {
    ByteStream::new(SdkBody::from_body_1_x(Pieces::of(payload)))
}

impl Inner {
    /// The answer to an upload may come only after all of it was sent.
    fn upload_timeouts(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        let patience = self.idle_timeout + Duration::from_secs(bytes / SLOWEST);
        let timeouts = TimeoutConfig::builder().connect_timeout(self.connect_timeout).read_timeout(patience).build();
        aws_sdk_s3::Config::builder().timeout_config(timeouts)
    }

    fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.checksums.then_some(ChecksumAlgorithm::Crc32C)
    }

    pub(super) async fn put_whole(
        &self,
        client: &Client,
        key: &Key,
        payload: &Payload,
        mode: &PutMode,
    ) -> Result<Version, Failure> {
        let what = || format!("put {key} to {}", self.location);
        let size = payload.len();
        self.counter.request(Request::Put);
        self.counter.sent(size);
        let (if_none_match, if_match) = self.conditions(mode);
        let request = client
            .put_object()
            .bucket(&self.bucket)
            .key(full_key(&self.prefix, key))
            .body(body(payload))
            .content_length(i64::try_from(size).unwrap_or(i64::MAX))
            .set_checksum_algorithm(self.algorithm())
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_server_side_encryption(self.sse.0.clone())
            .set_ssekms_key_id(self.sse.1.clone())
            .set_storage_class(self.storage_class.clone());
        // The transport or the checksum protects the bytes; hashing them once more for the signature costs more than all else.
        let sent = request.customize().disable_payload_signing().config_override(self.upload_timeouts(size)).send().await;
        let answer = sent.map_err(|e| refused(mode, explain(what(), &self.bucket, e)))?;
        self.seen();
        Ok(version(answer.e_tag))
    }

    pub(super) async fn put_in_parts(
        self: &Arc<Self>,
        client: &Client,
        key: &Key,
        payload: &Payload,
        mode: &PutMode,
    ) -> Result<Version, Failure> {
        let what = || format!("put {key} to {} in parts", self.location);
        let name = full_key(&self.prefix, key);
        self.counter.request(Request::Put);
        let started = client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(&name)
            .set_checksum_algorithm(self.algorithm())
            .set_server_side_encryption(self.sse.0.clone())
            .set_ssekms_key_id(self.sse.1.clone())
            .set_storage_class(self.storage_class.clone())
            .send()
            .await
            .map_err(|e| explain(what(), &self.bucket, e))?;
        self.seen();
        let id = started.upload_id.ok_or_else(|| {
            let error = Error::new(ErrorKind::Unavailable, what()).because("the answer has no upload id");
            Failure { error, status: None, credentials: false }
        })?;
        // From here on the parts cost money until the upload is completed or aborted, also when this future is dropped.
        let upload = Upload { store: self.clone(), client: client.clone(), name, id, done: false };
        let size = part_size(payload.len(), self.part_size, MOST_PARTS);
        let sends = parts(payload, size).into_iter().zip(1i32..).map(|(part, number)| {
            let upload = &upload;
            async move { upload.part(key, part, number).await }
        });
        let sent: Result<Vec<CompletedPart>, Failure> = stream::iter(sends).buffered(PARTS_AT_ONCE).try_collect().await;
        let (if_none_match, if_match) = self.conditions(mode);
        self.counter.request(Request::Put);
        let complete = client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(&upload.name)
            .upload_id(&upload.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(sent?)).build())
            .set_if_none_match(if_none_match)
            .set_if_match(if_match);
        // Putting the parts together may take long.
        let completed = complete.customize().config_override(self.upload_timeouts(payload.len())).send().await;
        let answer = completed.map_err(|e| refused(mode, explain(what(), &self.bucket, e)))?;
        upload.finished();
        Ok(version(answer.e_tag))
    }

    /// `If-None-Match` and `If-Match` of a put.
    fn conditions(&self, mode: &PutMode) -> (Option<String>, Option<String>) {
        match mode {
            _ if !self.conditional_puts => (None, None),
            PutMode::Overwrite => (None, None),
            PutMode::Create => (Some("*".to_owned()), None),
            PutMode::Update(version) => (None, Some(version.0.clone())),
        }
    }
}

/// A refused condition, named after what was asked for.
fn refused(mode: &PutMode, mut failure: Failure) -> Failure {
    let kind = match (mode, failure.error.kind()) {
        (PutMode::Create, ErrorKind::Conflict) => ErrorKind::AlreadyExists,
        // There is nothing to be updated.
        (PutMode::Update(_), ErrorKind::NotFound) => ErrorKind::Conflict,
        _ => return failure,
    };
    failure.error = failure.error.with_kind(kind);
    failure
}

/// A multipart upload that was started. Aborted unless it was completed.
struct Upload {
    store: Arc<Inner>,
    client: Client,
    name: String,
    id: String,
    done: bool,
}

impl Upload {
    /// Sends one part, again if need be: the others need not be sent again for it.
    async fn part(&self, key: &Key, part: Payload, number: i32) -> Result<CompletedPart, Failure> {
        let store = &self.store;
        let what = format!("put part {number} of {key} to {}", store.location);
        let attempt = |_| async {
            store.counter.request(Request::Put);
            store.counter.sent(part.len());
            let request = self
                .client
                .upload_part()
                .bucket(&store.bucket)
                .key(&self.name)
                .upload_id(&self.id)
                .part_number(number)
                .body(body(&part))
                .content_length(i64::try_from(part.len()).unwrap_or(i64::MAX))
                .set_checksum_algorithm(store.algorithm());
            let sent =
                request.customize().disable_payload_signing().config_override(store.upload_timeouts(part.len())).send().await;
            sent.map_err(|e| explain(what.clone(), &store.bucket, e).error)
        };
        let sent = store.retrier.run(part.len(), attempt).await;
        let answer = sent.map_err(|error| Failure { error, status: None, credentials: false })?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag)
            .set_checksum_crc32_c(answer.checksum_crc32_c)
            .build())
    }

    fn finished(mut self) {
        self.done = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.store.counter.request(Request::Delete);
        let abort = self.client.abort_multipart_upload().bucket(&self.store.bucket).key(&self.name).upload_id(&self.id);
        let name = self.name.clone();
        runtime.spawn(async move {
            if let Err(e) = abort.send().await {
                // A lifecycle rule of the bucket removes it sooner or later; the README recommends one.
                tracing::debug!(
                    "an unfinished upload of {name} stays in the bucket: {}",
                    crate::store::server::Innermost::of(e.into())
                );
            }
        });
    }
}
