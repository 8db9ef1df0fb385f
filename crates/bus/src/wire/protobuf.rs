//! The words of the model in the messages of the schema, and back.

use super::messages as wire;
use prost::Message as _;
use sitemon_model::{
    AddressResult, Attempt, Body, Cause, Certificate, Code, Evidence, Finding, Hop, HttpVersion, Job, Metrics,
    Observation, Phase, Phases, Reason, State, Timestamp, Verdict,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// The bytes of a job.
pub fn write_job(job: &Job) -> Vec<u8> {
    let locations = job.locations.iter().map(ToString::to_string).collect();
    let expires_at_us = job.expires_at.map(|at| at.0);
    let reason = put_reason(job.reason);
    wire::Job { site: job.site.to_string(), scheduled_at_us: job.scheduled_at.0, reason, locations, expires_at_us }
        .encode_to_vec()
}

/// A job of its bytes, or what is wrong with them.
pub fn read_job(bytes: &[u8]) -> Result<Job, String> {
    let job = wire::Job::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Job {
        site: named(job.site)?,
        scheduled_at: Timestamp(job.scheduled_at_us),
        reason: take_reason(job.reason)?,
        locations: job.locations.into_iter().map(Into::into).collect(),
        expires_at: job.expires_at_us.map(Timestamp),
    })
}

/// The bytes of an observation.
pub fn write_observation(o: &Observation) -> Vec<u8> {
    wire::Observation {
        site: o.site.to_string(),
        location: o.location.to_string(),
        reason: put_reason(o.reason),
        scheduled_at_us: o.scheduled_at.0,
        started_after_us: o.started_at.map(|at| at.0.wrapping_sub(o.scheduled_at.0)),
        interval_us: o.interval_us,
        timeout_us: o.timeout_us,
        verdict: i32::from(o.verdict.number()),
        causes: o.verdict.causes().iter().map(put_cause).collect(),
        response_time_us: o.response_time_us,
        hops: o.hops.iter().map(put_hop).collect(),
        addresses: o.addresses.iter().map(put_address).collect(),
        status: o.status.map(u32::from),
        method: o.method.as_deref().map(str::to_owned),
        content_type: o.content_type.as_deref().map(str::to_owned),
        body: o.body.map(|body| wire::Body { wire_bytes: body.wire_bytes, decoded_bytes: body.decoded_bytes }),
        extracted: o.extracted.iter().map(|(name, value)| put_named(name, value)).collect(),
        certificate: o.certificate.as_deref().map(|certificate| wire::Certificate {
            not_after_us: certificate.not_after.0,
            issuer: certificate.issuer.to_string(),
            subject: certificate.subject.to_string(),
        }),
        metrics: o.metrics.iter().map(put_metrics).collect(),
        findings: o.findings.iter().map(put_finding).collect(),
        evidence: o.evidence.as_deref().map(|evidence| wire::Evidence {
            headers: evidence.headers.iter().map(|(name, value)| put_named(name, value)).collect(),
            body_start: evidence.body_start.as_deref().map(str::to_owned),
            chain: evidence.chain.iter().map(ToString::to_string).collect(),
        }),
    }
    .encode_to_vec()
}

/// An observation of its bytes, or what is wrong with them.
pub fn read_observation(bytes: &[u8]) -> Result<Observation, String> {
    let o = wire::Observation::decode(bytes).map_err(|error| error.to_string())?;
    let scheduled_at = Timestamp(o.scheduled_at_us);
    Ok(Observation {
        site: named(o.site)?,
        location: o.location.into(),
        reason: take_reason(o.reason)?,
        scheduled_at,
        started_at: o.started_after_us.map(|after| Timestamp(scheduled_at.0.wrapping_add(after))),
        interval_us: o.interval_us,
        timeout_us: o.timeout_us,
        verdict: take_verdict(o.verdict, o.causes)?,
        response_time_us: o.response_time_us,
        hops: all(o.hops, take_hop)?,
        addresses: all(o.addresses, take_address)?,
        status: o.status.map(small).transpose()?,
        method: o.method.map(Into::into),
        content_type: o.content_type.map(Into::into),
        body: o.body.map(|body| Body { wire_bytes: body.wire_bytes, decoded_bytes: body.decoded_bytes }),
        extracted: o.extracted.into_iter().map(|named| (named.name.into(), named.value.into())).collect(),
        certificate: o.certificate.map(|certificate| {
            Arc::new(Certificate {
                not_after: Timestamp(certificate.not_after_us),
                issuer: certificate.issuer.into(),
                subject: certificate.subject.into(),
            })
        }),
        metrics: o.metrics.into_iter().map(take_metrics).collect(),
        findings: o.findings.into_iter().map(take_finding).collect(),
        evidence: o.evidence.map(|evidence| {
            Box::new(Evidence {
                headers: evidence.headers.into_iter().map(|named| (named.name.into(), named.value.into())).collect(),
                body_start: evidence.body_start.map(Into::into),
                chain: evidence.chain.into_iter().map(Into::into).collect(),
            })
        }),
    })
}

/// The items of a list, or what is wrong with one of them.
fn all<A, B>(items: Vec<A>, take: impl FnMut(A) -> Result<B, String>) -> Result<Vec<B>, String> {
    items.into_iter().map(take).collect()
}

fn named(site: String) -> Result<Arc<str>, String> {
    if site.is_empty() { Err("it names no site".to_owned()) } else { Ok(site.into()) }
}

fn small(number: u32) -> Result<u16, String> {
    u16::try_from(number).map_err(|_| format!("{number} is no number up to 65535"))
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address with a port"))
}

const fn put_reason(reason: Reason) -> i32 {
    match reason {
        Reason::Schedule => wire::Reason::Schedule as i32,
        Reason::Request => wire::Reason::Request as i32,
    }
}

fn take_reason(number: i32) -> Result<Reason, String> {
    match wire::Reason::try_from(number) {
        Ok(wire::Reason::Schedule) => Ok(Reason::Schedule),
        Ok(wire::Reason::Request) => Ok(Reason::Request),
        Err(_) => Err(format!("{number} is no reason")),
    }
}

fn put_cause(cause: &Cause) -> wire::Cause {
    wire::Cause { number: u32::from(cause.code.number()), message: cause.message.to_string() }
}

fn take_code(number: u32) -> Result<Code, String> {
    Code::from_number(small(number)?).ok_or_else(|| format!("{number} is no cause that is known"))
}

fn take_verdict(number: i32, causes: Vec<wire::Cause>) -> Result<Verdict, String> {
    let causes = all(causes, |cause| Ok(Cause::new(take_code(cause.number)?, cause.message)))?;
    let verdict = u8::try_from(number).ok().and_then(|number| Verdict::from_number(number, causes));
    verdict.ok_or_else(|| format!("{number} is no verdict"))
}

fn put_hop(hop: &Hop) -> wire::Hop {
    let phases = hop.phases.reached();
    wire::Hop {
        url: hop.url.to_string(),
        method: hop.method.to_string(),
        address: hop.address.map(|address| address.to_string()),
        http_version: hop.http_version.map(|version| version.as_str().to_owned()),
        status: hop.status.map(u32::from),
        reused: hop.reused,
        phases: phases
            .map(|(phase, time)| wire::PhaseTime {
                phase: phase as i32,
                us: time.us,
                failed: time.state == State::Failed,
            })
            .collect(),
        attempts: hop
            .attempts
            .iter()
            .map(|attempt| wire::Attempt {
                address: attempt.address.to_string(),
                us: attempt.us,
                error: attempt.error.map(|code| u32::from(code.number())),
            })
            .collect(),
    }
}

fn take_hop(hop: wire::Hop) -> Result<Hop, String> {
    let mut phases = Phases::default();
    for time in &hop.phases {
        let phase = usize::try_from(time.phase).ok().and_then(|index| Phase::ALL.get(index));
        let phase = phase.ok_or_else(|| format!("{} is no phase", time.phase))?;
        phases.set(*phase, time.us, if time.failed { State::Failed } else { State::Done });
    }
    Ok(Hop {
        url: hop.url.into(),
        method: hop.method.into(),
        address: hop.address.as_deref().map(socket).transpose()?,
        http_version: hop.http_version.as_deref().map(take_http_version).transpose()?,
        status: hop.status.map(small).transpose()?,
        reused: hop.reused,
        phases,
        attempts: all(hop.attempts, |attempt| {
            let error = attempt.error.map(take_code).transpose()?;
            Ok(Attempt { address: socket(&attempt.address)?, us: attempt.us, error })
        })?,
    })
}

/// The version of HTTP of its text.
pub fn take_http_version(text: &str) -> Result<HttpVersion, String> {
    let known = [HttpVersion::Http10, HttpVersion::Http11, HttpVersion::Http2];
    known.into_iter().find(|version| version.as_str() == text).ok_or_else(|| format!("`{text}` is no version of HTTP"))
}

fn put_address(result: &AddressResult) -> wire::AddressResult {
    wire::AddressResult {
        address: result.address.to_string(),
        verdict: i32::from(result.verdict.number()),
        causes: result.verdict.causes().iter().map(put_cause).collect(),
        response_time_us: result.response_time_us,
        hops: result.hops.iter().map(put_hop).collect(),
    }
}

fn take_address(result: wire::AddressResult) -> Result<AddressResult, String> {
    Ok(AddressResult {
        address: socket(&result.address)?,
        verdict: take_verdict(result.verdict, result.causes)?,
        response_time_us: result.response_time_us,
        hops: all(result.hops, take_hop)?,
    })
}

fn put_named(name: &str, value: &str) -> wire::Named {
    wire::Named { name: name.to_owned(), value: value.to_owned() }
}

fn put_metrics(metrics: &Metrics) -> wire::Metrics {
    let values = metrics.values.iter().map(|(name, value)| wire::Metric { name: name.to_string(), value: *value });
    wire::Metrics { plugin: metrics.plugin.to_string(), values: values.collect() }
}

fn take_metrics(metrics: wire::Metrics) -> Metrics {
    let values = metrics.values.into_iter().map(|metric| (metric.name.into(), metric.value));
    Metrics { plugin: metrics.plugin.into(), values: values.collect() }
}

fn put_finding(finding: &Finding) -> wire::Finding {
    let Finding { plugin, metric, value, mean, deviation, message } = finding;
    wire::Finding {
        plugin: plugin.to_string(),
        metric: metric.to_string(),
        value: *value,
        mean: *mean,
        deviation: *deviation,
        message: message.to_string(),
    }
}

fn take_finding(finding: wire::Finding) -> Finding {
    let wire::Finding { plugin, metric, value, mean, deviation, message } = finding;
    Finding { plugin: plugin.into(), metric: metric.into(), value, mean, deviation, message: message.into() }
}
