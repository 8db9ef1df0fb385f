//! Scans in the order of keys, over all sites, in bounded memory: one slice of time after the other.

use super::load::Found;
use super::{Reader, Source, Tables};
use crate::{Page, Scan, StoreError};
use sitemon_model::Observation;
use sitemon_model::observation::Key;
use sitemon_model::time::{DAY, HOUR};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Observations that a slice has about, and at most twice so many; each takes about a kilobyte.
const SLICE: u64 = 10_000;
/// A slice is never wider than that.
const WIDTH_MAX: i64 = 64 * DAY;
/// A slice is never narrower than that, however many observations lie in it.
const WIDTH_MIN: i64 = 1000;
/// How long what was read ahead waits for who asked for it.
const AHEAD: Duration = Duration::from_mins(1);

/// What a scan has read ahead, so that its next page does not read the same slice again.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// What the next page asks for.
    scan: Scan,
    /// The rest of the slice.
    rest: VecDeque<Arc<Observation>>,
    /// Where the next slice begins (or, newest first, ends).
    edge: i64,
    /// How wide it is to be.
    width: i64,
    since: Instant,
}

impl Ahead {
    /// See [`crate::Store::scan`]; `kept` is where what was read ahead waits for the next page.
    pub(crate) fn scan(source: &impl Source, kept: &Mutex<Option<Self>>, scan: &Scan) -> Result<Page, StoreError> {
        let kept = || kept.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = kept().take_if(|ahead| ahead.continues(scan) || ahead.since.elapsed() > AHEAD);
        let ahead = ahead.filter(|ahead| ahead.continues(scan)).unwrap_or_else(|| Self::begin(scan));
        let (page, ahead) = ahead.page(source, scan)?;
        if let Some(ahead) = ahead {
            *kept() = Some(ahead);
        }
        Ok(page)
    }

    fn begin(scan: &Scan) -> Self {
        let (mut from, mut to) = (scan.window.from.0, scan.window.to.0);
        match &scan.after {
            Some(key) if scan.newest_first => to = to.min(key.scheduled_at.0.saturating_add(1)),
            Some(key) => from = from.max(key.scheduled_at.0),
            None => {}
        }
        let edge = if scan.newest_first { to } else { from };
        Self { scan: scan.clone(), rest: VecDeque::new(), edge, width: HOUR, since: Instant::now() }
    }

    /// Whether `scan` asks for what follows the page before.
    fn continues(&self, scan: &Scan) -> bool {
        self.scan.after.is_some() && Scan { limit: self.scan.limit, ..scan.clone() } == self.scan
    }

    /// The next page, and what was read beyond it.
    fn page(mut self, source: &impl Source, scan: &Scan) -> Result<(Page, Option<Self>), StoreError> {
        let limit = scan.limit.max(1);
        while self.rest.len() <= limit {
            let (edge, width) = (self.edge, self.width);
            let window = scan.clone();
            let slice = source.read(move |reader| next_slice(reader, &window, edge, width))?;
            let Some(slice) = slice else {
                return Ok((Page { observations: self.rest.into(), next: None }, None));
            };
            (self.edge, self.width) = (slice.edge, slice.width);
            let direction = if scan.newest_first { Ordering::Less } else { Ordering::Greater };
            let wanted = |observation: &Observation| {
                scan.after.as_ref().is_none_or(|after| compare(observation, after) == direction)
            };
            let found =
                slice.found.into_iter().map(|(_, observation)| observation).filter(|observation| wanted(observation));
            self.rest.extend(found);
        }
        let rest = self.rest.split_off(limit);
        let observations: Vec<_> = std::mem::replace(&mut self.rest, rest).into();
        let next = observations.last().map(|last| last.key());
        self.scan = Scan { after: next.clone(), ..scan.clone() };
        self.since = Instant::now();
        Ok((Page { observations, next }, Some(self)))
    }
}

/// A slice of time with what lies in it.
struct Slice {
    /// In the order of the scan.
    found: Vec<Found>,
    edge: i64,
    width: i64,
}

/// Reads the next slice; `None` where nothing lies beyond `edge`.
fn next_slice<T: Tables>(
    reader: &mut Reader<T>,
    scan: &Scan,
    edge: i64,
    mut width: i64,
) -> Result<Option<Slice>, T::Error> {
    let selection = reader.series.select(scan.window.sites.as_deref());
    let (from, to) = if scan.newest_first { (scan.window.from.0, edge) } else { (edge, scan.window.to.0) };
    let Some((first, end)) = reader.extent(from, to)? else { return Ok(None) };
    let cut = |width: i64| {
        if scan.newest_first {
            let start = (end - 1).div_euclid(width).saturating_mul(width);
            (start.max(first), end)
        } else {
            let next = first.div_euclid(width).saturating_add(1).saturating_mul(width);
            (first, next.min(end))
        }
    };
    while width > WIDTH_MIN {
        let (from, to) = cut(width);
        if reader.estimate(&selection, from, to)? <= SLICE {
            break;
        }
        width /= 2;
    }
    let (from, to) = cut(width);
    let mut found = reader.load(&selection, from, to)?;
    if scan.newest_first {
        found.reverse();
    }
    let sparse = (found.len() as u64) < SLICE / 8;
    let width = if sparse { width.saturating_mul(2).min(WIDTH_MAX) } else { width };
    Ok(Some(Slice { found, edge: if scan.newest_first { from } else { to }, width }))
}

/// Where an observation stands against a key.
fn compare(observation: &Observation, key: &Key) -> Ordering {
    (observation.scheduled_at, &observation.site, &observation.location).cmp(&(
        key.scheduled_at,
        &key.site,
        &key.location,
    ))
}
