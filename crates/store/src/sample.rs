//! Observations made from a seed, for the conformance suite, tests and measurements.

use sitemon_model::{
    AddressResult, Attempt, Body, Cause, Certificate, Code, Evidence, Finding, Hop, HttpVersion, Metrics, Observation,
    Phase, Phases, Reason, State, Timestamp, Verdict,
};
use std::net::SocketAddr;
use std::sync::Arc;

/// A source of observations; the same seed gives the same ones.
#[derive(Debug, Clone)]
pub struct Sample {
    state: u64,
}

/// A slot from which samples begin: the start of a day, 2026-11-29T00:00:00Z.
pub const EPOCH: Timestamp = Timestamp(20_786 * sitemon_model::time::DAY);

impl Sample {
    /// A source with its seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed ^ 0x9e37_79b9_7f4a_7c15 }
    }

    /// The next number (splitmix64, Steele, Lea and Flood, 2014).
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `n` times.
    pub const fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A number of a log-normal distribution with this median.
    pub fn lognormal(&mut self, median: f64, sigma: f64) -> f64 {
        let uniform = |n: u64| (n >> 11) as f64 / (1u64 << 53) as f64;
        let (a, b) = (uniform(self.next()).max(1e-12), uniform(self.next()));
        let normal = (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos();
        median * (sigma * normal).exp()
    }

    /// An observation that is up, as a site behind HTTPS gives it: one hop, five phases with log-normal
    /// times, a lag of about 100 µs.
    pub fn regular(&mut self, site: &Arc<str>, location: &Arc<str>, slot: Timestamp, interval_us: u64) -> Observation {
        let mut phases = Phases::default();
        for (phase, median, sigma) in [
            (Phase::Dns, 800.0, 0.3),
            (Phase::Connect, 10_400.0, 0.05),
            (Phase::Tls, 22_000.0, 0.05),
            (Phase::Send, 41.0, 0.2),
            (Phase::Wait, 47_000.0, 0.15),
            (Phase::Receive, 860.0, 0.3),
        ] {
            phases.set(phase, self.lognormal(median, sigma) as u64, State::Done);
        }
        let url: Arc<str> = format!("https://{site}.example/").into();
        let method: Arc<str> = "GET".into();
        let gap = self.below(8);
        Observation {
            site: site.clone(),
            location: location.clone(),
            scheduled_at: slot,
            started_at: Some(slot.plus(self.lognormal(100.0, 0.3) as i64)),
            interval_us,
            timeout_us: 10_000_000.min(interval_us),
            response_time_us: Some(phases.sum_us() + gap),
            hops: vec![Hop {
                url,
                method: method.clone(),
                address: Some(SocketAddr::from(([192, 0, 2, 7], 443))),
                http_version: Some(HttpVersion::Http11),
                status: Some(200),
                phases,
                ..Hop::default()
            }],
            status: Some(200),
            method: Some(method),
            content_type: Some("text/html; charset=utf-8".into()),
            body: Some(Body { wire_bytes: 4120 + self.below(16), decoded_bytes: 10_301 + self.below(16) }),
            certificate: Some(Arc::new(Certificate {
                not_after: Timestamp(1_800_000_000_000_000),
                issuer: "CN=R11,O=Let's Encrypt,C=US".into(),
                subject: format!("CN={site}.example").into(),
            })),
            ..Observation::default()
        }
    }

    /// An observation of a regular site that is up most of the time, and fails now and then.
    pub fn mixed(&mut self, site: &Arc<str>, location: &Arc<str>, slot: Timestamp, interval_us: u64) -> Observation {
        let mut o = self.regular(site, location, slot, interval_us);
        match self.below(40) {
            0 => {
                o.verdict = Verdict::Down(vec![Cause::new(Code::HttpStatus, "status 503, expected 200-299")]);
                o.status = Some(503);
                o.hops[0].status = Some(503);
            }
            1 => {
                let failed = self.any();
                o.verdict = failed.verdict;
                o.hops = failed.hops;
                o.response_time_us = failed.response_time_us;
                o.started_at = Some(slot);
                o.evidence = failed.evidence;
            }
            2 => {
                o = Observation {
                    site: o.site,
                    location: o.location,
                    scheduled_at: slot,
                    interval_us,
                    timeout_us: o.timeout_us,
                    verdict: Verdict::Unknown(vec![Cause::new(Code::SkippedOverload, "")]),
                    ..Observation::default()
                };
            }
            3 => {
                o.metrics = vec![self.metrics()];
                o.extracted = vec![("items".into(), self.text().into())];
            }
            _ => {}
        }
        o
    }

    /// Any observation that the types allow, from the everyday to the absurd.
    pub fn any(&mut self) -> Observation {
        let mut o = Observation {
            site: format!("site-{}", self.below(5)).into(),
            location: if self.once_in(4) { "far".into() } else { "default".into() },
            reason: if self.once_in(8) { Reason::Request } else { Reason::Schedule },
            scheduled_at: EPOCH.plus(self.below(200_000_000_000) as i64),
            interval_us: if self.once_in(3) { self.number() } else { 15_000_000 },
            timeout_us: if self.once_in(3) { self.number() } else { 10_000_000 },
            verdict: self.verdict(),
            ..Observation::default()
        };
        if !self.once_in(5) {
            o.started_at = Some(o.scheduled_at.plus(self.below(10_000) as i64 - 20));
        }
        if !self.once_in(3) {
            o.response_time_us = Some(self.number());
        }
        o.hops = (0..self.below(4)).map(|_| self.hop()).collect();
        if self.once_in(10) {
            o.addresses = (0..=self.below(3))
                .map(|_| AddressResult {
                    address: self.address(),
                    verdict: self.verdict(),
                    response_time_us: Some(self.number()),
                    hops: (0..self.below(3)).map(|_| self.hop()).collect(),
                })
                .collect();
        }
        if !self.once_in(3) {
            o.status = Some(self.next() as u16);
            o.method = Some(if self.once_in(2) { "GET".into() } else { self.text().into() });
            o.content_type = Some(self.text().into());
            o.body = Some(Body { wire_bytes: self.number(), decoded_bytes: self.number() });
        }
        o.extracted = (0..self.below(3)).map(|i| (format!("name{i}").into(), self.text().into())).collect();
        if self.once_in(3) {
            o.certificate = Some(Arc::new(Certificate {
                not_after: Timestamp(self.below(4_000_000_000) as i64 * 1_000_000),
                issuer: self.text().into(),
                subject: self.text().into(),
            }));
        }
        o.metrics = (0..self.below(3)).map(|_| self.metrics()).collect();
        o.findings = (0..self.below(3)).map(|_| self.finding()).collect();
        if self.once_in(4) {
            o.evidence = Some(Box::new(Evidence {
                headers: (0..self.below(3)).map(|_| (self.text().into(), self.text().into())).collect(),
                body_start: self.once_in(2).then(|| self.text().into()),
                chain: (0..self.below(3)).map(|_| self.text().into()).collect(),
            }));
        }
        o
    }

    fn number(&mut self) -> u64 {
        let bits = self.below(40);
        self.next() & ((1 << bits) - 1)
    }

    fn text(&mut self) -> String {
        let words = ["", "ä", "text/html", "line\nend", "\"quoted\"", "\u{1f980}", "nginx", "a longer text with words"];
        (0..self.below(3)).map(|_| words[self.below(words.len() as u64) as usize]).collect()
    }

    fn verdict(&mut self) -> Verdict {
        let causes = (0..=self.below(2))
            .map(|_| Cause::new(Code::ALL[self.below(Code::ALL.len() as u64) as usize], self.text()))
            .collect();
        Verdict::from_number(self.below(4) as u8, causes).unwrap_or_default()
    }

    fn address(&mut self) -> SocketAddr {
        let port = self.next() as u16;
        if self.once_in(2) {
            SocketAddr::from(([192, 0, 2, self.next() as u8], port))
        } else {
            SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, self.next() as u16], port))
        }
    }

    fn hop(&mut self) -> Hop {
        let mut hop = Hop {
            url: format!("https://host/{}", self.text()).into(),
            method: "GET".into(),
            address: (!self.once_in(4)).then(|| self.address()),
            http_version: [None, Some(HttpVersion::Http10), Some(HttpVersion::Http11), Some(HttpVersion::Http2)]
                [self.below(4) as usize],
            status: (!self.once_in(3)).then(|| self.next() as u16),
            reused: self.once_in(4),
            ..Hop::default()
        };
        for phase in Phase::ALL {
            if !self.once_in(3) {
                let state = if self.once_in(5) { State::Failed } else { State::Done };
                hop.phases.set(phase, self.number(), state);
            }
        }
        hop.attempts = (0..self.below(3))
            .map(|_| Attempt {
                address: self.address(),
                us: self.number(),
                error: (!self.once_in(3)).then_some(Code::ConnectRefused),
            })
            .collect();
        hop
    }

    fn metrics(&mut self) -> Metrics {
        let values = (0..self.below(4)).map(|i| (format!("metric{i}").into(), self.number() as f64 / 8.0)).collect();
        Metrics { plugin: if self.once_in(2) { "html-stats".into() } else { "other".into() }, values }
    }

    fn finding(&mut self) -> Finding {
        Finding {
            plugin: "html-stats".into(),
            metric: if self.once_in(2) { "".into() } else { "tags".into() },
            value: self.once_in(2).then(|| self.number() as f64),
            mean: self.once_in(2).then_some(-0.5),
            deviation: self.once_in(2).then_some(1e-9),
            message: self.text().into(),
        }
    }
}
