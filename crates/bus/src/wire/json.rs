//! Messages as JSON: an observation is read from its exported line, so that what `sitemon export` prints can be
//! published again; a job is an object like it. Keys that are not known are passed over.

use super::protobuf::take_http_version;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sitemon_model::{
    AddressResult, Attempt, Body, Cause, Certificate, Code, Evidence, Finding, Hop, Job, Metrics, Observation, Phase,
    Phases, Reason, State, Timestamp, Verdict,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// The bytes of a job.
pub fn write_job(job: &Job) -> Vec<u8> {
    let mut object = json!({
        "site": &*job.site, "scheduled_at": job.scheduled_at.to_string(), "reason": job.reason.as_str(),
    });
    if !job.locations.is_empty() {
        object["locations"] = job.locations.iter().map(|location| Value::from(&**location)).collect();
    }
    if let Some(at) = job.expires_at {
        object["expires_at"] = at.to_string().into();
    }
    object.to_string().into_bytes()
}

/// A job of its bytes, or what is wrong with them.
pub fn read_job(bytes: &[u8]) -> Result<Job, String> {
    let job: JobLine = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Job {
        site: named(job.site)?,
        scheduled_at: time(&job.scheduled_at)?,
        reason: reason(job.reason.as_deref())?,
        locations: job.locations,
        expires_at: job.expires_at.as_deref().map(time).transpose()?,
    })
}

/// An observation of its exported line, or what is wrong with it.
pub fn read_observation(bytes: &[u8]) -> Result<Observation, String> {
    let line: Line = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Observation {
        site: named(line.site)?,
        location: line.location,
        reason: reason(line.reason.as_deref())?,
        scheduled_at: time(&line.scheduled_at)?,
        started_at: line.started_at.as_deref().map(time).transpose()?,
        interval_us: line.interval_us,
        timeout_us: line.timeout_us,
        verdict: verdict(&line.verdict, line.causes)?,
        response_time_us: line.response_time_us,
        hops: all(line.hops, hop)?,
        addresses: all(line.addresses, |result| {
            Ok(AddressResult {
                address: result.address,
                verdict: verdict(&result.verdict, result.causes)?,
                response_time_us: result.response_time_us,
                hops: all(result.hops, hop)?,
            })
        })?,
        status: line.status,
        method: line.method,
        content_type: line.content_type,
        body: line.body.map(|body| Body { wire_bytes: body.wire_bytes, decoded_bytes: body.decoded_bytes }),
        extracted: all(line.extracted, |(name, value)| match value {
            Value::String(value) => Ok((name.into(), value.into())),
            other => Err(format!("{other} was extracted, expected a text")),
        })?,
        certificate: match line.certificate {
            Some(CertificateLine { not_after, issuer, subject }) => {
                Some(Arc::new(Certificate { not_after: time(&not_after)?, issuer, subject }))
            }
            None => None,
        },
        metrics: line
            .metrics
            .into_iter()
            .map(|(plugin, values)| {
                let value = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
                let values = values.as_object().into_iter().flatten();
                let values = values.map(|(name, of)| (name.as_str().into(), value(of))).collect();
                Metrics { plugin: plugin.into(), values }
            })
            .collect(),
        findings: line
            .findings
            .into_iter()
            .map(|FindingLine { plugin, metric, value, mean, deviation, message }| Finding {
                plugin,
                metric,
                value,
                mean,
                deviation,
                message,
            })
            .collect(),
        evidence: line
            .evidence
            .map(|EvidenceLine { headers, body_start, chain }| Box::new(Evidence { headers, body_start, chain })),
    })
}

fn all<A, B>(items: impl IntoIterator<Item = A>, take: impl FnMut(A) -> Result<B, String>) -> Result<Vec<B>, String> {
    items.into_iter().map(take).collect()
}

fn named(site: Arc<str>) -> Result<Arc<str>, String> {
    if site.is_empty() { Err("it names no site".to_owned()) } else { Ok(site) }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

/// A job without a reason was asked for by whoever wrote it.
fn reason(text: Option<&str>) -> Result<Reason, String> {
    match text {
        Some("schedule") => Ok(Reason::Schedule),
        Some("request") | None => Ok(Reason::Request),
        Some(other) => Err(format!("`{other}` is no reason")),
    }
}

fn code(text: &str) -> Result<Code, String> {
    let found = Code::ALL.iter().copied().find(|code| code.as_str() == text);
    found.ok_or_else(|| format!("`{text}` is no cause that is known"))
}

fn verdict(text: &str, causes: Vec<CauseLine>) -> Result<Verdict, String> {
    let causes = all(causes, |cause| Ok(Cause::new(code(&cause.code)?, cause.message)))?;
    match text {
        "up" => Ok(Verdict::Up),
        "degraded" => Ok(Verdict::Degraded(causes)),
        "down" => Ok(Verdict::Down(causes)),
        "unknown" => Ok(Verdict::Unknown(causes)),
        other => Err(format!("`{other}` is no verdict")),
    }
}

fn hop(line: HopLine) -> Result<Hop, String> {
    let mut phases = Phases::default();
    for (name, part) in &line.phases {
        let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == name);
        let phase = phase.ok_or_else(|| format!("`{name}` is no phase"))?;
        let us = part["us"].as_u64().ok_or_else(|| format!("the phase `{name}` has no time"))?;
        let failed = part["state"] == State::Failed.as_str();
        phases.set(phase, us, if failed { State::Failed } else { State::Done });
    }
    Ok(Hop {
        url: line.url,
        method: line.method,
        address: line.address,
        http_version: line.http_version.as_deref().map(take_http_version).transpose()?,
        status: line.status,
        reused: line.reused,
        phases,
        attempts: all(line.attempts, |attempt| {
            let error = attempt.error.as_deref().map(code).transpose()?;
            Ok(Attempt { address: attempt.address, us: attempt.us, error })
        })?,
    })
}

#[derive(Deserialize)]
struct JobLine {
    site: Arc<str>,
    scheduled_at: String,
    reason: Option<String>,
    #[serde(default)]
    locations: Vec<Arc<str>>,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    site: Arc<str>,
    location: Arc<str>,
    reason: Option<String>,
    scheduled_at: String,
    started_at: Option<String>,
    interval_us: u64,
    timeout_us: u64,
    verdict: String,
    #[serde(default)]
    causes: Vec<CauseLine>,
    response_time_us: Option<u64>,
    #[serde(default)]
    hops: Vec<HopLine>,
    #[serde(default)]
    addresses: Vec<AddressLine>,
    status: Option<u16>,
    method: Option<Arc<str>>,
    content_type: Option<Arc<str>>,
    body: Option<BodyLine>,
    #[serde(default)]
    extracted: Map<String, Value>,
    certificate: Option<CertificateLine>,
    #[serde(default)]
    metrics: Map<String, Value>,
    #[serde(default)]
    findings: Vec<FindingLine>,
    evidence: Option<EvidenceLine>,
}

#[derive(Deserialize)]
struct CauseLine {
    code: String,
    message: String,
}

#[derive(Deserialize)]
struct HopLine {
    url: Arc<str>,
    method: Arc<str>,
    address: Option<SocketAddr>,
    http_version: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    reused: bool,
    #[serde(default)]
    phases: Map<String, Value>,
    #[serde(default)]
    attempts: Vec<AttemptLine>,
}

#[derive(Deserialize)]
struct AttemptLine {
    address: SocketAddr,
    us: u64,
    error: Option<String>,
}

#[derive(Deserialize)]
struct AddressLine {
    address: SocketAddr,
    verdict: String,
    #[serde(default)]
    causes: Vec<CauseLine>,
    response_time_us: Option<u64>,
    #[serde(default)]
    hops: Vec<HopLine>,
}

#[derive(Deserialize)]
struct BodyLine {
    wire_bytes: u64,
    decoded_bytes: u64,
}

#[derive(Deserialize)]
struct CertificateLine {
    not_after: String,
    issuer: Box<str>,
    subject: Box<str>,
}

#[derive(Deserialize)]
struct FindingLine {
    plugin: Arc<str>,
    #[serde(default)]
    metric: Arc<str>,
    value: Option<f64>,
    mean: Option<f64>,
    deviation: Option<f64>,
    message: Box<str>,
}

#[derive(Deserialize)]
struct EvidenceLine {
    #[serde(default)]
    headers: Vec<(Box<str>, Box<str>)>,
    body_start: Option<Box<str>>,
    #[serde(default)]
    chain: Vec<Box<str>>,
}
