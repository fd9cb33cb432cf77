//! The listener and its three paths.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Health, Metrics, text};
use crate::error::{Context, Error, Kind, Result};
use crate::runtime::Cancel;

#[derive(Clone)]
struct App {
    metrics: Metrics,
    health: Health,
}

/// Listens on `address`, `HOST:PORT`; port 0 takes a free one, which the listener tells.
///
/// # Errors
/// [`Kind::Config`] for what is no address, else what the system says (port in use, no such interface).
pub async fn bind(address: &str) -> Result<TcpListener> {
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(|e| {
            Error::new(Kind::Config, format!("`{address}` is not an address to listen on"))
                .because(e)
                .hint("Write HOST:PORT, e.g. `0.0.0.0:9390`.")
        })?
        .collect();
    TcpListener::bind(resolved.as_slice())
        .await
        .context(|| format!("listen on {address} for metrics"))
        .map_err(|e| e.hint("Is another process listening there? Set another `http.metrics`."))
}

/// Answers until `shutdown` fires, then finishes the requests that are open. Needs no body, no credentials, and
/// shows no secrets; bind it to an address that only monitoring reaches.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, metrics: Metrics, health: Health, shutdown: Cancel) -> Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(App { metrics, health });
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.cancelled().await }).await.context(|| "serve metrics")
}

async fn healthz(State(app): State<App>) -> Response {
    probe(app.health.live())
}

async fn readyz(State(app): State<App>) -> Response {
    probe(app.health.serving())
}

fn probe(state: Result<&'static str, String>) -> Response {
    match state {
        Ok(text) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn show_metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    let open = app.metrics.open_metrics();
    let accepts =
        headers.get_all(header::ACCEPT).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("application/openmetrics-text")));
    if accepts {
        ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], open).into_response()
    } else {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text::prometheus(&open)).into_response()
    }
}
