//! What must be in the store after what has happened, told from the clocks and the sites alone.
//!
//! The schedule is computed anew here, from the rule in the interface and from where the clocks were: a slot
//! comes due when the wall clock reaches it while its site is watched, whoever looked at it when.

use crate::rival::{self, ELSEWHERE, RivalNote};
use crate::scenario::{Config, End, NO_LIMIT, Scenario};
use crate::site::Answer;
use crate::world::{CheckNote, LifeNote, Notes, Stored};
use sitemon_model::observation::Key;
use sitemon_model::{Code, Job, Observation, Reason, Timestamp, Verdict, line, time};
use sitemon_schedule::plan::{LATE_MAX_US, MISSED_MAX_US, SLEEP_MAX_US, STEP_MIN_US};
use sitemon_schedule::slot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the millisecond of the runtime's timer, and the work of one wake-up, may add to an instant.
const GRAIN: u64 = 4_000;
/// What nothing delays is in the store so long after the end of its check, beside the flush.
const DELIVERED: u64 = 100_000;
/// A writer that could not write has caught up so long after it can again: pauses and flushes add up.
const RECOVERED: u64 = 5_000_000;
/// A process that did not run for so long says so of the checks that were under way.
const PAUSED_AFTER: u64 = 2_000_000;
/// A process may not notice that it did not run for less than this; what is more is no excuse before it is a quarter of
/// the timeout.
const UNSEEN: u64 = 100_000 + GRAIN;

/// A slot that came due, or may have.
#[derive(Debug, Clone)]
struct Due {
    life: usize,
    config: Config,
    slot: Timestamp,
    /// When.
    at: u64,
    /// Whether there must be an observation of it.
    must: bool,
    /// Of the site's time in the plan: a slot is served once in each.
    tenure: usize,
}

/// What is wrong; nothing, if all is well.
pub fn judge(scenario: &Scenario, notes: &Notes, stored: &Stored) -> Vec<String> {
    let mut judge = Judge { scenario, notes, wrong: Vec::new() };
    judge.reads(stored);
    judge.acknowledged(stored);
    judge.rivals(stored);
    judge.drops();
    let dues = judge.dues();
    judge.served_once(&dues);
    judge.observations(&dues, stored);
    judge.missing(&dues, stored);
    judge.wrong
}

struct Judge<'a> {
    scenario: &'a Scenario,
    notes: &'a Notes,
    wrong: Vec<String>,
}

type Dues = BTreeMap<(Arc<str>, Timestamp), Vec<Due>>;

impl Judge<'_> {
    fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    /// A read gives each slot once, in order, and packing changes nothing.
    fn reads(&mut self, stored: &Stored) {
        for found in [&stored.before, &stored.after] {
            if let Some(pair) = found.windows(2).find(|pair| pair[0].key() >= pair[1].key()) {
                self.wrong(format!("out of order, or twice: {:?}", pair[1].key()));
            }
        }
        let lines = |found: &[Arc<Observation>]| found.iter().map(|one| line::to_string(one)).collect::<Vec<_>>();
        let (before, after) = (lines(&stored.before), lines(&stored.after));
        if let Some((before, after)) = before.iter().zip(&after).find(|(before, after)| before != after) {
            self.wrong(format!("packing changed {before} into {after}"));
        } else if before.len() != after.len() {
            self.wrong(format!("packing made {} observations of {}", after.len(), before.len()));
        }
    }

    /// What was acknowledged is there.
    fn acknowledged(&mut self, stored: &Stored) {
        let there: BTreeSet<Key> = stored.before.iter().map(|one| one.key()).collect();
        let lost = self.notes.acknowledged.iter().find(|key| !there.contains(key)).cloned();
        if let Some(key) = lost {
            self.wrong(format!("acknowledged, and not in the store: {} of {}", key.scheduled_at, key.site));
        }
    }

    /// Of what another checker published for a slot that stays which goes before all others that are there for certain.
    fn rivals(&mut self, stored: &Stored) {
        let mut rivals: BTreeMap<Key, Vec<&RivalNote>> = BTreeMap::new();
        for note in &self.notes.rivals {
            rivals.entry(note.observation.key()).or_default().push(note);
        }
        let there = |note: &&&RivalNote| {
            let life = &self.notes.lives[note.life];
            note.acknowledged || note.last && life.failure.is_none()
        };
        let found = stored.before.iter().filter(|found| &*found.location == ELSEWHERE);
        let found: BTreeMap<Key, &Arc<Observation>> = found.map(|found| (found.key(), found)).collect();
        let mut wrong = Vec::new();
        for (key, notes) in &rivals {
            let best = notes.iter().filter(there).map(|note| rival::rank(&note.observation)).min();
            match (found.get(key), best) {
                (None, None) => {}
                (None, Some((.., line))) => wrong.push(format!("taken, and not in the store: {line}")),
                (Some(found), best) => {
                    let rank = rival::rank(found);
                    if !notes.iter().any(|note| rival::rank(&note.observation) == rank) {
                        wrong.push(format!("nobody published {}", rank.2));
                    } else if let Some((.., line)) = best.filter(|best| *best < rank) {
                        wrong.push(format!("{} stays, and not {line}", rank.2));
                    }
                }
            }
        }
        wrong.extend(
            found.keys().filter(|key| !rivals.contains_key(key)).map(|key| format!("nobody published {key:?}")),
        );
        self.wrong.extend(wrong);
    }

    /// Nothing is given up but where store or bus did not do well, or more came at once than may be held.
    fn drops(&mut self) {
        for (number, life) in self.notes.lives.iter().enumerate() {
            for pair in life.dropped.windows(2) {
                let [(from, before), (to, after)] = *pair else { continue };
                let why = |from: u64, to: u64| {
                    life.troubles.iter().any(|trouble| trouble.0 <= to && trouble.1.saturating_add(RECOVERED) >= from)
                        || life.dark(from.saturating_sub(RECOVERED), to)
                };
                if after > before && !why(from, to) {
                    self.wrong.push(format!(
                        "{} observations were given up in life {number} between {from} and {to}, and nothing was wrong",
                        after - before
                    ));
                }
            }
        }
    }

    /// All slots that came due in any life.
    fn dues(&self) -> Dues {
        let mut dues = Dues::new();
        for (number, life) in self.notes.lives.iter().enumerate() {
            let names: BTreeSet<&Arc<str>> =
                life.sites.iter().flat_map(|(_, sites)| sites.iter().map(|site| &site.name)).collect();
            for name in names {
                for (tenure, (from, to, config)) in tenures(life, name).into_iter().enumerate() {
                    for due in due_in(life, number, &config, tenure, from, to) {
                        dues.entry((name.clone(), due.slot)).or_default().push(due);
                    }
                }
            }
        }
        dues
    }

    /// No slot is checked twice while its site stays in the plan.
    fn served_once(&mut self, dues: &Dues) {
        let mut counts: BTreeMap<(usize, &Arc<str>, Timestamp), usize> = BTreeMap::new();
        for check in self.notes.checks.iter().filter(|check| check.reason == Reason::Schedule) {
            *counts.entry((check.life, &check.site, check.slot)).or_default() += 1;
        }
        for ((life, site, slot), count) in counts.into_iter().filter(|(_, count)| *count > 1) {
            let dues = dues.get(&(site.clone(), slot)).into_iter().flatten();
            let tenures: BTreeSet<usize> = dues.filter(|due| due.life == life).map(|due| due.tenure).collect();
            if count > tenures.len() {
                self.wrong(format!("{slot} of {site} was checked {count} times in life {life}"));
            }
        }
    }

    /// Each observation is one that there should be, and says what its site did.
    fn observations(&mut self, dues: &Dues, stored: &Stored) {
        for found in ours(stored) {
            let said = line::to_string(found);
            if found.reason == Reason::Request {
                if let Err(why) = self.requested(found) {
                    self.wrong(format!("{why}: {said}"));
                }
                continue;
            }
            let Some(dues) = dues.get(&(found.site.clone(), found.scheduled_at)) else {
                self.wrong(format!("no slot came due then: {said}"));
                continue;
            };
            let reasons: Vec<String> = dues.iter().filter_map(|due| self.acceptable(due, found).err()).collect();
            if reasons.len() == dues.len() {
                self.wrong(format!("{}: {said}", reasons.join("; ")));
            }
        }
    }

    fn requested(&self, found: &Observation) -> Result<(), String> {
        let asked = |life: &LifeNote| {
            life.jobs.iter().any(|(_, job)| job.site == found.site && job.scheduled_at == found.scheduled_at)
        };
        let Some(life) = self.notes.lives.iter().position(asked) else { return Err("nobody asked for it".into()) };
        self.says_what_the_site_did(life, found).map(|_| ()).or_else(|why| match code(found) {
            Some(Code::OwnFailure | Code::Stopped | Code::SkippedOverload) => Ok(()),
            _ => Err(why),
        })
    }

    /// Whether an observation is what may become of a slot.
    fn acceptable(&self, due: &Due, found: &Observation) -> Result<(), String> {
        let life = &self.notes.lives[due.life];
        // After a step back there may be two, of which one is told of.
        let apart = |check: &&CheckNote| found.started_at.map(|at| check.began_wall.since(at).abs());
        let check = self.checks(due.life, &due.config.name, due.slot, Reason::Schedule).min_by_key(apart);
        let jitter = slot::jitter(sitemon_model::site::name_hash(&due.config.name), due.slot, jitter_of(&due.config));
        let (from, to) = (due.at, due.at + jitter);
        // A check that waited for the one before is made as its site is configured then.
        let began = check.map_or(to + time::micros(due.config.interval), |check| check.began);
        if found.interval_us != time::micros(due.config.interval) && !life.changed(from, began) {
            return Err("another interval was in force".into());
        }
        let Some(code) = code(found) else {
            let check = self.says_what_the_site_did(due.life, found)?;
            if life.disturbed(from, check.began.max(to)) || self.waits_its_turn(due, check.began) {
                return Ok(());
            }
            if check.began > to + GRAIN {
                return Err(format!("the check began {} µs late", check.began - to));
            }
            // At a change, and at the end, what waits for its jitter is served at once.
            if check.began + GRAIN < to && life.to > check.began && !life.changed(due.at, check.began) {
                return Err(format!("the check began at {}, before its start at {to}", check.began));
            }
            return Ok(());
        };
        match code {
            Code::SkippedOverload => {
                if life.disturbed(from, to + GRAIN) || self.gated() {
                    Ok(())
                } else {
                    Err("the process was there when the slot came".into())
                }
            }
            Code::SkippedOverlap => {
                // After a step the lane looks up to a second later.
                let look = if life.disturbed(from, to) { SLEEP_MAX_US + GRAIN } else { GRAIN };
                let running = |check: &&CheckNote| {
                    check.life == due.life
                        && check.site == due.config.name
                        && check.reason == Reason::Schedule
                        && check.slot != due.slot
                        && check.began <= life.awake(to) + look
                        && check.ended.is_none_or(|ended| ended + GRAIN >= from)
                };
                self.notes.checks.iter().find(running).map(|_| ()).ok_or("no other check was running".into())
            }
            Code::OwnFailure => {
                let Some(check) = check else { return Err("it was not checked".into()) };
                let ended = check.ended.unwrap_or(life.to + PAUSED_AFTER);
                let answer = Answer::of(self.scenario.seed, &due.config.name, due.slot);
                // One that waited for its turn may begin before the lane has looked at the clocks.
                let before = if self.gated() { SLEEP_MAX_US + GRAIN } else { GRAIN };
                if answer.panics || life.paused(check.began.saturating_sub(before), ended + GRAIN) > 0 {
                    Ok(())
                } else {
                    Err("nothing of ours failed".into())
                }
            }
            Code::Stopped => {
                let Some(End::Stop { grace }) = life.end else { return Err("nobody stopped it".into()) };
                let end = life.to + time::micros(grace);
                match check.and_then(|check| check.ended) {
                    Some(ended) if ended + 2 * GRAIN < end => Err("its check had ended".into()),
                    _ => Ok(()),
                }
            }
            other => Err(format!("{} is no reason", other.as_str())),
        }
    }

    /// Finds the check of an observation, and holds the verdict against what the seed says.
    fn says_what_the_site_did(&self, life: usize, found: &Observation) -> Result<&CheckNote, String> {
        let mut checks = self.checks(life, &found.site, found.scheduled_at, found.reason);
        let Some(check) = checks.find(|check| check.ended.is_some() && found.started_at == Some(check.began_wall))
        else {
            return Err("there is no such check".into());
        };
        let answer = Answer::of(self.scenario.seed, &found.site, found.scheduled_at);
        if found.timeout_us != time::micros(check.timeout) {
            return Err("another timeout was in force".into());
        }
        match answer.within(check.timeout) {
            Some(verdict) if verdict != found.verdict && !self.unseen(life, check, &answer, found) => {
                Err(format!("the site was {verdict:?}"))
            }
            _ => Ok(check),
        }
    }

    /// Whether the process did not run for a time during a check that is too short to be noticed, and long enough for
    /// a check to run out of time; or that an answer that was there in the end came too late.
    fn unseen(&self, life: usize, check: &CheckNote, answer: &Answer, found: &Observation) -> bool {
        let paused = self.notes.lives[life].paused(check.began, check.ended.unwrap_or(check.began));
        if paused > 0 && found.verdict == answer.verdict {
            return true;
        }
        paused > 0 && paused <= time::micros(check.timeout) / 4 + UNSEEN
    }

    fn checks(
        &self,
        life: usize,
        site: &Arc<str>,
        slot: Timestamp,
        reason: Reason,
    ) -> impl Iterator<Item = &CheckNote> {
        let same = move |check: &&CheckNote| {
            check.life == life && check.slot == slot && check.reason == reason && check.site == *site
        };
        self.notes.checks.iter().filter(same)
    }

    /// Whether the limits in flight may make checks wait.
    fn gated(&self) -> bool {
        self.scenario.in_flight != NO_LIMIT
    }

    /// Whether a check waited for a limit, or for the check of the slot before, until it began.
    fn waits_its_turn(&self, due: &Due, began: u64) -> bool {
        let before = |check: &CheckNote| {
            check.life == due.life
                && check.site == due.config.name
                && check.slot != due.slot
                && check.began <= began
                && check.ended.is_none_or(|ended| ended + GRAIN >= due.at)
        };
        self.gated() || self.notes.checks.iter().any(before)
    }

    /// Every slot that must have an observation has one, but for those that were counted.
    fn missing(&mut self, dues: &Dues, stored: &Stored) {
        let there: BTreeSet<(Arc<str>, Timestamp)> =
            ours(stored).map(|one| (one.site.clone(), one.scheduled_at)).collect();
        let mut missing: BTreeMap<usize, Vec<&Due>> = BTreeMap::new();
        for due in dues.iter().filter(|(key, _)| !there.contains(key)).flat_map(|(_, dues)| dues) {
            if due.must && !self.may_be_lost(due) {
                missing.entry(due.life).or_default().push(due);
            }
        }
        for (life, missing) in missing {
            let note = &self.notes.lives[life];
            let counted = note.dropped();
            if missing.len() as u64 > counted {
                let first: Vec<String> = missing
                    .iter()
                    .take(5)
                    .map(|due| format!("{} of {} (at {})", due.slot, due.config.name, due.at))
                    .collect();
                self.wrong(format!(
                    "{} slots of life {life} ({} to {}) have no observation, {counted} were counted as dropped: {}{}",
                    missing.len(),
                    note.from,
                    note.to,
                    first.join(", "),
                    if missing.len() > 5 { ", ..." } else { "" }
                ));
            }
        }
        for (number, life) in self.notes.lives.iter().enumerate() {
            for (at, job) in &life.jobs {
                if !there.contains(&(job.site.clone(), job.scheduled_at))
                    && must_be_done(life, *at, job)
                    && life.dropped() == 0
                {
                    self.wrong.push(format!(
                        "the job of {} for {} in life {number} has no observation",
                        job.scheduled_at, job.site
                    ));
                }
            }
        }
    }

    /// Whether the end of the process may have taken an observation with it.
    fn may_be_lost(&self, due: &Due) -> bool {
        let life = &self.notes.lives[due.life];
        if let Some(End::Stop { .. }) = life.end {
            // What could not be written until the end was counted.
            return false;
        }
        let known = match self.checks(due.life, &due.config.name, due.slot, Reason::Schedule).next() {
            Some(check) => check.ended,
            None => Some(due.at + jitter_of(&due.config) + time::micros(due.config.interval)),
        };
        let Some(known) = known else { return true };
        let safe = known + 2 * time::micros(self.scenario.flush) + DELIVERED + SLEEP_MAX_US;
        let trouble = life.troubles.iter().any(|(from, to)| *from <= life.to && *to + 3_000_000 >= due.at);
        safe > life.to || trouble || life.dark(due.at, life.to)
    }
}

/// What the process itself observed.
fn ours(stored: &Stored) -> impl Iterator<Item = &Arc<Observation>> {
    stored.before.iter().filter(|found| &*found.location != ELSEWHERE)
}

/// Why an observation is unknown.
fn code(found: &Observation) -> Option<Code> {
    match &found.verdict {
        Verdict::Unknown(causes) => causes.first().map(|cause| cause.code),
        _ => None,
    }
}

/// Whether a job by request must have been done.
fn must_be_done(life: &LifeNote, at: u64, job: &Job) -> bool {
    let known = life.sites.iter().rfind(|(from, _)| *from <= at);
    let watched = known.is_some_and(|(_, sites)| sites.iter().any(|site| site.name == job.site));
    let alone =
        life.jobs.iter().filter(|(other, asked)| asked.site == job.site && other.abs_diff(at) < 60_000_000).count()
            == 1;
    let calm = !life.troubles.iter().any(|(from, to)| *from <= at + 5_000_000 && *to >= at);
    let ended = matches!(life.end, Some(End::Stop { .. })) && life.failure.is_none() && life.to > at + GRAIN;
    watched && alone && calm && ended
}

fn jitter_of(config: &Config) -> u64 {
    time::micros(config.jitter.min(config.interval))
}

/// The stretches in which a site was in the plan with the same interval and jitter.
fn tenures(life: &LifeNote, name: &Arc<str>) -> Vec<(u64, u64, Config)> {
    let mut tenures: Vec<(u64, u64, Config)> = Vec::new();
    for (index, (from, sites)) in life.sites.iter().enumerate() {
        let to = life.sites.get(index + 1).map_or(life.to, |(next, _)| *next);
        let Some(config) = sites.iter().find(|site| site.name == *name && site.enabled) else { continue };
        match tenures.last_mut() {
            Some((_, end, before))
                if *end == *from && before.interval == config.interval && before.jitter == config.jitter =>
            {
                *end = to;
            }
            _ => tenures.push((*from, to, config.clone())),
        }
    }
    tenures
}

/// The slots of a site that came due from one instant to another, and those that may have.
fn due_in(life: &LifeNote, number: usize, config: &Config, tenure: usize, from: u64, to: u64) -> Vec<Due> {
    let hash = sitemon_model::site::name_hash(&config.name);
    let interval = time::micros(config.interval);
    let mut dues: BTreeMap<Timestamp, Vec<Due>> = BTreeMap::new();
    let mut add = |slot: Timestamp, at: u64, must: bool| {
        let known = dues.entry(slot).or_default();
        // It may have been served the first time, and must have been by the time that it came for certain.
        if !known.iter().any(|due| due.must) {
            known.push(Due { life: number, config: config.clone(), slot, at, must, tenure });
        }
    };
    for (index, &(start, ahead)) in life.ahead.iter().enumerate() {
        let end = life.ahead.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
        let (first, last) = (start.max(from), end.min(to));
        let stepped = (index > 0).then(|| ahead - life.ahead[index - 1].1);
        if let Some(by) = stepped.filter(|_| (from..=to).contains(&start)) {
            let wall = |at: u64| Timestamp(at as i64 + ahead);
            if by.abs() < STEP_MIN_US {
                // Followed: what it passed over comes due at once.
                for slot in slot::slots(hash, interval, wall(start).plus(-by.max(0) + 1), wall(start).plus(1)) {
                    add(slot, start, true);
                }
            } else {
                // Nobody knows when after the last look the clock was set.
                let reach = SLEEP_MAX_US as i64 + GRAIN as i64;
                for slot in slot::slots(hash, interval, wall(start).plus(-reach), wall(start).plus(1)) {
                    add(slot, start, false);
                }
            }
        }
        if first > last {
            continue;
        }
        // Right before a step the lane may not have looked any more.
        let next = life.ahead.get(index + 1).filter(|(next, _)| *next <= to);
        let vague = match next {
            Some((next, after)) if (after - ahead).abs() >= STEP_MIN_US => next - GRAIN..=*next,
            _ => u64::MAX..=u64::MAX,
        };
        let wall = |at: u64| Timestamp(at as i64 + ahead);
        // At the very start of a stretch that is not the site's first, the slot belongs to the one before.
        let first_wall = if first == from { wall(first) } else { wall(first).plus(1) };
        for slot in slot::slots(hash, interval, first_wall, wall(last).plus(1)) {
            let at = (slot.0 - ahead) as u64;
            let must = !vague.contains(&at);
            let start = at + slot::jitter(hash, slot, jitter_of(config));
            // What waits for its jitter when its site leaves the plan is served then.
            match life.absent(start.min(to)) {
                // A step before its start makes that come at once.
                Some(_) if life.stepped(at, start) => add(slot, at, must),
                Some(true) => {}
                Some(false) => add(slot, at, false),
                None => add(slot, at, must),
            }
        }
    }
    dues.into_values().flatten().collect()
}

impl LifeNote {
    /// How many observations it counted as given up.
    fn dropped(&self) -> u64 {
        self.dropped.last().map_or(0, |(_, count)| *count)
    }

    /// Whether the process did not run for some of this time.
    fn dark(&self, from: u64, to: u64) -> bool {
        self.dark.iter().any(|dark| dark.0 <= to && dark.1 + GRAIN >= from)
    }

    /// Whether in this time, or right before it, the process did not run or a clock was set: lanes look at the clocks
    /// once a second.
    fn disturbed(&self, from: u64, to: u64) -> bool {
        let near = |first: u64, last: u64| first <= to && last + SLEEP_MAX_US + GRAIN >= from;
        self.dark.iter().any(|dark| near(dark.0, dark.1)) || self.ahead.iter().skip(1).any(|(at, _)| near(*at, *at))
    }

    /// When the process, at this instant or after it, ran and had looked at the clocks.
    fn awake(&self, at: u64) -> u64 {
        let set = self.ahead.iter().skip(1).map(|(at, _)| (*at, *at));
        let near = |dark: &(u64, u64)| (dark.0..=dark.1 + SLEEP_MAX_US + GRAIN).contains(&at);
        self.dark.iter().copied().chain(set).filter(near).map(|dark| dark.1 + SLEEP_MAX_US).max().unwrap_or(at)
    }

    /// Whether another configuration came into force in this time.
    fn changed(&self, from: u64, to: u64) -> bool {
        self.sites.iter().any(|(at, _)| (from..=to).contains(at))
    }

    /// Whether a clock was set in this time, by more than is followed as a correction.
    fn stepped(&self, from: u64, to: u64) -> bool {
        let far = |pair: &[(u64, i64)]| (pair[1].1 - pair[0].1).abs() >= STEP_MIN_US;
        self.ahead.windows(2).any(|pair| (from..=to).contains(&pair[1].0) && far(pair))
    }

    /// How long the process did not run in this time.
    fn paused(&self, from: u64, to: u64) -> u64 {
        self.dark.iter().map(|dark| dark.1.min(to).saturating_sub(dark.0.max(from))).sum()
    }

    /// Whether a slot whose start was due then is too old to be stored: one that passed while the process did not run,
    /// more than an hour before it was noticed. `Some(false)`: it may be.
    fn absent(&self, at: u64) -> Option<bool> {
        let dark = self.dark.iter().find(|dark| (dark.0..=dark.1).contains(&at))?;
        let (oldest, slack) = (dark.1.saturating_sub(MISSED_MAX_US as u64), SLEEP_MAX_US + LATE_MAX_US as u64);
        if at < oldest.saturating_sub(slack) { Some(true) } else { (at < oldest + slack).then_some(false) }
    }
}
