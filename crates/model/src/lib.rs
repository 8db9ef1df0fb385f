//! The words of Sitemon: site, job, observation, timeline, verdict, cause.
//!
//! Only words: no input or output, no async, no clock. Everything else in the workspace speaks in these
//! types, in the order in which the modules stand here: what is watched, what is due, what was found.

pub mod time;
pub mod tree;
pub mod unit;

pub mod site;

pub mod job;

pub mod cause;
pub mod verdict;

pub mod timeline;

pub mod observation;

pub mod line;

pub use cause::{Area, Cause, Code};
pub use job::{Job, Reason};
pub use observation::{AddressResult, Body, Certificate, Evidence, Finding, Metrics, Observation};
pub use site::{Site, Spec};
pub use time::Timestamp;
pub use timeline::{Attempt, Hop, HttpVersion, Phase, PhaseTime, Phases, State};
pub use verdict::Verdict;
