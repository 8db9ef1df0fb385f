//! The plan: every site's next slot, and what is due now.
//!
//! Sites are numbers that the caller chose; the clock is handed in. A site that waits costs an entry of a heap
//! and a few numbers, no task. Every slot that comes due while a site is in the plan is handed out exactly once:
//! to be served, or as missed. What happens when the clock does not run evenly:
//!
//! - *Pause, starvation, suspend* (more time passed than was asked for): slots that passed are handed out as
//!   missed, at most [`MISSED_MAX_US`] back; older ones are counted.
//! - *Step forwards*: what was jumped over never was; the schedule goes on at the next slot.
//! - *Step back*: no slot is handed out twice. Slots that the wall clock had passed while the site was in the
//!   plan are left out when it passes them again; earlier ones are handed out as any other.
//! - A slot that had come when the clock was stepped, and waits for its jitter, is handed out at once: when its start
//!   would be by the new clock has nothing to do with it.
//!
//! Where between two calls the clock was stepped cannot be known. It is taken to have happened right after the
//! earlier one, so that no slot is lost that came due after the step. So that none is lost that came before it, the
//! plan is to be asked when a slot comes, also where its check starts later.

use crate::slot;
use sitemon_model::Timestamp;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};

/// A check that has not begun this long after its start was due is handed out as missed. Anything shorter is lag.
pub const LATE_MAX_US: i64 = 1_000_000;

/// How far back slots that passed are handed out as missed. Older ones are only counted.
pub const MISSED_MAX_US: i64 = 3_600_000_000;

/// A difference between wall clock and time passed from one call to the next that is followed smoothly, as the
/// slow corrections of a time service are. Anything larger is a step, or a suspend.
pub const STEP_MIN_US: i64 = 50_000;

/// How long the caller sleeps at most, so that steps are noticed.
pub const SLEEP_MAX_US: u64 = 1_000_000;

/// Stretches of wall clock remembered from before steps. With more steps the oldest is forgotten; then a slot
/// might be handed out twice after one more step back, which the store merges.
const LIVED_MAX: usize = 64;

/// A reading of the clocks, all in microseconds. They are to be read together: a pause of [`STEP_MIN_US`] between
/// one and the next would look like a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time passed since any fixed instant, standing still while the machine is suspended (`CLOCK_MONOTONIC`).
    pub mono: u64,
    /// The same, going on while the machine is suspended (`CLOCK_BOOTTIME`). Where there is no such clock, a
    /// suspend looks like a step forwards.
    pub boot: u64,
}

/// How a site is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Of the site's name: `Site::hash`.
    pub hash: u64,
    /// From slot to slot; 0 counts as 1.
    pub interval_us: u64,
    /// The window after the slot in which the check starts; held below the interval.
    pub jitter_us: u64,
}

/// A slot that has come due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The site.
    pub id: u32,
    /// Its slot: `scheduled_at`.
    pub slot: Timestamp,
    /// When its check should start: the slot and its jitter. What is later is lag.
    pub start_at: Timestamp,
    /// What is to be done.
    pub kind: Kind,
}

/// What is to be done about a slot that has come due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Check.
    Serve,
    /// It passed while the process was paused, starved or suspended: `unknown(skipped.overload)`.
    Missed,
}

/// What [`Plan::due`] noticed since the call before; for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// By how much the wall clock was stepped, forwards or (negative) back; 0: it was not.
    pub clock_stepped_us: i64,
    /// How long the machine was suspended; 0: it was not.
    pub suspended_us: u64,
    /// How late the latest of the slots handed out was.
    pub late_us: u64,
    /// Slots handed out as missed.
    pub missed: u64,
    /// Slots older than [`MISSED_MAX_US`], which stay absent.
    pub absent: u64,
    /// More is due than was handed out: call again, before sites are changed.
    pub more: bool,
}

/// Which site is due when.
#[derive(Debug)]
pub struct Plan {
    /// The last reading.
    now: Now,
    /// The latest wall clock read since the plan began or the clock was stepped.
    reached: Timestamp,
    past: Past,
    /// By id.
    sites: Vec<Site>,
    /// By id, for sites with jitter; empty where none ever had.
    jittered: Vec<Jittered>,
    cadences: Cadences,
    /// Of each site what comes next: its slot, or the start of the check that then waits for its jitter. And outdated
    /// entries.
    queue: BinaryHeap<Reverse<Queued>>,
    /// Sites in the plan.
    count: usize,
    /// The last call left something that was due.
    more: bool,
}

#[derive(Debug, Clone, Copy)]
struct Site {
    /// Index into the cadences, or [`NONE`].
    cadence: u32,
    /// Counts how often the id was given anew; entries of the queue with another number are outdated.
    generation: u32,
    /// When it came into the plan: [`Past::lived_at`].
    since: u64,
}

/// No cadence: the id is not in the plan.
const NONE: u32 = u32::MAX;

/// Without jitter the start is the slot, and the next slot follows from the one before; with it more is needed.
#[derive(Debug, Clone, Copy, Default)]
struct Jittered {
    hash: u64,
    /// The slot that is in the queue, itself or its start.
    slot: Timestamp,
}

/// The next slot of a site, or the start of its check where that comes later. Ordered by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Queued {
    at: Timestamp,
    id: u32,
    generation: u32,
}

impl Plan {
    /// An empty plan.
    pub fn new(now: Now) -> Self {
        Self {
            now,
            reached: now.wall,
            past: Past::new(now),
            sites: Vec::new(),
            jittered: Vec::new(),
            cadences: Cadences::default(),
            queue: BinaryHeap::new(),
            count: 0,
            more: false,
        }
    }

    /// Makes room for ids below `sites`, so that nothing is moved while they come.
    pub fn reserve(&mut self, sites: usize) {
        self.sites.reserve_exact(sites.saturating_sub(self.sites.len()));
        self.queue.reserve_exact(sites.saturating_sub(self.queue.len()));
    }

    /// How many sites are in the plan.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether no site is in the plan.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes held for the sites.
    pub fn bytes(&self) -> usize {
        self.sites.capacity() * size_of::<Site>()
            + self.jittered.capacity() * size_of::<Jittered>()
            + self.queue.capacity() * size_of::<Queued>()
    }

    /// Takes a site in, from its first slot at or after `from` on; the ids are small numbers, as memory is held
    /// for all below the largest. Where the id is in the plan, the site is
    /// taken out before, and what [`Plan::remove`] returns is returned.
    pub fn insert(&mut self, id: u32, entry: Entry, from: Timestamp) -> Option<Due> {
        let pending = self.remove(id);
        let at = id as usize;
        if self.sites.len() <= at {
            self.sites.resize(at + 1, Site { cadence: NONE, generation: 0, since: 0 });
        }
        let cadence = Cadence::of(&entry);
        let slot = slot::at_or_after(entry.hash, cadence.interval_us, from);
        if cadence.jitter_us > 0 {
            if self.jittered.len() <= at {
                self.jittered.resize(at + 1, Jittered::default());
            }
            self.jittered[at] = Jittered { hash: entry.hash, slot };
        }
        let generation = self.sites[at].generation.wrapping_add(1);
        self.sites[at] =
            Site { cadence: self.cadences.take(cadence), generation, since: self.past.lived_at(self.now.wall) };
        self.count += 1;
        self.queue.push(Reverse(Queued { at: slot, id, generation }));
        pending
    }

    /// Takes a site out. What is returned is a slot that had come by the last call of [`Plan::due`] and waits
    /// for its jitter: serving it is left to the caller. What that call left to hand out of the site is lost.
    pub fn remove(&mut self, id: u32) -> Option<Due> {
        let site = *self.sites.get(id as usize).filter(|site| site.cadence != NONE)?;
        let pending = self.waiting(id, site);
        self.sites[id as usize].cadence = NONE;
        self.cadences.give_back(site.cadence);
        self.count -= 1;
        // Outdated entries are passed over when their time comes; so many of them are worth a pass over all.
        if self.queue.len() > 2 * self.count + 1024 {
            let sites = &self.sites;
            self.queue.retain(|Reverse(queued)| is_current(sites, queued));
        }
        pending
    }

    /// Changes the cadence of a site: slots up to the last call of [`Plan::due`] stay on the old grid, the next
    /// one is the first on the new grid after it. Where interval and jitter are the same nothing changes; an id
    /// that is not in the plan is taken in. Returns what [`Plan::remove`] returns.
    pub fn replace(&mut self, id: u32, entry: Entry) -> Option<Due> {
        let site = self.sites.get(id as usize).filter(|site| site.cadence != NONE);
        if site.is_some_and(|site| self.cadences.get(site.cadence) == Cadence::of(&entry)) {
            return None;
        }
        self.insert(id, entry, self.reached.plus(1))
    }

    /// When to call [`Plan::due`] again, as a reading of `mono`: when the next slot comes or check is due, at most
    /// [`SLEEP_MAX_US`] after the last call.
    pub fn next_wake(&self) -> u64 {
        let wait = self.queue.peek().map_or(SLEEP_MAX_US, |Reverse(queued)| {
            u64::try_from(queued.at.since(self.now.wall)).unwrap_or(0).min(SLEEP_MAX_US)
        });
        self.now.mono.saturating_add(wait)
    }

    /// The slots that had come by the last call of [`Plan::due`] and wait for their jitter: what is left to be
    /// served when no new slot shall be.
    pub fn pending(&self) -> Vec<Due> {
        let sites = (0..).zip(&self.sites).filter(|(_, site)| site.cadence != NONE);
        sites.filter_map(|(id, site)| self.waiting(id, *site)).collect()
    }

    /// Hands out what is due, in the order of the starts, until `out` holds `out_max`. Where there is more, the
    /// clocks are not looked at again before all of that is handed out.
    ///
    /// A slot is to be served unless it comes more than [`LATE_MAX_US`] after its start was due, or the start of
    /// the site's next one is due as well.
    pub fn due(&mut self, now: Now, out_max: usize, out: &mut Vec<Due>) -> Step {
        let mut step = Step::default();
        if self.more {
            self.hand_out(out_max, out, &mut step);
        }
        if !step.more {
            self.read(now, out, &mut step);
            self.hand_out(out_max, out, &mut step);
        }
        self.more = step.more;
        step
    }

    fn hand_out(&mut self, out_max: usize, out: &mut Vec<Due>, step: &mut Step) {
        let now = self.now;
        let oldest = now.wall.plus(-MISSED_MAX_US);
        while let Some(mut top) = self.queue.peek_mut() {
            let queued = top.0;
            if queued.at > now.wall || queued.at == Timestamp::MAX {
                break;
            }
            if !is_current(&self.sites, &queued) {
                PeekMut::pop(top);
                continue;
            }
            let site = self.sites[queued.id as usize];
            let cadence = self.cadences.get(site.cadence);
            let mut jittered = self.jittered.get_mut(queued.id as usize).filter(|_| cadence.jitter_us > 0);
            if let Some(jittered) = &jittered {
                let start_at = cadence.start(jittered.hash, jittered.slot);
                if start_at > queued.at {
                    // The slot has come, and its check waits for the jitter.
                    top.0.at = start_at;
                    continue;
                }
            }
            if out.len() >= out_max {
                step.more = true;
                break;
            }
            let start_at = queued.at;
            let slot = jittered.as_ref().map_or(start_at, |jittered| jittered.slot);
            let too_old = start_at < oldest;
            let next = cadence.after(slot);
            let next = if too_old { next.max(cadence.at_or_after(slot, cadence.first_slot(oldest))) } else { next };
            if too_old {
                step.absent = step.absent.saturating_add(cadence.between(slot, next));
            }
            let next = self.past.unseen(cadence, site.since, next);
            let next_start_at = match &mut jittered {
                Some(jittered) => {
                    jittered.slot = next;
                    cadence.start(jittered.hash, next)
                }
                None => next,
            };
            top.0.at = next;
            drop(top);
            if too_old {
                continue;
            }
            let late = now.wall.since(start_at);
            let passed = late > LATE_MAX_US || next_start_at <= now.wall;
            let kind = if passed { Kind::Missed } else { Kind::Serve };
            out.push(Due { id: queued.id, slot, start_at, kind });
            step.missed += u64::from(passed);
            step.late_us = step.late_us.max(late as u64);
        }
    }

    /// The slot of a site that has come and waits for its jitter.
    fn waiting(&self, id: u32, site: Site) -> Option<Due> {
        let cadence = self.cadences.get(site.cadence);
        let jittered = self.jittered.get(id as usize).filter(|_| cadence.jitter_us > 0)?;
        // What had come before a step was handed out then.
        (jittered.slot <= self.reached).then(|| cadence.due(id, *jittered))
    }

    /// Takes the reading of the clocks, and moves what is queued where the clock was stepped.
    fn read(&mut self, now: Now, out: &mut Vec<Due>, step: &mut Step) {
        let before = std::mem::replace(&mut self.now, now);
        let passed = now.boot.saturating_sub(before.boot);
        let suspended = passed.saturating_sub(now.mono.saturating_sub(before.mono));
        if suspended >= STEP_MIN_US as u64 {
            step.suspended_us = suspended;
        }
        let resumed = now.wall.plus(-i64::try_from(passed).unwrap_or(i64::MAX));
        let stepped = resumed.since(before.wall);
        if stepped.unsigned_abs() < STEP_MIN_US as u64 {
            self.reached = self.reached.max(now.wall);
            return;
        }
        step.clock_stepped_us = stepped;
        let reached = std::mem::replace(&mut self.reached, now.wall);
        self.past.step(reached, resumed);
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.retain_mut(|Reverse(queued)| {
            if !is_current(&self.sites, queued) {
                return false;
            }
            let site = self.sites[queued.id as usize];
            let cadence = self.cadences.get(site.cadence);
            let jittered = self.jittered.get_mut(queued.id as usize).filter(|_| cadence.jitter_us > 0);
            let slot = jittered.as_ref().map_or(queued.at, |jittered| jittered.slot);
            let waits = slot <= reached;
            if stepped > 0 && !waits && !self.past.is_jumped(slot) {
                return true;
            }
            let next = self.past.unseen(cadence, site.since, cadence.at_or_after(slot, resumed));
            if stepped < 0 && !waits && next >= slot {
                return true;
            }
            if waits {
                let start_at = jittered.as_ref().map_or(slot, |jittered| cadence.start(jittered.hash, slot));
                let late = i64::try_from(passed).unwrap_or(i64::MAX).saturating_sub(start_at.since(before.wall));
                let next_start_at = jittered.as_ref().map_or(next, |jittered| cadence.start(jittered.hash, next));
                let missed = late > LATE_MAX_US || next_start_at <= now.wall;
                let kind = if missed { Kind::Missed } else { Kind::Serve };
                out.push(Due { id: queued.id, slot, start_at, kind });
                step.missed += u64::from(missed);
                step.late_us = step.late_us.max(late.max(0).unsigned_abs());
            }
            if let Some(jittered) = jittered {
                jittered.slot = next;
            }
            queued.at = next;
            true
        });
        self.queue = queue.into();
    }
}

/// Whether an entry of the queue is the one of its site.
fn is_current(sites: &[Site], queued: &Queued) -> bool {
    let site = &sites[queued.id as usize];
    site.cadence != NONE && site.generation == queued.generation
}

/// Which wall clock the plan has seen, so that no slot is handed out twice after a step back.
#[derive(Debug)]
struct Past {
    /// Where the wall clock was at the start or after its last step.
    began: Timestamp,
    /// How long the plan had lived then.
    began_at: u64,
    /// The stretches before, between steps.
    lived: Vec<Lived>,
    /// The latest end of them.
    until: Timestamp,
    /// What the last step forwards jumped over, both ends excluded; empty after a step back.
    jumped: (Timestamp, Timestamp),
}

/// A stretch of wall clock without a step, both ends included, and how long the plan had lived when it began.
#[derive(Debug, Clone, Copy)]
struct Lived {
    from: Timestamp,
    to: Timestamp,
    at: u64,
}

impl Past {
    fn new(now: Now) -> Self {
        Self { began: now.wall, began_at: 0, lived: Vec::new(), until: Timestamp::MIN, jumped: (now.wall, now.wall) }
    }

    /// The clock was stepped when it had `reached` an instant, all slots up to which are handed out or wait for
    /// their jitter; it went on at `resumed`.
    fn step(&mut self, reached: Timestamp, resumed: Timestamp) {
        if self.lived.len() == LIVED_MAX {
            self.lived.remove(0);
        }
        self.lived.push(Lived { from: self.began, to: reached, at: self.began_at });
        self.until = self.lived.iter().map(|lived| lived.to).max().unwrap_or(Timestamp::MIN);
        self.jumped = (reached, resumed);
        self.began_at = self.lived_at(reached);
        self.began = resumed;
    }

    /// How long the plan had lived when the wall clock showed this since its last step: the stretches put one after
    /// the other. By the wall clock, so that small corrections, which are followed, move nothing.
    fn lived_at(&self, wall: Timestamp) -> u64 {
        self.began_at.saturating_add(u64::try_from(wall.since(self.began)).unwrap_or(0))
    }

    /// Whether a slot never was.
    fn is_jumped(&self, slot: Timestamp) -> bool {
        slot > self.jumped.0 && slot < self.jumped.1
    }

    /// The first slot at or after `slot`, which is one, that was not jumped over and that the wall clock has not
    /// passed while the site was in the plan.
    fn unseen(&self, cadence: Cadence, since: u64, mut slot: Timestamp) -> Timestamp {
        if self.is_jumped(slot) {
            slot = cadence.at_or_after(slot, self.jumped.1);
        }
        while let Some(seen) = self.seen(since, slot) {
            slot = cadence.at_or_after(slot, seen.to.plus(1));
        }
        slot
    }

    /// The stretch before a step in which the wall clock has passed a slot of a site in the plan.
    fn seen(&self, since: u64, slot: Timestamp) -> Option<&Lived> {
        if slot > self.until {
            return None;
        }
        self.lived.iter().find(|lived| {
            let absent = i64::try_from(since.saturating_sub(lived.at)).unwrap_or(i64::MAX);
            slot >= lived.from.plus(absent) && slot <= lived.to
        })
    }
}

/// Interval and jitter; most sites share a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cadence {
    interval_us: u64,
    jitter_us: u64,
}

impl Cadence {
    fn of(entry: &Entry) -> Self {
        let interval_us = entry.interval_us.max(1);
        Self { interval_us, jitter_us: entry.jitter_us.min(interval_us) }
    }

    fn start(self, hash: u64, slot: Timestamp) -> Timestamp {
        slot.plus(i64::try_from(slot::jitter(hash, slot, self.jitter_us)).unwrap_or(i64::MAX))
    }

    fn due(self, id: u32, jittered: Jittered) -> Due {
        let start_at = self.start(jittered.hash, jittered.slot);
        Due { id, slot: jittered.slot, start_at, kind: Kind::Serve }
    }

    /// The slot after `slot`.
    fn after(self, slot: Timestamp) -> Timestamp {
        slot.plus(i64::try_from(self.interval_us).unwrap_or(i64::MAX))
    }

    /// The first slot at or after `at` on the grid of `slot`.
    fn at_or_after(self, slot: Timestamp, at: Timestamp) -> Timestamp {
        let shift = i128::from(slot.0).rem_euclid(i128::from(self.interval_us));
        slot::at_or_after(shift as u64, self.interval_us, at)
    }

    /// Where slots begin that may start at or after `start_at`.
    fn first_slot(self, start_at: Timestamp) -> Timestamp {
        start_at.plus(-i64::try_from(self.jitter_us).unwrap_or(i64::MAX))
    }

    /// The slots from `from` to `to`, which both are slots, without the latter.
    fn between(self, from: Timestamp, to: Timestamp) -> u64 {
        to.0.abs_diff(from.0) / self.interval_us
    }
}

/// The cadences in use, each once.
#[derive(Debug, Default)]
struct Cadences {
    /// With how many sites use it.
    list: Vec<(Cadence, u32)>,
    numbers: HashMap<Cadence, u32>,
    free: Vec<u32>,
}

impl Cadences {
    fn get(&self, number: u32) -> Cadence {
        self.list[number as usize].0
    }

    fn take(&mut self, cadence: Cadence) -> u32 {
        let number = *self.numbers.entry(cadence).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.list.push((cadence, 0));
                (self.list.len() - 1) as u32
            })
        });
        let (kept, uses) = &mut self.list[number as usize];
        *kept = cadence;
        *uses += 1;
        number
    }

    fn give_back(&mut self, number: u32) {
        let (cadence, uses) = &mut self.list[number as usize];
        *uses -= 1;
        if *uses == 0 {
            self.numbers.remove(cadence);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::slots;
    use proptest::prelude::*;
    use sitemon_model::site::name_hash;
    use sitemon_model::time::{DAY, HOUR, SECOND};
    use std::collections::{BTreeMap, BTreeSet};

    const START: Timestamp = Timestamp(1_796_000_000_000_000);

    fn entry(name: &str, interval: i64, jitter: i64) -> Entry {
        Entry { hash: name_hash(name), interval_us: interval as u64, jitter_us: jitter as u64 }
    }

    /// A plan, its clocks, and everything that it handed out.
    struct World {
        now: Now,
        plan: Plan,
        entries: BTreeMap<u32, Entry>,
        seen: Vec<Due>,
        steps: Vec<Step>,
    }

    impl World {
        fn new() -> Self {
            let now = Now { wall: START, mono: 1_000_000, boot: 5_000_000 };
            let (entries, seen, steps) = (BTreeMap::new(), Vec::new(), Vec::new());
            Self { now, plan: Plan::new(now), entries, seen, steps }
        }

        fn with(sites: &[(u32, Entry)]) -> Self {
            let mut world = Self::new();
            for (id, entry) in sites {
                world.insert(*id, *entry);
            }
            world
        }

        fn insert(&mut self, id: u32, entry: Entry) {
            let pending = self.plan.insert(id, entry, self.now.wall);
            self.seen.extend(pending);
            self.entries.insert(id, entry);
        }

        fn pass(&mut self, micros: i64) {
            self.now.wall = self.now.wall.plus(micros);
            self.now.mono += micros as u64;
            self.now.boot += micros as u64;
        }

        fn suspend(&mut self, micros: i64) {
            self.now.wall = self.now.wall.plus(micros);
            self.now.boot += micros as u64;
        }

        fn step(&mut self, micros: i64) {
            self.now.wall = self.now.wall.plus(micros);
        }

        /// Asks once; for more where there is more.
        fn ask(&mut self) {
            while self.ask_for(7).more {}
        }

        fn ask_for(&mut self, out_max: usize) -> Step {
            let before = self.seen.len();
            let mut out = Vec::new();
            let step = self.plan.due(self.now, out_max, &mut out);
            self.seen.append(&mut out);
            let missed = self.seen[before..].iter().filter(|due| due.kind == Kind::Missed).count();
            assert_eq!(step.missed, missed as u64);
            self.steps.push(step);
            step
        }

        /// Lets time pass evenly, asking whenever the plan wants to be asked.
        fn run(&mut self, micros: i64) {
            let end = self.now.mono + micros as u64;
            while self.now.mono < end {
                let wake = self.plan.next_wake().clamp(self.now.mono, end);
                self.pass((wake - self.now.mono) as i64);
                self.ask();
            }
        }

        /// The slot of a site that is in the queue.
        fn next_slot(&self, id: u32) -> Timestamp {
            let plan = &self.plan;
            let queued = plan.queue.iter().find(|Reverse(queued)| queued.id == id && is_current(&plan.sites, queued));
            let jitter_us = plan.cadences.get(plan.sites[id as usize].cadence).jitter_us;
            let jittered = plan.jittered.get(id as usize).filter(|_| jitter_us > 0);
            jittered.map_or(queued.unwrap().0.at, |jittered| jittered.slot)
        }

        fn slots(&self, id: u32, kind: Kind) -> Vec<Timestamp> {
            self.seen.iter().filter(|due| due.id == id && due.kind == kind).map(|due| due.slot).collect()
        }

        fn expected(&self, id: u32, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
            let entry = self.entries[&id];
            slots(entry.hash, entry.interval_us, from, to).collect()
        }

        /// What was noticed, over all calls.
        fn noticed(&self) -> Step {
            self.steps.iter().fold(Step::default(), |sum, step| Step {
                clock_stepped_us: sum.clock_stepped_us + step.clock_stepped_us,
                suspended_us: sum.suspended_us + step.suspended_us,
                late_us: sum.late_us.max(step.late_us),
                missed: sum.missed + step.missed,
                absent: sum.absent + step.absent,
                more: false,
            })
        }
    }

    #[test]
    fn a_day_of_a_thousand_sites() {
        let mut state = 7_u64;
        let mut random = |below: i64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((u128::from(state) * below as u128) >> 64) as i64
        };
        let mut world = World::new();
        for id in 0..1000 {
            let interval = 30 * SECOND + random(3 * HOUR);
            let jitter = if id % 3 == 0 { random(2 * interval) } else { 0 };
            world.insert(id, entry(&format!("site {id}"), interval, jitter));
        }
        world.run(DAY);
        let end = world.now.wall;
        let mut found: BTreeMap<u32, Vec<Timestamp>> = BTreeMap::new();
        for due in world.seen.iter().copied().chain(world.plan.pending()) {
            assert_eq!(due.kind, Kind::Serve);
            let entry = world.entries[&due.id];
            let window = entry.jitter_us.min(entry.interval_us);
            assert_eq!(due.start_at.since(due.slot) as u64, slot::jitter(entry.hash, due.slot, window));
            found.entry(due.id).or_default().push(due.slot);
        }
        for id in 0..1000 {
            let expected = world.expected(id, START, end.plus(1));
            assert_eq!(found.remove(&id).unwrap_or_default(), expected, "site {id}");
        }
        assert!(world.seen.is_sorted_by_key(|due| due.start_at));
        assert_eq!(world.noticed(), Step::default());
    }

    #[test]
    fn a_pause_of_ten_seconds() {
        let mut world = World::with(&[(0, entry("shop", SECOND, 0)), (1, entry("a", 15 * SECOND, 0))]);
        world.run(60 * SECOND);
        let stopped = world.now.wall;
        world.pass(10 * SECOND);
        world.ask();
        let on = world.now.wall;
        world.run(60 * SECOND);
        // Of the site that is due each second the last slot came less than a second ago: late, but served.
        let of_second = world.expected(0, stopped.plus(1), on.plus(1));
        assert_eq!(world.slots(0, Kind::Missed), of_second[..9]);
        let served: Vec<_> = world
            .expected(0, START, world.now.wall.plus(1))
            .into_iter()
            .filter(|slot| !of_second[..9].contains(slot))
            .collect();
        assert_eq!(world.slots(0, Kind::Serve), served);
        let missed = world.expected(1, stopped.plus(1), on.plus(-LATE_MAX_US));
        assert_eq!(world.slots(1, Kind::Missed), missed);
        let noticed = world.noticed();
        assert_eq!((noticed.clock_stepped_us, noticed.suspended_us, noticed.absent), (0, 0, 0));
        assert_eq!(noticed.missed as usize, 9 + missed.len());
        assert!((9_000_000..=10_000_000).contains(&noticed.late_us));
    }

    #[test]
    fn a_little_late_is_lag() {
        let mut world = World::with(&[(0, entry("shop", 15 * SECOND, 0))]);
        let slot = world.expected(0, START, START.plus(15 * SECOND))[0];
        world.run(slot.since(START) - 1);
        world.pass(1 + LATE_MAX_US);
        world.ask();
        assert_eq!(world.slots(0, Kind::Serve), [slot]);
        assert_eq!(world.noticed().late_us, LATE_MAX_US as u64);
    }

    #[test]
    fn a_sleep_of_eight_hours() {
        let mut world = World::with(&[(0, entry("shop", 60 * SECOND, 0)), (1, entry("a", 6 * HOUR, 0))]);
        world.run(HOUR);
        let asleep = world.now.wall;
        world.suspend(8 * HOUR);
        world.ask();
        let awake = world.now.wall;
        world.run(HOUR);
        assert_eq!(world.slots(0, Kind::Missed), world.expected(0, awake.plus(-HOUR), awake.plus(-LATE_MAX_US)));
        let mut served = world.expected(0, START, asleep.plus(1));
        served.extend(world.expected(0, awake.plus(-LATE_MAX_US), world.now.wall.plus(1)));
        assert_eq!(world.slots(0, Kind::Serve), served);
        let long = |from: Timestamp, to: Timestamp| world.expected(1, from, to);
        assert_eq!(world.slots(1, Kind::Missed), long(awake.plus(-HOUR), awake.plus(-LATE_MAX_US)));
        let absent =
            long(asleep.plus(1), awake.plus(-HOUR)).len() + world.expected(0, asleep.plus(1), awake.plus(-HOUR)).len();
        let noticed = world.noticed();
        assert_eq!(
            (noticed.absent, noticed.suspended_us, noticed.clock_stepped_us),
            (absent as u64, 8 * HOUR as u64, 0)
        );
    }

    /// The slots that are handed out when the clock is stepped after a minute, as they were to be handed out.
    #[track_caller]
    fn check_step(by: i64, before: i64, expected: impl Fn(&World, Timestamp) -> Vec<Timestamp>) {
        let mut world = World::with(&[(0, entry("shop", 15 * SECOND, 0))]);
        world.run(before);
        let stepped_at = world.now.wall;
        world.step(by);
        world.run(3 * HOUR);
        assert_eq!(world.slots(0, Kind::Serve), expected(&world, stepped_at), "{by}");
        assert_eq!(world.slots(0, Kind::Missed), []);
        let noticed = world.noticed();
        assert_eq!((noticed.clock_stepped_us, noticed.suspended_us, noticed.absent), (by, 0, 0));
    }

    #[test]
    fn steps_forwards_jump_over_slots() {
        for by in [SECOND, HOUR, 8 * HOUR] {
            check_step(by, 60 * SECOND, |world, at| {
                let mut slots = world.expected(0, START, at.plus(1));
                slots.extend(world.expected(0, at.plus(by), world.now.wall.plus(1)));
                slots
            });
        }
    }

    #[test]
    fn steps_back_repeat_no_slot() {
        for (by, before) in [(SECOND, 60 * SECOND), (SECOND, 2 * HOUR), (HOUR, 2 * HOUR)] {
            check_step(-by, before, |world, _| world.expected(0, START, world.now.wall.plus(1)));
        }
    }

    /// What passed before the site came into the plan was not handed out, so it is now; then the site waits.
    #[test]
    fn steps_back_before_the_start_are_new_slots() {
        check_step(-HOUR, 60 * SECOND, |world, at| {
            let mut slots = world.expected(0, START, at.plus(1));
            slots.extend(world.expected(0, at.plus(-HOUR), START));
            slots.extend(world.expected(0, at.plus(1), world.now.wall.plus(1)));
            slots
        });
        // A clock that was ten years ahead does not stop the schedule for ten years.
        check_step(-10 * 365 * DAY, 60 * SECOND, |world, at| {
            let mut slots = world.expected(0, START, at.plus(1));
            slots.extend(world.expected(0, at.plus(-10 * 365 * DAY), world.now.wall.plus(1)));
            slots
        });
    }

    #[test]
    fn back_and_forth() {
        let mut world = World::with(&[(0, entry("shop", SECOND, 0))]);
        for by in [-20, 50, -70, -70, 100, 100, -30] {
            world.run(100 * SECOND);
            world.step(by * SECOND);
        }
        let slots = world.slots(0, Kind::Serve);
        let unique: BTreeSet<_> = slots.iter().collect();
        assert_eq!(unique.len(), slots.len());
        assert_eq!(world.slots(0, Kind::Missed), []);
    }

    #[test]
    fn slow_corrections_are_followed() {
        let mut world = World::with(&[(0, entry("shop", SECOND, 0))]);
        for round in 0..1000 {
            world.run(500_000);
            world.step(if round < 500 { 40_000 } else { -40_000 });
        }
        assert_eq!(world.slots(0, Kind::Serve), world.expected(0, START, START.plus(500 * SECOND)));
        assert_eq!(world.noticed().clock_stepped_us, 0);
        assert!(world.noticed().late_us <= 40_000);
    }

    #[test]
    fn a_changed_interval() {
        let (old, new) = (entry("shop", 15 * SECOND, 0), entry("shop", 7 * SECOND, 0));
        let mut world = World::with(&[(0, old)]);
        world.run(100 * SECOND);
        let changed = world.now.wall;
        let mut expected = world.expected(0, START, changed.plus(1));
        assert_eq!(world.plan.replace(0, old), None);
        assert_eq!(world.plan.replace(0, new), None);
        world.entries.insert(0, new);
        world.run(100 * SECOND);
        expected.extend(world.expected(0, changed.plus(1), world.now.wall.plus(1)));
        assert_eq!(world.slots(0, Kind::Serve), expected);
        assert_eq!(world.plan.len(), 1);
    }

    #[test]
    fn added_and_removed() {
        let mut world = World::with(&[(0, entry("shop", 15 * SECOND, 0)), (3, entry("a", SECOND, 0))]);
        world.run(60 * SECOND);
        assert_eq!(world.plan.remove(3), None);
        assert_eq!(world.plan.remove(3), None);
        assert_eq!(world.plan.remove(77), None);
        let gone = world.now.wall;
        world.run(60 * SECOND);
        assert_eq!(world.slots(3, Kind::Serve), world.expected(3, START, gone.plus(1)));
        let back = world.now.wall;
        world.insert(3, entry("a", SECOND, 0));
        world.run(60 * SECOND);
        let since_then: Vec<_> = world.slots(3, Kind::Serve).into_iter().filter(|slot| *slot > gone).collect();
        assert_eq!(since_then, world.expected(3, back, world.now.wall.plus(1)));
        assert_eq!(world.slots(0, Kind::Serve), world.expected(0, START, world.now.wall.plus(1)));
        assert_eq!(world.plan.len(), 2);
        // A site that came and went a hundred thousand times leaves nothing behind.
        for _ in 0..100_000 {
            world.plan.insert(9, entry("b", HOUR, 0), world.now.wall);
        }
        assert!(world.plan.queue.len() < 2000 && world.plan.cadences.list.len() <= 3);
    }

    #[test]
    fn a_slot_that_waits_for_its_jitter_is_not_lost() {
        let jittered = entry("shop", 100 * SECOND, 99 * SECOND);
        let mut world = World::with(&[(0, jittered)]);
        let slot = world.expected(0, START, START.plus(100 * SECOND))[0];
        world.run(slot.since(START));
        let due = Due {
            id: 0,
            slot,
            start_at: slot.plus(slot::jitter(jittered.hash, slot, jittered.jitter_us) as i64),
            kind: Kind::Serve,
        };
        assert!(due.start_at > world.now.wall);
        assert_eq!(world.seen, []);
        assert_eq!(world.plan.pending(), [due]);
        assert_eq!(world.plan.replace(0, entry("shop", 7 * SECOND, 0)), Some(due));
        assert_eq!(world.plan.remove(0), None);
        world.plan.insert(0, jittered, slot);
        assert_eq!(world.plan.remove(0), Some(due));
        assert_eq!(world.plan.pending(), []);
    }

    /// A site that came after small corrections: what it was there for, and nothing else, was seen.
    #[test]
    fn a_step_back_over_the_coming_of_a_site_after_corrections() {
        for correction in [45_000, -45_000] {
            let shop = entry("shop", 100_000, 0);
            let mut world = World::with(&[(1, entry("a", SECOND, 0))]);
            world.run(10 * SECOND);
            for _ in 0..3 {
                world.step(correction);
                world.ask();
                world.run(10 * SECOND);
            }
            let came = world.now.wall;
            world.insert(0, shop);
            world.run(5 * SECOND);
            let stepped = world.now.wall;
            world.step(-8 * SECOND);
            world.run(20 * SECOND);
            let mut found = world.slots(0, Kind::Serve);
            found.sort_unstable();
            // Those before it came are new, those since were served once.
            assert_eq!(found, world.expected(0, stepped.plus(-8 * SECOND), world.now.wall.plus(1)), "{came}");
        }
    }

    /// Whichever way the clock is set while a slot waits for its jitter, its check is made once, and at once.
    #[test]
    fn a_slot_that_waits_when_the_clock_is_stepped() {
        let jittered = entry("shop", 100 * SECOND, 99 * SECOND);
        for by in [
            SECOND,
            10 * SECOND,
            95 * SECOND,
            HOUR + 7 * SECOND,
            -SECOND,
            -10 * SECOND,
            -95 * SECOND,
            -HOUR - 7 * SECOND,
        ] {
            let mut world = World::with(&[(0, jittered)]);
            let slot = world.expected(0, START, START.plus(100 * SECOND))[0];
            world.run(slot.since(START));
            assert_eq!((world.seen.len(), world.plan.pending().len()), (0, 1));
            // Less than a second after the slot: nobody needs to have looked at the clocks since.
            world.pass(SECOND / 2);
            world.step(by);
            world.ask();
            assert_eq!((world.slots(0, Kind::Serve), world.plan.pending().len()), (vec![slot], 0), "{by}");
            let since = world.now.wall;
            world.run(2 * HOUR);
            let later = world.expected(0, slot.plus(1).max(since), world.now.wall.plus(-99 * SECOND));
            let earlier = world.expected(0, since, START.min(slot));
            let found: BTreeSet<_> = world.slots(0, Kind::Serve)[1..].iter().copied().collect();
            assert!(later.iter().chain(&earlier).all(|slot| found.contains(slot)), "{by}: {found:?}");
            assert!(!found.contains(&slot) && world.slots(0, Kind::Missed).is_empty(), "{by}");
        }
        // A pause that lasted longer than it had to wait is told all the same.
        let mut world = World::with(&[(0, jittered)]);
        let slot = world.expected(0, START, START.plus(100 * SECOND))[0];
        world.run(slot.since(START));
        world.pass(100 * SECOND);
        world.step(-HOUR);
        world.ask();
        assert_eq!((world.slots(0, Kind::Missed)[0], world.slots(0, Kind::Serve)), (slot, vec![]));
    }

    #[test]
    fn extremes() {
        let twenty_years = 20 * 365 * DAY;
        for wall in [Timestamp::MIN, Timestamp(-1), START, Timestamp::MAX.plus(-5), Timestamp::MAX] {
            let now = Now { wall, mono: u64::MAX - 10, boot: 0 };
            let mut plan = Plan::new(now);
            let mut out = Vec::new();
            for (id, interval) in [0, 1, 100_000, twenty_years, i64::MAX, -1].into_iter().enumerate() {
                for (add, from) in [(0, Timestamp::MIN), (10, Timestamp::MAX), (20, wall)] {
                    plan.insert(id as u32 + add, entry("shop", interval.max(0), 0), from);
                    plan.insert(id as u32 + add + 30, entry("shop", interval, -1), from);
                }
            }
            let mut clock = now;
            for (passed, stepped) in
                [(0, 0), (1, i64::MIN), (u64::MAX, i64::MAX), (5, 5), (u64::MAX, i64::MIN), (0, i64::MAX)]
            {
                clock.wall = clock.wall.plus(stepped);
                clock.mono = clock.mono.wrapping_add(passed);
                clock.boot = clock.boot.saturating_add(passed);
                out.clear();
                let step = plan.due(clock, 100, &mut out);
                assert!(out.len() <= 100 + 60 && step.missed <= 160);
                assert!(step.more || plan.next_wake() >= clock.mono);
                plan.pending();
            }
            assert_eq!(plan.len(), 36);
        }
    }

    /// What a plan goes through.
    #[derive(Debug, Clone)]
    enum Event {
        Run(i64),
        Pause(i64),
        Suspend(i64),
        /// A pause after which less is asked for than is due.
        Hurry(i64),
        Step(i64),
        Insert(u32, i64, i64),
        Remove(u32),
        Replace(u32, i64, i64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let cadence = || (0_u32..4, 100_000..40 * SECOND, prop_oneof![Just(0), 1..50 * SECOND]);
        let event = prop_oneof![
            6 => (1..100 * SECOND).prop_map(Event::Run),
            2 => (1..100 * SECOND).prop_map(Event::Pause),
            1 => (1..2 * HOUR).prop_map(Event::Suspend),
            2 => (1..100 * SECOND).prop_map(Event::Hurry),
            3 => (-200 * SECOND..200 * SECOND).prop_map(Event::Step),
            4 => cadence().prop_map(|(id, interval, jitter)| Event::Insert(id, interval, jitter)),
            1 => (0_u32..4).prop_map(Event::Remove),
            2 => cadence().prop_map(|(id, interval, jitter)| Event::Replace(id, interval, jitter)),
        ];
        prop::collection::vec(event, 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

        #[test]
        fn each_slot_exactly_once(events in events()) {
            let mut world = World::new();
            // By id: the entry, the wall clock at its insertion, and all wall clock passed since, as stretches.
            let mut present: BTreeMap<u32, (Entry, Vec<(Timestamp, Timestamp)>)> = BTreeMap::new();
            let (mut checked, mut more) = (0, false);
            let mut handed: BTreeMap<u32, BTreeMap<Timestamp, Kind>> = BTreeMap::new();
            for event in events {
                let (mut pending, mut touched) = (None, None);
                let hurried = matches!(event, Event::Hurry(_));
                if more && !hurried && !matches!(event, Event::Step(_)) {
                    world.ask();
                }
                more = false;
                match event {
                    Event::Run(micros) => world.run(micros),
                    Event::Pause(micros) => { world.pass(micros); world.ask(); }
                    Event::Suspend(micros) => { world.suspend(micros); world.ask(); }
                    Event::Hurry(micros) => { world.pass(micros); more = world.ask_for(3).more; }
                    Event::Step(micros) => {
                        world.step(micros);
                        let unread = world.now.boot - world.plan.now.boot;
                        let resumed = world.now.wall.plus(-(unread as i64));
                        world.ask();
                        if micros.abs() >= STEP_MIN_US {
                            for (_, stretches) in present.values_mut() {
                                stretches.push((resumed, resumed));
                            }
                        }
                    }
                    Event::Insert(id, interval, jitter) => {
                        let entry = entry("shop", interval, jitter);
                        pending = world.plan.insert(id, entry, world.plan.reached.plus(1));
                        touched = Some((id, Some(entry)));
                    }
                    Event::Replace(id, interval, jitter) => {
                        let entry = entry("shop", interval, jitter);
                        pending = world.plan.replace(id, entry);
                        touched = Some((id, Some(entry)));
                    }
                    Event::Remove(id) => {
                        pending = world.plan.remove(id);
                        touched = Some((id, None));
                    }
                }
                world.seen.extend(pending);
                for due in &world.seen[checked..] {
                    let twice = handed.entry(due.id).or_default().insert(due.slot, due.kind);
                    prop_assert!(twice.is_none(), "{:?} twice", due);
                }
                checked = world.seen.len();
                if let Some((id, entry)) = touched {
                    handed.remove(&id);
                    present.remove(&id);
                    if let Some(entry) = entry {
                        present.insert(id, (entry, vec![(world.plan.reached.plus(1), world.now.wall)]));
                    }
                }
                let waiting = world.plan.pending();
                for (id, (entry, stretches)) in &mut present {
                    if let Some(last) = stretches.last_mut() {
                        last.1 = last.1.max(world.plan.now.wall);
                    }
                    let own = handed.entry(*id).or_default();
                    let mut passed = BTreeSet::new();
                    for (from, to) in stretches.iter() {
                        passed.extend(slots(entry.hash, entry.interval_us, *from, to.plus(1)));
                    }
                    let found: BTreeSet<_> =
                        own.keys().copied().chain(waiting.iter().filter(|due| due.id == *id).map(|due| due.slot)).collect();
                    prop_assert!(found.is_subset(&passed), "handed out though it never was: {:?}", found.difference(&passed));
                    // What had come before a step back, but was not asked for, comes when the clock is there again.
                    let next = world.next_slot(*id);
                    let lost = passed.difference(&found).filter(|slot| **slot < next).count() as u64;
                    prop_assert!(more || lost <= world.noticed().absent, "{} lost", lost);
                }
            }
        }
    }
}
