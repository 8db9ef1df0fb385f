//! The small server beside the roles: `/metrics` for Prometheus, `/healthz`, and `/readyz`, which says what is
//! missing. It changes nothing.

use crate::roles::checker::Latests;
use crate::telemetry::{Telemetry, encode_latest};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// What a process that starts still waits for before every slot is served.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Vec<String>>);

impl Readiness {
    /// Says what is waited for now; nothing: ready.
    pub fn waits_for(&self, missing: &[&str]) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = missing.iter().map(|&missing| missing.to_owned()).collect();
    }

    fn missing(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What the server shows.
#[derive(Clone)]
pub struct Shown {
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// What is missing.
    pub readiness: Arc<Readiness>,
    /// The sites' last observations, once there is a checker.
    pub latests: Arc<std::sync::OnceLock<Latests>>,
}

/// Listens, and serves until it is told to stop. Where it cannot listen, that is the error.
pub async fn listen(address: SocketAddr, shown: Shown, stop: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    if !bound.ip().is_loopback() {
        tracing::warn!("metrics are shown to everybody who reaches {bound}: counts and the names of sites");
    }
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shown);
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!("metrics are not served any more: {error}");
        }
    });
    Ok(bound)
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let sites = match shown.latests.get().filter(|_| shown.telemetry.shows_sites()) {
        Some(latests) => latests.ask().await,
        None => Vec::new(),
    };
    // Megabytes of text, which nothing else on this thread is to wait for.
    let written = tokio::task::spawn_blocking(move || {
        shown.telemetry.encode(&(crate::telemetry::encode_process() + &encode_latest(sites)))
    });
    let text = written.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    let mut missing = shown.readiness.missing();
    if missing.is_empty() && shown.telemetry.is_store_away() {
        missing.push("store".to_owned());
    }
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", missing.join(", ")))
    }
}
