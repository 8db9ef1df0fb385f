//! Statistics: those that were written with the blocks, and for what arrived since, computed anew.

use super::load::{Found, goes_before, observation, read_block, read_evidence};
use super::span::Span;
use super::{Damaged, Reader, Selection, Tables};
use crate::{RollupQuery, SiteRollup, Window};
use sitemon_model::time::{DAY, HOUR};
use sitemon_model::{Observation, Reason, Timestamp};
use sitemon_stats::{Held, Rollup};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Observations that are held at once.
const SLICE: u64 = 50_000;

/// Statistics of one span by series, and what they carry on.
type Computed = BTreeMap<i64, (Rollup, Option<Held>)>;

/// Statistics by series and start of their span.
type Rollups = BTreeMap<(i64, i64), Rollup>;

impl<T: Tables> Reader<T> {
    /// See [`crate::Store::latest`].
    pub(crate) fn latest(&mut self) -> Result<Vec<Arc<Observation>>, T::Error> {
        let mut slots: HashMap<i64, i64> = HashMap::new();
        self.each_entry(&Selection(None), i64::MAX, |entry| {
            if entry.scheduled {
                let slot = slots.entry(entry.series).or_insert(entry.slot);
                *slot = (*slot).max(entry.slot);
            }
        })?;
        // Of most series something later arrived, so that what is packed need not be opened.
        let packed: HashMap<i64, i64> = {
            let latest = self.tables.latest(&Selection(None))?;
            latest.into_iter().map(|(id, latest)| (id, latest.held.from.0)).collect()
        };
        slots.retain(|id, slot| packed.get(id).is_none_or(|packed| packed <= slot));
        let mut found: HashMap<i64, Arc<Observation>> = HashMap::new();
        let Self { tables, series, records, .. } = &mut *self;
        tables.each_latest(|id, record, evidence| {
            if slots.get(&id).zip(packed.get(&id)).is_none_or(|(arrived, packed)| arrived == packed) {
                let mut observation = observation(series, records, id, record)?;
                observation.evidence = evidence.map(read_evidence).transpose()?;
                found.insert(id, Arc::new(observation));
            }
            Ok(())
        })?;
        for (id, arrived) in self.arrivals_at(&slots)? {
            let kept = found.entry(id).or_insert_with(|| arrived.clone());
            let later = arrived.scheduled_at > kept.scheduled_at;
            if later || goes_before(&arrived, kept).is_lt() {
                *kept = arrived;
            }
        }
        let mut found: Vec<Arc<Observation>> = found.into_values().collect();
        found.sort_by(|a, b| (&a.site, &a.location).cmp(&(&b.site, &b.location)));
        Ok(found)
    }

    /// See [`crate::Store::rollups`].
    pub(crate) fn rollups(&mut self, query: &RollupQuery) -> Result<Vec<SiteRollup>, T::Error> {
        let selection = self.series.select(query.window.sites.as_deref());
        let span = if query.width >= DAY { Span::Day } else { Span::Hour };
        let from = query.window.from.floor(span.width()).0;
        let to = query.window.to.plus(span.width() - 1).floor(span.width()).0;
        let rollups = self.spans(&selection, span, from, to)?;
        let named = rollups.into_iter().map(|((series, _), rollup)| self.named(series, rollup));
        let mut named = named.collect::<Result<Vec<_>, _>>()?;
        named.sort_by(|a, b| (&a.site, &a.location, a.rollup.from).cmp(&(&b.site, &b.location, b.rollup.from)));
        Ok(named)
    }

    /// See [`crate::Store::summary`].
    pub(crate) fn summary(&mut self, query: &Window) -> Result<Vec<SiteRollup>, T::Error> {
        let selection = self.series.select(query.sites.as_deref());
        let whole = self.whole(&selection, query.from.0, query.to.0)?;
        let mut named = Vec::with_capacity(whole.len());
        for (series, rollup) in whole {
            named.push(self.named(series, Rollup::over(query.from, query.to, [&rollup]))?);
        }
        named.sort_by(|a, b| (&a.site, &a.location).cmp(&(&b.site, &b.location)));
        Ok(named)
    }

    /// What the parts of `[from, to)` come to, by series; the time between them is not counted.
    pub(super) fn whole(
        &mut self,
        selection: &Selection,
        from: i64,
        to: i64,
    ) -> Result<HashMap<i64, Rollup>, T::Error> {
        let ceil = |at: i64, width: i64| at.saturating_add(width - 1).div_euclid(width).saturating_mul(width);
        let floor = |at: i64, width: i64| at.div_euclid(width).saturating_mul(width);
        let mut whole = HashMap::new();
        let (first_hour, last_hour) = (ceil(from, HOUR), floor(to, HOUR));
        if first_hour >= last_hour {
            add(&mut whole, self.direct(selection, from, to)?);
        } else {
            add(&mut whole, self.direct(selection, from, first_hour)?);
            let (first_day, last_day) = (ceil(first_hour, DAY), floor(last_hour, DAY));
            if first_day < last_day {
                self.fold(selection, Span::Hour, first_hour, first_day, &mut whole)?;
                self.fold(selection, Span::Day, first_day, last_day, &mut whole)?;
                self.fold(selection, Span::Hour, last_day, last_hour, &mut whole)?;
            } else {
                self.fold(selection, Span::Hour, first_hour, last_hour, &mut whole)?;
            }
            add(&mut whole, self.direct(selection, last_hour, to)?);
        }
        Ok(whole)
    }

    /// Adds the statistics of the spans from `from` to `to`, which are starts of spans, to those of their series;
    /// one after the other, because a year of many sites is more than is held at once.
    fn fold(
        &mut self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        whole: &mut HashMap<i64, Rollup>,
    ) -> Result<(), T::Error> {
        if from >= to {
            return Ok(());
        }
        let anew = self.anew(selection, from, to)?;
        let start = |at: i64| span.start(span.index(at));
        let touched: BTreeSet<(i64, i64)> = anew.keys().map(|(series, hour)| (*series, start(*hour))).collect();
        self.each_rollup(
            selection,
            span,
            from,
            to,
            |series, start| !touched.contains(&(series, start)),
            |series, _, rollup| add_one(whole, series, rollup),
        )?;
        if span == Span::Day {
            // Of a day that is touched, those hours that are not.
            for (series, start) in &touched {
                let selection = Selection(Some(vec![*series]));
                let wanted = |series: i64, hour: i64| !anew.contains_key(&(series, hour));
                self.each_rollup(&selection, Span::Hour, *start, start + DAY, wanted, |series, _, rollup| {
                    add_one(whole, series, rollup);
                })?;
            }
        }
        add(whole, anew);
        Ok(())
    }

    fn named(&self, series: i64, rollup: Rollup) -> Result<SiteRollup, T::Error> {
        let series = self.series.get(series)?;
        Ok(SiteRollup { site: series.site.clone(), location: series.location.clone(), rollup })
    }

    /// The statistics of the spans from `from` to `to`, which are starts of spans.
    fn spans(&mut self, selection: &Selection, span: Span, from: i64, to: i64) -> Result<Rollups, T::Error> {
        let mut rollups = Rollups::new();
        if from >= to {
            return Ok(rollups);
        }
        let anew = self.anew(selection, from, to)?;
        if span == Span::Hour {
            let wanted = |series: i64, start: i64| !anew.contains_key(&(series, start));
            self.each_rollup(selection, span, from, to, wanted, |series, start, rollup| {
                rollups.insert((series, start), rollup);
            })?;
            rollups.extend(anew);
            return Ok(rollups);
        }
        let day = |at: i64| span.start(span.index(at));
        let touched: BTreeSet<(i64, i64)> = anew.keys().map(|(series, hour)| (*series, day(*hour))).collect();
        let wanted = |series: i64, start: i64| !touched.contains(&(series, start));
        self.each_rollup(selection, span, from, to, wanted, |series, start, rollup| {
            rollups.insert((series, start), rollup);
        })?;
        // A day that is touched is merged again from its hours.
        let mut hours = anew;
        let mut by_day: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (series, day) in &touched {
            by_day.entry(*day).or_default().push(*series);
        }
        for (start, series) in by_day {
            let mut written = Rollups::new();
            let wanted = |series: i64, hour: i64| !hours.contains_key(&(series, hour));
            self.each_rollup(
                &Selection(Some(series.clone())),
                Span::Hour,
                start,
                start + DAY,
                wanted,
                |series, start, rollup| {
                    written.insert((series, start), rollup);
                },
            )?;
            hours.append(&mut written);
            for id in series {
                let parts = hours.range((id, start)..(id, start + DAY)).map(|(_, rollup)| rollup);
                rollups.insert((id, start), Rollup::over(Timestamp(start), Timestamp(start + DAY), parts));
            }
        }
        Ok(rollups)
    }

    /// Reads those statistics that were written and that `wanted` says yes to.
    pub(super) fn each_rollup(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        wanted: impl Fn(i64, i64) -> bool,
        mut each: impl FnMut(i64, i64, Rollup),
    ) -> Result<(), T::Error> {
        self.tables.each_rollup(selection, span, from, to, |index, series, data| {
            let start = span.start(index);
            if wanted(series, start) {
                let end = Timestamp(start.saturating_add(span.width()));
                let rollup = Rollup::decode(Timestamp(start), end, data);
                each(series, start, rollup.ok_or(Damaged("statistics"))?);
            }
            Ok(())
        })
    }

    /// The statistics of those hours that are not written yet, or in which something arrived since.
    fn anew(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Rollups, T::Error> {
        let hour = |at: i64| Span::Hour.start(Span::Hour.index(at));
        // By hour and series: whether something arrived in it; else it is only looked at because the hour before
        // carries into it.
        let mut open: BTreeMap<i64, BTreeMap<i64, bool>> = BTreeMap::new();
        self.each_entry(selection, to, |entry| {
            // What arrived before changes what is carried over the start.
            if entry.scheduled {
                open.entry(hour(entry.slot).max(from)).or_default().insert(entry.series, true);
            }
        })?;
        for (series, latest) in self.tables.latest(selection)? {
            let reached = latest.held.until.0.min(to);
            let mut next = latest.rolled.max(from);
            while next < reached {
                open.entry(hour(next)).or_default().insert(series, true);
                next = hour(next) + HOUR;
            }
        }
        let mut rollups = Rollups::new();
        let mut held: HashMap<i64, Held> = HashMap::new();
        while let Some((start, series)) = open.pop_first() {
            let end = start + HOUR;
            // What the hour before came to is known where it was computed too.
            let known = |id: &i64| rollups.contains_key(&(*id, start - HOUR));
            let unknown: Vec<i64> = series.keys().copied().filter(|id| !known(id)).collect();
            let mut carried = self.carried(&Selection(Some(unknown)), start)?;
            carried.extend(series.keys().filter(|id| known(id)).filter_map(|id| Some((*id, *held.get(id)?))));
            let selection = Selection(Some(series.keys().copied().collect()));
            for (id, (rollup, after)) in self.computed(&selection, start, end, carried)? {
                // Where it has observations of its own, what it carries on is as it was.
                let settled = !series[&id] && rollup.checks_all() > 0;
                rollups.insert((id, start), rollup);
                match after {
                    Some(after) => held.insert(id, after),
                    None => held.remove(&id),
                };
                if after.is_some() && !settled && end < to {
                    open.entry(end).or_default().entry(id).or_insert(false);
                }
            }
        }
        Ok(rollups)
    }

    /// The statistics of exactly `[from, to)` from the observations.
    fn direct(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Rollups, T::Error> {
        if from >= to {
            return Ok(Rollups::new());
        }
        let carried = self.carried(selection, from)?;
        let computed = self.computed(selection, from, to, carried)?;
        Ok(computed.into_iter().map(|(series, (rollup, _))| ((series, from), rollup)).collect())
    }

    /// The statistics of `[from, to)` from what was carried in and the observations, and what they carry on.
    fn computed(
        &mut self,
        selection: &Selection,
        from: i64,
        to: i64,
        mut held: HashMap<i64, Held>,
    ) -> Result<Computed, T::Error> {
        let mut parts: BTreeMap<i64, Vec<Rollup>> = BTreeMap::new();
        let mut at = from;
        let mut width = to - from;
        while at < to {
            while width > 1000 && self.estimate(selection, at, at.saturating_add(width).min(to))? > SLICE {
                width /= 2;
            }
            let end = at.saturating_add(width).min(to);
            let mut by_series: BTreeMap<i64, Vec<Arc<Observation>>> = held.keys().map(|id| (*id, Vec::new())).collect();
            for (series, observation) in self.load(selection, at, end)? {
                if observation.reason == Reason::Schedule {
                    by_series.entry(series).or_default().push(observation);
                }
            }
            for (series, observations) in by_series {
                let carried = held.remove(&series);
                let inside = || observations.iter().map(|observation| &**observation);
                let part = Rollup::of(Timestamp(at), Timestamp(end), carried, inside());
                parts.entry(series).or_default().push(part);
                if let Some(after) = Held::after(Timestamp(end), carried, inside()) {
                    held.insert(series, after);
                }
            }
            at = end;
        }
        let whole = |parts: Vec<Rollup>| match <[Rollup; 1]>::try_from(parts) {
            Ok([only]) if only.from.0 == from && only.to.0 == to => only,
            Ok(parts) => Rollup::over(Timestamp(from), Timestamp(to), &parts),
            Err(parts) => Rollup::over(Timestamp(from), Timestamp(to), &parts),
        };
        Ok(parts.into_iter().map(|(series, parts)| (series, (whole(parts), held.remove(&series)))).collect())
    }

    /// What holds at the instant `at`, of observations before it.
    fn carried(&mut self, selection: &Selection, at: i64) -> Result<HashMap<i64, Held>, T::Error> {
        let mut slots: HashMap<i64, i64> = HashMap::new();
        self.each_entry(selection, at, |entry| {
            if entry.scheduled {
                let slot = slots.entry(entry.series).or_insert(entry.slot);
                *slot = (*slot).max(entry.slot);
            }
        })?;
        let mut carried = HashMap::new();
        for (series, latest) in self.tables.latest(selection)? {
            let packed = if latest.held.from.0 < at {
                Some(latest.held)
            } else {
                self.packed_before(series, at, latest.reach_us)?
            };
            if let Some(packed) = packed {
                carried.insert(series, packed);
            }
        }
        slots.retain(|series, slot| carried.get(series).is_none_or(|packed: &Held| packed.from.0 <= *slot));
        for (series, arrived) in self.arrivals_at(&slots)? {
            let mut arrived = Held::of(&arrived);
            if let Some(packed) = carried.get(&series)
                && packed.from == arrived.from
                && *packed != arrived
            {
                // Two of one slot that differ: which is kept, both together say.
                let slot = arrived.from.0;
                if let Some((_, kept)) = self.load(&Selection(Some(vec![series])), slot, slot + 1)?.first() {
                    arrived = Held::of(kept);
                }
            }
            carried.insert(series, arrived);
        }
        carried.retain(|_, held| held.until.0 > at);
        Ok(carried)
    }

    /// What the last packed observation by the schedule before `at` holds.
    fn packed_before(&mut self, series: i64, at: i64, reach_us: i64) -> Result<Option<Held>, T::Error> {
        let selection = Selection(Some(vec![series]));
        let mut found: Vec<Found> = self.packed(&selection, at.saturating_sub(reach_us), at)?;
        found.retain(|(_, observation)| observation.reason == Reason::Schedule);
        found.sort_by(|(_, a), (_, b)| a.scheduled_at.cmp(&b.scheduled_at).then_with(|| goes_before(b, a)));
        if let Some((_, last)) = found.last() {
            return Ok(Some(Held::of(last)));
        }
        // What is past its retention is still in the head of the block that it was carried into.
        let mut head = None;
        for span in Span::ALL {
            if at.rem_euclid(span.width()) == 0 {
                let Self { tables, shapes, .. } = &mut *self;
                tables.each_block(&selection, span, at, at + 1, |_, _, data| {
                    head = head.or(read_block(tables, shapes, Timestamp(at), data)?.carried);
                    Ok(())
                })?;
            }
        }
        Ok(head)
    }
}

/// Adds statistics to those of their series.
fn add(whole: &mut HashMap<i64, Rollup>, rollups: Rollups) {
    for ((series, _), rollup) in rollups {
        add_one(whole, series, rollup);
    }
}

fn add_one(whole: &mut HashMap<i64, Rollup>, series: i64, rollup: Rollup) {
    match whole.entry(series) {
        Entry::Occupied(mut known) => known.get_mut().merge(&rollup),
        Entry::Vacant(new) => {
            new.insert(rollup);
        }
    }
}
