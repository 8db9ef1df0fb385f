//! Since when a verdict has been the same, however long ago that is.
//!
//! The directories of arrivals have every verdict; before them whole days and hours whose statistics count one
//! verdict only are passed over, so that only the hour in which it changed is opened.

use super::span::Span;
use super::{Damaged, Reader, Selection, Tables};
use sitemon_model::time::{DAY, HOUR};
use sitemon_model::{Reason, Timestamp};
use sitemon_stats::{Held, Overview};
use std::collections::HashMap;
use std::sync::Arc;

/// Hours of a day.
const HOURS: i64 = DAY / HOUR;

/// The arrivals of one series.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    /// The earliest slot.
    first: i64,
    /// The latest slot.
    last: i64,
    /// Since when the verdict of the latest is the same.
    start: i64,
    verdict: u8,
    /// Whether they came in the order of their slots, one for each.
    regular: bool,
}

impl<T: Tables> Reader<T> {
    /// See [`crate::Store::since`].
    pub(crate) fn since(&mut self, of: &[(Arc<str>, Arc<str>)]) -> Result<Vec<Option<Timestamp>>, T::Error> {
        let sites: Vec<Arc<str>> = of.iter().map(|(site, _)| site.clone()).collect();
        let selection = self.series.select(Some(&sites));
        let arrived = self.arrived(&selection)?;
        let latest: HashMap<i64, Held> =
            self.tables.latest(&selection)?.into_iter().map(|(series, latest)| (series, latest.held)).collect();
        let mut ids: HashMap<(Arc<str>, Arc<str>), i64> = HashMap::new();
        for id in selection.0.unwrap_or_default() {
            let series = self.series.get(id)?;
            ids.insert((series.site.clone(), series.location.clone()), id);
        }
        let mut found = Vec::with_capacity(of.len());
        for key in of {
            let since = match ids.get(key) {
                Some(id) => self.since_of(*id, arrived.get(id), latest.get(id))?,
                None => None,
            };
            found.push(since.map(Timestamp));
        }
        Ok(found)
    }

    /// What the directories say of the arrivals by the schedule.
    fn arrived(&mut self, selection: &Selection) -> Result<HashMap<i64, Arrived>, T::Error> {
        let mut found: HashMap<i64, Arrived> = HashMap::new();
        self.each_entry(selection, i64::MAX, |entry| {
            if !entry.scheduled {
                return;
            }
            let (slot, verdict) = (entry.slot, entry.glance.held.verdict);
            let new = Arrived { first: slot, last: slot, start: slot, verdict, regular: true };
            let Some(known) = found.get_mut(&entry.series) else {
                found.insert(entry.series, new);
                return;
            };
            known.regular &= slot > known.last;
            known.first = known.first.min(slot);
            known.last = known.last.max(slot);
            if verdict != known.verdict {
                (known.start, known.verdict) = (slot, verdict);
            }
        })?;
        Ok(found)
    }

    fn since_of(&mut self, id: i64, arrived: Option<&Arrived>, packed: Option<&Held>) -> Result<Option<i64>, T::Error> {
        match (arrived, packed) {
            (None, None) => Ok(None),
            (None, Some(packed)) => self.packed_since(id, packed).map(Some),
            (Some(arrived), packed) => {
                if !arrived.regular || packed.is_some_and(|packed| packed.from.0 >= arrived.first) {
                    return self.merged_since(id, arrived, packed);
                }
                match packed {
                    Some(packed) if arrived.start == arrived.first && packed.verdict == arrived.verdict => {
                        self.packed_since(id, packed).map(Some)
                    }
                    _ => Ok(Some(arrived.start)),
                }
            }
        }
    }

    /// Where arrivals stand between or in place of what is packed: from the observations themselves, as far back as
    /// anything arrived.
    fn merged_since(&mut self, id: i64, arrived: &Arrived, packed: Option<&Held>) -> Result<Option<i64>, T::Error> {
        let last = packed.map_or(arrived.last, |packed| packed.from.0.max(arrived.last));
        let first_hour = Span::Hour.index(arrived.first);
        let mut run: Option<(u8, i64)> = None;
        for hour in (first_hour..=Span::Hour.index(last)).rev() {
            let changed = self.walk(id, hour, i64::MAX, &mut run)?;
            if changed {
                return Ok(run.map(|(_, start)| start));
            }
        }
        match run {
            Some((verdict, start)) => self.before(id, verdict, start, first_hour - 1).map(Some),
            None => Ok(None),
        }
    }

    /// From the latest that is packed.
    fn packed_since(&mut self, id: i64, latest: &Held) -> Result<i64, T::Error> {
        self.before(id, latest.verdict, latest.from.0, Span::Hour.index(latest.from.0))
    }

    /// Walks back over the observations of an hour before `end`. `run` is the verdict and where it begins so far;
    /// whether it was another one before.
    fn walk(&mut self, id: i64, hour: i64, end: i64, run: &mut Option<(u8, i64)>) -> Result<bool, T::Error> {
        let (from, to) = (Span::Hour.start(hour), Span::Hour.start(hour + 1).min(end));
        let observations = self.load(&Selection(Some(vec![id])), from, to)?;
        for (_, observation) in observations.iter().rev().filter(|(_, o)| o.reason == Reason::Schedule) {
            let (verdict, slot) = (observation.verdict.number(), observation.scheduled_at.0);
            match run {
                Some((known, _)) if *known != verdict => return Ok(true),
                _ => *run = Some((verdict, slot)),
            }
        }
        Ok(false)
    }

    /// Where the run of a verdict begins that reaches back to `start`, from the hour `hour` on back.
    fn before(&mut self, id: i64, verdict: u8, start: i64, mut hour: i64) -> Result<i64, T::Error> {
        let Some(first) = self.first_hour()? else { return Ok(start) };
        // The earliest hours that have nothing else; where in them the run begins is looked up at the end.
        let mut uniform = None;
        while hour >= first {
            let day = hour.div_euclid(HOURS);
            let whole_day = if (hour + 1) % HOURS == 0 { self.only(id, Span::Day, day, verdict)? } else { None };
            let (earliest, count) = match whole_day {
                Some(count) => (day * HOURS, Some(count)),
                None => (hour, self.only(id, Span::Hour, hour, verdict)?),
            };
            let Some(count) = count else {
                let mut run = Some((verdict, start));
                self.walk(id, hour, start.saturating_add(1), &mut run)?;
                if let Some((_, found)) = run.filter(|(_, found)| *found < start || uniform.is_none()) {
                    return Ok(found);
                }
                break;
            };
            if count > 0 {
                uniform = Some(earliest..=hour);
            }
            hour = earliest - 1;
        }
        let Some(hours) = uniform else { return Ok(start) };
        let begin = Span::Hour.start(*hours.start());
        for hour in hours {
            if self.only(id, Span::Hour, hour, verdict)?.is_none_or(|count| count > 0) {
                let mut run = None;
                self.walk(id, hour, start.saturating_add(1), &mut run)?;
                // Past their retention observations are known by their number only.
                return Ok(run.map_or(Span::Hour.start(hour), |(_, found)| found));
            }
        }
        Ok(begin)
    }

    /// How many observations of a span have this verdict, by its statistics; `None` where others have another.
    fn only(&self, id: i64, span: Span, index: i64, verdict: u8) -> Result<Option<u64>, T::Error> {
        let Some(data) = self.tables.rollup(span, index, id)? else { return Ok(Some(0)) };
        let counts = Overview::checks_encoded(span.width().unsigned_abs(), &data);
        let counts = counts.ok_or(Damaged("statistics"))?;
        let others = (0..).zip(counts).any(|(number, count)| number != verdict && count > 0);
        Ok((!others).then(|| counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count))))
    }

    /// The first hour of which any statistics are written.
    fn first_hour(&self) -> Result<Option<i64>, T::Error> {
        let mut first: Option<i64> = None;
        for span in Span::ALL {
            let hour = self.tables.first_rollup(span)?.map(|index| Span::Hour.index(span.start(index)));
            first = first.into_iter().chain(hour).min();
        }
        Ok(first)
    }
}
