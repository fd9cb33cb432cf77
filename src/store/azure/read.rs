//! Reading a blob: one request, continued where its body breaks off.

use std::num::NonZero;
use std::ops::Range;

use azure_core::error::ErrorKind as SdkKind;
use azure_storage_blob::models::{BlobClientDownloadOptions, HttpRange};
use bytes::{Bytes, BytesMut};
use futures::stream::StreamExt as _;

use super::{AzureStore, quoted, version};
use crate::store::{Error, ErrorKind, Key, Result, Store as _, Version, clamp_range};

/// Larger than any blob that is read at once: the SDK would fetch what is larger in several requests of its own.
const WHOLE: NonZero<usize> = match NonZero::new(1 << 40) {
    Some(bytes) => bytes,
    None => NonZero::<usize>::MAX,
};

/// Whether the range may lie past the end of the blob. Besides saying so there are servers that answer with a header
/// that the SDK cannot read.
fn past_the_end(error: &azure_core::Error) -> bool {
    let unreadable = matches!(error.kind(), SdkKind::Other | SdkKind::DataConversion);
    unreadable || error.http_status().map(u16::from) == Some(416)
}

impl AzureStore {
    /// Reads a range that is not empty, or all.
    ///
    /// A body that breaks off is continued with a range from there, tied to the same state of the blob, as long as each
    /// request brings something; how often the rest may fail is for the retry layer to say.
    pub(super) async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<(Bytes, Version)> {
        let doing = format!("read {key}");
        let blob = self.blob(key.as_str())?;
        let start = range.as_ref().map_or(0, |r| r.start);
        let mut end = range.as_ref().map(|r| r.end);
        let mut state: Option<Version> = None;
        let mut got = BytesMut::new();
        loop {
            let from = start + got.len() as u64;
            let options = BlobClientDownloadOptions {
                range: end.map(|end| HttpRange::from(from..end)),
                if_match: state.as_ref().map(quoted),
                parallel: Some(NonZero::<usize>::MIN),
                partition_size: Some(WHOLE),
                ..BlobClientDownloadOptions::default()
            };
            let mut reply = match blob.download(Some(options)).await {
                Ok(reply) => reply,
                Err(e) if state.is_none() && past_the_end(&e) => {
                    clamp_range(key, range, self.head(key).await?.size)?;
                    return Err(self.explain(e, &doing));
                }
                Err(e) => {
                    let error = self.explain(e, &doing);
                    // Replaced while it was read: the next try reads the new one from its start.
                    let replaced = state.is_some() && matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound);
                    return Err(if replaced {
                        Error::new(ErrorKind::Unavailable, format!("{doing}: it was replaced meanwhile")).because(error)
                    } else {
                        error
                    });
                }
            };
            let length = reply.properties.content_length;
            let (Some(length), Some(etag)) = (length, &reply.properties.etag) else {
                return Err(Error::new(
                    ErrorKind::Other,
                    format!("{doing} in {}: the reply lacks length or ETag", self.scene.location),
                ));
            };
            if state.is_none() {
                if length == 0 {
                    clamp_range(key, range.clone(), 0)?;
                }
                state = Some(version(etag.as_ref()));
                end = Some(start + length);
                got.reserve(usize::try_from(length).unwrap_or(0));
            }
            let wanted = end.unwrap_or(start) - start;
            let before = got.len();
            let mut broken = None;
            while let Some(piece) = reply.body.next().await {
                match piece {
                    Ok(piece) => got.extend_from_slice(&piece),
                    Err(e) => {
                        broken = Some(e);
                        break;
                    }
                }
            }
            match (&state, got.len() as u64) {
                (Some(state), n) if n == wanted => return Ok((got.freeze(), state.clone())),
                (_, n) if n < wanted && got.len() > before => {
                    tracing::debug!(%key, read = n, wanted, "the body of a read broke off; continuing from there");
                }
                _ => {
                    let error =
                        Error::new(ErrorKind::Unavailable, format!("{doing} in {}: the body broke off", self.scene.location));
                    return Err(match broken {
                        Some(e) => error.because(e.to_string()),
                        None => error,
                    });
                }
            }
        }
    }
}
