//! The check kind `http`, cut into phases each of which takes what the one before gave:
//! `resolve`, `connect`, (`proxy`,) `tls`, `exchange`, then `judge`, which is pure.

pub mod spec;

mod dns;
mod resolve;

mod connect;
mod socket;

mod proxy;

mod conn;
pub(crate) mod tls;

pub(crate) mod exchange;
mod h1;
mod h2;
pub(crate) mod pool;
mod redirect;
mod timeline;

pub mod body;
pub mod evidence;
pub mod judge;

pub(crate) use resolve::Names;
pub use tls::Certificates;

use crate::http::body::{Ending, Inspector, Seen, Step};
use crate::http::evidence::Secrets;
use crate::http::exchange::{BASE_BYTES, Context, Run};
use crate::http::judge::{Expectations, judge};
use crate::http::resolve::{LibcTurn, Question, resolve};
use crate::http::spec::{Auth, Expect, IpChoice, Request, Resolver};
use crate::http::timeline::{Trace, wall_clock};
use crate::http::tls::TlsOptions;
use crate::memory::Reservation;
use crate::{Check, Common, Kind, Shared, Task};
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sitemon_model::tree::{Faults, Fields};
use sitemon_model::{AddressResult, Cause, Code, Observation, Phase, Verdict};
use sitemon_plugin::Plugin;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// `http`
pub const KIND: Kind = Kind {
    name: "http",
    about: "Asks a web site by HTTP or HTTPS.",
    parse,
    validate_url: spec::validate_url,
    schema: spec::schema,
};

/// What is sent where the configuration does not say otherwise.
pub(crate) const DEFAULT_HEADERS: [(&str, &str); 3] = [
    ("user-agent", concat!("sitemon/", env!("CARGO_PKG_VERSION"), " (+", env!("CARGO_PKG_REPOSITORY"), ")")),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
];

fn parse(fields: &mut Fields<'_>, common: &Common, faults: &mut Faults) -> Option<Arc<dyn Check>> {
    let place = fields.place();
    let path = fields.path_of("request");
    let (request, expect) = spec::parse(fields, common, faults)?;
    match HttpCheck::new(request, expect, common.plugins.clone()) {
        Ok(check) => Some(Arc::new(check)),
        Err((key, message)) => {
            faults.error(place, format!("{path}{key}"), message);
            None
        }
    }
}

/// An HTTP check, compiled.
#[derive(Debug)]
pub struct HttpCheck {
    request: Request,
    expect: Expect,
    expectations: Expectations,
    inspector: Inspector,
    secrets: Secrets,
    plugins: Vec<Arc<dyn Plugin>>,
    tls: TlsOptions,
    /// The value of `Authorization`.
    authorization: Option<String>,
    /// Drawn for each check that is made, so that idle connections of another configuration are not used.
    number: u64,
}

impl HttpCheck {
    /// Compiles a check. The error is the key at fault within `request`, and what is wrong with it.
    pub fn new(
        request: Request,
        expect: Expect,
        plugins: Vec<Arc<dyn Plugin>>,
    ) -> Result<Self, (&'static str, String)> {
        let tls = TlsOptions::new(&request.tls, request.http).map_err(|(key, message)| match key {
            "ca" => (".tls.ca", message),
            "key" => (".tls.key", message),
            _ => (".tls.certificate", message),
        })?;
        for header in &request.headers {
            let name = http::HeaderName::from_bytes(header.name.as_bytes());
            if name.is_err() || http::HeaderValue::from_bytes(header.value.as_bytes()).is_err() {
                return Err((".headers", format!("`{}` cannot be sent as a header", header.name)));
            }
        }
        if http::Method::from_bytes(request.method.as_bytes()).is_err() {
            return Err((".method", "is no method of HTTP, expected one such as GET".to_owned()));
        }
        let authorization = request.auth.as_ref().map(|auth| match auth {
            Auth::Basic { username, password } => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}")))
            }
            Auth::Bearer(token) => format!("Bearer {token}"),
        });
        if authorization.as_ref().is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
            return Err((".auth", "cannot be sent as a header".to_owned()));
        }
        let inspector = Inspector::compile(&expect, &request.limits, &plugins).map_err(|message| ("", message))?;
        Ok(Self {
            expectations: Expectations::compile(&expect).map_err(|message| ("", message))?,
            inspector,
            secrets: Secrets::of(&request),
            tls,
            authorization,
            number: RandomState::new().hash_one(0),
            plugins,
            request,
            expect,
        })
    }

    /// What a check must have before it begins: waiting for it is lag, not part of the check.
    async fn prepare(&self, task: &Task<'_>) -> Result<(Reservation, Option<LibcTurn>), Cause> {
        let held = task.shared.memory.reserve(BASE_BYTES).await;
        let held = held.map_err(|error| Cause::new(Code::OwnFailure, error.to_string()))?;
        let turn = match self.request.resolver {
            Resolver::Libc => task.shared.names.libc_turn().await,
            _ => None,
        };
        Ok((held, turn))
    }

    /// One run under the check's timeout; what it saw is judged.
    async fn one(&self, ctx: Context<'_>, mut run: Run, turn: Option<LibcTurn>) -> Done {
        let limit = ctx.site.spec.timeout;
        let deadline = Instant::from_std(run.trace.began()) + limit;
        let result = {
            let work = std::pin::pin!(async {
                exchange::run(ctx, &mut run, turn).await?;
                run.end().await
            });
            within(deadline, ctx.shared, work).await
        };
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(cause)) => Some(cause),
            Err(cut) => Some(run.cut(cut, limit)),
        };
        if let Some(cause) = &failure {
            run.trace.fail(cause.code);
            run.exchange.response_time_us = None;
        }
        let ending = if failure.is_none() { Ending::Complete } else { Ending::Broken };
        run.exchange.seen = run.inspection.take().map(|inspection| inspection.finish(ending));
        run.exchange.failure = failure;
        let verdict = self.judge(&run.exchange);
        Done { run, verdict }
    }

    fn judge(&self, exchange: &judge::Exchange) -> Verdict {
        let mut verdict = judge(exchange, &self.expectations, wall_clock());
        self.secrets.hide_in(&mut verdict);
        verdict
    }

    /// Every address of the name, side by side, each with a run of its own after one lookup.
    async fn each(&self, ctx: Context<'_>, mut run: Run, turn: Option<LibcTurn>) -> (Done, Vec<AddressResult>) {
        let limit = ctx.site.spec.timeout;
        let deadline = Instant::from_std(run.trace.began()) + limit;
        let (host, port) = match (&self.request.connect_to, url::Url::parse(&ctx.site.url)) {
            (Some(to), _) => (to.host.clone(), to.port),
            (None, Ok(url)) => (
                url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned(),
                url.port_or_known_default().unwrap_or(80),
            ),
            (None, Err(_)) => (String::new(), 0),
        };
        let literal = host.parse::<IpAddr>().is_ok();
        if literal || host.is_empty() || self.request.proxy.is_some() {
            return (self.one(ctx, run, turn).await, Vec::new());
        }
        run.trace.hop(ctx.site.url.clone(), self.request.method.clone());
        run.trace.enter(Phase::Dns);
        let names = &ctx.shared.names;
        let question = Question {
            name: &host,
            ip: IpChoice::Each,
            resolver: &self.request.resolver,
            cached: self.request.dns_cache,
        };
        let found = within(deadline, ctx.shared, resolve(names, question, turn, &mut run.trace)).await;
        let failure = match found {
            Ok(Ok((addresses, _))) => {
                run.trace.done();
                return self.side_by_side(ctx, &run.trace, &addresses, port).await;
            }
            Ok(Err(cause)) => cause,
            Err(cut) => run.cut(cut, limit),
        };
        run.trace.fail(failure.code);
        run.exchange.failure = Some(failure);
        let verdict = self.judge(&run.exchange);
        (Done { run, verdict }, Vec::new())
    }

    async fn side_by_side(
        &self,
        ctx: Context<'_>,
        trace: &Trace,
        addresses: &[IpAddr],
        port: u16,
    ) -> (Done, Vec<AddressResult>) {
        let mut runs: Vec<Pin<Box<dyn Future<Output = Done> + Send + '_>>> = Vec::new();
        for address in addresses {
            let ctx = Context { fixed: Some(*address), ..ctx };
            let trace = trace.clone();
            runs.push(Box::pin(async move {
                let deadline = Instant::from_std(trace.began()) + ctx.site.spec.timeout;
                match within(deadline, ctx.shared, ctx.shared.memory.reserve(BASE_BYTES)).await {
                    Ok(Ok(held)) => self.one(ctx, Run::new(trace, held), None).await,
                    Err(Cut::Stopped) => Done::unknown(ctx, trace, stopped()),
                    _ => Done::unknown(ctx, trace, short_of_memory()),
                }
            }));
        }
        let done = all(runs).await;
        let results = addresses.iter().zip(&done).map(|(address, done)| AddressResult {
            address: std::net::SocketAddr::new(*address, port),
            verdict: done.verdict.clone(),
            response_time_us: done.run.exchange.response_time_us,
            hops: {
                let mut hops = done.run.trace.hops.clone();
                self.secrets.hide_in_hops(&mut hops);
                hops
            },
        });
        let results: Vec<AddressResult> = results.collect();
        // The gravest; the first of several.
        let gravest = done.into_iter().rev().max_by_key(|done| done.verdict.gravity());
        let gravest = gravest.unwrap_or_else(|| Done::unknown(ctx, trace.clone(), short_of_memory()));
        (gravest, results)
    }

    fn observe(&self, task: &Task<'_>, done: Done, addresses: Vec<AddressResult>) -> Observation {
        let Done { mut run, verdict } = done;
        self.secrets.hide_in_hops(&mut run.trace.hops);
        let evidence = (verdict.fingerprint() != task.last).then(|| evidence::collect(&run.exchange, &self.secrets));
        let evidence = evidence.filter(|evidence| !evidence.is_empty()).map(Box::new);
        let last = run.trace.hops.last();
        let status = last.and_then(|hop| hop.status);
        let method = last.map(|hop| hop.method.clone());
        let seen = run.exchange.seen;
        let body = seen.as_ref().map(|seen| seen.body);
        let Seen { extracted, metrics, findings, .. } = seen.unwrap_or_default();
        Observation {
            started_at: Some(run.trace.started_at),
            verdict,
            response_time_us: run.exchange.response_time_us,
            hops: run.trace.hops,
            addresses,
            status,
            method,
            content_type: run.content_type,
            body,
            extracted,
            certificate: run.certificate,
            metrics,
            findings,
            evidence,
            ..blank(task)
        }
    }
}

/// What a run came to.
struct Done {
    run: Run,
    verdict: Verdict,
}

impl Done {
    /// Of a run that did not begin.
    fn unknown(ctx: Context<'_>, trace: Trace, cause: Cause) -> Self {
        let run = Run::new(trace, ctx.shared.memory.nothing());
        Self { run, verdict: Verdict::Unknown(vec![cause]) }
    }
}

impl Run {
    /// What the inspection has still to do when the body was received whole.
    async fn end(&mut self) -> Result<(), Cause> {
        loop {
            let Some(inspection) = &mut self.inspection else { return Ok(()) };
            match inspection.end() {
                // A fault is told by what was seen.
                Step::More | Step::Fault(_) => return Ok(()),
                Step::NeedsMemory(more) => self.grow_to_end(more).await?,
                Step::Pause => tokio::task::yield_now().await,
            }
        }
    }
}

#[async_trait]
impl Check for HttpCheck {
    async fn check(&self, task: Task<'_>) -> Observation {
        let patience = task.site.spec.timeout;
        let (held, turn) = match within(Instant::now() + patience, task.shared, self.prepare(&task)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(cause)) => return not_made(&task, cause),
            Err(Cut::Stopped) => return not_made(&task, stopped()),
            Err(Cut::Timeout) => {
                let what = "no memory (limits.memory) or thread for getaddrinfo was free in time";
                return not_made(&task, Cause::new(Code::OwnFailure, what));
            }
        };
        let rules = task.shared.rules();
        let ctx = Context { check: self, site: task.site, shared: task.shared, rules: &rules, fixed: None };
        let run = Run::new(Trace::start(), held);
        let (done, addresses) = if self.request.ip == IpChoice::Each {
            Box::pin(self.each(ctx, run, turn)).await
        } else {
            (self.one(ctx, run, turn).await, Vec::new())
        };
        self.observe(&task, done, addresses)
    }

    fn host(&self, url: &str) -> Box<str> {
        match url::Url::parse(url) {
            Ok(url) => {
                let host = url.host_str().unwrap_or_default();
                format!("{host}:{}", url.port_or_known_default().unwrap_or(80)).into()
            }
            Err(_) => url.into(),
        }
    }

    fn plugins(&self) -> &[Arc<dyn Plugin>] {
        &self.plugins
    }

    fn show(&self) -> serde_json::Map<String, serde_json::Value> {
        spec::show(&self.request, &self.expect)
    }
}

/// Why something was not waited for any longer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// Its time was over.
    Timeout,
    /// All checks were told to end.
    Stopped,
}

/// Waits for something until an instant, or until all checks are told to end.
async fn within<F: Future>(deadline: Instant, shared: &Shared, work: F) -> Result<F::Output, Cut> {
    tokio::select! {
        biased;
        done = timeout_at(deadline, work) => done.map_err(|_| Cut::Timeout),
        () = shared.stopped() => Err(Cut::Stopped),
    }
}

/// The cause of a check that was told to end.
pub(crate) fn stopped() -> Cause {
    Cause::new(Code::Stopped, "sitemon was stopped")
}

fn short_of_memory() -> Cause {
    Cause::new(Code::OwnFailure, "no memory was free in time: limits.memory")
}

/// What an observation has whatever was found.
fn blank(task: &Task<'_>) -> Observation {
    let micros = |duration: Duration| duration.as_micros() as u64;
    Observation {
        site: task.site.name.clone(),
        location: task.location.clone(),
        reason: task.job.reason,
        scheduled_at: task.job.scheduled_at,
        interval_us: micros(task.site.spec.interval),
        timeout_us: micros(task.site.spec.timeout),
        ..Observation::default()
    }
}

/// The observation of a check that could not begin.
fn not_made(task: &Task<'_>, cause: Cause) -> Observation {
    Observation { verdict: Verdict::Unknown(vec![cause]), ..blank(task) }
}

/// All of them, side by side in one future.
async fn all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *slot = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}
