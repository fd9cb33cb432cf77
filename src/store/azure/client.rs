//! The HTTP client below the SDK: our certificates, our timeouts, no URL (which may hold a signature) in any error.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error as SdkError, ErrorKind as SdkKind};
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::response::PinnedStream;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Method, Request};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use super::error::header;
use crate::store::server::ServerClock;
use crate::store::{Error, ErrorKind, Result, Settings};

/// Bodies are handed over in pieces of this many bytes, so that progress is seen.
const PIECE: usize = 256 << 10;

/// Sends requests. An exchange that makes no progress in either direction for `idle` is given up, however long the
/// whole of it takes: reqwest's own read timeout would end a long upload.
#[derive(Debug)]
pub(super) struct Wire {
    http: reqwest::Client,
    idle: Duration,
    clock: Arc<ServerClock>,
}

impl Wire {
    /// Reads the certificates; connects to nothing. `clock` takes note of the dates of the store's answers.
    pub(super) fn new(settings: &Settings, clock: Arc<ServerClock>) -> Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(settings.azure.ca_file.as_deref())?)
            .connect_timeout(settings.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::new(ErrorKind::Invalid, "set up the HTTP client for Azure").because(e))?;
        Ok(Self { http, idle: settings.idle_timeout, clock })
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let failed =
            |why: String| Error::new(ErrorKind::Invalid, format!("read certificates from {}", path.display())).because(why);
        let given: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|e| failed(e.to_string()))?;
        if roots.add_parsable_certificates(given).0 == 0 {
            return Err(failed("it holds no usable certificate".to_owned()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::new(ErrorKind::Other, "set up TLS").because(e))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[async_trait]
impl HttpClient for Wire {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let progress = Progress::new(self.idle);
        let mut sending = self.http.request(method(request.method())?, request.url().clone());
        for (name, value) in request.headers().iter() {
            sending = sending.header(name.as_str(), value.as_str());
        }
        let body = match request.body().clone() {
            Body::Bytes(bytes) if bytes.len() <= PIECE => reqwest::Body::from(bytes),
            Body::Bytes(bytes) => progress.watch(pieces(bytes)),
            Body::SeekableStream(stream) => progress.watch(stream.boxed()),
        };
        let response = progress.within(sending.body(body).send()).await?.map_err(failed)?;
        let status = response.status().as_u16().into();
        let headers = headers(response.headers());
        // Requests for tokens go this way too, and other clocks have no say.
        if header(request.headers(), "x-ms-version").is_some()
            && let Some(date) = header(&headers, "date")
        {
            self.clock.saw(date);
        }
        Ok(AsyncRawResponse::new(status, headers, until_idle(response.bytes_stream().boxed(), self.idle)))
    }
}

fn method(method: Method) -> azure_core::Result<reqwest::Method> {
    reqwest::Method::from_bytes(method.as_ref().as_bytes()).map_err(|e| SdkError::new(SdkKind::Other, e))
}

fn headers(map: &reqwest::header::HeaderMap) -> Headers {
    let mut out = Headers::new();
    for (name, value) in map {
        if let Ok(value) = value.to_str() {
            out.insert(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned()));
        }
    }
    out
}

fn failed(error: reqwest::Error) -> SdkError {
    let kind = if error.is_connect() { SdkKind::Connection } else { SdkKind::Io };
    SdkError::new(kind, error.without_url())
}

fn silent(idle: Duration) -> SdkError {
    SdkError::with_message(SdkKind::Io, format!("nothing was sent or received for {} s", idle.as_secs_f32()))
}

fn pieces(mut bytes: Bytes) -> BoxStream<'static, azure_core::Result<Bytes>> {
    let next = move || (!bytes.is_empty()).then(|| Ok(bytes.split_to(bytes.len().min(PIECE))));
    futures::stream::iter(std::iter::from_fn(next)).boxed()
}

/// The body of a reply, given up when it stalls.
fn until_idle(body: BoxStream<'static, reqwest::Result<Bytes>>, idle: Duration) -> PinnedStream {
    let stream = futures::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(idle, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(e))) => Some((Err(failed(e)), None)),
            Err(_) => Some((Err(silent(idle)), None)),
        }
    });
    Box::pin(stream)
}

/// When the last piece of an upload was taken.
struct Progress {
    last: Arc<Mutex<Instant>>,
    idle: Duration,
}

impl Progress {
    fn new(idle: Duration) -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())), idle }
    }

    fn watch(&self, stream: BoxStream<'static, azure_core::Result<Bytes>>) -> reqwest::Body {
        let last = self.last.clone();
        reqwest::Body::wrap_stream(stream.inspect(move |_| *last.lock() = Instant::now()))
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> azure_core::Result<T> {
        tokio::pin!(work);
        loop {
            let until = *self.last.lock() + self.idle;
            match tokio::time::timeout_at(until, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if *self.last.lock() + self.idle > until => {}
                Err(_) => return Err(silent(self.idle)),
            }
        }
    }
}
