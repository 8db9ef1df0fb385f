//! The small server beside the roles: `/metrics` for Prometheus, `/healthz`, and `/readyz`, which says what is
//! missing. It changes nothing.

use crate::roles::checker::Latests;
use crate::telemetry::{Telemetry, encode_latest};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// An address that we ourselves have just left is free after so long at most, in steps of the first.
const LEAVING: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(500)];

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

/// The server, which listens nowhere at first. It ends when it is dropped.
pub struct Server {
    shown: Shown,
    listening: Option<Listening>,
}

/// Where it listens, until this is dropped.
struct Listening {
    /// As it was asked for.
    wanted: SocketAddr,
    /// With the port that the system chose, where it was to choose one.
    bound: SocketAddr,
    _stop: DropGuard,
}

impl Server {
    /// Which shows this.
    pub const fn new(shown: Shown) -> Self {
        Self { shown, listening: None }
    }

    /// Where it listens, if anywhere.
    pub fn bound(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(|listening| listening.bound)
    }

    /// Listens there from now on, and nowhere else. Where it cannot, that is the error, and all is as before.
    pub async fn listen(&mut self, wanted: Option<SocketAddr>) -> io::Result<()> {
        if wanted == self.listening.as_ref().map(|listening| listening.wanted) {
            return Ok(());
        }
        let Some(wanted) = wanted else {
            self.listening = None;
            tracing::info!("metrics are served no more");
            return Ok(());
        };
        match self.open(wanted).await {
            Ok(listening) => self.listening = Some(listening),
            Err(error) => {
                // It may be us who are in the way, as at 127.0.0.1:9464 of 0.0.0.0:9464.
                let ours = self.bound().filter(|bound| bound.port() == wanted.port());
                let Some(before) = ours.filter(|_| error.kind() == io::ErrorKind::AddrInUse) else {
                    return Err(error);
                };
                self.listening = None;
                match self.open_when_free(wanted).await {
                    Ok(listening) => self.listening = Some(listening),
                    Err(error) => {
                        self.listening = self.open_when_free(before).await.ok();
                        return Err(error);
                    }
                }
            }
        }
        if let Some(bound) = self.bound() {
            if !bound.ip().is_loopback() {
                tracing::warn!("metrics are shown to everybody who reaches {bound}: counts and the names of sites");
            }
            tracing::info!("metrics at http://{bound}/metrics");
        }
        Ok(())
    }

    /// As [`Server::open`], at an address that we have just left.
    async fn open_when_free(&self, wanted: SocketAddr) -> io::Result<Listening> {
        let [step, most] = LEAVING;
        let until = tokio::time::Instant::now() + most;
        loop {
            match self.open(wanted).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(step).await;
                }
                opened => return opened,
            }
        }
    }

    /// Listens, and serves.
    async fn open(&self, wanted: SocketAddr) -> io::Result<Listening> {
        let listener = tokio::net::TcpListener::bind(wanted).await?;
        let bound = listener.local_addr()?;
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self.shown.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!("metrics are not served any more: {error}");
            }
        });
        Ok(Listening { wanted, bound, _stop: stop.drop_guard() })
    }
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
