//! The roles: what a process does. Each opens only what it needs, and returns when its own tasks are done.

pub mod checker;
pub mod reload;
pub mod run;
pub mod writer;

pub use run::run;

use crate::config::ConfigError;

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
