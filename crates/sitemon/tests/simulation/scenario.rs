//! What a seed decides: the sites, how the processes are set up, and what befalls them.

use sitemon_model::Timestamp;
use sitemon_model::time::{HOUR, SECOND};
use sitemon_store::sample::{EPOCH, Sample};
use std::sync::Arc;
use std::time::Duration;

/// Two changes of the clocks lie at least so far apart, so that a lane has looked at them in between: what
/// happened in which order before one look cannot be known.
pub const APART: Duration = Duration::from_millis(1_200);

/// Limits of checks in flight that none of these processes reaches.
pub const NO_LIMIT: (usize, usize) = (1000, 1000);

/// All that a seed decides but for the answers of the sites.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// The wall clock at the beginning.
    pub start: Timestamp,
    /// Lanes of the checker.
    pub lanes: usize,
    /// Partitions of each topic.
    pub partitions: u32,
    /// The longest time that an observation waits for its transaction.
    pub flush: Duration,
    /// Checks in flight, in all and for each host.
    pub in_flight: (usize, usize),
    /// Observations that a lane keeps for the bus at most.
    pub pending_max: usize,
    /// The processes, one after the other, over one store.
    pub lives: Vec<Life>,
}

/// A process from its start to its end.
#[derive(Debug, Clone)]
pub struct Life {
    /// Nobody is responsible for so long before it.
    pub away: Duration,
    /// The sites of its first configuration.
    pub sites: Vec<Config>,
    /// What befalls it, each so long after the one before.
    pub events: Vec<(Duration, Event)>,
    /// When its store does not do well.
    pub store: Vec<Trouble<StoreFault>>,
    /// When its bus does not do well.
    pub bus: Vec<Trouble<BusFault>>,
    /// How it ends.
    pub end: End,
}

/// How a site is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it is checked.
    pub enabled: bool,
    /// From slot to slot.
    pub interval: Duration,
    /// The window after the slot.
    pub jitter: Duration,
    /// Of the check.
    pub timeout: Duration,
    /// What the limit in flight counts by.
    pub host: u64,
}

/// What befalls a process.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody sets the wall clock.
    Step(i64),
    /// The process is stopped (SIGSTOP), or starves, for so long.
    Pause(Duration),
    /// The machine sleeps.
    Suspend(Duration),
    /// Another configuration comes into force.
    Reload(Vec<Config>),
    /// Other limits of checks in flight come into force, in all and for each host.
    Limit(usize, usize),
    /// A second writer joins the first, or is killed.
    SecondWriter,
    /// Somebody asks for a check.
    Job(Arc<str>),
    /// Another checker publishes what it observed, some of it more than once.
    Rival,
    /// Nothing.
    Wait,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Cleanly.
    Stop {
        /// Running checks have so long.
        grace: Duration,
    },
    /// By kill -9.
    Kill,
}

/// A span of a life in which something does not do well.
#[derive(Debug, Clone)]
pub struct Trouble<F> {
    /// From here...
    pub from: Duration,
    /// ...to here, since the start of the process.
    pub to: Duration,
    /// What is wrong.
    pub fault: F,
}

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before anything is done.
    Before,
    /// After everything was done.
    After,
    /// What is published is taken, and lost: that is told later. To a store the same as `After`.
    Later,
}

/// What is wrong with a store.
#[derive(Debug, Clone, Copy)]
pub enum StoreFault {
    /// It fails every call.
    Away,
    /// It fails one call in so many, before or after it has done its work.
    Fails(u64),
    /// It fails this one call of the process.
    FailsCall(u64, When),
    /// Each call takes up to so long, before or after its work.
    Slow(Duration),
}

/// What is wrong with a bus.
#[derive(Debug, Clone, Copy)]
pub enum BusFault {
    /// It has no room.
    Full,
    /// It fails one call in so many, before or after it has done its work.
    Fails(u64),
    /// It fails this one call of the process.
    FailsCall(u64, When),
    /// What a reader reads, and each acknowledgement, comes up to so much later.
    Slow(Duration),
    /// It gives one batch in so many twice, the second time up to three seconds later.
    Repeats(u64),
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(Sample::new(seed));
        // A few sleep for hours; then a second is too short an interval, for want of time.
        let long = dice.0.once_in(20);
        let start = EPOCH.plus(dice.between(0, HOUR as u64) as i64);
        let partitions = *dice.one_of(&[1, 1, 2, 5]);
        let in_flight = *dice.one_of(&[NO_LIMIT, NO_LIMIT, NO_LIMIT, (3, 2), (1000, 1)]);
        let pending_max = *dice.one_of(&[50_000, 50_000, 50_000, 40, 150]);
        let lives = *dice.one_of(&[1, 1, 2, 2, 3]);
        Self {
            seed,
            start,
            lanes: dice.between(1, 3) as usize,
            partitions,
            flush: Duration::from_millis(*dice.one_of(&[20, 200, 200, 1_000])),
            in_flight,
            pending_max,
            lives: (0..lives).map(|number| Life::of(&mut dice, number, long, in_flight != NO_LIMIT)).collect(),
        }
    }
}

impl Scenario {
    /// A process that nothing befalls but a reload and two jobs, with these troubles from its start to its end.
    pub fn calm(store: Option<StoreFault>, bus: Option<BusFault>) -> Self {
        let site = |name: u32, interval| Config {
            name: format!("site {name}").into(),
            enabled: true,
            interval: Duration::from_millis(interval),
            jitter: Duration::ZERO,
            timeout: Duration::from_secs(1),
            host: 0,
        };
        let second = Duration::from_secs(1);
        let events = vec![
            (second, Event::Job("site 1".into())),
            (second, Event::Reload(vec![site(1, 500), site(3, 700)])),
            (second, Event::Job("site 3".into())),
            (second * 9, Event::Wait),
        ];
        let end = End::Stop { grace: 3 * second };
        let life = Life {
            away: Duration::ZERO,
            sites: vec![site(1, 500), site(2, 700)],
            events,
            store: store.map(always).unwrap_or_default(),
            bus: bus.map(always).unwrap_or_default(),
            end,
        };
        Self {
            seed: 11,
            start: EPOCH,
            lanes: 2,
            partitions: 2,
            flush: Duration::from_millis(200),
            in_flight: NO_LIMIT,
            pending_max: 1000,
            lives: vec![life],
        }
    }
}

impl Life {
    fn of(dice: &mut Dice, number: usize, long: bool, limited: bool) -> Self {
        let away = if number == 0 { Duration::ZERO } else { dice.millis(0, 20_000) };
        let mut sites = dice.sites(long);
        let first = sites.clone();
        let mut events = Vec::new();
        let mut second_writer = false;
        for _ in 0..dice.between(2, 9) {
            let event = match dice.0.below(14) {
                0 | 1 => Event::Step(dice.step(long)),
                2 => Event::Pause(dice.millis(50, 1_900)),
                3 => Event::Pause(dice.millis(2_000, 30_000)),
                4 if long => Event::Suspend(dice.millis(60_000, 10_000_000)),
                4 => Event::Suspend(dice.millis(60, 90_000)),
                5..=7 => {
                    dice.change(&mut sites, long);
                    Event::Reload(sites.clone())
                }
                8 => {
                    second_writer = !second_writer;
                    Event::SecondWriter
                }
                9 | 10 => Event::Job(dice.name()),
                11 | 12 => Event::Rival,
                13 if limited => {
                    let (total, per_host) = *dice.one_of(&[NO_LIMIT, (1, 1), (2, 2), (3, 1)]);
                    Event::Limit(total, per_host)
                }
                _ => Event::Wait,
            };
            events.push((APART + dice.span(12_000), event));
        }
        let last = dice.span(8_000);
        events.push((APART + last, Event::Wait));
        let length = events.iter().map(|(after, _)| *after).sum();
        let store = dice.troubles(length, |dice| match dice.0.below(3) {
            0 => StoreFault::Away,
            1 => StoreFault::Fails(dice.between(1, 4)),
            _ => StoreFault::Slow(dice.millis(10, 3_000)),
        });
        let bus = dice.troubles(length, |dice| match dice.0.below(4) {
            0 => BusFault::Full,
            1 => BusFault::Fails(dice.between(2, 12)),
            2 => BusFault::Slow(dice.millis(10, 2_000)),
            _ => BusFault::Repeats(dice.between(1, 4)),
        });
        let end = if dice.0.once_in(3) { End::Kill } else { End::Stop { grace: dice.millis(0, 15_000) } };
        Self { away, sites: first, events, store, bus, end }
    }
}

/// A fault from the start of a process to its end.
fn always<F>(fault: F) -> Vec<Trouble<F>> {
    vec![Trouble { from: Duration::ZERO, to: Duration::MAX, fault }]
}

/// A source of choices.
#[derive(Debug)]
struct Dice(Sample);

/// Sites that there are at most.
const SITES: u64 = 8;

impl Dice {
    /// A number from `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.below(high - low + 1)
    }

    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// Short more often than long.
    fn span(&mut self, most: u64) -> Duration {
        let most = self.between(1, most);
        // Not on the millisecond, so that slots and events meet in all ways.
        Duration::from_micros(self.between(0, most * 1000))
    }

    fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.0.below(choices.len() as u64) as usize]
    }

    fn name(&mut self) -> Arc<str> {
        format!("site {}", self.0.below(SITES)).into()
    }

    /// By how much the clock is set: a correction that is followed, or a step.
    fn step(&mut self, long: bool) -> i64 {
        let most = if long { HOUR } else { 90 * SECOND } as u64;
        let by = match self.0.below(4) {
            0 => self.between(1, 45_000),
            1 => self.between(60_000, 2_000_000),
            _ => self.between(60_000, most),
        };
        if self.0.once_in(2) { by as i64 } else { -(by as i64) }
    }

    fn config(&mut self, name: Arc<str>, long: bool) -> Config {
        let scale = if long { 20 } else { 1 };
        let interval = *self.one_of(&[300, 500, 1_000, 1_000, 2_000, 2_000, 3_000, 5_000, 10_000, 15_000]) * scale;
        let timeout = *self.one_of(&[interval / 3, interval, interval, interval * 3]);
        let jitter = if self.0.once_in(3) { self.between(1, interval) } else { 0 };
        Config {
            name,
            enabled: !self.0.once_in(10),
            interval: Duration::from_millis(interval),
            jitter: Duration::from_millis(jitter),
            timeout: Duration::from_millis(timeout.clamp(100, 10_000)),
            host: self.0.below(4),
        }
    }

    fn sites(&mut self, long: bool) -> Vec<Config> {
        (0..SITES)
            .filter_map(|number| {
                let wanted = !self.0.once_in(4);
                wanted.then(|| self.config(format!("site {number}").into(), long))
            })
            .collect()
    }

    /// Another configuration: some sites go, some come, some change, often the same ones.
    fn change(&mut self, sites: &mut Vec<Config>, long: bool) {
        for _ in 0..self.between(1, 4) {
            let name = self.name();
            let at = sites.iter().position(|site| site.name == name);
            match at {
                Some(at) if self.0.once_in(2) => {
                    sites.remove(at);
                }
                Some(at) if self.0.once_in(2) => sites[at].host = self.0.below(4),
                Some(at) => sites[at] = self.config(name, long),
                None => sites.push(self.config(name, long)),
            }
        }
    }

    fn troubles<F>(&mut self, length: Duration, fault: impl Fn(&mut Self) -> F) -> Vec<Trouble<F>> {
        let count = *self.one_of(&[0, 0, 1, 2, 3]);
        (0..count)
            .map(|_| {
                let from = self.millis(0, length.as_millis() as u64);
                let most = if self.0.once_in(6) { 100_000 } else { 8_000 };
                let to = from + self.span(most);
                Trouble { from, to, fault: fault(self) }
            })
            .collect()
    }
}
