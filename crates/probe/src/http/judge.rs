//! What an exchange comes to: the verdict and all its causes. Pure.

use crate::http::body::Seen;
use crate::http::spec::Expect;
use regex::bytes::Regex;
use sitemon_model::time::DAY;
use sitemon_model::unit::show_duration;
use sitemon_model::{Area, Cause, Certificate, Code, HttpVersion, Timestamp, Verdict};
use std::sync::Arc;
use std::time::Duration;

/// What came of asking a site, as far as it came.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    /// What ended it before its end: the network, a proxy, a policy, a breach of HTTP, or ourselves.
    pub failure: Option<Cause>,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// The protocol version of the last answer.
    pub http_version: Option<HttpVersion>,
    /// The headers of the last answer whose head was received whole; names in lower case, values as they came.
    pub headers: Vec<(Box<str>, Box<[u8]>)>,
    /// What was seen of the body; `None` where no head came, or where a redirect was not followed to its end.
    pub seen: Option<Seen>,
    /// Microseconds from the start of the first lookup to the last byte; absent unless received whole.
    pub response_time_us: Option<u64>,
    /// The server's own certificate on each hop with TLS.
    pub certificates: Vec<Arc<Certificate>>,
    /// The subjects of the certificates that the server of the last hop showed, its own first.
    pub chain: Vec<Box<str>>,
}

/// What is expected of an answer, with the patterns of headers compiled.
#[derive(Debug)]
pub struct Expectations {
    expect: Expect,
    headers: Vec<Regex>,
}

impl Expectations {
    /// Compiles the patterns of headers; the message says which is too large.
    pub fn compile(expect: &Expect) -> Result<Self, String> {
        let headers = expect.headers.iter().map(|(name, pattern)| {
            Regex::new(&pattern.0).map_err(|error| format!("pattern of header {name}: {error}"))
        });
        Ok(Self { headers: headers.collect::<Result<_, _>>()?, expect: expect.clone() })
    }
}

/// Judges an exchange: all expectations are evaluated on what was seen, and all that failed are told, the
/// gravest first: what is unknown or down before what is degraded, then in the order of the codes' numbers.
/// Nothing is claimed about what was not seen: after a failed exchange an expectation on a part that never
/// came is neither met nor broken. `now` is when the answer was judged, for certificates.
pub fn judge(exchange: &Exchange, expectations: &Expectations, now: Timestamp) -> Verdict {
    let expect = &expectations.expect;
    let mut down = Vec::new();
    let mut degraded = Vec::new();
    if let Some(status) = exchange.status
        && !expect.status.iter().any(|(from, to)| (*from..=*to).contains(&status))
    {
        down.push(Cause::new(Code::HttpStatus, format!("status {status}, expected {}", ranges(&expect.status))));
    }
    if let Some(version) = exchange.http_version
        && !expect.http_version.is_empty()
        && !expect.http_version.contains(&version)
    {
        let expected: Vec<&str> = expect.http_version.iter().map(|version| version.as_str()).collect();
        let message = format!("HTTP version {}, expected {}", version.as_str(), expected.join(" or "));
        down.push(Cause::new(Code::HttpVersion, message));
    }
    if exchange.status.is_some() {
        for ((name, pattern), regex) in expect.headers.iter().zip(&expectations.headers) {
            header(exchange, name, &pattern.0, regex, &mut down);
        }
    }
    if let Some(seen) = &exchange.seen {
        down.extend(seen.faults.iter().cloned());
        down.extend(seen.failed.iter().cloned());
    }
    if let Some(limits) = expect.certificate {
        certificate(exchange, limits.degraded, limits.down, now, &mut degraded, &mut down);
    }
    if let (Some(limit), Some(took_us)) = (expect.response_time, exchange.response_time_us)
        && u128::from(took_us) > limit.as_micros()
    {
        let message = format!("took {}, expected at most {}", milliseconds(took_us), show_duration(limit));
        degraded.push(Cause::new(Code::ResponseTimeExceeded, message));
    }
    down.sort_by_key(|cause| cause.code.number());
    degraded.sort_by_key(|cause| cause.code.number());
    match &exchange.failure {
        // A failure of ours says nothing about the site, whatever else was seen of it on the way.
        Some(failure) if is_unknown(failure.code) => {
            let mut causes = vec![failure.clone()];
            causes.append(&mut down);
            causes.append(&mut degraded);
            return Verdict::Unknown(causes);
        }
        Some(failure) => {
            if !down.contains(failure) {
                down.insert(0, failure.clone());
            }
        }
        None => {}
    }
    if !down.is_empty() {
        down.append(&mut degraded);
        Verdict::Down(down)
    } else if !degraded.is_empty() {
        Verdict::Degraded(degraded)
    } else {
        Verdict::Up
    }
}

/// Whether a failure leaves open how the site is.
pub const fn is_unknown(code: Code) -> bool {
    match code.area() {
        Area::Policy | Area::Skipped | Area::Stopped | Area::Own => true,
        Area::Proxy => matches!(code, Code::ProxyUnreachable | Code::ProxyAuthentication),
        _ => false,
    }
}

/// One of the header's values must match.
fn header(exchange: &Exchange, name: &str, pattern: &str, regex: &Regex, down: &mut Vec<Cause>) {
    let mut values = exchange.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let mut first = None;
    let fits = values.by_ref().any(|value| {
        first.get_or_insert(value);
        regex.is_match(value)
    });
    if fits {
        return;
    }
    let message = match first {
        None => format!("header {name} is missing, expected {}", quoted(pattern)),
        Some(_) if crate::http::evidence::is_sensitive(name) => {
            format!("header {name} does not match {}", quoted(pattern))
        }
        Some(value) => {
            format!("header {name} is {}, expected {}", quoted(&String::from_utf8_lossy(value)), quoted(pattern))
        }
    };
    down.push(Cause::new(Code::HeaderMismatch, message));
}

/// The certificate of every hop must be good for long enough; the one that ends first is told.
fn certificate(
    exchange: &Exchange,
    degraded_below: Option<Duration>,
    down_below: Option<Duration>,
    now: Timestamp,
    degraded: &mut Vec<Cause>,
    down: &mut Vec<Cause>,
) {
    let Some(first) = exchange.certificates.iter().min_by_key(|certificate| certificate.not_after) else { return };
    let left_us = first.not_after.since(now);
    let under = |limit: Option<Duration>| limit.filter(|limit| i128::from(left_us) < limit.as_micros() as i128);
    let (limit, causes) = match (under(down_below), under(degraded_below)) {
        (Some(limit), _) => (limit, down),
        (None, Some(limit)) => (limit, degraded),
        (None, None) => return,
    };
    let left = if left_us < 0 {
        "ended".to_owned()
    } else if left_us < DAY {
        format!("{} h left", left_us / sitemon_model::time::HOUR)
    } else {
        format!("{} d left", left_us / DAY)
    };
    let message = format!(
        "{left}, expected {} (certificate of {} ends {})",
        show_duration(limit),
        first.subject,
        first.not_after
    );
    causes.push(Cause::new(Code::CertificateExpiring, message));
}

/// `200-299, 404`
fn ranges(ranges: &[(u16, u16)]) -> String {
    let shown: Vec<String> =
        ranges.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") }).collect();
    shown.join(", ")
}

/// `1234.5 ms`
fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

/// A text from outside as it stands in a message: in backticks, 60 characters at most, no control characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown = String::from("`");
    let mut characters = text.chars();
    for character in characters.by_ref().take(60) {
        shown.push(if character.is_control() { ' ' } else { character });
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown.push('`');
    shown
}
