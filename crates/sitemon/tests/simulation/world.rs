//! Lets a scenario happen, and notes what did.

use crate::rival::{self, RivalNote};
use crate::scenario::{BusFault, Config, End, Event, Life, Scenario, StoreFault, Trouble, When};
use crate::site;
use async_trait::async_trait;
use sitemon::clock::{Clock, Simulated};
use sitemon::config::{Limits, Watched};
use sitemon::roles::checker::{self, Lanes};
use sitemon::roles::local::{self, Local};
use sitemon::roles::reload::Changes;
use sitemon::roles::writer::{self, Rules};
use sitemon::telemetry::Telemetry;
use sitemon_bus::{Acknowledgement, Bus, BusError, Message, Partition, Reader, Topic, faulty as faulty_bus};
use sitemon_model::observation::Key;
use sitemon_model::tree::{At, Faults, Node};
use sitemon_model::{Job, Observation, Reason, Timestamp};
use sitemon_probe::policy::Policy;
use sitemon_schedule::plan::Now;
use sitemon_stats::Baselines;
use sitemon_store::sample::Sample;
use sitemon_store::{Access, Retention, Scan, Store, Upkeep, Window, faulty as faulty_store};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the checkers run.
const LOCATION: &str = "here";
/// Nothing that a simulation waits for takes longer; then something hangs.
const PATIENCE: Duration = Duration::from_hours(7 * 24);

/// What the checks, the bus and the processes have in common, and what is noted of them.
#[derive(Debug)]
pub struct World {
    /// The seed.
    pub seed: u64,
    notes: Mutex<Notes>,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Notes {
    /// The clocks of the process that lives.
    clock: Option<Clock>,
    /// The checks that were made.
    pub checks: Vec<CheckNote>,
    /// The observations that were acknowledged to a checker.
    pub acknowledged: Vec<Key>,
    /// What another checker published.
    pub rivals: Vec<RivalNote>,
    /// The lives of the processes.
    pub lives: Vec<LifeNote>,
}

/// A check as its site saw it. Instants without a word are readings of the clock that never stands still.
#[derive(Debug)]
pub struct CheckNote {
    /// In which life.
    pub life: usize,
    /// Of which site.
    pub site: Arc<str>,
    /// Its slot.
    pub slot: Timestamp,
    /// Why it was made.
    pub reason: Reason,
    /// Its timeout.
    pub timeout: Duration,
    /// When it began.
    pub began: u64,
    /// The same by the wall clock.
    pub began_wall: Timestamp,
    /// When it ended; `None`: it was given up.
    pub ended: Option<u64>,
}

/// A process, as seen from outside.
#[derive(Debug, Default)]
pub struct LifeNote {
    /// When its first sites were in force.
    pub from: u64,
    /// When it was told to stop, or was killed.
    pub to: u64,
    /// How far ahead of that clock the wall clock was, and from when on.
    pub ahead: Vec<(u64, i64)>,
    /// When it did not run.
    pub dark: Vec<(u64, u64)>,
    /// The sites in force, and from when on.
    pub sites: Vec<(u64, Vec<Config>)>,
    /// The jobs that somebody asked for: when, and which.
    pub jobs: Vec<(u64, Job)>,
    /// How it ended.
    pub end: Option<End>,
    /// What a clean stop returned.
    pub failure: Option<String>,
    /// How many observations it had counted as given up, each time that was looked at.
    pub dropped: Vec<(u64, u64)>,
    /// Slots that it counted as absent.
    pub absent: u64,
    /// Calls of its store and of its bus.
    pub calls: (u64, u64),
    /// When something was wrong with store or bus.
    pub troubles: Vec<(u64, u64)>,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seed, notes: Mutex::default() })
    }

    /// What has happened.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A check begins; its number, and what its clock shows.
    pub fn check_began(&self, site: &Arc<str>, job: &Job, timeout: Duration) -> (usize, Timestamp) {
        let mut notes = self.notes();
        let now = notes.now();
        let (life, site, slot) = (notes.lives.len() - 1, site.clone(), job.scheduled_at);
        let note = CheckNote {
            life,
            site,
            slot,
            reason: job.reason,
            timeout,
            began: now.boot,
            began_wall: now.wall,
            ended: None,
        };
        notes.checks.push(note);
        (notes.checks.len() - 1, now.wall)
    }

    /// How long the machine has slept.
    pub fn slept(&self) -> u64 {
        let now = self.notes().now();
        now.boot - now.mono
    }

    /// A check has ended.
    pub fn check_ended(&self, number: usize) {
        let mut notes = self.notes();
        notes.checks[number].ended = Some(notes.now().boot);
    }
}

impl Notes {
    fn now(&self) -> Now {
        self.clock.as_ref().map(Clock::now).unwrap_or_default()
    }

    fn life(&mut self) -> &mut LifeNote {
        self.lives.last_mut().expect("a life")
    }
}

/// What is in the store in the end, read twice: as it is, and after everything was packed.
#[derive(Debug)]
pub struct Stored {
    /// As it is.
    pub before: Vec<Arc<Observation>>,
    /// Packed.
    pub after: Vec<Arc<Observation>>,
}

/// Lets it all happen, the store in this folder.
pub fn run(scenario: &Scenario, world: &Arc<World>, folder: &Path) -> anyhow::Result<Stored> {
    let mut now = Now { wall: scenario.start, mono: 1_000_000, boot: 2_000_000 };
    for life in &scenario.lives {
        let away = life.away.as_micros() as u64;
        now = Now { wall: now.wall.plus(away as i64), mono: now.mono + away, boot: now.boot + away };
        let runtime = runtime();
        let (store, after) = runtime.block_on(async {
            let clock = Simulated::new(now);
            let store = open(folder).await?;
            let lived = live(scenario, life, world, clock.clone(), store.clone());
            let lived = tokio::time::timeout(PATIENCE, lived).await;
            anyhow::ensure!(lived.is_ok(), "the process hangs");
            lived??;
            anyhow::Ok((store, clock.now()))
        })?;
        // All that the process still did ends here.
        drop(runtime);
        world.notes().clock = None;
        self::runtime().block_on(store.close());
        now = after;
    }
    runtime().block_on(async {
        let store = open(folder).await?;
        let before = export(&*store).await?;
        store.maintain(Upkeep::Pack { now: now.wall, everything: true }).await?;
        let after = export(&*store).await?;
        store.close().await;
        Ok(Stored { before, after })
    })
}

/// Time passes only where everything waits for it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

async fn open(folder: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let node = Node::empty_map();
    let mut faults = Faults::default();
    let mut fields = At::new(&node, "store").map(&mut faults);
    let config = (sitemon_store::KINDS[0].parse)(&mut fields, folder, &mut faults);
    Ok(config.expect("a store needs no options").open(Access::Write("simulation")).await?)
}

async fn export(store: &dyn Store) -> anyhow::Result<Vec<Arc<Observation>>> {
    let window = Window { sites: None, from: Timestamp::MIN, to: Timestamp::MAX };
    let scan = Scan { window, after: None, limit: usize::MAX, newest_first: false };
    Ok(store.scan(&scan).await?.observations)
}

/// One process from its start to its end.
async fn live(
    scenario: &Scenario,
    life: &Life,
    world: &Arc<World>,
    clocks: Arc<Simulated>,
    store: Arc<dyn Store>,
) -> anyhow::Result<()> {
    let clock = Clock::Simulated(clocks.clone());
    let start = clock.now();
    let number = {
        let mut notes = world.notes();
        notes.clock = Some(clock.clone());
        let ahead = vec![(start.boot, start.wall.0 - start.boot as i64)];
        let at = |time: Duration| start.boot.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let mut troubles: Vec<(u64, u64)> = life.store.iter().map(|t| (at(t.from), at(t.to))).collect();
        troubles.extend(life.bus.iter().map(|t| (at(t.from), at(t.to))));
        notes.lives.push(LifeNote { ahead, troubles, end: Some(life.end), ..LifeNote::default() });
        notes.lives.len() as u64
    };
    let telemetry = Arc::new(Telemetry::new("simulation", LOCATION));
    telemetry.show_sites(Some(usize::MAX));
    let seed = scenario.seed ^ number.rotate_left(40);
    let faulty_store = faulty_store::Faulty::new(store, store_fates(seed, &clock, life.store.clone()));
    let faulty_store = Arc::new(faulty_store.at_once());
    let store: Arc<dyn Store> = faulty_store.clone();
    let bus = sitemon_bus::local::Options { partitions: scenario.partitions, ..Default::default() };
    let sound_bus: Arc<dyn Bus> = Arc::new(sitemon_bus::local::Local::new(bus));
    let faulty_bus = faulty_bus::Faulty::new(sound_bus.clone(), bus_fates(seed, &clock, life.bus.clone()));
    let bus: Arc<dyn Bus> = Arc::new(Witness { bus: Arc::new(faulty_bus.clone()), world: world.clone() });
    let retention = Duration::from_hours(365 * 24);
    let retention = Retention { observations: retention, evidence: retention, hour: retention, day: retention };
    let limits = |(checks_in_flight, checks_in_flight_per_host)| Limits {
        checks_in_flight,
        checks_in_flight_per_host,
        memory: 64 << 20,
    };
    let options = local::Options {
        checker: checker::Options {
            clock: clock.clone(),
            lanes: Lanes::Tasks(scenario.lanes),
            pending_max: scenario.pending_max,
            location: LOCATION.into(),
            flush: scenario.flush,
            limits: limits(scenario.in_flight),
            network: Policy::default(),
            bus: bus.clone(),
            telemetry: telemetry.clone(),
            sites: life.sites.len(),
            tell_first: true,
        },
        store: store.clone(),
        retention,
        version: "simulation",
    };
    let watched = |sites: &[Config]| -> Vec<Watched> { sites.iter().map(|site| site::watched(world, site)).collect() };
    let mut process = Local::start(options, watched(&life.sites)).await?;
    {
        let mut notes = world.notes();
        let from = notes.now().boot;
        notes.life().from = from;
        notes.life().sites.push((from, life.sites.clone()));
    }
    let second_writer = || {
        tokio::spawn(writer::run(writer::Options {
            clock: clock.clone(),
            bus: bus.clone(),
            store: store.clone(),
            flush: scenario.flush,
            retention: tokio::sync::watch::channel(retention).1,
            telemetry: telemetry.clone(),
            rules: Rules::default(),
            baselines: Baselines::new(),
            stream: format!("observations/{LOCATION}"),
        }))
    };
    let count = |name: &str| {
        let text = telemetry.encode("");
        let found = text.lines().find_map(|one| one.strip_prefix(name)?.strip_prefix(' '));
        found.and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let look_at_drops = || {
        let dropped = count("sitemon_observations_dropped_total");
        world.notes().life().dropped.push((clock.now().boot, dropped));
    };
    let mut second = None;
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    for (after, event) in &life.events {
        let at = tokio::time::Instant::now() + *after;
        loop {
            tokio::select! {
                biased;
                error = process.failed() => anyhow::bail!("the process has ended by itself: {error:#}"),
                _ = beat.tick() => {
                    process.beat();
                    look_at_drops();
                }
                () = tokio::time::sleep_until(at) => break,
            }
        }
        let before = clock.now().boot;
        let mut dark = None;
        match event {
            Event::Wait => {}
            Event::Step(by) => clocks.step(*by),
            Event::Suspend(time) => {
                clocks.suspend(time.as_micros() as u64);
                dark = Some((before, clock.now().boot));
            }
            Event::Pause(time) => {
                tokio::time::advance(*time).await;
                dark = Some((before, clock.now().boot));
            }
            Event::Reload(sites) => {
                let changes = Changes::between(process.sites(), watched(sites));
                process.change(changes).await;
                let mut notes = world.notes();
                let now = notes.now().boot;
                notes.life().sites.push((now, sites.clone()));
            }
            Event::Limit(total, per_host) => {
                let limits = limits((*total, *per_host));
                process.limit(limits, &Policy::default(), retention, process.sites().len()).await;
            }
            Event::Rival => rival::publish(world, &bus, clock.wall(), false),
            Event::SecondWriter => match second.take() {
                None => second = Some(second_writer()),
                Some(writer) => writer.abort(),
            },
            Event::Job(site) => {
                let job = Job {
                    site: site.clone(),
                    scheduled_at: clock.wall(),
                    reason: Reason::Request,
                    locations: Vec::new(),
                    expires_at: None,
                };
                // Where the bus is in trouble it may be published all the same.
                let _ = bus.publish(Topic::Jobs, vec![Message::Job(job.clone())]);
                world.notes().life().jobs.push((before, job));
            }
        }
        look_at_drops();
        let mut notes = world.notes();
        let now = notes.now();
        notes.life().dark.extend(dark);
        if let Event::Step(_) = event {
            notes.life().ahead.push((now.boot, now.wall.0 - now.boot as i64));
        }
    }
    world.notes().life().to = clock.now().boot;
    if let End::Stop { grace } = life.end {
        // A second writer would be a process of its own, which this stop does not wait for.
        if second.is_none() {
            rival::publish(world, &sound_bus, clock.wall(), true);
        }
        let stopped = process.stop(grace, Ok(())).await;
        world.notes().life().failure = stopped.err().map(|error| format!("{error:#}"));
    }
    look_at_drops();
    let mut notes = world.notes();
    notes.life().calls = (faulty_store.calls(), faulty_bus.calls());
    notes.life().absent = count("sitemon_slots_passed_total");
    Ok(())
}

/// The faults that are in force at this time of a life.
fn in_force<F: Copy>(troubles: &[Trouble<F>], clock: &Clock, start: u64) -> Vec<F> {
    let now = Duration::from_micros(clock.now().boot - start);
    troubles.iter().filter(|trouble| (trouble.from..trouble.to).contains(&now)).map(|trouble| trouble.fault).collect()
}

fn store_fates(
    seed: u64,
    clock: &Clock,
    troubles: Vec<Trouble<StoreFault>>,
) -> impl Fn(u64, &'static str) -> faulty_store::Fate + Send + Sync + 'static {
    use faulty_store::{Failure, Fate};
    let (clock, start, dice) = (clock.clone(), clock.now().boot, Mutex::new(Sample::new(seed)));
    move |call, _| {
        let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fate = Fate::default();
        for fault in in_force(&troubles, &clock, start) {
            match fault {
                StoreFault::Away => fate.failure = Some(Failure::Before),
                StoreFault::Fails(n) if dice.once_in(n) => {
                    fate.failure = Some(if dice.once_in(2) { Failure::Before } else { Failure::After });
                }
                StoreFault::FailsCall(n, When::Before) if n == call => fate.failure = Some(Failure::Before),
                StoreFault::FailsCall(n, When::After | When::Later) if n == call => fate.failure = Some(Failure::After),
                StoreFault::Fails(_) | StoreFault::FailsCall(..) => {}
                StoreFault::Slow(most) => {
                    let time = Duration::from_micros(dice.below(most.as_micros() as u64));
                    if dice.once_in(2) { fate.before += time } else { fate.after += time }
                }
            }
        }
        fate
    }
}

fn bus_fates(
    seed: u64,
    clock: &Clock,
    troubles: Vec<Trouble<BusFault>>,
) -> impl Fn(u64, Topic, faulty_bus::Call) -> faulty_bus::Fate + Send + Sync + 'static {
    use faulty_bus::{Call, Failure, Fate};
    let (clock, start, dice) = (clock.clone(), clock.now().boot, Mutex::new(Sample::new(seed ^ 1)));
    move |number, _, call| {
        let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fate = Fate::default();
        for fault in in_force(&troubles, &clock, start) {
            match fault {
                BusFault::Full if call == Call::Publish => fate.failure = Some(Failure::Full),
                BusFault::Fails(n) if dice.once_in(n) => {
                    let failures = [Failure::Before, Failure::After, Failure::Lost];
                    fate.failure = Some(failures[dice.below(if call == Call::Publish { 3 } else { 2 }) as usize]);
                }
                BusFault::FailsCall(n, When::Before) if n == number => fate.failure = Some(Failure::Before),
                BusFault::FailsCall(n, When::After) if n == number => fate.failure = Some(Failure::After),
                BusFault::FailsCall(n, When::Later) if n == number => fate.failure = Some(Failure::Lost),
                BusFault::Slow(most) => fate.delay += Duration::from_micros(dice.below(most.as_micros() as u64)),
                BusFault::Repeats(n) if dice.once_in(n) => fate.again = Some(Duration::from_millis(dice.below(3_000))),
                BusFault::Full | BusFault::Fails(_) | BusFault::FailsCall(..) | BusFault::Repeats(_) => {}
            }
        }
        fate
    }
}

/// Notes which observations are acknowledged to whoever published them.
#[derive(Debug)]
struct Witness {
    bus: Arc<dyn Bus>,
    world: Arc<World>,
}

#[async_trait]
impl Bus for Witness {
    fn partitions(&self, topic: Topic) -> Partition {
        self.bus.partitions(topic)
    }

    fn stream(&self, topic: Topic) -> Option<String> {
        self.bus.stream(topic)
    }

    fn publish(&self, topic: Topic, messages: Vec<Message>) -> Result<Acknowledgement, BusError> {
        let key = |message: &Message| match message {
            Message::Observation(observation) => Some(observation.key()),
            Message::Job(_) => None,
        };
        let keys: Vec<Key> = messages.iter().filter_map(key).collect();
        let acknowledgement = self.bus.publish(topic, messages)?;
        let world = self.world.clone();
        Ok(Box::pin(async move {
            acknowledgement.await?;
            world.notes().acknowledged.extend(keys);
            Ok(())
        }))
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Reader>, BusError> {
        self.bus.subscribe(topic, group).await
    }

    async fn close(&self) {
        self.bus.close().await;
    }
}
