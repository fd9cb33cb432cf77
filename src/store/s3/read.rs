//! Reading objects. A body that breaks off is continued where it broke, from the same state of the object.

use std::ops::Range;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use super::errors::{Failure, explain};
use super::{Inner, version};
use crate::store::count::Request;
use crate::store::server::{Innermost, content_range, full_key, range_header};
use crate::store::{Error, ErrorKind, Key, Version};

/// Breaks of one body after which it is given back to the retries above.
const BREAKS: u32 = 8;

/// What an object's bytes come with.
struct Opened {
    body: ByteStream,
    /// Length of this body.
    length: u64,
    version: Version,
}

impl Inner {
    /// Reads a range that is not empty, or all.
    pub(super) async fn read(&self, client: &Client, key: &Key, range: Option<Range<u64>>) -> Result<(Bytes, Version), Failure> {
        let what = || format!("get {key} from {}", self.location);
        let start = range.as_ref().map_or(0, |r| r.start);
        let mut opened = self.open(client, key, range.clone(), None).await?;
        let length = opened.length;
        let mut out = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        let mut breaks = 0;
        loop {
            let before = out.len();
            let broken = loop {
                match opened.body.next().await {
                    Some(Ok(chunk)) => {
                        self.counter.received(chunk.len() as u64);
                        out.extend_from_slice(&chunk);
                    }
                    Some(Err(e)) => break Some(Innermost::of(e.into()).to_string()),
                    None => break None,
                }
            };
            if out.len() as u64 == length && broken.is_none() {
                return Ok((out.freeze(), opened.version));
            }
            let cause = broken.unwrap_or_else(|| format!("the body ended after {} of {length} bytes", out.len()));
            breaks += 1;
            // Whole but refused (a checksum), too long, or no progress: begin anew.
            if out.len() as u64 >= length || out.len() == before || breaks > BREAKS {
                return Err(unavailable(what(), cause));
            }
            tracing::debug!(at = out.len(), of = length, "{}: continued after {cause}", what());
            self.counter.retried();
            let rest = start + out.len() as u64..start + length;
            match self.open(client, key, Some(rest), Some(&opened.version)).await {
                Ok(again) if again.length == length - out.len() as u64 => opened = Opened { version: opened.version, ..again },
                Ok(again) => return Err(unavailable(what(), format!("{} bytes instead of the rest", again.length))),
                // Replaced meanwhile: what we have is of an object that is no more.
                Err(e) if matches!(e.error.kind(), ErrorKind::Conflict | ErrorKind::Invalid) => {
                    return Err(unavailable(what(), "the object was replaced while it was read".to_owned()));
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn open(
        &self,
        client: &Client,
        key: &Key,
        range: Option<Range<u64>>,
        same: Option<&Version>,
    ) -> Result<Opened, Failure> {
        let what = || format!("get {key} from {}", self.location);
        self.counter.request(Request::Get);
        let request = client.get_object().bucket(&self.bucket).key(full_key(&self.prefix, key));
        let request = request.set_range(range.as_ref().map(range_header)).set_if_match(same.map(|v| v.0.clone()));
        let answer = request.send().await.map_err(|e| explain(what(), &self.bucket, e))?;
        self.seen();
        let length = answer.content_length.and_then(|l| u64::try_from(l).ok());
        let length = length.ok_or_else(|| unavailable(what(), "the answer has no length".to_owned()))?;
        if let Some(range) = &range {
            // A server that ignores ranges sends the whole object; that must not be taken for the range.
            match answer.content_range().and_then(content_range) {
                Some((first, _)) if first == range.start && length <= range.end - range.start => {}
                None if range.start == 0 && length <= range.end => {}
                other => {
                    let error = Error::new(
                        ErrorKind::Other,
                        format!("{}: the server did not send the range asked for ({other:?})", what()),
                    );
                    return Err(Failure { error, status: None, credentials: false });
                }
            }
        }
        Ok(Opened { body: answer.body, length, version: version(answer.e_tag) })
    }
}

fn unavailable(what: String, cause: String) -> Failure {
    Failure { error: Error::new(ErrorKind::Unavailable, what).because(cause), status: None, credentials: false }
}
