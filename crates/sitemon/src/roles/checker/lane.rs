//! A lane: one thread with its own share of the sites, its own plan, and its own checks in flight. Nothing is
//! handed from thread to thread on the way of a check, and an idle site is an entry in a table.

use super::gate::{Gates, Turn};
use super::looks::{Looks, Lost};
use super::outbox::Outbox;
use crate::clock::Clock;
use crate::config::Watched;
use crate::telemetry::{Latest, Telemetry};
use sitemon_model::{Cause, Code, Job, Observation, Reason, Site, Timestamp, Verdict, time};
use sitemon_probe::policy::Policy;
use sitemon_probe::{Shared, Task};
use sitemon_schedule::plan::{Due, Entry, Kind, Now, Plan, STEP_MIN_US};
use sitemon_schedule::slot;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// At the end, what the bus did not take is handed over again so often.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// A timer of the runtime's that is always set, and set again so often. One that is earlier than all others wakes
/// the runtime, even from within, by a write to its own descriptor; the timeouts of a check that runs alone would.
const PULSE: Duration = Duration::from_secs(1);
/// Observations are handed to the bus at once when there are so many.
const FLUSH_AT: usize = 1024;
/// A check that must end by its timeout within this time of the site's next slot is waited for: a site that
/// hangs, with a timeout as long as its interval, is down in every slot and not unknown in every other.
const OVERLAP_PATIENCE_US: u64 = 100_000;
/// Slots that are taken from the plan at a time.
const DUE_MAX: usize = 4096;
/// How long a lane sleeps at least while as many checks are in flight as may be: setting the alarm for each slot
/// would cost as much as the slot.
const FULL_PAUSE_US: u64 = 500;
/// Checks that are told to end after the grace do so within this time, with what they measured; of others nothing is
/// known but that they ran.
const ENDING: Duration = Duration::from_millis(500);
/// How long a lane with more due than the bus can take waits for it.
const CROWDED_PAUSE_US: u64 = 5_000;

/// What a lane is told.
#[derive(Debug)]
pub enum Command {
    /// The sites that are new or changed, and the names of those that are gone. Answered when in force.
    Change {
        /// New, or with a new configuration.
        watch: Vec<Arc<Watched>>,
        /// No longer configured.
        forget: Vec<Arc<str>>,
        /// Answered when in force.
        done: oneshot::Sender<()>,
    },
    /// Another policy, and so many idle connections at most, for checks that begin from now on. Answered when in force.
    Limit {
        /// Addresses that are not dialled.
        network: Policy,
        /// Of this lane.
        idle_connections_max: usize,
        /// Answered when in force.
        done: oneshot::Sender<()>,
    },
    /// A job by request.
    Job(Job),
    /// What is known of each site's last observation.
    Latest(oneshot::Sender<Vec<(Arc<str>, Latest)>>),
    /// No new slots; running checks have so long. The last one that came is in force.
    Stop {
        /// From then on checks that still run are ended.
        grace: Duration,
        /// What was observed may be acknowledged until then, and at least so long after the last check.
        delivery: Duration,
    },
}

impl Command {
    /// The stop that waits for nothing.
    pub const STOP_AT_ONCE: Self = Self::Stop { grace: Duration::ZERO, delivery: Duration::ZERO };
}

/// What a lane needs from outside.
pub struct Parts {
    /// The clocks.
    pub clock: Clock,
    /// Where this checker runs.
    pub location: Arc<str>,
    /// The limits of checks in flight.
    pub gates: Arc<Gates>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Makes what the checks of this lane share; called in the lane's own runtime.
    pub shared: Box<dyn FnOnce() -> Arc<Shared> + Send>,
    /// Where observations go.
    pub outbox: Outbox,
    /// Observations are handed over at whole multiples of this, so that those of all lanes come together.
    pub flush: Duration,
    /// Whether the first observation of a site is told in the log also when it is up.
    pub tell_first: bool,
    /// Whether it speaks for all lanes of what all of them notice.
    pub speaks: bool,
    /// What it is told.
    pub commands: mpsc::Receiver<Command>,
}

/// See the module.
pub struct Lane {
    clock: Clock,
    location: Arc<str>,
    gates: Arc<Gates>,
    telemetry: Arc<Telemetry>,
    shared: Arc<Shared>,
    outbox: Outbox,
    tell_first: bool,
    speaks: bool,
    plan: Plan,
    /// By id; ids of forgotten sites are used again.
    sites: Vec<Option<Entered>>,
    free: Vec<u32>,
    /// Ids sorted by the names of their sites.
    by_name: Vec<u32>,
    /// Last observations, while they are shown.
    latest: HashMap<u32, Latest>,
    active: HashMap<(u32, Reason), Active>,
    checks: JoinSet<Ended>,
    looks: Looks,
    /// How long the machine had slept by the last look.
    slept_us: u64,
    /// More was due than the bus could take.
    behind: bool,
    /// Until when running checks have time, once a stop is under way.
    stopping: Option<tokio::time::Instant>,
    /// Until when they have time to end, once they were told to.
    ending: Option<tokio::time::Instant>,
    /// How long the end waits at least for what was observed to be acknowledged.
    delivery: Duration,
}

/// A site of this lane.
#[derive(Debug)]
struct Entered {
    watched: Arc<Watched>,
    /// A hash of the host and port, for the limit in flight.
    host: u64,
    /// `Verdict::fingerprint` of its last observation.
    last: u64,
    /// How many of its slots one after the other were left out because of a limit.
    left_out: u32,
    /// Whether there was an observation yet.
    seen: bool,
    /// It is no longer configured, and has its place only until its checks have ended.
    gone: bool,
}

/// A job that runs or waits for its turn.
#[derive(Debug)]
struct Active {
    slot: Timestamp,
    watched: Arc<Watched>,
    task: AbortHandle,
    /// Set when the check begins; absent where it began at once.
    waits: Option<Arc<AtomicBool>>,
    /// When it must have ended by its timeout, in monotonic microseconds: the wall clock may be set meanwhile.
    ends_by: u64,
    spawned_at: Timestamp,
    /// Time that it was not given.
    lost: Lost,
    /// The next slot of the site, which waits for this check to end.
    next: Option<Timestamp>,
}

/// What a task of a check gives.
type Ended = (u32, Reason, Timestamp, Observation);

impl Lane {
    /// Runs until it is told to stop, or nobody can tell it anymore; ends when everything it observed is
    /// acknowledged, or with the number of observations that were given up. Needs a current-thread runtime.
    pub async fn run(parts: Parts) -> std::io::Result<u64> {
        let Parts { clock, location, gates, telemetry, shared, outbox, flush, tell_first, speaks, mut commands } =
            parts;
        let flush_us = time::micros(flush).max(1);
        let now = clock.now();
        let mut alarm = clock.alarm()?;
        let mut lane = Self {
            clock,
            location,
            gates,
            telemetry,
            shared: shared(),
            outbox,
            tell_first,
            speaks,
            plan: Plan::new(now),
            sites: Vec::new(),
            free: Vec::new(),
            by_name: Vec::new(),
            latest: HashMap::new(),
            active: HashMap::new(),
            checks: JoinSet::new(),
            looks: Looks::new(now.mono),
            slept_us: now.boot.saturating_sub(now.mono),
            behind: false,
            stopping: None,
            ending: None,
            delivery: Duration::ZERO,
        };
        let mut due = Vec::new();
        let mut pulse = std::pin::pin!(tokio::time::sleep(PULSE));
        // When what is pending is handed to the bus, in monotonic microseconds.
        let mut flush_at = None;
        let mut fresh = 0;
        // Nobody is left who could say anything.
        let mut alone = false;
        loop {
            let now = lane.clock.now();
            lane.notice_pause(now);
            while let Some(ended) = lane.checks.try_join_next() {
                lane.ended(ended);
                fresh += 1;
            }
            lane.serve(now, &mut due);
            if fresh >= FLUSH_AT || flush_at.is_some_and(|at| at <= now.mono) {
                lane.outbox.flush();
                (fresh, flush_at) = (0, None);
            }
            if flush_at.is_none() && lane.outbox.is_pending() {
                flush_at = Some((now.mono / flush_us + 1) * flush_us);
            }
            if lane.stopping.is_some() && lane.active.is_empty() {
                break;
            }
            let wake = if lane.behind { now.mono + CROWDED_PAUSE_US } else { lane.plan.next_wake() };
            // What comes due while no check may begin is seen to when one ends, or soon.
            let wake = if lane.gates.is_full() { wake.max(now.mono + FULL_PAUSE_US) } else { wake };
            let wake = flush_at.map_or(wake, |at| wake.min(at));
            alarm.set(lane.looks.next(now.mono, wake, !lane.active.is_empty()))?;
            tokio::select! {
                biased;
                rung = alarm.ring() => rung?,
                command = commands.recv(), if !alone => {
                    if let Some(command) = command {
                        lane.notice_pause(lane.clock.now());
                        lane.obey(command);
                    } else {
                        alone = true;
                        if lane.stopping.is_none() {
                            lane.obey(Command::STOP_AT_ONCE);
                        }
                    }
                }
                Some(ended) = lane.checks.join_next() => {
                    lane.notice_pause(lane.clock.now());
                    lane.ended(ended);
                    fresh += 1;
                }
                () = lane.outbox.settle() => {}
                () = &mut pulse => {
                    pulse.as_mut().reset(tokio::time::Instant::now() + PULSE);
                    if lane.speaks {
                        lane.telemetry.tell_gathered(false);
                    }
                }
                () = until(lane.ending.or(lane.stopping)) => {
                    if lane.ending.is_none() {
                        lane.tell_to_end();
                    } else {
                        lane.end_what_runs();
                    }
                }
            }
        }
        lane.deliver(&mut commands).await;
        Ok(lane.outbox.give_up())
    }

    /// Marks the checks under way where this thread did not run for a while, or the machine slept: what they measured
    /// is not true.
    fn notice_pause(&mut self, now: Now) {
        let mut lost = self.looks.look(now.mono);
        let slept_us = now.boot.saturating_sub(now.mono);
        let slept = slept_us.saturating_sub(std::mem::replace(&mut self.slept_us, slept_us));
        if slept >= STEP_MIN_US.unsigned_abs() {
            lost.paused_us += slept;
        }
        if lost != Lost::default() {
            // One that waits for its turn has lost nothing.
            let under_way =
                |active: &&mut Active| active.waits.as_ref().is_none_or(|began| began.load(Ordering::Relaxed));
            self.active.values_mut().filter(under_way).for_each(|active| active.lost.add(lost));
        }
    }

    /// Does what is due.
    fn serve(&mut self, now: Now, due: &mut Vec<Due>) {
        let (mut missed, mut absent, mut late_us) = (0, 0, 0);
        loop {
            let step = self.plan.due(now, DUE_MAX, due);
            if step.clock_stepped_us != 0 && self.speaks {
                self.telemetry.clock_stepped(step.clock_stepped_us);
            }
            missed += step.missed;
            absent += step.absent;
            late_us = late_us.max(step.late_us);
            for Due { id, slot, kind, .. } in due.drain(..) {
                if self.stopping.is_some() {
                    continue;
                }
                match kind {
                    Kind::Serve => self.start(id, slot, now),
                    Kind::Missed => {
                        // Told by `paused`, all at once.
                        let message = "the process was paused, starved or suspended when the slot came";
                        if let Some(watched) = self.watched(id) {
                            self.leave_out(id, &watched, slot, Code::SkippedOverload, message);
                        }
                    }
                }
            }
            self.behind = step.more;
            if !step.more {
                break;
            }
            // An hour of slots of very many sites, after a suspend: the bus takes them before the next are made.
            self.outbox.flush();
            if self.outbox.is_crowded() {
                break;
            }
        }
        if (missed > 0 || absent > 0) && self.stopping.is_none() {
            self.telemetry.paused(late_us, missed, absent);
        }
    }

    /// Does all that is due, also what the bus has no room for: before the sites change, or the end.
    fn catch_up(&mut self, now: Now) {
        self.serve(now, &mut Vec::new());
        while self.behind {
            self.serve(now, &mut Vec::new());
        }
    }

    /// Starts the check of a slot, or says why it is not made.
    fn start(&mut self, id: u32, slot: Timestamp, now: Now) {
        let key = (id, Reason::Schedule);
        if let Some(active) = self.active.get_mut(&key) {
            let waits = active.waits.as_ref().is_some_and(|began| !began.load(Ordering::Relaxed));
            if waits {
                // Its turn did not come before the next slot.
                active.task.abort();
                let (overdue, watched) = (active.slot, active.watched.clone());
                self.active.remove(&key);
                self.telemetry.skipped(&watched.site.name, WAITED_TOO_LONG);
                self.leave_out(id, &watched, overdue, Code::SkippedOverload, WAITED_TOO_LONG);
            } else if active.next.is_none() && active.ends_by <= now.mono + OVERLAP_PATIENCE_US {
                active.next = Some(slot);
                return;
            } else {
                self.skip(id, slot, Code::SkippedOverlap, "the check of the slot before is still running");
                return;
            }
        }
        let Some(entered) = self.sites.get(id as usize).and_then(Option::as_ref) else { return };
        let job = Job {
            site: entered.watched.site.name.clone(),
            scheduled_at: slot,
            reason: Reason::Schedule,
            locations: Vec::new(),
            expires_at: None,
        };
        self.spawn(id, job, now);
    }

    /// Spawns the task of a job: it waits for its turn if it must, and checks.
    fn spawn(&mut self, id: u32, job: Job, now: Now) {
        let Some(entered) = self.sites.get(id as usize).and_then(Option::as_ref) else { return };
        let (slot, reason) = (job.scheduled_at, job.reason);
        let watched = entered.watched.clone();
        let check = Checking {
            watched: watched.clone(),
            job,
            location: self.location.clone(),
            shared: self.shared.clone(),
            last: entered.last,
            telemetry: self.telemetry.clone(),
        };
        let interval = i64::try_from(time::micros(watched.site.spec.interval)).unwrap_or(i64::MAX);
        let timeout = time::micros(watched.site.spec.timeout);
        let (task, waits) = match self.gates.turn(entered.host).pass_now() {
            Ok(pass) => {
                let task = self.checks.spawn(async move {
                    let observation = check.run().await;
                    drop(pass);
                    (id, reason, slot, observation)
                });
                (task, None)
            }
            Err(turn) => {
                let began = Arc::new(AtomicBool::new(false));
                let left = slot.plus(interval).since(now.wall).max(0).unsigned_abs();
                let waiting = wait_and_check(turn, entered.left_out, check, began.clone(), Duration::from_micros(left));
                (self.checks.spawn(async move { (id, reason, slot, waiting.await) }), Some(began))
            }
        };
        let active = Active {
            slot,
            watched,
            task,
            waits,
            ends_by: now.mono.saturating_add(timeout),
            spawned_at: now.wall,
            lost: Lost::default(),
            next: None,
        };
        self.active.insert((id, reason), active);
    }

    /// A task has ended: with an observation, because it was told to, or (a fault of ours) in a panic.
    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let (id, reason, observation) = match ended {
            Ok((id, reason, slot, observation)) => {
                // One that was given up at the last moment has been accounted for.
                if self.active.get(&(id, reason)).is_none_or(|active| active.slot != slot) {
                    return;
                }
                (id, reason, observation)
            }
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                let task = error.id();
                let Some((&(id, reason), active)) = self.active.iter().find(|(_, active)| active.task.id() == task)
                else {
                    return;
                };
                tracing::error!("a check of {} failed inside: {error}", active.watched.site.name);
                let mut observation = self.blank(&active.watched.site, active.slot, reason);
                observation.started_at = Some(active.spawned_at);
                observation.verdict = Verdict::Unknown(vec![Cause::new(Code::OwnFailure, "the check failed inside")]);
                (id, reason, observation)
            }
        };
        let Some(active) = self.active.remove(&(id, reason)) else { return };
        let mut observation = observation;
        if observation.started_at.is_some()
            && let Some(verdict) = active.lost.excuse(&observation.verdict, observation.timeout_us)
        {
            observation.verdict = verdict;
            observation.response_time_us = None;
        }
        if observation.started_at.is_none() && observation.verdict.causes().iter().any(|cause| cause.code.is_skip()) {
            self.telemetry.skipped(&observation.site, WAITED_TOO_LONG);
        }
        self.record(id, &active.watched.site, observation);
        if let Some(slot) = active.next {
            self.start(id, slot, self.clock.now());
        }
        self.release(id);
    }

    fn watched(&self, id: u32) -> Option<Arc<Watched>> {
        Some(self.sites.get(id as usize)?.as_ref()?.watched.clone())
    }

    /// Records a slot without a check, and tells it.
    fn skip(&mut self, id: u32, slot: Timestamp, code: Code, message: &'static str) {
        let Some(watched) = self.watched(id) else { return };
        self.telemetry.skipped(&watched.site.name, message);
        self.leave_out(id, &watched, slot, code, message);
    }

    /// Records a slot without a check, of a site as it was configured when the slot came.
    fn leave_out(&mut self, id: u32, watched: &Watched, slot: Timestamp, code: Code, message: &str) {
        let mut observation = self.blank(&watched.site, slot, Reason::Schedule);
        observation.verdict = Verdict::Unknown(vec![Cause::new(code, message)]);
        self.record(id, &watched.site, observation);
    }

    /// An observation of which nothing is known but whose it is.
    fn blank(&self, site: &Site, slot: Timestamp, reason: Reason) -> Observation {
        Observation {
            site: site.name.clone(),
            location: self.location.clone(),
            reason,
            scheduled_at: slot,
            interval_us: time::micros(site.spec.interval),
            timeout_us: time::micros(site.spec.timeout),
            ..Observation::default()
        }
    }

    /// Counts an observation, tells what changed, and hands it on.
    fn record(&mut self, id: u32, site: &Site, observation: Observation) {
        let jitter = match observation.reason {
            Reason::Schedule => {
                // The plan holds a window that is longer than the interval at the interval.
                let window = site.spec.jitter.min(site.spec.interval);
                slot::jitter(site.hash(), observation.scheduled_at, time::micros(window))
            }
            Reason::Request => 0,
        };
        self.telemetry.observed(&observation, jitter);
        let entry = self.sites.get_mut(id as usize).and_then(Option::as_mut);
        if let Some(entered) = entry.filter(|entered| !entered.gone) {
            let skipped = observation.verdict.causes().iter().find(|cause| cause.code.is_skip());
            // Where nothing was learnt of the site, what was known of it stays.
            if skipped.is_none() {
                let fingerprint = observation.verdict.fingerprint();
                let first = !std::mem::replace(&mut entered.seen, true);
                if fingerprint != entered.last || first && self.tell_first {
                    self.telemetry.verdict_changed(&observation);
                }
                entered.last = fingerprint;
            }
            let overload = skipped.is_some_and(|cause| cause.code == Code::SkippedOverload);
            entered.left_out = if overload { entered.left_out.saturating_add(1) } else { 0 };
            if self.telemetry.shows_sites() {
                self.latest.insert(id, Latest::of(&observation));
            } else if !self.latest.is_empty() {
                self.latest = HashMap::new();
            }
        }
        self.outbox.push(observation);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Change { watch, forget, done } => {
                self.change(watch, &forget);
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            Command::Limit { network, idle_connections_max, done } => {
                self.shared.set_rules(&network, idle_connections_max);
                let _ = done.send(());
            }
            Command::Job(job) => self.request(job),
            Command::Latest(answer) => {
                let name =
                    |id: u32| self.sites.get(id as usize)?.as_ref().map(|entered| entered.watched.site.name.clone());
                let latest = self.latest.iter().filter_map(|(id, latest)| Some((name(*id)?, latest.clone())));
                let _ = answer.send(latest.collect());
            }
            Command::Stop { grace, delivery } if self.stopping.is_some() => {
                let end = tokio::time::Instant::now() + grace;
                self.stopping = self.stopping.map(|former| former.min(end));
                self.delivery = self.delivery.min(delivery);
            }
            Command::Stop { grace, delivery } => {
                // What is due up to now is served before the stop is in force, what waits for its jitter at once.
                let now = self.clock.now();
                self.catch_up(now);
                for Due { id, slot, .. } in self.plan.pending() {
                    self.start(id, slot, now);
                }
                self.stopping = Some(tokio::time::Instant::now() + grace);
                self.delivery = delivery;
            }
        }
    }

    /// Brings the table of sites in line. Running checks of sites that are forgotten end as they would.
    fn change(&mut self, watch: Vec<Arc<Watched>>, forget: &[Arc<str>]) {
        let now = self.clock.now();
        // Slots before the change stay on the old grid.
        self.catch_up(now);
        for name in forget {
            if let Ok(position) = self.position(name) {
                let id = self.by_name.remove(position);
                self.unplan(id, now);
                if let Some(entered) = &mut self.sites[id as usize] {
                    entered.gone = true;
                }
                self.latest.remove(&id);
                self.release(id);
            }
        }
        let mut new = Vec::new();
        for watched in watch {
            let Ok(position) = self.position(&watched.site.name) else {
                new.push(watched);
                continue;
            };
            let id = self.by_name[position];
            match entry_of(&watched) {
                Some(entry) => {
                    if let Some(due) = self.plan.replace(id, entry) {
                        self.start(id, due.slot, now);
                    }
                }
                None => self.unplan(id, now),
            }
            if let Some(entered) = &mut self.sites[id as usize] {
                entered.host = host_of(&watched);
                entered.watched = watched;
            }
        }
        // Many at once are sorted once; a few are put in their places.
        let many = new.len() > 64;
        for watched in new {
            let place = if many { Err(self.by_name.len()) } else { self.position(&watched.site.name) };
            let id = self.free.pop().unwrap_or_else(|| {
                self.sites.push(None);
                self.sites.len() as u32 - 1
            });
            if let Some(entry) = entry_of(&watched) {
                self.plan.insert(id, entry, now.wall);
            }
            self.sites[id as usize] =
                Some(Entered { host: host_of(&watched), watched, last: 0, left_out: 0, seen: false, gone: false });
            self.by_name.insert(place.unwrap_or_else(|at| at), id);
        }
        if many {
            let sites = &self.sites;
            let name = |id: u32| sites[id as usize].as_ref().map(|entered| &*entered.watched.site.name);
            self.by_name.sort_unstable_by(|a, b| name(*a).cmp(&name(*b)));
        }
    }

    /// Gives the place of a site that is gone to others, once none of its checks is under way.
    fn release(&mut self, id: u32) {
        let gone = self.sites[id as usize].as_ref().is_some_and(|entered| entered.gone);
        if gone && [Reason::Schedule, Reason::Request].iter().all(|reason| !self.active.contains_key(&(id, *reason))) {
            self.sites[id as usize] = None;
            self.free.push(id);
        }
    }

    /// Takes a site out of the plan; a slot of it that waits for its jitter is served at once.
    fn unplan(&mut self, id: u32, now: Now) {
        if let Some(due) = self.plan.remove(id) {
            self.start(id, due.slot, now);
        }
    }

    /// Where a name is in `by_name`, or would be.
    fn position(&self, name: &str) -> Result<usize, usize> {
        self.by_name.binary_search_by(|id| {
            let entered = self.sites[*id as usize].as_ref();
            entered.map_or(std::cmp::Ordering::Less, |entered| (*entered.watched.site.name).cmp(name))
        })
    }

    /// Does a job by request, unless it has expired or is running already.
    fn request(&mut self, job: Job) {
        let now = self.clock.now();
        if !job.locations.is_empty() && !job.locations.contains(&self.location) {
            return;
        }
        let Ok(position) = self.position(&job.site) else {
            tracing::warn!("a job for {} is refused: there is no such site", job.site);
            return;
        };
        if job.expires_at.is_some_and(|at| at <= now.wall) {
            tracing::warn!("a job for {} is refused: it has expired", job.site);
            return;
        }
        let id = self.by_name[position];
        if !self.active.contains_key(&(id, job.reason)) {
            self.spawn(id, job, now);
        }
    }

    /// The grace is over: what waits is unknown, and what runs is told to end with what it measured until now.
    fn tell_to_end(&mut self) {
        self.ending = Some(tokio::time::Instant::now() + ENDING);
        for ((id, reason), mut active) in std::mem::take(&mut self.active) {
            if let Some(slot) = active.next.take() {
                self.stopped(id, &active.watched.site, slot, reason, None);
            }
            if active.waits.as_ref().is_some_and(|began| !began.load(Ordering::Relaxed)) {
                active.task.abort();
                self.stopped(id, &active.watched.site, active.slot, reason, None);
            } else {
                self.active.insert((id, reason), active);
            }
        }
        self.shared.stop();
    }

    /// What did not end although it was told to is unknown.
    fn end_what_runs(&mut self) {
        for ((id, reason), active) in std::mem::take(&mut self.active) {
            active.task.abort();
            self.stopped(id, &active.watched.site, active.slot, reason, Some(active.spawned_at));
        }
    }

    /// Records a slot whose check, if it had begun, was ended by a stop.
    fn stopped(&mut self, id: u32, site: &Site, slot: Timestamp, reason: Reason, started_at: Option<Timestamp>) {
        let mut observation = self.blank(site, slot, reason);
        observation.started_at = started_at;
        observation.verdict = Verdict::Unknown(vec![Cause::new(Code::Stopped, "sitemon was stopped")]);
        self.record(id, site, observation);
    }

    /// Waits until everything that was observed is acknowledged, at most until the grace is over or, where checks
    /// needed that, a little longer; less where it is hurried.
    async fn deliver(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let begin = tokio::time::Instant::now();
        let mut retry = tokio::time::interval(RETRY_EVERY);
        while !self.outbox.is_empty() {
            let least = begin + self.delivery;
            let deadline = self.stopping.map_or(least, |grace| grace.max(least));
            tokio::select! {
                biased;
                () = self.outbox.settle() => {}
                _ = retry.tick(), if self.outbox.is_pending() => self.outbox.flush(),
                Some(command) = commands.recv() => self.obey(command),
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }
}

/// A site's entry in the plan; `None` where it is not checked.
fn entry_of(watched: &Watched) -> Option<Entry> {
    let spec = &watched.site.spec;
    spec.enabled.then(|| Entry {
        hash: watched.site.hash(),
        interval_us: time::micros(spec.interval),
        jitter_us: time::micros(spec.jitter),
    })
}

/// A hash of the host and port that the limit in flight counts by.
fn host_of(watched: &Watched) -> u64 {
    sitemon_model::site::name_hash(&watched.check.host(&watched.site.url))
}

/// What is said of a slot whose turn did not come.
const WAITED_TOO_LONG: &str = "its turn did not come before the next slot: a limit of checks in flight was reached";

/// Everything that a check needs, to be taken into its task.
struct Checking {
    watched: Arc<Watched>,
    job: Job,
    location: Arc<str>,
    shared: Arc<Shared>,
    last: u64,
    telemetry: Arc<Telemetry>,
}

impl Checking {
    async fn run(&self) -> Observation {
        let task = Task {
            site: &self.watched.site,
            job: &self.job,
            location: &self.location,
            shared: &self.shared,
            last: self.last,
        };
        let _counted = Counted::new(&self.telemetry.in_flight);
        self.watched.check.check(task).await
    }
}

/// Waits for the turn of a check and does it; where its time runs out meanwhile, says so.
async fn wait_and_check(
    turn: Turn,
    left_out: u32,
    check: Checking,
    began: Arc<AtomicBool>,
    at_most: Duration,
) -> Observation {
    let telemetry = check.telemetry.clone();
    let waiting = Counted::new(&telemetry.waiting);
    let pass = tokio::time::timeout(at_most, turn.pass(left_out)).await;
    drop(waiting);
    if let Ok(Some(_pass)) = pass {
        began.store(true, Ordering::Relaxed);
        return check.run().await;
    }
    let site = &check.watched.site;
    Observation {
        site: site.name.clone(),
        location: check.location.clone(),
        reason: check.job.reason,
        scheduled_at: check.job.scheduled_at,
        interval_us: time::micros(site.spec.interval),
        timeout_us: time::micros(site.spec.timeout),
        verdict: Verdict::Unknown(vec![Cause::new(Code::SkippedOverload, WAITED_TOO_LONG)]),
        ..Observation::default()
    }
}

/// Counts in a gauge for as long as it lives.
struct Counted<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a prometheus_client::metrics::gauge::Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Ends at an instant; without one, never.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
