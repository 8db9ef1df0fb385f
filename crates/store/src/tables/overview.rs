//! Overviews: what a table of many sites shows, without opening an observation where that can be avoided.
//!
//! Hours and days that are written are read as far as they are shown, the running day in one row. What arrived since
//! passes as glances from the directories of the arrivals. That holds for series whose arrivals came in order and are
//! later than all that is packed, which is the rule; the others are computed from all observations.

use super::load::read_block;
use super::span::Span;
use super::{Damaged, Latest, Reader, Selection, Tables};
use crate::record::Shape;
use crate::{SiteOverview, Window};
use sitemon_model::Timestamp;
use sitemon_model::time::{DAY, HOUR};
use sitemon_stats::{Glance, Held, Overview, Passing};
use std::collections::HashMap;
use std::sync::Arc;

/// Blocks of one series that are read for what is not settled; where there are more, all is computed.
const BLOCKS: i64 = 6;

/// One series while its overview is made.
#[derive(Debug, Default)]
struct Part {
    latest: Option<Latest>,
    /// Up to here what is written holds: a whole hour.
    settled: i64,
    /// What came since. `None`: not begun.
    passing: Option<Passing>,
    /// The last slot that passed.
    last: i64,
    /// Whether it must be computed from all observations.
    irregular: bool,
    /// What was written, and whether anything was.
    written: Option<Overview>,
}

impl Part {
    /// Whether the statistics that are written hold as they are, those of days included.
    fn is_whole(&self) -> bool {
        self.latest.is_some_and(|latest| latest.rolled == self.settled)
    }

    /// Whether the statistics of a span are to be added.
    fn wants(&self, span: Span, start: i64, first_day: i64) -> bool {
        let end = start.saturating_add(span.width());
        match span {
            Span::Day => {
                if self.is_whole() {
                    start < self.settled
                } else {
                    end <= self.settled
                }
            }
            // Before the first whole day, and in the day that cannot be read as one.
            Span::Hour => end <= self.settled && (start < first_day || !self.is_whole() && start >= day(self.settled)),
        }
    }
}

/// What is carried into an hour, and what is packed from there on, by slots.
type Packed = (Option<Held>, Vec<Glance>);

/// The parts by series. Arrivals come by the ids of their series, so that what is needed next lies beside what was
/// needed last.
#[derive(Debug)]
struct Parts {
    parts: Vec<(i64, Part)>,
    /// For the id of each series the place of its part and one more; 0 where it has none.
    places: Vec<u32>,
}

impl Parts {
    /// Those of series of which something is packed; ids are below `ids`.
    fn of(latest: Vec<(i64, Latest)>, ids: usize) -> Result<Self, Damaged> {
        let mut parts = Self { parts: Vec::with_capacity(latest.len()), places: vec![0; ids] };
        for (series, latest) in latest {
            parts.part(series)?.latest = Some(latest);
        }
        Ok(parts)
    }

    /// The part of a series, made where there is none.
    fn part(&mut self, series: i64) -> Result<&mut Part, Damaged> {
        let place = usize::try_from(series).ok().and_then(|id| self.places.get_mut(id));
        let place = place.ok_or(Damaged("the id of a series"))?;
        if *place == 0 {
            self.parts.push((series, Part::default()));
            *place = self.parts.len() as u32;
        }
        Ok(&mut self.parts[*place as usize - 1].1)
    }

    /// The part of a series that has one.
    fn known(&mut self, series: i64) -> Option<&mut Part> {
        let place = *self.places.get(usize::try_from(series).ok()?)?;
        Some(&mut self.parts.get_mut((place as usize).checked_sub(1)?)?.1)
    }
}

/// The parts, and what they have in common.
struct Glancing<'r, T> {
    tables: &'r T,
    shapes: &'r mut HashMap<i64, Arc<Shape>>,
    from: i64,
    to: i64,
    parts: Parts,
}

impl<T: Tables> Reader<T> {
    /// See [`crate::Store::overview`].
    pub(crate) fn overview(&mut self, query: &Window) -> Result<Vec<SiteOverview>, T::Error> {
        let selection = self.series.select(query.sites.as_deref());
        let (from, to) = (query.from.0, query.to.0);
        let mut overviews = if from.rem_euclid(HOUR) == 0 && from < to {
            self.glanced(&selection, from, to)?
        } else {
            self.computed_overviews(&selection, from, to)?
        };
        let mut named = Vec::with_capacity(overviews.len());
        for (id, mut overview) in overviews.drain() {
            overview.availability.span_us = to.max(from).abs_diff(from);
            let series = self.series.get(id)?;
            named.push(SiteOverview { site: series.site.clone(), location: series.location.clone(), overview });
        }
        named.sort_by(|a, b| (&a.site, &a.location).cmp(&(&b.site, &b.location)));
        Ok(named)
    }

    /// From all observations and whole statistics.
    fn computed_overviews(
        &mut self,
        selection: &Selection,
        from: i64,
        to: i64,
    ) -> Result<HashMap<i64, Overview>, T::Error> {
        let whole = self.whole(selection, from, to)?;
        Ok(whole.into_iter().map(|(series, rollup)| (series, Overview::of_rollup(&rollup))).collect())
    }

    /// From what is shown alone; `from` is the start of an hour.
    fn glanced(&mut self, selection: &Selection, from: i64, to: i64) -> Result<HashMap<i64, Overview>, T::Error> {
        let pruned = self.tables.pruned()?;
        let latest = self.tables.latest(selection)?;
        let Self { tables, shapes, series, .. } = &mut *self;
        let parts = Parts::of(latest, series.len())?;
        let tables = &*tables;
        let mut glancing = Glancing { tables, shapes, from, to, parts };
        tables.each_arrival(selection, to, |entry| {
            let within = entry.slot >= pruned && entry.slot < to;
            if entry.scheduled && within && selection.contains(entry.series) {
                glancing.arrived(entry.series, entry.glance)?;
            }
            Ok(())
        })?;
        glancing.begin_rest()?;
        glancing.written(selection)?;
        let Parts { parts, .. } = glancing.parts;
        let (mut found, mut irregular) = (HashMap::with_capacity(parts.len()), Vec::new());
        for (series, part) in parts {
            if part.irregular {
                irregular.push(series);
                continue;
            }
            let passed = part.passing.and_then(Passing::finish);
            let whole = match (part.written, passed) {
                (Some(mut written), Some(passed)) => {
                    written.merge(&passed);
                    Some(written)
                }
                (written, passed) => written.or(passed),
            };
            found.extend(whole.map(|whole| (series, whole)));
        }
        if !irregular.is_empty() {
            irregular.sort_unstable();
            found.extend(self.computed_overviews(&Selection(Some(irregular)), from, to)?);
        }
        Ok(found)
    }
}

impl<T: Tables> Glancing<'_, T> {
    /// An arrival, in the order in which they came.
    fn arrived(&mut self, series: i64, glance: Glance) -> Result<(), T::Error> {
        let slot = glance.held.from.0;
        let part = self.parts.part(series)?;
        if part.irregular {
            return Ok(());
        }
        if part.passing.is_none() {
            // Earlier than what is packed: which of two is kept, or what is carried where, both together say.
            part.irregular = part.latest.is_some_and(|latest| latest.held.from.0 >= slot);
            part.last = i64::MIN;
            self.begin(series, Some(slot))?;
        }
        let part = self.parts.part(series)?;
        part.irregular |= slot <= part.last;
        part.last = slot;
        if let Some(passing) = &mut part.passing {
            passing.add(glance);
        }
        Ok(())
    }

    /// Begins with the series in which nothing arrived.
    fn begin_rest(&mut self) -> Result<(), T::Error> {
        let rest: Vec<i64> =
            self.parts.parts.iter().filter(|(_, part)| part.passing.is_none()).map(|(series, _)| *series).collect();
        rest.into_iter().try_for_each(|series| self.begin(series, None))
    }

    /// Says up to where what is written holds, and begins with what is packed beyond it.
    fn begin(&mut self, series: i64, arrived: Option<i64>) -> Result<(), T::Error> {
        let (from, to) = (self.from, self.to);
        let part = self.parts.part(series)?;
        let rolled = part.latest.map_or(i64::MIN, |latest| latest.rolled);
        part.settled = rolled.min(hour(to)).min(arrived.map_or(i64::MAX, hour));
        let start = part.settled.max(from);
        let latest = part.latest.map(|latest| latest.held);
        let (begin, end) = (Timestamp(start), Timestamp(to));
        let Some(last) = latest.filter(|latest| latest.from.0 >= start && !part.irregular) else {
            part.passing = Some(Passing::new(begin, end, latest));
            return Ok(());
        };
        let packed = self.packed(series, start, last.from.0.min(to - 1))?;
        let part = self.parts.part(series)?;
        let mut passing = Passing::new(begin, end, packed.as_ref().and_then(|(carried, _)| *carried));
        // Without the head of the hour it is not known what was carried into it.
        part.irregular |= packed.is_none();
        let (_, glances) = packed.unwrap_or_default();
        part.irregular |= glances.windows(2).any(|pair| pair[0].held.from >= pair[1].held.from);
        for glance in glances {
            passing.add(glance);
        }
        part.passing = Some(passing);
        Ok(())
    }

    /// What is carried into the hour that begins at `start`, and the packed observations from there to the instant
    /// `last`, by their slots; `None` where that hour has no block, or they are too many.
    fn packed(&mut self, series: i64, start: i64, last: i64) -> Result<Option<Packed>, T::Error> {
        let (mut found, mut known, mut carried) = (Vec::new(), false, None);
        if (last - start) / HOUR >= BLOCKS {
            return Ok(None);
        }
        for span in Span::ALL {
            for index in span.index(start)..=span.index(last) {
                let Some(data) = self.tables.block(span, index, series)? else { continue };
                let at = span.start(index);
                let block = read_block(self.tables, self.shapes, Timestamp(at), &data)?;
                if span == Span::Hour && at == start {
                    (known, carried) = (true, block.carried);
                }
                let wanted = |glance: &Glance| glance.held.from.0 >= start && glance.held.from.0 < self.to;
                let each = |glance| found.extend(Some(glance).filter(wanted));
                block.glances(each).ok_or(Damaged("a block"))?;
            }
        }
        found.sort_by_key(|glance| glance.held.from);
        Ok(known.then_some((carried, found)))
    }

    /// Adds what is written.
    fn written(&mut self, selection: &Selection) -> Result<(), T::Error> {
        let (first_day, last_hour) = (day(self.from.saturating_add(DAY - 1)), hour(self.to));
        self.add(selection, Span::Hour, first_day, self.from, first_day.min(last_hour))?;
        self.add(selection, Span::Day, first_day, first_day, last_hour)?;
        let by_hour = |part: &Part| !part.irregular && !part.is_whole() && part.settled > day(part.settled);
        let apart = self.parts.parts.iter().filter(|(_, part)| by_hour(part) && part.settled > first_day);
        let (mut ids, mut begin) = (Vec::new(), last_hour);
        for (series, part) in apart {
            ids.push(*series);
            begin = begin.min(day(part.settled));
        }
        ids.sort_unstable();
        self.add(&Selection(Some(ids)), Span::Hour, first_day, begin.max(first_day), last_hour)
    }

    /// Adds the statistics of the spans from `from` to `to` to those parts that want them.
    fn add(&mut self, selection: &Selection, span: Span, first_day: i64, from: i64, to: i64) -> Result<(), T::Error> {
        let parts = &mut self.parts;
        self.tables.each_rollup(selection, span, from, to, |index, series, data| {
            let wants = |part: &&mut Part| !part.irregular && part.wants(span, span.start(index), first_day);
            let Some(part) = parts.known(series).filter(wants) else { return Ok(()) };
            let overview = part.written.get_or_insert_default();
            let merged = overview.merge_encoded(span.width().unsigned_abs(), data);
            merged.ok_or(Damaged("statistics").into())
        })
    }
}

/// The start of the hour that holds an instant.
fn hour(at: i64) -> i64 {
    Span::Hour.start(Span::Hour.index(at))
}

/// The start of the day that holds an instant.
fn day(at: i64) -> i64 {
    Span::Day.start(Span::Day.index(at))
}
