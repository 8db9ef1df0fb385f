//! One observation as numbers and parts, and both as bytes.
//!
//! An observation falls into three: its **shape** (what hardly changes from check to check: method, URLs,
//! addresses, certificate, interval, which phases were reached), its **numbers** (slot, lag, phases, sizes,
//! in the order that the shape gives), and further **parts** that are mostly empty or repeat (causes,
//! extracted values, metrics, findings, attempts). Arrivals keep all of it one after the other; a block keeps
//! a column for each number, and each shape and part once.
//!
//! To add a field: a new tag in its part, or a new part after the last of [`PARTS`]; old bytes read as before.

use crate::wire::{self, put_slice, put_varint, take_slice, take_varint, unzigzag, zigzag};
use sitemon_model::{
    AddressResult, Attempt, Body, Cause, Certificate, Code, Evidence, Finding, Hop, HttpVersion, Metrics, Observation,
    Phase, Phases, Reason, State, Timestamp, Verdict,
};
use sitemon_stats::{Glance, Held};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

/// How many parts an observation has that are no numbers, in the order in which they are stored: shape,
/// causes, extracted values, metrics, findings, attempts (by hop), addresses (with `ip: each`), evidence.
pub(crate) const PARTS: usize = 8;
/// How many of them a block keeps: evidence has a table of its own.
pub(crate) const BLOCK_PARTS: usize = 7;

/// The slot, in microseconds.
pub(crate) const SLOT: u16 = 0;
/// [`Verdict::number`].
pub(crate) const VERDICT: u16 = 1;
/// From the slot to the start of the check.
const LAG: u16 = 2;
/// What the response time is longer than the phases of all hops.
const GAP: u16 = 3;
/// The status of the last answer.
const STATUS: u16 = 4;
/// Body bytes as they came.
const WIRE: u16 = 5;
/// Decoded body bytes less those that came.
const DECODED: u16 = 6;
/// The first of the phases: 8 numbers are set aside for each hop.
const PHASES: u16 = 8;
/// More hops than redirects can be configured are cut off when read from damaged bytes.
const HOPS_MAX: usize = 4096;

/// An observation taken apart. Reused from one to the next, so that its buffers are made once.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// In the order of [`Shape::columns`].
    pub(crate) numbers: Vec<i64>,
    /// In the order of [`PARTS`].
    pub(crate) parts: [Vec<u8>; PARTS],
}

impl Parts {
    /// Takes `observation` apart.
    pub(crate) fn fill(&mut self, o: &Observation) {
        self.parts.iter_mut().for_each(Vec::clear);
        let numbers = &mut self.numbers;
        numbers.clear();
        numbers.push(o.scheduled_at.0);
        numbers.push(i64::from(o.verdict.number()));
        if let Some(started) = o.started_at {
            numbers.push(started.0.wrapping_sub(o.scheduled_at.0));
        }
        if let Some(response) = o.response_time_us {
            numbers.push(response.wrapping_sub(sum_us(&o.hops)) as i64);
        }
        if let Some(status) = o.status {
            numbers.push(i64::from(status));
        }
        if let Some(body) = o.body {
            numbers.push(body.wire_bytes as i64);
            numbers.push(body.decoded_bytes.wrapping_sub(body.wire_bytes) as i64);
        }
        for hop in &o.hops {
            numbers.extend(hop.phases.reached().map(|(_, time)| time.us as i64));
        }
        let [shape, causes, extracted, metrics, findings, attempts, addresses, evidence] = &mut self.parts;
        put_shape(shape, o);
        put_causes(causes, o.verdict.causes());
        for (name, value) in &o.extracted {
            wire::message(extracted, 1, |out| {
                wire::bytes(out, 1, name.as_bytes());
                wire::bytes(out, 2, value.as_bytes());
            });
        }
        for plugin in &o.metrics {
            wire::message(metrics, 1, |out| put_metrics(out, plugin));
        }
        for finding in &o.findings {
            wire::message(findings, 1, |out| put_finding(out, finding));
        }
        for (index, hop) in o.hops.iter().enumerate() {
            for attempt in &hop.attempts {
                wire::message(attempts, 1, |out| {
                    wire::number(out, 1, index as u64);
                    put_attempt(out, attempt);
                });
            }
        }
        for address in &o.addresses {
            wire::message(addresses, 1, |out| put_address_result(out, address));
        }
        if let Some(shown) = &o.evidence {
            put_evidence(evidence, shown);
        }
    }

    /// Appends all of it as one record, as arrivals keep it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let filled = self.parts.iter().rposition(|part| !part.is_empty()).map_or(0, |last| last + 1);
        put_varint(out, filled as u64);
        for part in &self.parts[..filled] {
            put_slice(out, part);
        }
        put_varint(out, self.numbers.len() as u64);
        for number in &self.numbers {
            put_varint(out, zigzag(*number));
        }
    }
}

/// The bytes of one observation, evidence included.
pub(crate) fn to_bytes(observation: &Observation) -> Vec<u8> {
    let mut parts = Parts::default();
    parts.fill(observation);
    let mut out = Vec::with_capacity(384);
    parts.write(&mut out);
    out
}

/// What hardly changes from check to check, read once and shared.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether one number is there")]
pub(crate) struct Shape {
    /// The observation without its numbers and other parts.
    skeleton: Observation,
    started: bool,
    response: bool,
    status: bool,
    body: bool,
    /// Which numbers an observation of this shape has, in the order of [`Parts::numbers`].
    pub(crate) columns: Vec<u16>,
}

impl Shape {
    /// Reads a shape; `None` where its bytes are damaged.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut skeleton = Observation::default();
        let mut flags = 0;
        wire::fields(bytes, |tag, value| {
            match tag {
                1 if value.number()? == 1 => skeleton.reason = Reason::Request,
                2 => skeleton.interval_us = value.number()?,
                3 => skeleton.timeout_us = value.number()?,
                4 => flags = value.number()?,
                5 if skeleton.hops.len() < HOPS_MAX => skeleton.hops.push(take_hop(value.bytes()?)?),
                5 => return None,
                6 => skeleton.method = Some(value.text()?.into()),
                7 => skeleton.content_type = Some(value.text()?.into()),
                8 => skeleton.certificate = Some(Arc::new(take_certificate(value.bytes()?)?)),
                _ => {}
            }
            Some(())
        })?;
        let [started, response, status, body] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
        let mut columns = vec![SLOT, VERDICT];
        for (has, numbers) in [(started, &[LAG][..]), (response, &[GAP]), (status, &[STATUS]), (body, &[WIRE, DECODED])]
        {
            if has {
                columns.extend(numbers);
            }
        }
        for (index, hop) in skeleton.hops.iter().enumerate() {
            columns.extend(hop.phases.reached().map(|(phase, _)| PHASES + index as u16 * 8 + phase as u16));
        }
        Some(Self { skeleton, started, response, status, body, columns })
    }

    /// Microseconds from slot to slot.
    pub(crate) const fn interval_us(&self) -> u64 {
        self.skeleton.interval_us
    }

    /// Microseconds that a check may take.
    pub(crate) const fn timeout_us(&self) -> u64 {
        self.skeleton.timeout_us
    }

    /// What an overview needs of the observation of `numbers`; `None` where they do not fit the
    /// shape.
    pub(crate) fn glance(&self, numbers: &[i64]) -> Option<Glance> {
        let (mut verdict, mut response) = (0, 0u64);
        for (column, number) in self.columns.iter().zip(numbers) {
            match *column {
                VERDICT => verdict = u8::try_from(*number).ok().filter(|verdict| *verdict < 4)?,
                GAP | PHASES.. => response = response.wrapping_add(*number as u64),
                _ => {}
            }
        }
        let until = |from: Timestamp, us: u64| from.plus(i64::try_from(us).unwrap_or(i64::MAX));
        let from = Timestamp(*numbers.first()?);
        let until = until(until(from, self.skeleton.interval_us), self.skeleton.timeout_us);
        let held = Held { verdict, from, until };
        Some(Glance { held, response_time_us: self.response.then_some(response) })
    }

    /// Whether it is of jobs of the schedule.
    pub(crate) fn is_scheduled(&self) -> bool {
        self.skeleton.reason == Reason::Schedule
    }

    /// The observation of `numbers` and what stands in `rest`; `None` where they do not fit the shape.
    pub(crate) fn observation(
        &self,
        site: &Arc<str>,
        location: &Arc<str>,
        numbers: &[i64],
        rest: &Rest,
    ) -> Option<Observation> {
        if numbers.len() != self.columns.len() {
            return None;
        }
        let mut numbers = numbers.iter().copied();
        let mut next = || numbers.next();
        let mut o = self.skeleton.clone();
        o.site = site.clone();
        o.location = location.clone();
        o.scheduled_at = Timestamp(next()?);
        o.verdict = Verdict::from_number(u8::try_from(next()?).ok()?, rest.causes.clone())?;
        if self.started {
            o.started_at = Some(Timestamp(o.scheduled_at.0.wrapping_add(next()?)));
        }
        let gap = if self.response { Some(next()? as u64) } else { None };
        if self.status {
            o.status = Some(u16::try_from(next()?).ok()?);
        }
        if self.body {
            let wire_bytes = next()? as u64;
            o.body = Some(Body { wire_bytes, decoded_bytes: wire_bytes.wrapping_add(next()? as u64) });
        }
        for hop in &mut o.hops {
            let reached = hop.phases;
            for (phase, time) in reached.reached() {
                hop.phases.set(phase, next()? as u64, time.state);
            }
        }
        o.response_time_us = gap.map(|gap| gap.wrapping_add(sum_us(&o.hops)));
        for (index, attempt) in &rest.attempts {
            o.hops.get_mut(*index)?.attempts.push(attempt.clone());
        }
        o.extracted.clone_from(&rest.extracted);
        o.metrics.clone_from(&rest.metrics);
        o.findings.clone_from(&rest.findings);
        o.addresses.clone_from(&rest.addresses);
        o.evidence.clone_from(&rest.evidence);
        Some(o)
    }
}

/// The parts that are no shape, read.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rest {
    causes: Vec<Cause>,
    extracted: Vec<(Arc<str>, Box<str>)>,
    metrics: Vec<Metrics>,
    findings: Vec<Finding>,
    attempts: Vec<(usize, Attempt)>,
    addresses: Vec<AddressResult>,
    evidence: Option<Box<Evidence>>,
}

impl Rest {
    /// Its causes.
    pub(crate) fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// Reads one part into its place; `None` where its bytes are damaged.
    pub(crate) fn set(&mut self, part: usize, bytes: &[u8]) -> Option<()> {
        match part {
            1 => self.causes = take_causes(bytes)?,
            2 => self.extracted = list(bytes, take_extracted)?,
            3 => self.metrics = list(bytes, take_metrics)?,
            4 => self.findings = list(bytes, take_finding)?,
            5 => self.attempts = list(bytes, take_hop_attempt)?,
            6 => self.addresses = list(bytes, take_address_result)?,
            7 if !bytes.is_empty() => self.evidence = Some(Box::new(take_evidence(bytes)?)),
            _ => {}
        }
        Some(())
    }

    /// Takes one part over from another.
    pub(crate) fn copy(&mut self, part: usize, other: &Self) {
        match part {
            1 => self.causes.clone_from(&other.causes),
            2 => self.extracted.clone_from(&other.extracted),
            3 => self.metrics.clone_from(&other.metrics),
            4 => self.findings.clone_from(&other.findings),
            5 => self.attempts.clone_from(&other.attempts),
            6 => self.addresses.clone_from(&other.addresses),
            _ => self.evidence.clone_from(&other.evidence),
        }
    }
}

/// Reads records; keeps the shapes it met.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    numbers: Vec<i64>,
    shapes: Shapes,
}

impl Reader {
    /// The observation of what [`Parts::write`] wrote; `None` where its bytes are damaged.
    pub(crate) fn observation(
        &mut self,
        site: &Arc<str>,
        location: &Arc<str>,
        mut bytes: &[u8],
    ) -> Option<Observation> {
        let bytes = &mut bytes;
        let mut shape = &[][..];
        let mut rest = Rest::default();
        for index in 0..take_varint(bytes)? {
            let part = take_slice(bytes)?;
            match index {
                0 => shape = part,
                _ if part.is_empty() => {}
                _ => rest.set(index as usize, part)?,
            }
        }
        self.numbers.clear();
        for _ in 0..take_varint(bytes)? {
            self.numbers.push(unzigzag(take_varint(bytes)?));
        }
        self.shapes.get(shape)?.observation(site, location, &self.numbers, &rest)
    }
}

/// Shapes by their bytes, so that each is read once.
#[derive(Debug, Default)]
pub(crate) struct Shapes(HashMap<Box<[u8]>, Arc<Shape>>);

/// Shapes kept before all are forgotten; one takes about a kilobyte.
const SHAPES_MAX: usize = 20_000;

impl Shapes {
    /// The shape of these bytes; `None` where they are damaged.
    pub(crate) fn get(&mut self, bytes: &[u8]) -> Option<Arc<Shape>> {
        if let Some(shape) = self.0.get(bytes) {
            return Some(shape.clone());
        }
        if self.0.len() >= SHAPES_MAX {
            self.0.clear();
        }
        let shape = Arc::new(Shape::read(bytes)?);
        self.0.insert(bytes.into(), shape.clone());
        Some(shape)
    }
}

/// Microseconds of all phases of all hops; wraps, as does what is subtracted from it.
fn sum_us(hops: &[Hop]) -> u64 {
    hops.iter().flat_map(|hop| hop.phases.reached()).fold(0u64, |sum, (_, time)| sum.wrapping_add(time.us))
}

fn put_shape(out: &mut Vec<u8>, o: &Observation) {
    if o.reason == Reason::Request {
        wire::number(out, 1, 1);
    }
    wire::number(out, 2, o.interval_us);
    wire::number(out, 3, o.timeout_us);
    let flags = [o.started_at.is_some(), o.response_time_us.is_some(), o.status.is_some(), o.body.is_some()];
    wire::number(out, 4, flags.iter().enumerate().map(|(bit, set)| u64::from(*set) << bit).sum());
    for hop in &o.hops {
        wire::message(out, 5, |out| put_hop(out, hop));
    }
    if let Some(method) = &o.method {
        wire::bytes(out, 6, method.as_bytes());
    }
    if let Some(content_type) = &o.content_type {
        wire::bytes(out, 7, content_type.as_bytes());
    }
    if let Some(certificate) = &o.certificate {
        wire::message(out, 8, |out| {
            wire::number(out, 1, zigzag(certificate.not_after.0));
            wire::bytes(out, 2, certificate.issuer.as_bytes());
            wire::bytes(out, 3, certificate.subject.as_bytes());
        });
    }
}

/// A hop without its times and attempts.
fn put_hop(out: &mut Vec<u8>, hop: &Hop) {
    wire::bytes(out, 1, hop.url.as_bytes());
    wire::bytes(out, 2, hop.method.as_bytes());
    if let Some(address) = hop.address {
        wire::message(out, 3, |out| put_address(out, address));
    }
    if let Some(version) = hop.http_version {
        wire::number(out, 4, version as u64);
    }
    if let Some(status) = hop.status {
        wire::number(out, 5, u64::from(status));
    }
    if hop.reused {
        wire::number(out, 6, 1);
    }
    // Two bits for each phase: reached, failed.
    let phases: u64 = hop
        .phases
        .reached()
        .map(|(phase, time)| (1 | u64::from(time.state == State::Failed) << 1) << (2 * phase as u32))
        .sum();
    wire::number(out, 7, phases);
}

fn take_hop(bytes: &[u8]) -> Option<Hop> {
    let mut hop = Hop::default();
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => hop.url = value.text()?.into(),
            2 => hop.method = value.text()?.into(),
            3 => hop.address = Some(take_address(value.bytes()?)?),
            4 => {
                hop.http_version = Some(match value.number()? {
                    0 => HttpVersion::Http10,
                    1 => HttpVersion::Http11,
                    2 => HttpVersion::Http2,
                    _ => return None,
                });
            }
            5 => hop.status = Some(u16::try_from(value.number()?).ok()?),
            6 => hop.reused = value.number()? == 1,
            7 => hop.phases = phases(value.number()?),
            8 => {
                let mut times = value.bytes()?;
                let reached = hop.phases;
                for (phase, time) in reached.reached() {
                    hop.phases.set(phase, take_varint(&mut times)?, time.state);
                }
            }
            9 => hop.attempts.push(take_hop_attempt(value.bytes()?)?.1),
            _ => {}
        }
        Some(())
    })?;
    Some(hop)
}

fn phases(mask: u64) -> Phases {
    let mut phases = Phases::default();
    for phase in Phase::ALL {
        let bits = mask >> (2 * phase as u32);
        if bits & 1 != 0 {
            phases.set(phase, 0, if bits & 2 != 0 { State::Failed } else { State::Done });
        }
    }
    phases
}

fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&address.port().to_be_bytes());
    if let SocketAddr::V6(address) = address
        && (address.flowinfo() != 0 || address.scope_id() != 0)
    {
        out.extend_from_slice(&address.flowinfo().to_be_bytes());
        out.extend_from_slice(&address.scope_id().to_be_bytes());
    }
}

fn take_address(bytes: &[u8]) -> Option<SocketAddr> {
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
    Some(match bytes.len() {
        6 => {
            let ip: [u8; 4] = bytes[..4].try_into().ok()?;
            SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port(&bytes[4..])?))
        }
        18 | 26 => {
            let ip: [u8; 16] = bytes[..16].try_into().ok()?;
            let (flow, scope) =
                if bytes.len() == 26 { (number(&bytes[18..22])?, number(&bytes[22..])?) } else { (0, 0) };
            SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port(&bytes[16..18])?, flow, scope))
        }
        _ => return None,
    })
}

fn take_certificate(bytes: &[u8]) -> Option<Certificate> {
    let mut certificate = Certificate { not_after: Timestamp(0), issuer: "".into(), subject: "".into() };
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => certificate.not_after = Timestamp(unzigzag(value.number()?)),
            2 => certificate.issuer = value.text()?.into(),
            3 => certificate.subject = value.text()?.into(),
            _ => {}
        }
        Some(())
    })?;
    Some(certificate)
}

fn put_causes(out: &mut Vec<u8>, causes: &[Cause]) {
    for cause in causes {
        wire::message(out, 1, |out| {
            wire::number(out, 1, u64::from(cause.code.number()));
            wire::bytes(out, 2, cause.message.as_bytes());
        });
    }
}

fn take_causes(bytes: &[u8]) -> Option<Vec<Cause>> {
    list(bytes, |bytes| {
        let (mut code, mut message) = (None, "");
        wire::fields(bytes, |tag, value| {
            match tag {
                1 => code = Code::from_number(u16::try_from(value.number()?).ok()?),
                2 => message = value.text()?,
                _ => {}
            }
            Some(())
        })?;
        Some(Cause::new(code?, message))
    })
}

fn take_extracted(bytes: &[u8]) -> Option<(Arc<str>, Box<str>)> {
    let (mut name, mut text) = ("", "");
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => name = value.text()?,
            2 => text = value.text()?,
            _ => {}
        }
        Some(())
    })?;
    Some((name.into(), text.into()))
}

fn put_metrics(out: &mut Vec<u8>, metrics: &Metrics) {
    wire::bytes(out, 1, metrics.plugin.as_bytes());
    for (metric, value) in &metrics.values {
        wire::message(out, 2, |out| {
            wire::bytes(out, 1, metric.as_bytes());
            wire::float(out, 2, *value);
        });
    }
}

fn take_metrics(bytes: &[u8]) -> Option<Metrics> {
    let mut metrics = Metrics::default();
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => metrics.plugin = value.text()?.into(),
            2 => {
                let (mut metric, mut number) = ("", None);
                wire::fields(value.bytes()?, |tag, value| {
                    match tag {
                        1 => metric = value.text()?,
                        2 => number = Some(value.float()?),
                        _ => {}
                    }
                    Some(())
                })?;
                metrics.values.push((metric.into(), number?));
            }
            _ => {}
        }
        Some(())
    })?;
    Some(metrics)
}

fn put_finding(out: &mut Vec<u8>, finding: &Finding) {
    wire::bytes(out, 1, finding.plugin.as_bytes());
    wire::bytes(out, 2, finding.metric.as_bytes());
    for (tag, value) in [(3, finding.value), (4, finding.mean), (5, finding.deviation)] {
        if let Some(value) = value {
            wire::float(out, tag, value);
        }
    }
    wire::bytes(out, 6, finding.message.as_bytes());
}

fn take_finding(bytes: &[u8]) -> Option<Finding> {
    let mut finding = Finding::default();
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => finding.plugin = value.text()?.into(),
            2 => finding.metric = value.text()?.into(),
            3 => finding.value = Some(value.float()?),
            4 => finding.mean = Some(value.float()?),
            5 => finding.deviation = Some(value.float()?),
            6 => finding.message = value.text()?.into(),
            _ => {}
        }
        Some(())
    })?;
    Some(finding)
}

fn put_attempt(out: &mut Vec<u8>, attempt: &Attempt) {
    wire::message(out, 2, |out| put_address(out, attempt.address));
    wire::number(out, 3, attempt.us);
    if let Some(error) = attempt.error {
        wire::number(out, 4, u64::from(error.number()));
    }
}

fn take_hop_attempt(bytes: &[u8]) -> Option<(usize, Attempt)> {
    let (mut hop, mut address, mut us, mut error) = (0, None, 0, None);
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => hop = usize::try_from(value.number()?).ok()?,
            2 => address = Some(take_address(value.bytes()?)?),
            3 => us = value.number()?,
            4 => error = Some(Code::from_number(u16::try_from(value.number()?).ok()?)?),
            _ => {}
        }
        Some(())
    })?;
    Some((hop, Attempt { address: address?, us, error }))
}

fn put_address_result(out: &mut Vec<u8>, result: &AddressResult) {
    wire::message(out, 1, |out| put_address(out, result.address));
    wire::number(out, 2, u64::from(result.verdict.number()));
    wire::message(out, 3, |out| put_causes(out, result.verdict.causes()));
    if let Some(us) = result.response_time_us {
        wire::number(out, 4, us);
    }
    for hop in &result.hops {
        wire::message(out, 5, |out| {
            put_hop(out, hop);
            wire::message(out, 8, |out| hop.phases.reached().for_each(|(_, time)| put_varint(out, time.us)));
            for attempt in &hop.attempts {
                wire::message(out, 9, |out| put_attempt(out, attempt));
            }
        });
    }
}

fn take_address_result(bytes: &[u8]) -> Option<AddressResult> {
    let (mut address, mut verdict, mut causes, mut response_time_us, mut hops) =
        (None, 0, Vec::new(), None, Vec::new());
    wire::fields(bytes, |tag, value| {
        match tag {
            1 => address = Some(take_address(value.bytes()?)?),
            2 => verdict = u8::try_from(value.number()?).ok()?,
            3 => causes = take_causes(value.bytes()?)?,
            4 => response_time_us = Some(value.number()?),
            5 => hops.push(take_hop(value.bytes()?)?),
            _ => {}
        }
        Some(())
    })?;
    Some(AddressResult { address: address?, verdict: Verdict::from_number(verdict, causes)?, response_time_us, hops })
}

/// Appends what an answer looked like; never nothing, so that an empty one is told from none.
pub(crate) fn put_evidence(out: &mut Vec<u8>, evidence: &Evidence) {
    wire::number(out, 1, 1);
    for (name, value) in &evidence.headers {
        wire::message(out, 2, |out| {
            wire::bytes(out, 1, name.as_bytes());
            wire::bytes(out, 2, value.as_bytes());
        });
    }
    if let Some(start) = &evidence.body_start {
        wire::bytes(out, 3, start.as_bytes());
    }
    for subject in &evidence.chain {
        wire::bytes(out, 4, subject.as_bytes());
    }
}

/// Reads what [`put_evidence`] wrote; `None` where the bytes are damaged.
pub(crate) fn take_evidence(bytes: &[u8]) -> Option<Evidence> {
    let mut evidence = Evidence::default();
    wire::fields(bytes, |tag, value| {
        match tag {
            2 => {
                let (name, value) = take_extracted(value.bytes()?)?;
                evidence.headers.push(((*name).into(), value));
            }
            3 => evidence.body_start = Some(value.text()?.into()),
            4 => evidence.chain.push(value.text()?.into()),
            _ => {}
        }
        Some(())
    })?;
    Some(evidence)
}

/// The messages of a part that is a list.
fn list<'a, T>(bytes: &'a [u8], mut each: impl FnMut(&'a [u8]) -> Option<T>) -> Option<Vec<T>> {
    let mut items = Vec::new();
    wire::fields(bytes, |_, value| {
        items.push(each(value.bytes()?)?);
        Some(())
    })?;
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn every_field_comes_back() {
        let mut sample = Sample::new(1);
        let mut reader = Reader::default();
        for _ in 0..3000 {
            let o = sample.any();
            let bytes = to_bytes(&o);
            assert_eq!(reader.observation(&o.site, &o.location, &bytes), Some(o));
        }
    }

    #[test]
    fn damaged_bytes_are_an_answer() {
        let mut sample = Sample::new(2);
        let mut reader = Reader::default();
        for _ in 0..300 {
            let o = sample.any();
            let bytes = to_bytes(&o);
            for len in 0..bytes.len() {
                assert_ne!(reader.observation(&o.site, &o.location, &bytes[..len]), Some(o.clone()));
                let mut flipped = bytes.clone();
                flipped[len] ^= 1 << (len % 8);
                let _ = reader.observation(&o.site, &o.location, &flipped);
            }
        }
    }
}
