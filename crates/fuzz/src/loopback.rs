//! The network of the targets: the real client in a runtime of its own, with one address of the loopback that it
//! may dial and no other.

use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Cause, Code, Hop, Job, Observation, Reason, Site, Spec, State, Timestamp, line};
use sitemon_plugin::Plugin;
use sitemon_probe::memory::Memory;
use sitemon_probe::policy::Policy;
use sitemon_probe::{Check, Common, Shared, SharedOptions, Task};
use sitemon_store::raw;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};

/// What a check may take on a machine that is busy with other things; nothing that is sent here makes it wait.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often a check is tried for which this machine had no time.
const TRIES: usize = 8;

/// Runs checks against servers that a target plays.
pub(crate) struct Loopback {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) address: Ipv4Addr,
    shared: SharedOptions,
}

impl Loopback {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Redirects and names may lead anywhere: one address of the loopback that nobody else uses is allowed.
        let random = std::process::id().wrapping_mul(0x9e37_79b9) >> 8;
        let address = Ipv4Addr::new(127, 77, (random >> 8) as u8, random as u8);
        let mut refused: Vec<String> = (1..=32)
            .map(|length| {
                let other = u32::from(address) ^ 1 << (32 - length);
                format!("{}/{length}", Ipv4Addr::from(other))
            })
            .collect();
        refused.push("::/0".to_owned());
        let words: Vec<&str> = refused.iter().map(String::as_str).collect();
        let policy = Policy::of(&words).ok_or_else(|| anyhow::anyhow!("no policy of {words:?}"))?;
        // No name is known, and nobody is asked.
        let nowhere = std::path::PathBuf::from("/nonexistent");
        let shared = SharedOptions {
            policy,
            memory: Memory::new(64 << 20),
            resolv_conf: nowhere.clone(),
            hosts: nowhere,
            ..SharedOptions::default()
        };
        Ok(Self { runtime, address, shared })
    }

    /// A port of the address; inside of the runtime.
    pub(crate) fn listen(&self) -> Result<TcpListener, String> {
        let listen = || {
            let socket = TcpSocket::new_v4()?;
            socket.bind((self.address, 0).into())?;
            socket.listen(16)
        };
        listen().map_err(|error: std::io::Error| format!("no port: {error}"))
    }

    /// Does a check, beside what a server does; both begin together, and the server ends with the check. Where this
    /// machine was too busy to let it be done in its time, which the check says, it is done again.
    pub(crate) fn check(
        &self,
        ready: &Ready,
        port: u16,
        timeout: Option<Duration>,
        mut serve: impl AsyncFnMut(),
    ) -> Result<Observation, String> {
        let mut tries = 1..TRIES;
        loop {
            let observation = self.once(ready, port, timeout, serve())?;
            let held_up = observation.verdict.causes().iter().any(|cause| cause.message.contains("was held up"));
            if !held_up || tries.next().is_none() {
                sound(&observation)?;
                return Ok(observation);
            }
        }
    }

    fn once(
        &self,
        ready: &Ready,
        port: u16,
        timeout: Option<Duration>,
        serve: impl Future<Output = ()>,
    ) -> Result<Observation, String> {
        let shared = Shared::new(self.shared.clone());
        let url: Arc<str> = ready.url.replace("ADDRESS", &SocketAddr::from((self.address, port)).to_string()).into();
        let spec = Spec {
            kind: "http".into(),
            enabled: true,
            interval: Duration::from_mins(1),
            jitter: Duration::ZERO,
            timeout: timeout.unwrap_or(TIMEOUT),
            labels: BTreeMap::new(),
            plugins: Vec::new(),
            options: serde_json::Map::new(),
            digest: 0,
        };
        let site = Site { name: "fuzz".into(), url, spec: Arc::new(spec) };
        let job = Job {
            site: site.name.clone(),
            scheduled_at: Timestamp(1_796_000_000_000_000),
            reason: Reason::Schedule,
            locations: Vec::new(),
            expires_at: None,
        };
        let location = Arc::from("here");
        let task = Task { site: &site, job: &job, location: &location, shared: &shared, last: 0 };
        let observation = self.runtime.block_on(async {
            tokio::select! {
                observation = ready.check.check(task) => observation,
                () = async { serve.await; std::future::pending().await } => unreachable!("it waits for ever"),
            }
        });
        if self.shared.memory.held() > 0 {
            return Err(format!("{} bytes are held after the check", self.shared.memory.held()));
        }
        Ok(observation)
    }
}

/// A check and the URL that it asks for, in which `ADDRESS` stands for the server's.
pub(crate) struct Ready {
    pub(crate) url: &'static str,
    pub(crate) check: Arc<dyn Check>,
}

impl Ready {
    pub(crate) fn new(url: &'static str, options: &serde_json::Value) -> anyhow::Result<Self> {
        let node = Node::from_json(options);
        let mut faults = Faults::default();
        let plugins: Vec<Arc<dyn Plugin>> = sitemon_plugin::KINDS
            .iter()
            .filter_map(|kind| (kind.parse)(&At::new(&Node::empty_map(), ""), &mut Faults::default()))
            .collect();
        let mut fields = At::new(&node, "").map(&mut faults);
        let common = Common { plugins, ..Common::default() };
        let check = (sitemon_probe::KINDS[0].parse)(&mut fields, &common, &mut faults);
        fields.finish(&mut faults);
        match check.filter(|_| !faults.any_errors()) {
            Some(check) => Ok(Self { url, check }),
            None => anyhow::bail!("{faults:?}"),
        }
    }
}

/// Whether an observation holds together, whatever was found.
fn sound(observation: &Observation) -> Result<(), String> {
    if observation.verdict.causes().iter().any(|cause| cause.code == Code::OwnFailure) {
        return Err(format!("a failure of our own: {:?}", observation.verdict));
    }
    let sum: u64 = observation.hops.iter().map(|hop| hop.phases.sum_us()).sum();
    if let Some(response) = observation.response_time_us {
        // What lies between two hops is measured by nobody, and is longer on a busy machine.
        if sum > response || response - sum > 2_000_000 {
            return Err(format!("the phases add up to {sum} of {response} us"));
        }
    }
    let mut ended = false;
    for (_, time) in observation.hops.iter().flat_map(|hop| hop.phases.reached()) {
        if ended {
            return Err(format!("a phase after one that failed: {:?}", observation.hops));
        }
        ended = time.state == State::Failed;
    }
    if observation.hops.is_empty() {
        return Err("no hop".to_owned());
    }
    if let Some(bad) = observation.verdict.causes().iter().find(|cause| cause.message.chars().any(char::is_control)) {
        return Err(format!("a message with a control character: {bad:?}"));
    }
    let line = line::to_string(observation);
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&line) {
        return Err(format!("an exported line is no JSON: {error}: {line}"));
    }
    let stored = raw::read_record(&raw::record(observation)).ok_or("an observation that cannot be read back")?;
    let named = Observation { site: observation.site.clone(), location: observation.location.clone(), ..stored };
    if line != line::to_string(&named) {
        return Err(format!("not the same when it was stored:\n{line}\n{}", line::to_string(&named)));
    }
    Ok(())
}

/// All of an observation but its times and its port: what is the same however the bytes came. Where reading was
/// stopped within a body, what was seen of it until then depends on how much came at once. With `framed`, so does
/// all but the verdict: frames behind a breach, and those before it, may have come with it.
pub(crate) fn told(observation: &Observation, framed: bool) -> String {
    let stops = |cause: &Cause| {
        let ended = matches!(
            cause.code,
            Code::WaitReset | Code::WaitClosed | Code::ReceiveReset | Code::ReceiveClosed | Code::BodyTruncated
        );
        matches!(cause.code, Code::BodyDecode | Code::BodyLimit | Code::HttpMalformed | Code::HttpHeaderLimit)
            || framed && ended
    };
    // What stands before it was known before the body came.
    let known = observation.verdict.causes().iter().position(stops);
    let stopped = known.is_some();
    let mut told = observation.verdict.as_str().to_owned();
    for cause in observation.verdict.causes().iter().take(known.map_or(usize::MAX, |at| at + 1)) {
        let _ = match cause.code {
            // That one tells the time.
            Code::ResponseTimeExceeded => write!(told, "; {}", cause.code),
            // Of several that are wrong with a body, the one that was met first.
            _ if stopped && framed => write!(told, "; refused"),
            Code::BodyDecode | Code::BodyLimit => write!(told, "; body"),
            _ => write!(told, "; {cause}"),
        };
    }
    if stopped && framed {
        return told;
    }
    for hop in &observation.hops {
        let _ = write!(told, " | {} {:?} {:?}", hop.url.replace(char::is_numeric, ""), hop.http_version, hop.status);
        put_phases(&mut told, hop);
    }
    let Observation { status, content_type, body, extracted, metrics, findings, evidence, .. } = observation;
    let _ = write!(told, " {status:?} {content_type:?} {extracted:?}");
    if stopped {
        let _ = write!(told, " {:?}", evidence.as_ref().map(|shown| &shown.headers));
    } else {
        let _ = write!(told, " {body:?} {metrics:?} {findings:?} {evidence:?}");
    }
    told
}

fn put_phases(told: &mut String, hop: &Hop) {
    for (phase, time) in hop.phases.reached() {
        let failed = if time.state == State::Failed { "!" } else { "" };
        let _ = write!(told, " {}{failed}", phase.as_str());
    }
}

/// The same without contents: by this, inputs are told apart.
pub(crate) fn outline(observation: &Observation) -> String {
    let mut told = observation.verdict.as_str().to_owned();
    for cause in observation.verdict.causes() {
        let _ = write!(told, "; {cause}");
    }
    for hop in &observation.hops {
        let _ = write!(told, " | {:?} {}", hop.http_version, hop.status.map_or(0, |status| status / 100));
        put_phases(&mut told, hop);
    }
    let size = |bytes: u64| 64 - bytes.leading_zeros();
    let body = observation.body.map(|body| (size(body.wire_bytes) / 4, size(body.decoded_bytes) / 4));
    let headers: Vec<&str> =
        observation.evidence.iter().flat_map(|shown| &shown.headers).map(|(name, _)| &**name).take(4).collect();
    // Sizes as letters: digits are not told apart.
    let _ =
        write!(told, " {} {headers:?} {} {}", letters(body), observation.extracted.len(), observation.metrics.len());
    told
}

fn letters(sizes: Option<(u32, u32)>) -> String {
    let letter = |size: u32| char::from(b'a' + size.min(25) as u8);
    sizes.map_or_else(|| "-".to_owned(), |(wire, decoded)| [letter(wire), letter(decoded)].iter().collect())
}
