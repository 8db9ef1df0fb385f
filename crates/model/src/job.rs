//! A job: one site due at one instant.

use crate::Timestamp;
use std::sync::Arc;

/// One site due at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The name of the site.
    pub site: Arc<str>,
    /// The slot, or for a job by request the time of the request.
    pub scheduled_at: Timestamp,
    /// Who asked for it.
    pub reason: Reason,
    /// The locations that shall do it; empty: all.
    pub locations: Vec<Arc<str>>,
    /// From then on it is refused rather than done; jobs of the schedule do not expire.
    pub expires_at: Option<Timestamp>,
}

/// Why a job exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reason {
    /// A slot of the site's schedule. Only these count in statistics.
    #[default]
    Schedule,
    /// Somebody asked.
    Request,
}

impl Reason {
    /// As in the exported line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Request => "request",
        }
    }
}
