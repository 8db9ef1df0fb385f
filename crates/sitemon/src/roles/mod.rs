//! The roles: what a process does. Each opens only what it needs, and returns when its own tasks are done.

pub mod checker;
pub mod local;
pub mod reload;
pub mod run;
pub mod writer;

pub use run::run;

use crate::config::ConfigError;
use sitemon_bus::BusError;
use sitemon_store::StoreError;
use std::time::Duration;

/// A store that is away is asked again so often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why a role ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong configuration: exit code 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Sitemon itself failed: exit code 4.
    #[error("{0:#}")]
    Own(#[from] anyhow::Error),
}

/// An error that may be of a server that is away.
trait Away: std::fmt::Display {
    /// What is waited for, where waiting may mend it.
    fn away(&self) -> Option<&'static str>;
}

impl Away for StoreError {
    fn away(&self) -> Option<&'static str> {
        matches!(self, Self::Unavailable(_)).then_some("the store")
    }
}

impl Away for BusError {
    fn away(&self) -> Option<&'static str> {
        matches!(self, Self::Unavailable(_)).then_some("the bus")
    }
}

/// Asks a server until it is there, telling once that it is waited for. The error is one that waiting does not mend.
async fn patiently<T, E: Away, F>(mut ask: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut told = false;
    loop {
        match ask().await {
            Err(error) => {
                let Some(what) = error.away() else { return Err(error) };
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("waiting for {what}: {error}");
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            done => return done,
        }
    }
}
