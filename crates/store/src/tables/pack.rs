//! Packing: arrivals become blocks, and statistics are written with them.
//!
//! What is to be packed is read and computed under a snapshot, a slice of series after the other; the driver then
//! has only to put finished rows down. The arrivals are removed at the very end. Whatever was put down before a
//! death is found again as an observation that is there already, so everything can be repeated. An hour is packed
//! after the other, so that blocks are appended in the order of their keys and pages stay full; only of a backlog with
//! few in each hour several hours are taken at once, so that a block of a day is not written anew for each of them.

use super::load::{EVIDENCE_MAX, goes_before, observation, read_block};
use super::span::Span;
use super::{Damaged, Driver, Entry, Latest, Reader, Selection, Tables};
use crate::record::{put_evidence, to_bytes};
use crate::{StoreError, Upkept, block};
use sitemon_model::time::{DAY, HOUR, SECOND};
use sitemon_model::{Observation, Reason, Timestamp};
use sitemon_stats::{Held, Rollup};
use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// How long after its end an hour is packed: checks that were under way then have ended, mostly.
const GRACE: i64 = 90 * SECOND;
/// Arrivals of closed hours at which packing does not wait for the next hour: a backlog is being delivered.
const BACKLOG: u64 = 1_000_000;
/// Arrivals that are held in memory at once; each takes some 300 bytes.
const SLICE: u64 = 150_000;
/// Bytes of finished rows that are put down in one transaction, about.
const TRANSACTION: usize = 2 << 20;
/// Shapes known to be in the file, of which no more than this number are remembered.
const KNOWN_MAX: usize = 200_000;
/// For evidence, which is text.
const LEVEL: i32 = 6;

/// What packing remembers from one time to the next.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    /// Up to where the hours were packed.
    closed: Option<i64>,
    /// What is older is past its retention.
    pruned: i64,
    /// Shapes that are in the file: the day of the latest block that has it, and the bytes.
    known: HashMap<i64, (i64, Box<[u8]>)>,
}

impl Packer {
    /// See [`crate::Upkeep::Pack`].
    pub(crate) fn pack(&mut self, driver: &impl Driver, now: i64, everything: bool) -> Result<Upkept, StoreError> {
        let closed = now.saturating_sub(GRACE).div_euclid(HOUR).saturating_mul(HOUR);
        let mut done = Upkept::default();
        if !everything && self.closed == Some(closed) {
            let waiting = driver.read(|reader| reader.tables.arrivals_count(&Selection(None), i64::MIN, closed))?;
            if waiting < BACKLOG {
                return Ok(done);
            }
        }
        self.closed = None;
        self.pruned = driver.read(|reader| reader.tables.pruned())?;
        let end = if everything { i64::MAX } else { closed };
        let mut mark = driver.mark(end)?;
        let bites = driver.read(|reader| {
            let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
            reader.each_entry(&Selection(None), end, |entry| {
                *counts.entry(Span::Hour.index(entry.slot)).or_default() += 1;
            })?;
            Ok(bites(&counts))
        })?;
        for (first, last) in bites {
            let (from, to) = (Span::Hour.start(first), Span::Hour.start(last.saturating_add(1)).min(end));
            let packed = self.arrived(driver, from, to, closed);
            if packed.is_err() {
                // What was thought to be in the store may have been rolled back.
                self.known.clear();
            }
            done.add(packed?);
            driver.packed(&mut mark, to)?;
        }
        driver.finish(mark, end)?;
        self.heads(driver, closed)?;
        self.closed = Some(closed);
        Ok(done)
    }

    /// Packs the arrivals of `[from, to)`.
    fn arrived(&mut self, driver: &impl Driver, from: i64, to: i64, closed: i64) -> Result<Upkept, StoreError> {
        let mut done = Upkept::default();
        let slices = driver.read(|reader| {
            let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
            reader.each_entry(&Selection(None), to, |entry| {
                if entry.slot >= from {
                    *counts.entry(entry.series).or_default() += 1;
                }
            })?;
            Ok(slices(&counts))
        })?;
        for selection in slices {
            let packed = driver.read(|reader| {
                let mut packed = vec![Packed::default()];
                for (series, arrived) in gather(&reader.tables, &selection, from, to)? {
                    done.arrivals += arrived.len() as u64;
                    if packed.last().is_none_or(|last| last.bytes >= TRANSACTION) {
                        packed.push(Packed::default());
                    }
                    if let Some(last) = packed.last_mut() {
                        Series::read(reader, series)?.pack(arrived, closed, self.pruned, &mut self.known, last)?;
                    }
                }
                Ok(packed)
            })?;
            for packed in packed {
                done.blocks += packed.blocks.len() as u64;
                driver.put(packed)?;
            }
        }
        Ok(done)
    }

    /// Writes the statistics of closed hours in which a series has only a verdict that reaches into them.
    fn heads(&mut self, driver: &impl Driver, closed: i64) -> Result<(), StoreError> {
        let series = driver.read(|reader| {
            let latest = reader.tables.latest(&Selection(None))?;
            let reaches = |latest: &Latest| latest.rolled < closed && latest.held.until.0 > latest.rolled;
            Ok(latest.into_iter().filter(|(_, latest)| reaches(latest)).map(|(series, _)| series).collect::<Vec<_>>())
        })?;
        for series in series.chunks(1000) {
            let packed = driver.read(|reader| {
                let mut packed = Packed::default();
                for series in series {
                    let series = Series::read(reader, *series)?;
                    series.pack(Vec::new(), closed, self.pruned, &mut self.known, &mut packed)?;
                }
                Ok(packed)
            })?;
            driver.put(packed)?;
        }
        Ok(())
    }
}

impl Upkept {
    /// Adds what was done besides.
    pub(super) fn add(&mut self, other: Self) {
        self.arrivals += other.arrivals;
        self.blocks += other.blocks;
        self.removed += other.removed;
        self.freed_bytes += other.freed_bytes;
    }
}

/// The first and the last of the hours that are packed at once, given how many arrivals lie in each: one, or several
/// while all of them are no more than are held in memory.
fn bites(counts: &BTreeMap<i64, u64>) -> Vec<(i64, i64)> {
    let mut bites: Vec<(i64, i64)> = Vec::new();
    let mut held = u64::MAX;
    for (hour, count) in counts {
        if let Some((_, last)) = bites.last_mut().filter(|_| held.saturating_add(*count) <= SLICE) {
            *last = *hour;
            held += count;
        } else {
            bites.push((*hour, *hour));
            held = *count;
        }
    }
    bites
}

/// Cuts the series into groups with about [`SLICE`] observations each.
fn slices(counts: &BTreeMap<i64, u64>) -> Vec<Selection> {
    let mut slices: Vec<Vec<i64>> = Vec::new();
    let mut held = u64::MAX;
    for (series, count) in counts {
        if let Some(last) = slices.last_mut().filter(|_| held.saturating_add(*count) <= SLICE) {
            last.push(*series);
            held += count;
        } else {
            slices.push(vec![*series]);
            held = *count;
        }
    }
    slices.into_iter().map(|ids| Selection(Some(ids))).collect()
}

/// Records with their slots.
type Records = Vec<(i64, Vec<u8>)>;

/// The arrivals of `[from, to)`, by series.
fn gather<T: Tables>(
    tables: &T,
    selection: &Selection,
    from: i64,
    to: i64,
) -> Result<BTreeMap<i64, Records>, T::Error> {
    let mut found: BTreeMap<i64, Records> = BTreeMap::new();
    let wanted = |entry: &Entry| entry.slot >= from && entry.slot < to && selection.contains(entry.series);
    tables.each_record(selection, from, to, wanted, |entry, record| {
        found.entry(entry.series).or_default().push((entry.slot, record.to_vec()));
        Ok(())
    })?;
    Ok(found)
}

/// Rows that are finished.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) blocks: Vec<PackedBlock>,
    /// Span, its number and series of blocks whose last observation went to the other kind of span.
    pub(crate) emptied: Vec<(Span, i64, i64)>,
    /// Span, its number, series, bytes.
    pub(crate) rollups: Vec<(Span, i64, i64, Vec<u8>)>,
    /// Id, day, bytes.
    pub(crate) shapes: Vec<(i64, i64, Box<[u8]>)>,
    /// Slot, series; `None`: none is kept.
    pub(crate) evidence: Vec<(i64, i64, Option<Vec<u8>>)>,
    pub(crate) latest: Vec<PackedLatest>,
    bytes: usize,
}

/// A block that is finished.
#[derive(Debug)]
pub(crate) struct PackedBlock {
    pub(crate) span: Span,
    /// The number of the span.
    pub(crate) index: i64,
    pub(crate) series: i64,
    /// How many observations are in it.
    pub(crate) count: usize,
    pub(crate) data: Vec<u8>,
    /// Whether there was none before.
    pub(crate) new: bool,
}

/// What is known of the latest observation of a series now.
#[derive(Debug)]
pub(crate) struct PackedLatest {
    pub(crate) series: i64,
    pub(crate) latest: Latest,
    /// `None`: the observation is the same.
    pub(crate) record: Option<Vec<u8>>,
}

/// One series while its arrivals are merged into its blocks.
struct Series<'r, T> {
    reader: &'r mut Reader<T>,
    id: i64,
    latest: Option<Latest>,
    reach_us: i64,
    /// The spans that were looked at, by their number.
    spans: BTreeMap<(Span, i64), Stored>,
}

/// A block as it is to be.
#[derive(Default)]
struct Stored {
    /// Sorted by slot, one for each.
    observations: Vec<Arc<Observation>>,
    /// What its head says.
    carried: Option<Held>,
    /// Whether there is one in the store.
    exists: bool,
    /// Whether its observations changed.
    changed: bool,
}

impl<'r, T: Tables> Series<'r, T> {
    fn read(reader: &'r mut Reader<T>, id: i64) -> Result<Self, T::Error> {
        let latest = reader.tables.latest(&Selection(Some(vec![id])))?.first().map(|(_, latest)| *latest);
        let reach_us = latest.map_or(0, |latest| latest.reach_us);
        Ok(Self { reader, id, latest, reach_us, spans: BTreeMap::new() })
    }

    /// Merges what arrived, and adds the rows that this makes or changes to `packed`.
    fn pack(
        mut self,
        mut arrived: Records,
        closed: i64,
        pruned: i64,
        known: &mut HashMap<i64, (i64, Box<[u8]>)>,
        packed: &mut Packed,
    ) -> Result<(), T::Error> {
        arrived.retain(|(slot, _)| *slot >= pruned);
        arrived.sort_by_key(|(slot, _)| *slot);
        let mut latest: Option<Arc<Observation>> = None;
        // By number of the hour: whether observations in it changed; else what is carried into it may have.
        let mut hours: BTreeMap<i64, bool> = BTreeMap::new();
        for (_, record) in arrived {
            let Reader { series, records, .. } = &mut *self.reader;
            let observation = Arc::new(observation(series, records, self.id, &record)?);
            let (slot, reason) = (observation.scheduled_at.0, observation.reason);
            let holds = observation.interval_us.saturating_add(observation.timeout_us);
            if self.add(&observation, packed)? && reason == Reason::Schedule {
                self.reach_us = self.reach_us.max(i64::try_from(holds).unwrap_or(i64::MAX));
                hours.insert(Span::Hour.index(slot), true);
            }
        }
        // A verdict that reaches beyond what was written.
        if let Some(Latest { held, rolled, .. }) = self.latest
            && held.until.0 > rolled
            && rolled < closed
        {
            hours.entry(Span::Hour.index(rolled)).or_insert(false);
        }
        let mut rolled = self.latest.map_or(i64::MIN, |latest| latest.rolled);
        let mut rollups: BTreeMap<i64, Rollup> = BTreeMap::new();
        let mut looked_at: BTreeSet<i64> = BTreeSet::new();
        while let Some((hour, changed)) = hours.pop_first() {
            looked_at.insert(hour);
            let (start, end) = (Span::Hour.start(hour), Span::Hour.start(hour + 1));
            let carried = self.carried(start)?;
            let observations = self.scheduled(start, end)?;
            let inside = || observations.iter().map(|observation| &**observation);
            if carried.is_some() || !observations.is_empty() {
                rollups.insert(hour, Rollup::of(Timestamp(start), Timestamp(end), carried, inside()));
                rolled = rolled.max(end);
            }
            if let Some(last) = observations.last()
                && latest.as_ref().is_none_or(|latest| latest.scheduled_at <= last.scheduled_at)
            {
                latest = Some(last.clone());
            }
            // Where an hour has observations of its own, what it carries on is as it was.
            let settled = !changed && !observations.is_empty();
            let after = Held::after(Timestamp(end), carried, inside());
            if after.is_some() && !settled && (end < closed || self.is_written(hour + 1)?) {
                hours.entry(hour + 1).or_insert(false);
            }
        }
        self.finish(&looked_at, known, packed)?;
        self.days(&rollups, packed)?;
        for (hour, rollup) in rollups {
            let data = rollup.encode();
            packed.bytes += data.len();
            packed.rollups.push((Span::Hour, hour, self.id, data));
        }
        let newer = |latest: &Arc<Observation>| self.latest.is_none_or(|known| known.held.from <= latest.scheduled_at);
        if let Some(latest) = latest.filter(newer) {
            let mut plain = Observation::clone(&latest);
            plain.evidence = None;
            let held = Held::of(&latest);
            let row = Latest { held, reach_us: self.reach_us, rolled };
            packed.latest.push(PackedLatest { series: self.id, latest: row, record: Some(to_bytes(&plain)) });
        } else if let Some(known) = self.latest {
            let row = Latest { held: known.held, reach_us: self.reach_us, rolled };
            packed.latest.push(PackedLatest { series: self.id, latest: row, record: None });
        }
        packed.bytes += 300;
        Ok(())
    }

    /// Merges an observation into its block; whether that changed anything.
    fn add(&mut self, new: &Arc<Observation>, packed: &mut Packed) -> Result<bool, T::Error> {
        let slot = new.scheduled_at.0;
        // Where the interval was changed between two that did a slot, the other lies in the other kind of span.
        let mut dropped = false;
        for span in Span::ALL {
            let place = (span, span.index(slot));
            self.load(place.0, place.1)?;
            let Some(stored) = self.spans.get_mut(&place) else { continue };
            let Ok(at) = stored.observations.binary_search_by_key(&slot, |old| old.scheduled_at.0) else { continue };
            let mut old = stored.observations[at].clone();
            if old.evidence.is_none()
                && let Some(evidence) = self.reader.evidence_of(slot, self.id)?
            {
                Arc::make_mut(&mut old).evidence = Some(evidence);
            }
            if goes_before(new, &old).is_ge() {
                return Ok(false);
            }
            dropped = old.evidence.is_some();
            stored.observations.remove(at);
            stored.changed = true;
        }
        let span = Span::of_interval(new.interval_us);
        let stored = self.spans.entry((span, span.index(slot))).or_default();
        let at = stored.observations.partition_point(|old| old.scheduled_at.0 < slot);
        stored.observations.insert(at, new.clone());
        stored.changed = true;
        if let Some(evidence) = &new.evidence {
            let mut data = Vec::new();
            put_evidence(&mut data, evidence);
            // More than is read back is not written: the checker's bound is far below.
            let data = (data.len() <= EVIDENCE_MAX).then(|| zstd::bulk::compress(&data, LEVEL)).transpose()?;
            packed.bytes += data.as_ref().map_or(0, Vec::len);
            packed.evidence.push((slot, self.id, data));
        } else if dropped {
            packed.evidence.push((slot, self.id, None));
        }
        Ok(true)
    }

    /// Reads the block of a span, if it was not yet.
    fn load(&mut self, span: Span, index: i64) -> Result<(), T::Error> {
        if self.spans.contains_key(&(span, index)) {
            return Ok(());
        }
        let Reader { tables, shapes, series, .. } = &mut *self.reader;
        let mut stored = Stored::default();
        if let Some(data) = tables.block(span, index, self.id)? {
            let whose = series.get(self.id)?;
            let block = read_block(tables, shapes, Timestamp(span.start(index)), &data)?;
            stored.carried = block.carried;
            stored.exists = true;
            block
                .observations(&whose.site, &whose.location, i64::MIN, i64::MAX, |observation| {
                    stored.observations.push(Arc::new(observation));
                })
                .ok_or(Damaged("a block"))?;
        }
        self.spans.insert((span, index), stored);
        Ok(())
    }

    /// The observations by the schedule of `[from, to)`, one for each slot.
    fn scheduled(&mut self, from: i64, to: i64) -> Result<Vec<Arc<Observation>>, T::Error> {
        let mut found: Vec<Arc<Observation>> = Vec::new();
        for span in Span::ALL {
            for index in span.index(from)..=span.index(to - 1) {
                self.load(span, index)?;
                let Some(stored) = self.spans.get(&(span, index)) else { continue };
                let first = stored.observations.partition_point(|observation| observation.scheduled_at.0 < from);
                let inside =
                    stored.observations[first..].iter().take_while(|observation| observation.scheduled_at.0 < to);
                found.extend(inside.cloned());
            }
        }
        found.sort_by_key(|observation| observation.scheduled_at);
        found.retain(|observation| observation.reason == Reason::Schedule);
        Ok(found)
    }

    /// What holds at `at`, the start of a span.
    fn carried(&mut self, at: i64) -> Result<Option<Held>, T::Error> {
        let known = self.latest.map(|latest| latest.held);
        if known.is_some_and(|known| known.from.0 >= at)
            || self.spans.keys().any(|(span, index)| span.start(*index) < at)
        {
            // Something later was packed before, or something earlier now.
            let found = self.scheduled(at.saturating_sub(self.reach_us.min(32 * DAY)), at)?;
            if let Some(last) = found.last() {
                return Ok(Some(Held::of(last)).filter(|held| held.until.0 > at));
            }
        }
        if let Some(known) = known.filter(|known| known.from.0 < at) {
            return Ok(Some(known).filter(|held| held.until.0 > at));
        }
        // What is past its retention is still in the head of the block that it was carried into.
        let mut head = None;
        for span in Span::ALL {
            if at.rem_euclid(span.width()) == 0 {
                self.load(span, span.index(at))?;
                head = head.or(self.spans.get(&(span, span.index(at))).and_then(|stored| stored.carried));
            }
        }
        Ok(head)
    }

    /// Whether an hour has statistics already.
    fn is_written(&self, hour: i64) -> Result<bool, T::Error> {
        Ok(self.reader.tables.rollup(Span::Hour, hour, self.id)?.is_some())
    }

    /// Makes the blocks that changed, and those whose head did.
    fn finish(
        &mut self,
        looked_at: &BTreeSet<i64>,
        known: &mut HashMap<i64, (i64, Box<[u8]>)>,
        packed: &mut Packed,
    ) -> Result<(), T::Error> {
        let candidates: Vec<(Span, i64)> = self.spans.keys().copied().collect();
        for (span, index) in candidates {
            let start = span.start(index);
            let Some(stored) = self.spans.get(&(span, index)) else { continue };
            let head = looked_at.contains(&Span::Hour.index(start));
            if !(stored.changed || head && stored.exists) {
                continue;
            }
            if stored.observations.is_empty() {
                if stored.exists {
                    packed.emptied.push((span, index, self.id));
                }
                continue;
            }
            let (changed, before) = (stored.changed, stored.carried);
            let carried = self.carried(start)?;
            if !changed && carried == before {
                continue;
            }
            let Some(stored) = self.spans.get(&(span, index)) else { continue };
            let day = Span::Day.index(start);
            let tables = &self.reader.tables;
            let mut failed = None;
            let data = block::encode(
                Timestamp(start),
                carried,
                stored.observations.iter().map(|observation| &**observation),
                |shape, uses| {
                    if uses < T::SHARED_FROM {
                        return None;
                    }
                    share(tables, known, packed, shape, day).unwrap_or_else(|error| {
                        failed = Some(error);
                        None
                    })
                },
            )?;
            if let Some(error) = failed {
                return Err(error);
            }
            packed.bytes += data.len();
            packed.blocks.push(PackedBlock {
                span,
                index,
                series: self.id,
                count: stored.observations.len(),
                data,
                new: !stored.exists,
            });
        }
        Ok(())
    }

    /// Brings the days of the hours that were computed up to date.
    fn days(&self, rollups: &BTreeMap<i64, Rollup>, packed: &mut Packed) -> Result<(), T::Error> {
        let rolled = self.latest.map_or(i64::MIN, |latest| latest.rolled);
        let days: BTreeSet<i64> = rollups.keys().map(|hour| hour.div_euclid(24)).collect();
        for day in days {
            let (start, end) = (Span::Day.start(day), Span::Day.start(day + 1));
            let own = rollups.range(day * 24..(day + 1) * 24).map(|(hour, rollup)| (Span::Hour.start(*hour), rollup));
            // Where all that is written is earlier, the day as it is stands for its hours: the same is merged in the
            // same order. Otherwise it is merged again from all of them.
            let appends = own.clone().next().is_some_and(|(first, _)| first >= rolled);
            let span = if appends { Span::Day } else { Span::Hour };
            let mut written = BTreeMap::new();
            let wanted = |_, start: i64| appends || !rollups.contains_key(&Span::Hour.index(start));
            let selection = Selection(Some(vec![self.id]));
            self.reader.each_rollup(&selection, span, start, end, wanted, |_, start, rollup| {
                written.insert(start, rollup);
            })?;
            let written = written.iter().map(|(start, rollup)| (*start, rollup));
            let mut parts: Vec<(i64, &Rollup)> = written.chain(own).collect();
            // The day begins no later than any of its hours, so it stays the first.
            parts.sort_by_key(|(start, _)| *start);
            let parts = parts.into_iter().map(|(_, rollup)| rollup);
            let data = Rollup::over(Timestamp(start), Timestamp(end), parts).encode();
            packed.bytes += data.len();
            packed.rollups.push((Span::Day, day, self.id, data));
        }
        Ok(())
    }
}

/// The id under which a shape is kept outside of the blocks; `None` where another has the same hash.
fn share<T: Tables>(
    tables: &T,
    known: &mut HashMap<i64, (i64, Box<[u8]>)>,
    packed: &mut Packed,
    shape: &[u8],
    day: i64,
) -> Result<Option<i64>, T::Error> {
    let id = xxh3_64(shape) as i64;
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    if let hash_map::Entry::Vacant(unknown) = known.entry(id) {
        let found = tables.shape(id)?;
        let (seen, data) = found.unwrap_or_else(|| (i64::MIN, shape.to_vec()));
        unknown.insert((seen, data.into()));
    }
    let Some((seen, bytes)) = known.get_mut(&id) else { return Ok(None) };
    if **bytes != *shape {
        return Ok(None);
    }
    if *seen < day {
        *seen = day;
        packed.bytes += shape.len();
        packed.shapes.push((id, day, shape.into()));
    }
    Ok(Some(id))
}
