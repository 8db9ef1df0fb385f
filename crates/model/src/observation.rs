//! What a check found. Always produced, whatever went wrong.

use crate::{Hop, Reason, Timestamp, Verdict};
use std::cmp::Ordering;
use std::sync::Arc;

/// What a check found; identified by (site, location, `scheduled_at`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// The name of the site.
    pub site: Arc<str>,
    /// Where the checker runs.
    pub location: Arc<str>,
    /// The schedule or a request.
    pub reason: Reason,
    /// The slot, or for a job by request the time of the request.
    pub scheduled_at: Timestamp,
    /// When the first lookup or connect was about to be made; absent where the check was not made.
    pub started_at: Option<Timestamp>,
    /// Microseconds; the site's interval that was in force.
    pub interval_us: u64,
    /// Microseconds; the site's timeout that was in force. A verdict holds at most interval and timeout long.
    pub timeout_us: u64,
    /// What it came to, with all its causes.
    pub verdict: Verdict,
    /// Microseconds from the start of the first lookup to the last byte of the body; absent unless the
    /// answer was received whole.
    pub response_time_us: Option<u64>,
    /// The requests, in their order.
    pub hops: Vec<Hop>,
    /// With `ip: each`, what each address gave; else empty.
    pub addresses: Vec<AddressResult>,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// The method of the last request.
    pub method: Option<Arc<str>>,
    /// The header `content-type` of the last answer.
    pub content_type: Option<Arc<str>>,
    /// The sizes of the last answer's body.
    pub body: Option<Body>,
    /// The named values that were extracted, in the order of the configuration.
    pub extracted: Vec<(Arc<str>, Box<str>)>,
    /// The certificate of the site (the last hop with TLS).
    pub certificate: Option<Arc<Certificate>>,
    /// What the plugins counted, in the order of the configuration.
    pub metrics: Vec<Metrics>,
    /// What stands out, by the plugins or against a baseline.
    pub findings: Vec<Finding>,
    /// What the answer looked like; only where the verdict or the set of causes changed.
    pub evidence: Option<Box<Evidence>>,
}

/// The sizes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Body {
    /// Bytes as they came, without the framing of chunks.
    pub wire_bytes: u64,
    /// Bytes after the content codings were undone.
    pub decoded_bytes: u64,
}

/// The server's own certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The end of its validity.
    pub not_after: Timestamp,
    /// The distinguished name of who signed it, RFC 4514.
    pub issuer: Box<str>,
    /// The distinguished name of whom it is for, RFC 4514.
    pub subject: Box<str>,
}

/// What one plugin counted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// The name of the plugin.
    pub plugin: Arc<str>,
    /// Metric and value, sorted by metric.
    pub values: Vec<(Arc<str>, f64)>,
}

/// Something that stands out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Finding {
    /// Who found it.
    pub plugin: Arc<str>,
    /// The metric; empty where the finding is about none.
    pub metric: Arc<str>,
    /// The value that stands out.
    pub value: Option<f64>,
    /// The mean of the baseline.
    pub mean: Option<f64>,
    /// The standard deviation of the baseline.
    pub deviation: Option<f64>,
    /// For people.
    pub message: Box<str>,
}

/// What the answer looked like; at most 16 KiB, secrets hidden.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// The answer's headers.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The first kilobytes of the body, as text.
    pub body_start: Option<Box<str>>,
    /// The subjects of the certificates that the server showed, its own first.
    pub chain: Vec<Box<str>>,
}

impl Evidence {
    /// Whether there is nothing to show: no answer came, and no certificate.
    pub const fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.body_start.is_none() && self.chain.is_empty()
    }
}

/// What one address of a site gave, with `ip: each`.
#[derive(Debug, Clone, PartialEq)]
pub struct AddressResult {
    /// The address, with its port.
    pub address: std::net::SocketAddr,
    /// What it came to.
    pub verdict: Verdict,
    /// As in [`Observation`].
    pub response_time_us: Option<u64>,
    /// As in [`Observation`].
    pub hops: Vec<Hop>,
}

/// What identifies an observation, in the order of an export.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The slot.
    pub scheduled_at: Timestamp,
    /// The name of the site.
    pub site: Arc<str>,
    /// Where the checker runs.
    pub location: Arc<str>,
}

impl Observation {
    /// What identifies it.
    pub fn key(&self) -> Key {
        Key { scheduled_at: self.scheduled_at, site: self.site.clone(), location: self.location.clone() }
    }

    /// Which of two observations of one slot is kept: `Less` where `self` goes before `other`.
    ///
    /// One whose verdict is known goes before `unknown`, then the earlier `started_at` (absent: last), then
    /// the smaller bytes of the exported line without `findings`; so the result does not depend on the
    /// order of arrival or on repetition.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let known = |o: &Self| o.verdict.available().is_none();
        let start = |o: &Self| o.started_at.unwrap_or(Timestamp::MAX);
        known(self).cmp(&known(other)).then(start(self).cmp(&start(other))).then_with(|| {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            crate::line::write_without_findings(self, &mut a);
            crate::line::write_without_findings(other, &mut b);
            a.cmp(&b)
        })
    }

    /// Microseconds from the slot to the start of the check; absent where it was not made.
    pub fn lag_us(&self) -> Option<i64> {
        self.started_at.map(|started| started.since(self.scheduled_at))
    }
}
