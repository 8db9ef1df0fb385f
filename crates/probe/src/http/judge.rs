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
    /// Microseconds that we waited for ourselves meanwhile: for memory.
    pub waited_us: u64,
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
    // What is expected of the answer is expected of the one after all redirects, which then never came.
    let redirected = exchange.failure.as_ref().map(|failure| failure.code);
    let answered = !matches!(redirected, Some(Code::HttpRedirectLimit | Code::HttpRedirectInvalid));
    if let Some(status) = exchange.status.filter(|_| answered)
        && !expect.status.iter().any(|(from, to)| (*from..=*to).contains(&status))
    {
        down.push(Cause::new(Code::HttpStatus, format!("status {status}, expected {}", ranges(&expect.status))));
    }
    if let Some(version) = exchange.http_version.filter(|_| answered)
        && !expect.http_version.is_empty()
        && !expect.http_version.contains(&version)
    {
        let expected: Vec<&str> = expect.http_version.iter().map(|version| version.as_str()).collect();
        let message = format!("HTTP version {}, expected {}", version.as_str(), expected.join(" or "));
        down.push(Cause::new(Code::HttpVersion, message));
    }
    if answered && exchange.status.is_some() {
        for ((name, pattern), regex) in expect.headers.iter().zip(&expectations.headers) {
            header(exchange, name, &pattern.0, regex, &mut down);
        }
    }
    if let Some(seen) = exchange.seen.as_ref().filter(|_| answered) {
        down.extend(seen.faults.iter().cloned());
        down.extend(seen.failed.iter().cloned());
    }
    if let Some(limits) = expect.certificate {
        certificate(exchange, limits.degraded, limits.down, now, &mut degraded, &mut down);
    }
    if let (Some(limit), Some(took_us)) = (expect.response_time, exchange.response_time_us)
        && let took_us = took_us.saturating_sub(exchange.waited_us)
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
        // What ended the exchange stands before what it broke on the way.
        Some(failure) => {
            down.retain(|cause| cause != failure);
            down.insert(0, failure.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::spec::{ExpectCertificate, Pattern};

    const NOW: Timestamp = Timestamp(1_796_000_000_000_000);

    fn answer(status: u16) -> Exchange {
        Exchange {
            status: Some(status),
            http_version: Some(HttpVersion::Http11),
            headers: vec![
                ("content-type".into(), b"text/html".as_slice().into()),
                ("x-cache".into(), b"MISS".as_slice().into()),
                ("x-cache".into(), b"HIT".as_slice().into()),
                ("set-cookie".into(), b"session=secret".as_slice().into()),
            ],
            seen: Some(Seen { complete: true, ..Seen::default() }),
            response_time_us: Some(1_500_000),
            ..Exchange::default()
        }
    }

    fn certificate(left: i64) -> Arc<Certificate> {
        Arc::new(Certificate { not_after: NOW.plus(left), issuer: "CN=ca".into(), subject: "CN=site".into() })
    }

    fn header(name: &str, pattern: &str) -> (Arc<str>, Pattern) {
        (name.into(), Pattern(pattern.into()))
    }

    /// The verdict as text: `down: CODE MESSAGE; CODE MESSAGE`.
    fn check(exchange: &Exchange, expect: &Expect, expected: &str) {
        let verdict = judge(exchange, &Expectations::compile(expect).unwrap(), NOW);
        let causes: Vec<String> = verdict.causes().iter().map(ToString::to_string).collect();
        let told = if causes.is_empty() {
            verdict.as_str().to_owned()
        } else {
            format!("{}: {}", verdict.as_str(), causes.join("; "))
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn statuses() {
        let expect = |status: &[(u16, u16)]| Expect { status: status.to_vec(), ..Expect::default() };
        check(&answer(200), &Expect::default(), "up");
        check(&answer(299), &Expect::default(), "up");
        check(&answer(503), &Expect::default(), "down: http.status status 503, expected 200-299");
        check(&answer(404), &expect(&[(200, 299), (404, 404)]), "up");
        check(&answer(300), &expect(&[(200, 299), (404, 404)]), "down: http.status status 300, expected 200-299, 404");
    }

    #[test]
    fn headers_and_version() {
        let expect = |headers: Vec<_>| Expect { headers, ..Expect::default() };
        check(&answer(200), &expect(vec![header("content-type", "^text/html")]), "up");
        check(&answer(200), &expect(vec![header("x-cache", "^HIT$")]), "up");
        check(
            &answer(200),
            &expect(vec![header("x-cache", "^NONE$"), header("etag", "."), header("set-cookie", "x")]),
            "down: header.mismatch header x-cache is `MISS`, expected `^NONE$`; \
             header.mismatch header etag is missing, expected `.`; \
             header.mismatch header set-cookie does not match `x`",
        );
        let two = Expect { http_version: vec![HttpVersion::Http2], ..Expect::default() };
        check(&answer(200), &two, "down: http.version HTTP version 1.1, expected 2");
    }

    #[test]
    fn slow_is_degraded() {
        let expect = |limit| Expect { response_time: Some(Duration::from_millis(limit)), ..Expect::default() };
        check(&answer(200), &expect(1500), "up");
        check(&answer(200), &expect(1499), "degraded: response_time.exceeded took 1500.0 ms, expected at most 1s499ms");
        let waited = |waited_us| Exchange { waited_us, ..answer(200) };
        check(&waited(2_000), &expect(1499), "up");
        check(&waited(500), &expect(1499), "degraded: response_time.exceeded took 1499.5 ms, expected at most 1s499ms");
        let unfinished = Exchange { response_time_us: None, ..answer(200) };
        check(&unfinished, &expect(1), "up");
    }

    #[test]
    fn certificates_of_every_hop() {
        let day = |days: u64| Some(Duration::from_secs(days * 86_400));
        let expect =
            Expect { certificate: Some(ExpectCertificate { degraded: day(14), down: day(1) }), ..Expect::default() };
        let with = |left: &[i64]| Exchange {
            certificates: left.iter().map(|left| certificate(*left)).collect(),
            ..answer(200)
        };
        check(&with(&[14 * DAY, 90 * DAY]), &expect, "up");
        check(
            &with(&[90 * DAY, 14 * DAY - 1]),
            &expect,
            "degraded: certificate.expiring 13 d left, expected 14d \
             (certificate of CN=site ends 2026-12-14T00:53:19.999999Z)",
        );
        check(
            &with(&[DAY - 1, 90 * DAY]),
            &expect,
            "down: certificate.expiring 23 h left, expected 1d \
             (certificate of CN=site ends 2026-12-01T00:53:19.999999Z)",
        );
        check(
            &with(&[-1]),
            &expect,
            "down: certificate.expiring ended, expected 1d (certificate of CN=site ends 2026-11-30T00:53:19.999999Z)",
        );
        check(&answer(200), &expect, "up");
    }

    #[test]
    fn all_that_failed_is_told_the_gravest_first() {
        let seen = Seen {
            faults: vec![Cause::new(Code::BodyLimit, "more")],
            failed: vec![Cause::new(Code::BodyPatternPresent, "`x` matches"), Cause::new(Code::BodySize, "3 bytes")],
            ..Seen::default()
        };
        let expect = Expect {
            response_time: Some(Duration::from_secs(1)),
            headers: vec![header("etag", ".")],
            ..Expect::default()
        };
        let exchange = Exchange { seen: Some(seen), ..answer(503) };
        check(
            &exchange,
            &expect,
            "down: http.status status 503, expected 200-299; header.mismatch header etag is missing, expected `.`; \
             body.limit more; body.size 3 bytes; body.pattern_present `x` matches; \
             response_time.exceeded took 1500.0 ms, expected at most 1s",
        );
        // The connection broke in the middle of the body: what was received still counts.
        let broken = Exchange {
            failure: Some(Cause::new(Code::ReceiveReset, "reset")),
            response_time_us: None,
            seen: None,
            ..answer(503)
        };
        check(&broken, &Expect::default(), "down: receive.reset reset; http.status status 503, expected 200-299");
    }

    #[test]
    fn failures() {
        let failed = |code| Exchange { failure: Some(Cause::new(code, "why")), ..Exchange::default() };
        for code in Code::ALL {
            let exchange = failed(*code);
            let verdict = match code.area() {
                Area::Policy | Area::Skipped | Area::Stopped | Area::Own => "unknown",
                Area::Proxy if matches!(code, Code::ProxyUnreachable | Code::ProxyAuthentication) => "unknown",
                _ => "down",
            };
            check(&exchange, &Expect::default(), &format!("{verdict}: {code} why"));
        }
        let redirected = Exchange { failure: Some(Cause::new(Code::HttpRedirectLimit, "10")), ..answer(302) };
        check(&redirected, &Expect::default(), "down: http.redirect_limit 10");
    }
}
