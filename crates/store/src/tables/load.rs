//! Observations from both forms in which they lie, merged by one rule.

use super::span::Span;
use super::{Damaged, Entry, Reader, Selection, Tables};
use crate::block::Block;
use crate::record::{self, Shape, take_evidence};
use sitemon_model::{Evidence, Observation, Timestamp};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// Shapes kept before all are forgotten; one takes about a kilobyte.
const SHAPES_MAX: usize = 100_000;
/// Bytes of the evidence of one observation that are read at most; the checker bounds it far below.
pub(crate) const EVIDENCE_MAX: usize = 4 << 20;

/// An observation and the id of its series.
pub(super) type Found = (i64, Arc<Observation>);

impl<T: Tables> Reader<T> {
    /// The observations of `[from, to)`, one for each key, in the order of their keys.
    pub(super) fn load(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Vec<Found>, T::Error> {
        let mut found = self.packed(selection, from, to)?;
        self.arrivals(selection, from, to, |series, observation| found.push((series, Arc::new(observation))))?;
        found.sort_unstable_by(|(_, a), (_, b)| by_key(a, b).then_with(|| goes_before(a, b)));
        found.dedup_by(|later, kept| by_key(&later.1, &kept.1).is_eq());
        Ok(found)
    }

    /// The packed observations of `[from, to)` with their evidence; unsorted, and where an interval changed
    /// there may be two of one key.
    pub(super) fn packed(&mut self, selection: &Selection, from: i64, to: i64) -> Result<Vec<Found>, T::Error> {
        let mut found: Vec<Found> = Vec::new();
        if from < to {
            for span in Span::ALL {
                let Self { tables, shapes, series, .. } = self;
                tables.each_block(selection, span, from, to, |index, id, data| {
                    let whose = series.get(id)?;
                    let block = read_block(tables, shapes, Timestamp(span.start(index)), data)?;
                    block
                        .observations(&whose.site, &whose.location, from, to, |observation| {
                            found.push((id, Arc::new(observation)));
                        })
                        .ok_or(Damaged("a block").into())
                })?;
            }
        }
        if !found.is_empty() {
            let mut evidence = HashMap::new();
            self.tables.each_evidence(selection, from, to, |slot, series, data| {
                evidence.insert((slot, series), read_evidence(data)?);
                Ok(())
            })?;
            if !evidence.is_empty() {
                for (series, observation) in &mut found {
                    if let Some(shown) = evidence.remove(&(observation.scheduled_at.0, *series)) {
                        Arc::make_mut(observation).evidence = Some(shown);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The arrivals of `[from, to)`, in the order in which they came.
    fn arrivals(
        &mut self,
        selection: &Selection,
        from: i64,
        to: i64,
        mut each: impl FnMut(i64, Observation),
    ) -> Result<(), T::Error> {
        let from = from.max(self.tables.pruned()?);
        let Self { tables, records, series, .. } = self;
        let wanted = |entry: &Entry| entry.slot >= from && entry.slot < to && selection.contains(entry.series);
        tables.each_record(selection, from, to, wanted, |entry, record| {
            each(entry.series, observation(series, records, entry.series, record)?);
            Ok(())
        })
    }

    /// The arrivals whose slot `slots` has for their series; of several of one slot the one that is kept.
    pub(super) fn arrivals_at(
        &mut self,
        slots: &HashMap<i64, i64>,
    ) -> Result<HashMap<i64, Arc<Observation>>, T::Error> {
        let mut found: HashMap<i64, Arc<Observation>> = HashMap::new();
        let (Some(first), Some(last)) = (slots.values().min(), slots.values().max()) else { return Ok(found) };
        let selection = Selection::of(slots.keys().copied());
        let Self { tables, records, series, .. } = self;
        let wanted = |entry: &Entry| entry.scheduled && slots.get(&entry.series) == Some(&entry.slot);
        tables.each_record(&selection, *first, last.saturating_add(1), wanted, |entry, record| {
            let observation = Arc::new(observation(series, records, entry.series, record)?);
            let kept = found.entry(entry.series).or_insert_with(|| observation.clone());
            if goes_before(&observation, kept).is_lt() {
                *kept = observation;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// What is known of the arrivals of a selection before an instant, those past their retention left out.
    pub(super) fn each_entry(
        &mut self,
        selection: &Selection,
        before: i64,
        mut each: impl FnMut(Entry),
    ) -> Result<(), T::Error> {
        let pruned = self.tables.pruned()?;
        self.tables.each_arrival(selection, before, |entry| {
            if entry.slot >= pruned && entry.slot < before && selection.contains(entry.series) {
                each(entry);
            }
            Ok(())
        })
    }

    /// What is kept of one answer.
    pub(super) fn evidence_of(&self, slot: i64, series: i64) -> Result<Option<Box<Evidence>>, T::Error> {
        Ok(self.tables.evidence(slot, series)?.map(|data| read_evidence(&data)).transpose()?)
    }

    /// About how many observations lie in `[from, to)`.
    pub(super) fn estimate(&mut self, selection: &Selection, from: i64, to: i64) -> Result<u64, T::Error> {
        let mut count = self.tables.arrivals_count(selection, from, to)?;
        for span in Span::ALL {
            let packed = self.tables.blocks_count(selection, span, from, to)?;
            // A part of a span has that part of its observations, about.
            let (first, last) = (span.start(span.index(from)), span.start(span.index(to.saturating_sub(1)) + 1));
            let share = to.saturating_sub(from) as f64 / last.saturating_sub(first).max(1) as f64;
            count += (packed as f64 * share) as u64;
        }
        Ok(count)
    }

    /// The part of `[from, to)` in which anything can lie.
    pub(super) fn extent(&mut self, from: i64, to: i64) -> Result<Option<(i64, i64)>, T::Error> {
        let mut extent: Option<(i64, i64)> = None;
        let mut add = |first: i64, end: i64| {
            let (first, end) = (first.max(from), end.min(to));
            if first < end {
                extent = Some(extent.map_or((first, end), |(f, e)| (f.min(first), e.max(end))));
            }
        };
        if from < to {
            if let Some((first, end)) = self.tables.arrivals_extent(from, to)? {
                add(first, end);
            }
            for span in Span::ALL {
                if let Some((first, last)) = self.tables.blocks_extent(span, from, to)? {
                    add(span.start(first), span.start(last + 1));
                }
            }
        }
        Ok(extent)
    }
}

/// The observation of a record.
pub(super) fn observation(
    table: &super::reader::SeriesTable,
    records: &mut record::Reader,
    series: i64,
    record: &[u8],
) -> Result<Observation, Damaged> {
    let series = table.get(series)?;
    records.observation(&series.site, &series.location, record).ok_or(Damaged("an arrival"))
}

/// Reads a block, with the shapes that it shares.
pub(super) fn read_block<'a, T: Tables>(
    tables: &T,
    shapes: &mut HashMap<i64, Arc<Shape>>,
    start: Timestamp,
    data: &'a [u8],
) -> Result<Block<'a>, T::Error> {
    let mut failed = None;
    let mut shared = |id: i64| -> Option<Arc<Shape>> {
        if let Some(shape) = shapes.get(&id) {
            return Some(shape.clone());
        }
        let read = || -> Result<Shape, T::Error> {
            let data = tables.shape(id)?;
            Ok(data.and_then(|(_, data)| Shape::read(&data)).ok_or(Damaged("a shape"))?)
        };
        match read() {
            Ok(shape) => {
                if shapes.len() >= SHAPES_MAX {
                    shapes.clear();
                }
                let shape = Arc::new(shape);
                shapes.insert(id, shape.clone());
                Some(shape)
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    };
    let block = Block::read(start, data, &mut shared);
    block.ok_or_else(|| failed.unwrap_or_else(|| Damaged("a block").into()))
}

/// Reads what is kept of an answer.
pub(super) fn read_evidence(data: &[u8]) -> Result<Box<Evidence>, Damaged> {
    let read = || take_evidence(&zstd::bulk::decompress(data, EVIDENCE_MAX).ok()?);
    read().map(Box::new).ok_or(Damaged("evidence"))
}

/// Which of two observations of one slot is kept; where only their findings differ, by those, so that it is
/// the same in whatever order they came.
pub(crate) fn goes_before(a: &Observation, b: &Observation) -> Ordering {
    if std::ptr::eq(a, b) {
        // The first of its slot is held against itself; to write its line twice for that would cost more than the rest.
        return Ordering::Equal;
    }
    a.precedence(b).then_with(|| {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        sitemon_model::line::write(a, &mut left);
        sitemon_model::line::write(b, &mut right);
        left.cmp(&right)
    })
}

/// The order of an export.
fn by_key(a: &Observation, b: &Observation) -> Ordering {
    (a.scheduled_at, &a.site, &a.location).cmp(&(b.scheduled_at, &b.site, &b.location))
}
