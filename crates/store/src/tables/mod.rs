//! What stores have in common that keep arrivals and blocks in tables.
//!
//! A driver says how rows are read and written ([`Tables`], [`Driver`]); what they mean is said here once: how both
//! forms are merged ([`load`]), how one becomes the other ([`pack`]), and what is computed from them.

mod load;
mod overview;
pub(crate) mod pack;
mod reader;
mod scan;
mod since;
pub(crate) mod span;
mod statistics;

pub(crate) use load::goes_before;
pub(crate) use reader::{Reader, Selection};
pub(crate) use scan::Ahead;

use crate::StoreError;
use pack::Packed;
use sitemon_model::{Observation, Reason};
use sitemon_stats::{Glance, Held};
use span::Span;
use std::sync::Arc;

/// What is stored cannot be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Damaged(pub(crate) &'static str);

/// What is known of an arrival without opening its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The id of its series.
    pub(crate) series: i64,
    /// Its slot.
    pub(crate) slot: i64,
    /// Whether it comes from the schedule.
    pub(crate) scheduled: bool,
    /// What an overview shows of it.
    pub(crate) glance: Glance,
}

impl Entry {
    /// The entry of an observation.
    pub(crate) fn of(series: i64, observation: &Observation) -> Self {
        Self {
            series,
            slot: observation.scheduled_at.0,
            scheduled: observation.reason == Reason::Schedule,
            glance: Glance::of(observation),
        }
    }
}

/// What is known of the latest packed observation by the schedule of a series, but for the observation itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latest {
    /// What it holds.
    pub(crate) held: Held,
    /// The longest that any verdict of the series held.
    pub(crate) reach_us: i64,
    /// Up to where the statistics of the series are written.
    pub(crate) rolled: i64,
}

/// The rows of a store under one snapshot. All spans of time are from the first instant to the one before the second.
pub(crate) trait Tables {
    /// What goes wrong.
    type Error: From<Damaged> + From<std::io::Error>;

    /// How many observations of a block must have a shape for it to be kept outside of the block.
    const SHARED_FROM: usize;

    /// The series whose id is larger than `after`: id, site and location, by their ids.
    fn each_series(&self, after: i64, each: impl FnMut(i64, Arc<str>, Arc<str>)) -> Result<(), Self::Error>;

    /// What is older than this is past its retention, and counts as gone where it still arrives.
    fn pruned(&self) -> Result<i64, Self::Error>;

    /// The span outside of which no arrivals lie, of those that may lie in the one that is asked for.
    fn arrivals_extent(&self, from: i64, to: i64) -> Result<Option<(i64, i64)>, Self::Error>;

    /// About how many arrivals lie in a span.
    fn arrivals_count(&self, selection: &Selection, from: i64, to: i64) -> Result<u64, Self::Error>;

    /// What is known of the arrivals whose slot is before an instant, in the order in which they came; others may be
    /// among them.
    fn each_arrival(
        &self,
        selection: &Selection,
        before: i64,
        each: impl FnMut(Entry) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>;

    /// The records of those arrivals of a span that `wanted` says yes to, in the order in which they came.
    fn each_record(
        &self,
        selection: &Selection,
        from: i64,
        to: i64,
        wanted: impl Fn(&Entry) -> bool,
        each: impl FnMut(Entry, &[u8]) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>;

    /// Number of the span, series and bytes of the blocks that overlap a span of time, in this order.
    fn each_block(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        each: impl FnMut(i64, i64, &[u8]) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>;

    /// How many observations lie in the blocks that overlap a span of time.
    fn blocks_count(&self, selection: &Selection, span: Span, from: i64, to: i64) -> Result<u64, Self::Error>;

    /// The numbers of the first and the last span of those with blocks that overlap a span of time.
    fn blocks_extent(&self, span: Span, from: i64, to: i64) -> Result<Option<(i64, i64)>, Self::Error>;

    /// The bytes of one block.
    fn block(&self, span: Span, index: i64, series: i64) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Day of the latest use and bytes of a shape that blocks share.
    fn shape(&self, id: i64) -> Result<Option<(i64, Vec<u8>)>, Self::Error>;

    /// Number of the span, series and bytes of the statistics that overlap a span of time, in this order.
    fn each_rollup(
        &self,
        selection: &Selection,
        span: Span,
        from: i64,
        to: i64,
        each: impl FnMut(i64, i64, &[u8]) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>;

    /// The bytes of the statistics of one span.
    fn rollup(&self, span: Span, index: i64, series: i64) -> Result<Option<Vec<u8>>, Self::Error>;

    /// The number of the first span that has statistics.
    fn first_rollup(&self, span: Span) -> Result<Option<i64>, Self::Error>;

    /// Slot, series and bytes of the evidence of a span.
    fn each_evidence(
        &self,
        selection: &Selection,
        from: i64,
        to: i64,
        each: impl FnMut(i64, i64, &[u8]) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>;

    /// The evidence of one observation.
    fn evidence(&self, slot: i64, series: i64) -> Result<Option<Vec<u8>>, Self::Error>;

    /// What is known of the latest packed observation of each series.
    fn latest(&self, selection: &Selection) -> Result<Vec<(i64, Latest)>, Self::Error>;

    /// Series, record, and evidence of the latest packed observation of each series.
    fn each_latest(
        &self,
        each: impl FnMut(i64, &[u8], Option<&[u8]>) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error>;
}

/// Where such tables are read; may wait, so it is used on threads for blocking work.
pub(crate) trait Source {
    /// Its rows.
    type Tables: Tables;

    /// Reads under one snapshot.
    fn read<T>(
        &self,
        work: impl FnOnce(&mut Reader<Self::Tables>) -> Result<T, <Self::Tables as Tables>::Error>,
    ) -> Result<T, StoreError>;
}

/// Where arrivals are packed; may wait.
pub(crate) trait Driver: Source {
    /// Arrivals that are being packed.
    type Mark;

    /// Takes note of the arrivals before an instant; those that come later are not removed with them.
    fn mark(&self, end: i64) -> Result<Self::Mark, StoreError>;

    /// Puts packed rows down, in one transaction.
    fn put(&self, packed: Packed) -> Result<(), StoreError>;

    /// Those of the marked arrivals that lie before an instant are packed, and may be removed.
    fn packed(&self, mark: &mut Self::Mark, before: i64) -> Result<(), StoreError>;

    /// All of the marked arrivals before an instant are packed.
    fn finish(&self, mark: Self::Mark, before: i64) -> Result<(), StoreError>;
}
