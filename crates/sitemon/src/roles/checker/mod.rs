//! The role checker: schedules and checks the sites that it is given, and hands observations to the bus.
//!
//! It is a number of lanes, one for each core; a site belongs to the lane that the hash of its name names.

mod gate;
mod lane;
mod looks;
mod outbox;

use crate::clock::Clock;
use crate::config::{Limits, Watched};
use crate::telemetry::{Latest, Telemetry};
use anyhow::Context as _;
use gate::Gates;
use lane::{Command, Lane, Parts};
use outbox::Outbox;
pub use outbox::PENDING_MAX;
use sitemon_bus::{Acknowledged, Bus, BusError, Event, Message, Topic};
use sitemon_model::Job;
use sitemon_probe::http::Certificates;
use sitemon_probe::memory::Memory;
use sitemon_probe::policy::Policy;
use sitemon_probe::{Shared, SharedOptions};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Commands that a lane has not obeyed yet; whoever gives more waits.
const COMMANDS: usize = 64;
/// A bus that gives no jobs is tried again so often.
const JOBS_AGAIN: Duration = Duration::from_secs(1);
/// Open files that are not for checks: store, log, metrics, timers.
const RESERVED_FILES: u64 = 64;
/// Open files of one check at most, as a rule: two questions for the name, two attempts to connect.
const FILES_PER_CHECK: u64 = 3;
/// One in so many open files may be an idle connection (`connection: reuse`).
const FILES_PER_IDLE: u64 = 8;
/// Bytes that an idle connection holds, with TLS and HTTP/2. All together hold no more than running checks may.
const IDLE_BYTES: u64 = 64 << 10;

/// What a checker needs from outside.
pub struct Options {
    /// The clocks.
    pub clock: Clock,
    /// Where the lanes run.
    pub lanes: Lanes,
    /// Observations that a lane keeps for the bus at most, as [`PENDING_MAX`].
    pub pending_max: usize,
    /// Where this checker runs.
    pub location: Arc<str>,
    /// The longest time that an observation waits for its transaction; [`held`] of it in its lane.
    pub flush: Duration,
    /// What all running checks may use.
    pub limits: Limits,
    /// Addresses that are not dialled.
    pub network: Policy,
    /// Where observations go, and jobs by request come from.
    pub bus: Arc<dyn Bus>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// How many sites there are at the start; for a word where there are more than can be checked at a time.
    pub sites: usize,
    /// Whether the first observation of a site is told in the log also when it is up.
    pub tell_first: bool,
}

/// Where the lanes of a checker run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    /// A thread for each core.
    Threads,
    /// So many tasks of the runtime that starts the checker, so that a simulation has one thread.
    Tasks(usize),
}

/// The role, while it runs.
pub struct Checker {
    lanes: Vec<Running>,
    /// Shared by all lanes, as are memory and certificates.
    gates: Arc<Gates>,
    memory: Arc<Memory>,
    certificates: Arc<Certificates>,
    telemetry: Arc<Telemetry>,
    jobs: tokio::task::JoinHandle<()>,
}

struct Running {
    commands: mpsc::Sender<Command>,
    /// Ends with the number of observations that were given up.
    ended: oneshot::Receiver<std::io::Result<u64>>,
    /// The lane's own, where it has one.
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Checker {
    /// Starts the lanes, without sites.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let room = Room::for_limits(options.limits, options.sites);
        let gates = Gates::new(room.checks, options.limits.checks_in_flight_per_host);
        let memory = Memory::new(options.limits.memory);
        let count = match options.lanes {
            Lanes::Threads => std::thread::available_parallelism().map_or(1, usize::from),
            Lanes::Tasks(count) => count.max(1),
        };
        // The memory bound, roots and known chains are one for all lanes; resolvers and idle connections are each
        // lane's own.
        let idle_connections_max = room.idle.div_ceil(count);
        let shared = SharedOptions {
            policy: options.network.clone(),
            memory: memory.clone(),
            idle_connections_max,
            ..SharedOptions::default()
        };
        let certificates = shared.certificates.clone();
        let lanes = (0..count)
            .map(|index| start_lane(index, &options, &gates, shared.clone()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let senders = lanes.iter().map(|lane| lane.commands.clone()).collect();
        let jobs = tokio::spawn(read_jobs(options.bus, options.location, senders));
        Ok(Self { lanes, gates, memory, certificates, telemetry: options.telemetry, jobs })
    }

    /// Brings other limits and another policy into force for checks that begin from now on, with so many sites to
    /// come; those under way end as they would have. Ends when that is in force.
    pub async fn limit(&self, limits: Limits, network: &Policy, sites: usize) {
        let room = Room::for_limits(limits, sites);
        self.gates.set(room.checks, limits.checks_in_flight_per_host);
        self.memory.set_bound(limits.memory);
        let idle_connections_max = room.idle.div_ceil(self.lanes.len());
        let tell = |done| Command::Limit { network: network.clone(), idle_connections_max, done };
        self.tell(self.lanes.iter().map(|lane| (lane, tell))).await;
    }

    /// What is known of certificates, to read the machine's roots again.
    pub fn certificates(&self) -> Arc<Certificates> {
        self.certificates.clone()
    }

    /// Brings the sites in line; ends when that is in force.
    pub async fn change(&self, watch: Vec<Arc<Watched>>, forget: Vec<Arc<str>>) {
        let count = self.lanes.len();
        let mut parts: Vec<(Vec<_>, Vec<_>)> = vec![(Vec::new(), Vec::new()); count];
        for watched in watch {
            parts[lane_of(&watched.site.name, count)].0.push(watched);
        }
        for name in forget {
            parts[lane_of(&name, count)].1.push(name);
        }
        let parts = self.lanes.iter().zip(parts).filter(|(_, (watch, forget))| !watch.is_empty() || !forget.is_empty());
        self.tell(parts.map(|(lane, (watch, forget))| (lane, |done| Command::Change { watch, forget, done }))).await;
    }

    /// Tells each of these lanes its command, which is made with what tells that it is obeyed; ends when all are.
    async fn tell(&self, commands: impl Iterator<Item = (&Running, impl FnOnce(oneshot::Sender<()>) -> Command)>) {
        let mut answers = Vec::new();
        for (lane, command) in commands {
            let (done, answer) = oneshot::channel();
            if lane.commands.send(command(done)).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            // A lane that has ended tells so where it is waited for.
            let _ = answer.await;
        }
    }

    /// A handle by which others ask for the last observations.
    pub fn latests(&self) -> Latests {
        Latests(self.lanes.iter().map(|lane| lane.commands.clone()).collect())
    }

    /// Ends when a lane has ended although nobody asked it to.
    pub async fn failed(&mut self) -> anyhow::Error {
        let ended = self.lanes.iter_mut().map(|lane| Box::pin(&mut lane.ended));
        let mut ended: Vec<_> = ended.collect();
        let result = std::future::poll_fn(|context| {
            let ready = ended.iter_mut().find_map(|ended| match ended.as_mut().poll(context) {
                std::task::Poll::Ready(result) => Some(result),
                std::task::Poll::Pending => None,
            });
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await;
        match result {
            Ok(Err(error)) => anyhow::Error::new(error).context("a thread that checks has ended"),
            _ => anyhow::anyhow!("a thread that checks has ended"),
        }
    }

    /// A handle by which a stop that is under way is hurried.
    pub fn hurry(&self) -> Hurry {
        Hurry(self.lanes.iter().map(|lane| lane.commands.clone()).collect())
    }

    /// Stops cleanly: no new slots, what was due is served within its timeout or the grace, what was observed
    /// is delivered: until the grace is over, and at least so long after the last check. The number of observations
    /// that could not be.
    pub async fn stop(self, grace: Duration, delivery: Duration) -> u64 {
        self.jobs.abort();
        for lane in &self.lanes {
            // A lane that has ended needs not be told.
            let _ = lane.commands.send(Command::Stop { grace, delivery }).await;
        }
        let mut lost = 0;
        for lane in self.lanes {
            // One that has failed before has said so.
            if !lane.ended.is_terminated()
                && let Ok(Ok(count)) = lane.ended.await
            {
                lost += count;
            }
            // Its last words are spoken; a panic has been told by the log.
            let _ = lane.thread.map(std::thread::JoinHandle::join);
        }
        self.telemetry.tell_gathered(true);
        lost
    }
}

/// Ends a stop at once, where nobody takes anymore what it would wait for.
#[derive(Debug)]
pub struct Hurry(Vec<mpsc::Sender<Command>>);

impl Hurry {
    /// What still runs is ended, and what is not acknowledged given up.
    pub async fn now(self) {
        for lane in self.0 {
            // A lane that has ended needs not be told.
            let _ = lane.send(Command::STOP_AT_ONCE).await;
        }
    }
}

/// Asks the lanes for the last observations of their sites.
#[derive(Debug, Clone)]
pub struct Latests(Vec<mpsc::Sender<Command>>);

impl Latests {
    /// Name and last observation of each site that has one, sorted by lane and name.
    pub async fn ask(&self) -> Vec<(Arc<str>, Latest)> {
        let mut all = Vec::new();
        for lane in &self.0 {
            let (answer, latest) = oneshot::channel();
            if lane.send(Command::Latest(answer)).await.is_ok() {
                all.extend(latest.await.unwrap_or_default());
            }
        }
        all
    }
}

/// Of the time that an observation may wait for its transaction, the part that it waits in its lane: most of it,
/// because each handing over wakes other threads.
pub fn held(flush: Duration) -> Duration {
    flush * 15 / 16
}

/// The lane of a site.
fn lane_of(name: &str, count: usize) -> usize {
    (sitemon_model::site::name_hash(name) >> 32) as usize % count
}

fn start_lane(index: usize, options: &Options, gates: &Arc<Gates>, shared: SharedOptions) -> anyhow::Result<Running> {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (sender, ended) = oneshot::channel();
    let parts = Parts {
        clock: options.clock.clone(),
        location: options.location.clone(),
        gates: gates.clone(),
        telemetry: options.telemetry.clone(),
        shared: Box::new(move || Shared::new(shared)),
        outbox: Outbox::new(options.bus.clone(), options.telemetry.clone(), options.pending_max),
        flush: held(options.flush),
        tell_first: options.tell_first,
        speaks: index == 0,
        commands: receiver,
    };
    let run = async move {
        // A task of the runtime, not its root future: each wake-up of the root, also one from within, would be a
        // write to the runtime's own event descriptor, three system calls for each check.
        let lane = tokio::spawn(Lane::run(parts));
        let result = lane.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        // Nobody listens any more when the process is on its way out.
        let _ = sender.send(result);
    };
    let thread = match options.lanes {
        Lanes::Tasks(_) => {
            tokio::spawn(run);
            None
        }
        Lanes::Threads => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
            let thread = std::thread::Builder::new().name(format!("lane-{index}"));
            Some(thread.spawn(move || runtime.block_on(run)).context("cannot start a thread")?)
        }
    };
    Ok(Running { commands, ended, thread })
}

/// Passes jobs by request to the lanes of their sites, until the bus is closed.
async fn read_jobs(bus: Arc<dyn Bus>, location: Arc<str>, lanes: Vec<mpsc::Sender<Command>>) {
    let mut told = false;
    while let Err(error) = pass_jobs_on(&*bus, &location, &lanes).await {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("jobs cannot be read, trying again: {error}");
        }
        tokio::time::sleep(JOBS_AGAIN).await;
    }
}

/// Reads until the bus is closed, or an error.
async fn pass_jobs_on(bus: &dyn Bus, location: &str, lanes: &[mpsc::Sender<Command>]) -> Result<(), BusError> {
    let mut reader = bus.subscribe(Topic::Jobs, location).await?;
    loop {
        match reader.next().await? {
            Event::Assigned(assigned) => {
                for assignment in assigned {
                    // Jobs that were let go meanwhile had expired.
                    let at = assignment.acknowledged.map_or(0, |acknowledged| acknowledged.next);
                    reader.begin(assignment.partition, at.max(assignment.first)).await?;
                }
            }
            Event::Revoked(_) => {}
            Event::Batch(batch) => {
                for message in batch.messages {
                    if let Message::Job(job) = message {
                        pass_on(job, lanes).await;
                    }
                }
                let acknowledged = Acknowledged { next: batch.next, metadata: String::new() };
                reader.acknowledge(batch.partition, acknowledged).await?;
            }
            Event::Closed => return Ok(()),
        }
    }
}

async fn pass_on(job: Job, lanes: &[mpsc::Sender<Command>]) {
    // A lane that has ended is told of where it is waited for.
    let _ = lanes[lane_of(&job.site, lanes.len())].send(Command::Job(job)).await;
}

/// Raises the soft limit of open files to the hard one; the limit, where there is one.
pub fn open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() && limit.current.is_some() {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!("the limit of open files stays at {:?}: {error}", limit.current);
        }
    }
    getrlimit(Resource::Nofile).current
}

/// What the open files leave room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    files: Option<u64>,
    /// Checks in flight.
    pub checks: usize,
    /// Idle connections.
    pub idle: usize,
}

impl Room {
    /// With so many open files, for as many checks in flight as wanted, and for as many idle connections.
    pub fn of(files: Option<u64>, checks: usize, memory: u64) -> Self {
        let at_most = |count: u64, most: usize| most.min(usize::try_from(count.max(1)).unwrap_or(usize::MAX));
        let idle = at_most(memory / IDLE_BYTES, checks);
        let Some(limit) = files else { return Self { files, checks, idle } };
        let idle = at_most(limit / FILES_PER_IDLE, idle);
        let left = limit.saturating_sub(RESERVED_FILES + idle as u64);
        Self { files, checks: at_most(left / FILES_PER_CHECK, checks), idle }
    }

    /// With the files that may be open now; says so where these are fewer than so many sites need.
    fn for_limits(limits: Limits, sites: usize) -> Self {
        let room = Self::of(open_files(), limits.checks_in_flight, limits.memory);
        room.tell(limits.checks_in_flight, sites);
        room
    }

    /// Says so where there are sites that could not all be checked at a time for want of files.
    fn tell(&self, wanted: usize, sites: usize) {
        let Self { files: Some(files), checks, .. } = *self else { return };
        if checks < wanted.min(sites) {
            tracing::warn!(
                files,
                checks,
                "{files} open files leave room for {checks} of {sites} sites to be checked at a time; others wait \
                 (raise `ulimit -n`)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_checks_and_idle_connections() {
        let check = |files, checks, memory, expected: (usize, usize)| {
            let room = Room::of(files, checks, memory);
            assert_eq!((room.checks, room.idle), expected, "{files:?}");
        };
        check(None, 10_000, 64 << 20, (10_000, 1024));
        check(Some(1 << 20), 10_000, 64 << 20, (10_000, 1024));
        check(Some(20_000), 10_000, 64 << 20, (6_304, 1024));
        check(Some(1024), 10_000, 64 << 20, (277, 128));
        check(Some(256), 10_000, 64 << 20, (53, 32));
        check(Some(256), 20, 1 << 20, (20, 16));
        check(Some(10), 10_000, 64 << 20, (1, 1));
    }
}
