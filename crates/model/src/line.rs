//! The exported line: one observation as one JSON object, the same bytes wherever it is printed.
//!
//! Written by hand: the order of the keys, and that a key without a value is absent, is part of the
//! interface, and exports run over millions of them.

use crate::{Attempt, Hop, Observation, Phases, Timestamp, Verdict};
use std::io::Write as _;

/// Appends the line of `observation`, without a line end.
pub fn write(observation: &Observation, out: &mut Vec<u8>) {
    write_parts(observation, out, true);
}

/// Appends the line without its findings, by which two observations of one slot are compared.
pub fn write_without_findings(observation: &Observation, out: &mut Vec<u8>) {
    write_parts(observation, out, false);
}

/// The line as text.
pub fn to_string(observation: &Observation) -> String {
    let mut out = Vec::with_capacity(1024);
    write(observation, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn write_parts(observation: &Observation, out: &mut Vec<u8>, findings: bool) {
    let o = observation;
    let mut object = Object::open(out);
    object.text("site", &o.site);
    object.text("location", &o.location);
    object.text("reason", o.reason.as_str());
    object.time("scheduled_at", o.scheduled_at);
    if let Some(at) = o.started_at {
        object.time("started_at", at);
    }
    object.number("interval_us", o.interval_us);
    object.number("timeout_us", o.timeout_us);
    verdict(&mut object, &o.verdict);
    if let Some(us) = o.response_time_us {
        object.number("response_time_us", us);
    }
    if !o.hops.is_empty() {
        list(object.key("hops"), &o.hops, hop);
    }
    if !o.addresses.is_empty() {
        list(object.key("addresses"), &o.addresses, |out, address| {
            let mut object = Object::open(out);
            object.text("address", &address.address.to_string());
            verdict(&mut object, &address.verdict);
            if let Some(us) = address.response_time_us {
                object.number("response_time_us", us);
            }
            list(object.key("hops"), &address.hops, hop);
            object.close();
        });
    }
    if let Some(status) = o.status {
        object.number("status", u64::from(status));
    }
    if let Some(method) = &o.method {
        object.text("method", method);
    }
    if let Some(content_type) = &o.content_type {
        object.text("content_type", content_type);
    }
    if let Some(body) = &o.body {
        let mut sizes = Object::open(object.key("body"));
        sizes.number("wire_bytes", body.wire_bytes);
        sizes.number("decoded_bytes", body.decoded_bytes);
        sizes.close();
    }
    if !o.extracted.is_empty() {
        let mut values = Object::open(object.key("extracted"));
        for (name, value) in &o.extracted {
            values.text(name, value);
        }
        values.close();
    }
    if let Some(certificate) = &o.certificate {
        let mut parts = Object::open(object.key("certificate"));
        // Certificates count whole seconds (RFC 5280), so no digits of a second are shown.
        let not_after = certificate.not_after.to_string();
        parts.text("not_after", &format!("{}Z", not_after.split('.').next().unwrap_or_default()));
        parts.text("issuer", &certificate.issuer);
        parts.text("subject", &certificate.subject);
        parts.close();
    }
    if !o.metrics.is_empty() {
        let mut plugins = Object::open(object.key("metrics"));
        for metrics in &o.metrics {
            let mut values = Object::open(plugins.key(&metrics.plugin));
            for (metric, value) in &metrics.values {
                float(values.key(metric), *value);
            }
            values.close();
        }
        plugins.close();
    }
    if findings && !o.findings.is_empty() {
        list(object.key("findings"), &o.findings, |out, finding| {
            let mut object = Object::open(out);
            object.text("plugin", &finding.plugin);
            if !finding.metric.is_empty() {
                object.text("metric", &finding.metric);
            }
            for (key, value) in [("value", finding.value), ("mean", finding.mean), ("deviation", finding.deviation)] {
                if let Some(value) = value {
                    float(object.key(key), value);
                }
            }
            object.text("message", &finding.message);
            object.close();
        });
    }
    if let Some(shown) = o.evidence.as_deref() {
        let mut object = Object::open(object.key("evidence"));
        if !shown.headers.is_empty() {
            list(object.key("headers"), &shown.headers, |out, (name, value)| {
                list(out, &[name, value], |out, part| text(out, part));
            });
        }
        if let Some(start) = &shown.body_start {
            object.text("body_start", start);
        }
        if !shown.chain.is_empty() {
            list(object.key("chain"), &shown.chain, |out, subject| text(out, subject));
        }
        object.close();
    }
    object.close();
}

fn verdict(object: &mut Object<'_>, verdict: &Verdict) {
    object.text("verdict", verdict.as_str());
    list(object.key("causes"), verdict.causes(), |out, cause| {
        let mut object = Object::open(out);
        object.text("code", cause.code.as_str());
        object.number("number", u64::from(cause.code.number()));
        object.text("message", &cause.message);
        object.close();
    });
}

fn hop(out: &mut Vec<u8>, hop: &Hop) {
    let mut object = Object::open(out);
    object.text("url", &hop.url);
    object.text("method", &hop.method);
    if let Some(address) = hop.address {
        object.text("address", &address.to_string());
    }
    if let Some(version) = hop.http_version {
        object.text("http_version", version.as_str());
    }
    if let Some(status) = hop.status {
        object.number("status", u64::from(status));
    }
    if hop.reused {
        object.key("reused").extend_from_slice(b"true");
    }
    phases(object.key("phases"), &hop.phases);
    if !hop.attempts.is_empty() {
        list(object.key("attempts"), &hop.attempts, attempt);
    }
    object.close();
}

fn phases(out: &mut Vec<u8>, phases: &Phases) {
    let mut object = Object::open(out);
    for (phase, time) in phases.reached() {
        let mut parts = Object::open(object.key(phase.as_str()));
        parts.number("us", time.us);
        parts.text("state", time.state.as_str());
        parts.close();
    }
    object.close();
}

fn attempt(out: &mut Vec<u8>, attempt: &Attempt) {
    let mut object = Object::open(out);
    object.text("address", &attempt.address.to_string());
    object.number("us", attempt.us);
    if let Some(error) = attempt.error {
        object.text("error", error.as_str());
    }
    object.close();
}

/// An object being written; the comma is set before each key but the first.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        text(self.out, key);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, key: &str, value: &str) {
        let out = self.key(key);
        text(out, value);
    }

    fn number(&mut self, key: &str, value: u64) {
        let out = self.key(key);
        let _ = write!(out, "{value}");
    }

    fn time(&mut self, key: &str, value: Timestamp) {
        let out = self.key(key);
        let _ = write!(out, "\"{value}\"");
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(out, item);
    }
    out.push(b']');
}

/// A whole number without a point, anything else as the shortest text that reads back the same; what JSON
/// cannot say is `null`.
fn float(out: &mut Vec<u8>, value: f64) {
    let _ = if !value.is_finite() {
        write!(out, "null")
    } else if value.fract() == 0.0 && value.abs() < 9e15 {
        write!(out, "{}", value as i64)
    } else {
        write!(out, "{value}")
    };
}

/// How many bytes one byte of a text takes in a line.
pub const fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        ..0x20 | 0x7f => 6,
        _ => 1,
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = value.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f {
            continue;
        }
        out.extend_from_slice(&bytes[plain..index]);
        plain = index + 1;
        // As `escaped_bytes` counts.
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, Cause, Certificate, Code, Evidence, Finding, HttpVersion, Metrics, Phase, State};
    use std::sync::Arc;

    #[test]
    fn a_full_line() {
        let mut hop = Hop {
            url: "https://shop.example/".into(),
            method: "GET".into(),
            address: Some("192.0.2.7:443".parse().unwrap()),
            http_version: Some(HttpVersion::Http11),
            status: Some(503),
            ..Hop::default()
        };
        hop.phases.set(Phase::Dns, 812, State::Done);
        hop.phases.set(Phase::Wait, 47113, State::Failed);
        hop.attempts.push(Attempt {
            address: "[2001:db8::7]:443".parse().unwrap(),
            us: 310,
            error: Some(Code::ConnectRefused),
        });
        let observation = Observation {
            site: "shop".into(),
            location: "default".into(),
            scheduled_at: Timestamp(1_796_000_002_243_673),
            started_at: Some(Timestamp(1_796_000_002_243_700)),
            interval_us: 15_000_000,
            timeout_us: 10_000_000,
            verdict: Verdict::Down(vec![Cause::new(Code::HttpStatus, "status 503, expected \"200-299\"")]),
            response_time_us: Some(81234),
            hops: vec![hop],
            status: Some(503),
            method: Some("GET".into()),
            content_type: Some("text/html".into()),
            body: Some(Body { wire_bytes: 4120, decoded_bytes: 10301 }),
            extracted: vec![("items".into(), "12\u{1}".into())],
            certificate: Some(Arc::new(Certificate {
                not_after: Timestamp(1_800_000_000_000_000),
                issuer: "CN=a".into(),
                subject: "CN=b".into(),
            })),
            metrics: vec![Metrics { plugin: "html-stats".into(), values: vec![("tags".into(), 412.0)] }],
            findings: vec![Finding {
                plugin: "html-stats".into(),
                metric: "scripts".into(),
                value: Some(9.0),
                mean: Some(4.1),
                deviation: Some(0.3),
                message: "m".into(),
            }],
            evidence: Some(Box::new(Evidence {
                headers: vec![("server".into(), "nginx".into())],
                body_start: Some("<!".into()),
                chain: vec!["CN=b".into()],
            })),
            ..Observation::default()
        };
        let line = to_string(&observation);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["causes"][0]["number"], 501);
        expect_test::expect![[r#"{"site":"shop","location":"default","reason":"schedule","scheduled_at":"2026-11-30T00:53:22.243673Z","started_at":"2026-11-30T00:53:22.243700Z","interval_us":15000000,"timeout_us":10000000,"verdict":"down","causes":[{"code":"http.status","number":501,"message":"status 503, expected \"200-299\""}],"response_time_us":81234,"hops":[{"url":"https://shop.example/","method":"GET","address":"192.0.2.7:443","http_version":"1.1","status":503,"phases":{"dns":{"us":812,"state":"done"},"wait":{"us":47113,"state":"failed"}},"attempts":[{"address":"[2001:db8::7]:443","us":310,"error":"connect.refused"}]}],"status":503,"method":"GET","content_type":"text/html","body":{"wire_bytes":4120,"decoded_bytes":10301},"extracted":{"items":"12\u0001"},"certificate":{"not_after":"2027-01-15T08:00:00Z","issuer":"CN=a","subject":"CN=b"},"metrics":{"html-stats":{"tags":412}},"findings":[{"plugin":"html-stats","metric":"scripts","value":9,"mean":4.1,"deviation":0.3,"message":"m"}],"evidence":{"headers":[["server","nginx"]],"body_start":"<!","chain":["CN=b"]}}"#]].assert_eq(&line);
        let mut without = Vec::new();
        write_without_findings(&observation, &mut without);
        let without = String::from_utf8(without).unwrap();
        assert!(!without.contains("findings") && without.contains("evidence"));
    }
}
