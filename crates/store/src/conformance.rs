//! What every store must do. A driver's test hands in how a store of its own is configured, empty each time.
//!
//! The truth that a store is held against is a plain map: one observation for each key, chosen by
//! `Observation::precedence`; statistics are computed from it from nothing.

use crate::sample::{EPOCH, Sample};
use crate::{
    Access, Advance, Config, Retention, RollupQuery, Run, RunStart, Scan, SiteOverview, SiteRecord, SiteRollup, Store,
    StoreError, Upkeep, Upkept, Window,
};
use sitemon_model::observation::Key;
use sitemon_model::time::{DAY, HOUR, SECOND};
use sitemon_model::{Observation, Reason, Timestamp, Verdict, line};
use sitemon_stats::{Held, Rollup};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Runs the whole suite; `fresh` gives the configuration of a store that holds nothing yet, another each time.
/// Panics where the store does not do what is asked.
pub async fn conformance(fresh: impl Fn() -> Box<dyn Config>) {
    every_field_comes_back(&*fresh()).await;
    pages_are_in_order(&*fresh()).await;
    one_of_a_slot_is_kept(&*fresh()).await;
    an_export_is_the_same_bytes(&*fresh()).await;
    positions_are_fenced(&*fresh()).await;
    statistics_are_those_computed_anew(&*fresh()).await;
    a_verdict_is_carried_over(&*fresh()).await;
    late_ones_renew_what_follows(&*fresh()).await;
    requests_are_kept_but_not_counted(&*fresh()).await;
    the_latest_is_known(&*fresh()).await;
    since_when_is_known(&*fresh()).await;
    sites_come_and_go(&*fresh()).await;
    runs_are_noted(&*fresh()).await;
    each_has_its_retention(&*fresh()).await;
    reads_see_each_slot_once_while_packing(&*fresh()).await;
}

/// What a store must hold.
#[derive(Debug, Default)]
struct Truth(BTreeMap<Key, Arc<Observation>>);

/// Observations by site and location.
type BySeries = BTreeMap<(Arc<str>, Arc<str>), Vec<Arc<Observation>>>;

impl Truth {
    fn add(&mut self, batch: &[Arc<Observation>]) {
        for observation in batch {
            let kept = self.0.entry(observation.key()).or_insert_with(|| observation.clone());
            if observation.precedence(kept).is_lt() {
                *kept = observation.clone();
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        self.0.values().map(|observation| line::to_string(observation)).collect()
    }

    /// The observations of each site and location, by slot.
    fn series(&self) -> BySeries {
        let mut series = BySeries::new();
        for (key, observation) in &self.0 {
            series.entry((key.site.clone(), key.location.clone())).or_default().push(observation.clone());
        }
        series
    }

    /// The statistics of the spans of `width` that overlap a window, computed from nothing.
    fn rollups(&self, from: Timestamp, to: Timestamp, width: i64) -> Vec<SiteRollup> {
        let mut rollups = Vec::new();
        for ((site, location), observations) in self.series() {
            let mut start = from.floor(width);
            while start < to {
                let end = start.plus(width);
                rollups.extend(rollup(&observations, start, end).map(|rollup| SiteRollup {
                    site: site.clone(),
                    location: location.clone(),
                    rollup,
                }));
                start = end;
            }
        }
        rollups
    }

    fn summary(&self, from: Timestamp, to: Timestamp) -> Vec<SiteRollup> {
        let series = self.series().into_iter();
        series
            .filter_map(|((site, location), observations)| {
                Some(SiteRollup { site, location, rollup: rollup(&observations, from, to)? })
            })
            .collect()
    }
}

/// The statistics of a span from all observations of a series; `None` where there is nothing to say.
fn rollup(observations: &[Arc<Observation>], from: Timestamp, to: Timestamp) -> Option<Rollup> {
    let before = observations.iter().filter(|o| o.scheduled_at < from).map(|o| &**o);
    let carried = Held::after(from, None, before);
    let inside: Vec<&Observation> =
        observations.iter().map(|o| &**o).filter(|o| o.scheduled_at >= from && o.scheduled_at < to).collect();
    let counted = inside.iter().any(|o| o.reason == Reason::Schedule);
    (carried.is_some() || counted).then(|| Rollup::of(from, to, carried, inside))
}

/// Holds statistics against those expected; the moments of metrics may differ in their last digits, because
/// they are merged in another order.
#[track_caller]
fn assert_rollups(found: Vec<SiteRollup>, expected: Vec<SiteRollup>, what: &str) {
    let rounded = |rollups: Vec<SiteRollup>| -> Vec<SiteRollup> {
        let round = |value: f64| if value == 0.0 { 0.0 } else { format!("{value:.6e}").parse().unwrap_or(value) };
        let mut rollups = rollups;
        for (_, _, moments) in rollups.iter_mut().flat_map(|found| &mut found.rollup.metrics) {
            moments.mean = round(moments.mean);
            moments.m2 = round(moments.m2);
        }
        rollups
    };
    let (found, expected) = (rounded(found), rounded(expected));
    let name = |r: &SiteRollup| (r.site.clone(), r.location.clone(), r.rollup.from);
    let (have, want): (Vec<_>, Vec<_>) = (found.iter().map(name).collect(), expected.iter().map(name).collect());
    assert_eq!(have, want, "{what}: the spans");
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(found, expected, "{what}");
    }
}

/// Holds an export against the one expected, and shows the first line that differs.
#[track_caller]
fn assert_lines(found: &[String], expected: &[String], what: &str) {
    if let Some(at) = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at)) {
        assert_eq!(found.get(at), expected.get(at), "{what}: line {at} of {} and {}", found.len(), expected.len());
    }
}

async fn writer(config: &dyn Config) -> Arc<dyn Store> {
    config.open(Access::Write("run")).await.unwrap_or_else(|error| panic!("opening: {error}"))
}

async fn append(store: &dyn Store, truth: &mut Truth, batch: &[Arc<Observation>]) {
    truth.add(batch);
    store.append(batch.to_vec(), None).await.unwrap_or_else(|error| panic!("appending: {error}"));
}

async fn pack(store: &dyn Store, now: Timestamp, everything: bool) -> Upkept {
    store.maintain(Upkeep::Pack { now, everything }).await.unwrap_or_else(|error| panic!("packing: {error}"))
}

/// The whole of what a scan finds.
async fn all(store: &dyn Store, mut scan: Scan) -> Vec<Arc<Observation>> {
    let mut found = Vec::new();
    loop {
        let page = store.scan(&scan).await.unwrap_or_else(|error| panic!("scanning: {error}"));
        assert!(page.observations.len() <= scan.limit);
        assert!(page.next.is_none() || !page.observations.is_empty());
        found.extend(page.observations);
        match page.next {
            Some(next) => scan.after = Some(next),
            None => return found,
        }
    }
}

fn everything(limit: usize) -> Scan {
    Scan { window: window(Timestamp::MIN, Timestamp::MAX), after: None, limit, newest_first: false }
}

const fn window(from: Timestamp, to: Timestamp) -> Window {
    Window { sites: None, from, to }
}

async fn export(store: &dyn Store) -> Vec<String> {
    all(store, everything(500)).await.iter().map(|observation| line::to_string(observation)).collect()
}

/// Sites of different intervals around midnight, with gaps, failures, and an interval that changes.
fn traffic(seed: u64, hours: i64) -> Vec<Arc<Observation>> {
    let mut sample = Sample::new(seed);
    let start = EPOCH.plus(-HOUR);
    let mut batch = Vec::new();
    let sites: [(&str, &str, i64); 6] = [
        ("quick", "default", 15),
        ("quick", "far", 15),
        ("minute", "default", 60),
        ("slow", "default", 300),
        ("daily", "default", 86_400),
        ("gone", "default", 20),
    ];
    for (site, location, seconds) in sites {
        let (site, location): (Arc<str>, Arc<str>) = (site.into(), location.into());
        let interval = seconds * SECOND;
        let mut slot = start.plus(sample.below(interval as u64) as i64);
        while slot < start.plus(hours * HOUR) {
            let gone = &*site == "gone" && slot > start.plus(HOUR / 2) && slot < start.plus(2 * HOUR + HOUR / 2);
            if !sample.once_in(30) && !gone {
                batch.push(Arc::new(sample.mixed(&site, &location, slot, interval as u64)));
            }
            slot = slot.plus(interval);
        }
    }
    // An interval that changes within an hour, over the border between blocks of an hour and of a day.
    let (site, location): (Arc<str>, Arc<str>) = ("changed".into(), "default".into());
    let mut slot = start.plus(20 * 60 * SECOND);
    for (count, seconds) in [(60, 15), (8, 600), (40, 30), (3, 120)] {
        for _ in 0..count {
            batch.push(Arc::new(sample.mixed(&site, &location, slot, seconds * SECOND as u64)));
            slot = slot.plus(seconds as i64 * SECOND);
        }
    }
    batch.sort_by_key(|observation| observation.key());
    batch
}

async fn every_field_comes_back(config: &dyn Config) {
    let store = writer(config).await;
    let mut sample = Sample::new(21);
    let mut truth = Truth::default();
    for _ in 0..8 {
        let batch: Vec<_> = (0..100).map(|_| Arc::new(sample.any())).collect();
        append(&*store, &mut truth, &batch).await;
    }
    let expected: Vec<_> = truth.0.values().cloned().collect();
    assert_eq!(all(&*store, everything(64)).await, expected, "as they came");
    pack(&*store, EPOCH, true).await;
    assert_eq!(all(&*store, everything(64)).await, expected, "packed");
    store.close().await;
    let again = config.open(Access::Read).await.unwrap_or_else(|error| panic!("opening for reading: {error}"));
    assert_eq!(all(&*again, everything(64)).await, expected, "opened again");
}

async fn pages_are_in_order(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let batch = traffic(22, 3);
    let (packed, arriving) = batch.split_at(batch.len() / 2);
    append(&*store, &mut truth, packed).await;
    pack(&*store, EPOCH, true).await;
    append(&*store, &mut truth, arriving).await;
    let (from, to) = (EPOCH.plus(-HOUR / 3), EPOCH.plus(HOUR + 7));
    for sites in [None, Some(vec!["quick".into()]), Some(vec!["slow".into(), "daily".into(), "nobody".into()])] {
        for limit in [1, 7, 100_000] {
            let window = Window { sites: sites.clone(), from, to };
            let inside = |o: &&Arc<Observation>| {
                o.scheduled_at >= from && o.scheduled_at < to && sites.as_ref().is_none_or(|s| s.contains(&o.site))
            };
            let mut expected: Vec<_> = truth.0.values().filter(inside).cloned().collect();
            let scan = Scan { window, after: None, limit, newest_first: false };
            assert_eq!(all(&*store, scan.clone()).await, expected, "{sites:?} {limit}");
            expected.reverse();
            assert_eq!(all(&*store, Scan { newest_first: true, ..scan }).await, expected, "newest {sites:?} {limit}");
        }
    }
    let empty = Scan { window: window(to, from), ..everything(5) };
    assert!(all(&*store, empty).await.is_empty());
    // A page can be asked for whatever was read before.
    let scan = Scan { window: window(from, to), after: None, limit: 10, newest_first: false };
    let first = store.scan(&scan).await.unwrap_or_default();
    let second = Scan { after: first.next.clone(), ..scan.clone() };
    let once = store.scan(&second).await.unwrap_or_default().observations;
    assert_eq!(store.scan(&scan).await.unwrap_or_default().observations, first.observations);
    assert_eq!(store.scan(&second).await.unwrap_or_default().observations, once);
    assert_eq!(store.scan(&second).await.unwrap_or_default().observations, once);
    store.close().await;
}

async fn one_of_a_slot_is_kept(config: &dyn Config) {
    let store = writer(config).await;
    let mut sample = Sample::new(23);
    let (site, location): (Arc<str>, Arc<str>) = ("twice".into(), "default".into());
    let mut truth = Truth::default();
    // Several of each slot, of all verdicts and starts, some with evidence, some with another interval.
    let mut copies = Vec::new();
    for slot in 0..120 {
        let slot = EPOCH.plus(-HOUR / 4 + slot * 15 * SECOND);
        for copy in 0..4 {
            let mut observation = sample.mixed(&site, &location, slot, 15_000_000);
            if copy == 1 {
                observation =
                    Observation { site: site.clone(), location: location.clone(), scheduled_at: slot, ..sample.any() };
                observation.interval_us = if sample.once_in(2) { 15_000_000 } else { 300_000_000 };
                observation.timeout_us = 10_000_000;
            }
            if copy == 2 {
                observation.started_at = None;
                observation.verdict = Verdict::Unknown(Vec::new());
            }
            copies.push(Arc::new(observation));
        }
    }
    for index in (1..copies.len()).rev() {
        copies.swap(index, sample.below(index as u64 + 1) as usize);
    }
    for (round, batch) in copies.chunks(60).enumerate() {
        append(&*store, &mut truth, batch).await;
        assert_lines(&export(&*store).await, &truth.lines(), &format!("round {round}"));
        if round % 2 == 0 {
            pack(&*store, EPOCH, true).await;
            assert_lines(&export(&*store).await, &truth.lines(), &format!("packed in round {round}"));
        }
    }
    let (from, to) = (EPOCH.plus(-HOUR), EPOCH.plus(2 * HOUR));
    for packed in [false, true] {
        if packed {
            pack(&*store, EPOCH, true).await;
        }
        let query = RollupQuery { window: window(from, to), width: HOUR };
        let found = store.rollups(&query).await.unwrap_or_default();
        assert_rollups(found, truth.rollups(from, to, HOUR), "of slots that came several times");
    }
    store.close().await;
}

async fn an_export_is_the_same_bytes(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let batch = traffic(24, 4);
    // What comes late is every seventh.
    let late: Vec<_> = batch.iter().step_by(7).cloned().collect();
    let on_time: Vec<_> =
        batch.iter().enumerate().filter(|(index, _)| index % 7 != 0).map(|(_, o)| o.clone()).collect();
    for batch in on_time.chunks(200) {
        append(&*store, &mut truth, batch).await;
    }
    let expected = truth.lines();
    assert_lines(&export(&*store).await, &expected, "before packing");
    let packed = pack(&*store, EPOCH.plus(HOUR), false).await;
    assert!(packed.arrivals > 0 && packed.blocks > 0, "{packed:?}");
    assert_lines(&export(&*store).await, &expected, "after packing what is closed");
    let left = store.measure().await.unwrap_or_default().arrivals;
    assert!(left > 0 && left < on_time.len() as u64, "{left} arrivals are left");
    pack(&*store, EPOCH.plus(HOUR), true).await;
    assert_lines(&export(&*store).await, &expected, "after packing everything");
    let measures = store.measure().await.unwrap_or_default();
    assert_eq!(measures.arrivals, 0);
    assert!(measures.blocks > 0 && measures.bytes > 0);
    pack(&*store, EPOCH.plus(HOUR), true).await;
    store.append(on_time[..100].to_vec(), None).await.unwrap_or_else(|error| panic!("repeating: {error}"));
    assert_lines(&export(&*store).await, &expected, "after a repetition");
    pack(&*store, EPOCH.plus(HOUR), true).await;
    assert_lines(&export(&*store).await, &expected, "after packing a repetition");
    assert_eq!(store.measure().await.unwrap_or_default().blocks, measures.blocks);
    append(&*store, &mut truth, &late).await;
    let expected = truth.lines();
    assert_lines(&export(&*store).await, &expected, "after late ones");
    pack(&*store, EPOCH.plus(HOUR), true).await;
    assert_lines(&export(&*store).await, &expected, "after packing late ones");
    store.maintain(Upkeep::Reclaim).await.unwrap_or_else(|error| panic!("reclaiming: {error}"));
    assert_lines(&export(&*store).await, &expected, "after reclaiming");
    store.close().await;
    let store = writer(config).await;
    assert_lines(&export(&*store).await, &expected, "opened again");
    store.close().await;
}

async fn positions_are_fenced(config: &dyn Config) {
    let store = writer(config).await;
    let mut sample = Sample::new(25);
    let mut batch = || vec![Arc::new(sample.any())];
    let advance = |source: &str, expected, next| Some(Advance { source: source.into(), expected, next });
    let first = batch();
    assert!(store.append(first.clone(), advance("t/0", 0, 5)).await.is_ok());
    assert!(store.append(Vec::new(), advance("t/0", 5, 9)).await.is_ok(), "a position moves alone");
    let refused = store.append(batch(), advance("t/0", 5, 7)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { expected: 5, found: 9, .. })), "{refused:?}");
    let refused = store.append(batch(), advance("t/1", 1, 2)).await;
    assert!(matches!(refused, Err(StoreError::Fenced { found: 0, .. })), "{refused:?}");
    assert_eq!(store.position("t/0").await.ok(), Some(9));
    assert_eq!(store.position("t/1").await.ok(), Some(0));
    assert_eq!(all(&*store, everything(9)).await, first, "what is refused is not stored");
    store.close().await;
    let store = writer(config).await;
    assert_eq!(store.position("t/0").await.ok(), Some(9));
    store.close().await;
}

async fn statistics_are_those_computed_anew(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let batch = traffic(26, 5);
    let third = batch.len() / 3;
    for (stage, part) in [&batch[..third], &batch[third..2 * third], &batch[2 * third..]].into_iter().enumerate() {
        append(&*store, &mut truth, part).await;
        for packed in [false, true] {
            if packed {
                // What is closed the first time, everything the second; the last stays half packed.
                let now = part[part.len() / 2].scheduled_at;
                pack(&*store, now, stage == 1).await;
            }
            hold_statistics(&*store, &truth, &format!("stage {stage}, packed {packed}")).await;
        }
    }
    pack(&*store, EPOCH.plus(100 * HOUR), false).await;
    hold_statistics(&*store, &truth, "all closed").await;
    store.close().await;
}

/// Holds all statistics of a store against the truth.
async fn hold_statistics(store: &dyn Store, truth: &Truth, what: &str) {
    let (from, to) = (EPOCH.plus(-2 * HOUR), EPOCH.plus(9 * HOUR));
    for width in [HOUR, DAY] {
        let query = RollupQuery { window: window(from, to), width };
        let found = store.rollups(&query).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_rollups(found, truth.rollups(from, to, width), &format!("{what}, width {width}"));
    }
    let sites: Option<Vec<Arc<str>>> = Some(vec!["changed".into(), "quick".into()]);
    let (first, last) = (EPOCH.plus(-HOUR / 2), EPOCH.plus(HOUR / 2));
    let query = RollupQuery { window: Window { sites: sites.clone(), from: first, to: last }, width: HOUR };
    let found = store.rollups(&query).await.unwrap_or_default();
    let mut expected = truth.rollups(EPOCH.plus(-HOUR), EPOCH.plus(HOUR), HOUR);
    expected.retain(|rollup| ["changed", "quick"].contains(&&*rollup.site));
    assert_rollups(found, expected, &format!("{what}, two sites"));
    for (from, to) in [
        (EPOCH.plus(-HOUR), EPOCH.plus(4 * HOUR)),
        (EPOCH.plus(-HOUR / 3), EPOCH.plus(2 * HOUR + 11 * 60 * SECOND)),
        (EPOCH.plus(61 * SECOND), EPOCH.plus(20 * 60 * SECOND)),
        (EPOCH.plus(-DAY - 5), EPOCH.plus(2 * DAY + 5)),
    ] {
        let found = store.summary(&window(from, to)).await.unwrap_or_default();
        assert_rollups(found, truth.summary(from, to), &format!("{what}, from {from} to {to}"));
    }
    hold_overviews(store, truth, what).await;
}

/// Holds overviews against the truth: of windows that begin with an hour or a day, as they are shown, and others; and
/// that end now, in the future, or in the midst of what is stored.
async fn hold_overviews(store: &dyn Store, truth: &Truth, what: &str) {
    let ends = [EPOCH.plus(HOUR / 2), EPOCH.plus(2 * HOUR), EPOCH.plus(3 * HOUR + 7), EPOCH.plus(40 * HOUR + 1)];
    for from in [EPOCH.plus(-DAY), EPOCH.plus(-HOUR), EPOCH, EPOCH.plus(2 * HOUR), EPOCH.plus(-90 * 60 * SECOND)] {
        for to in ends.into_iter().filter(|to| *to > from) {
            let window = window(from, to);
            let found = store.overview(&window).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let expected: Vec<_> = truth.summary(from, to).into_iter().map(SiteOverview::of).collect();
            assert_overviews(&found, &expected, &format!("{what}, overview from {from} to {to}"));
        }
    }
    let sites: Option<Vec<Arc<str>>> = Some(vec!["changed".into(), "quick".into(), "nobody".into()]);
    let (from, to) = (EPOCH.plus(-HOUR), EPOCH.plus(HOUR + 77));
    let found = store.overview(&Window { sites, from, to }).await.unwrap_or_default();
    let mut expected: Vec<_> = truth.summary(from, to).into_iter().map(SiteOverview::of).collect();
    expected.retain(|found| ["changed", "quick"].contains(&&*found.site));
    assert_overviews(&found, &expected, &format!("{what}, overview of two sites"));
}

#[track_caller]
fn assert_overviews(found: &[SiteOverview], expected: &[SiteOverview], what: &str) {
    let names = |sites: &[SiteOverview]| -> Vec<String> {
        sites.iter().map(|site| format!("{} {}", site.site, site.location)).collect()
    };
    assert_eq!(names(found), names(expected), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{what}");
    }
}

async fn a_verdict_is_carried_over(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let mut sample = Sample::new(27);
    // The last slot of an hour holds into the next, and that of a day-long interval over many.
    let last = sample.regular(&"edge".into(), &"default".into(), EPOCH.plus(-5 * SECOND), 15_000_000);
    let daily = sample.regular(&"daily".into(), &"default".into(), EPOCH.plus(-5 * SECOND), DAY as u64);
    append(&*store, &mut truth, &[Arc::new(last), Arc::new(daily)]).await;
    for (now, everything) in [(EPOCH, false), (EPOCH.plus(HOUR / 2), false), (EPOCH.plus(HOUR / 2), true)] {
        pack(&*store, now, everything).await;
        hold_statistics(&*store, &truth, "carried").await;
    }
    for hours in [2, 3, 30] {
        pack(&*store, EPOCH.plus(hours * HOUR), false).await;
        hold_statistics(&*store, &truth, &format!("carried, {hours} hours later")).await;
    }
    // A year of a site that is always up is covered without a gap, at its edges too.
    let expected = truth.rollups(EPOCH, EPOCH.plus(DAY), DAY);
    let daily = expected.iter().find(|rollup| &*rollup.site == "daily");
    assert_eq!(daily.and_then(|rollup| rollup.rollup.availability.coverage()), Some(1.0));
    store.close().await;
}

async fn late_ones_renew_what_follows(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let mut sample = Sample::new(28);
    let (site, location): (Arc<str>, Arc<str>) = ("late".into(), "default".into());
    let mut at = |slot: i64, down: bool, interval: i64| {
        let mut observation = sample.regular(&site, &location, EPOCH.plus(slot * SECOND), (interval * SECOND) as u64);
        if down {
            observation.verdict = Verdict::Down(Vec::new());
        }
        Arc::new(observation)
    };
    let batch = [at(-100, false, 60), at(3600 - 70, false, 60), at(3600 + 50, false, 60), at(2 * 3600 + 30, true, 60)];
    append(&*store, &mut truth, &batch).await;
    pack(&*store, EPOCH.plus(6 * HOUR), false).await;
    hold_statistics(&*store, &truth, "before the late ones").await;
    // The last of an hour, of a day, one in an hour that only a verdict reached into, one with a long interval.
    for (index, late) in [
        at(3600 - 10, true, 60),
        at(-10, true, 60),
        at(4 * 3600, false, 60),
        at(5 * 3600 - 1, true, 7200),
        at(20, false, 15),
    ]
    .into_iter()
    .enumerate()
    {
        append(&*store, &mut truth, &[late]).await;
        hold_statistics(&*store, &truth, &format!("late one {index}")).await;
        pack(&*store, EPOCH.plus((7 + index as i64) * HOUR), false).await;
        hold_statistics(&*store, &truth, &format!("late one {index}, packed")).await;
    }
    assert_eq!(export(&*store).await, truth.lines());
    store.close().await;
}

async fn requests_are_kept_but_not_counted(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let mut sample = Sample::new(29);
    let mut batch = traffic(29, 2);
    for minute in 0..20 {
        let slot = EPOCH.plus(minute * 67 * SECOND + 3);
        let mut asked = sample.regular(&"quick".into(), &"default".into(), slot, 15_000_000);
        asked.reason = Reason::Request;
        asked.verdict = Verdict::Down(Vec::new());
        batch.push(Arc::new(asked));
    }
    append(&*store, &mut truth, &batch).await;
    for everything in [false, true] {
        assert_eq!(export(&*store).await, truth.lines());
        hold_statistics(&*store, &truth, "with requests").await;
        pack(&*store, EPOCH.plus(HOUR), everything).await;
    }
    hold_statistics(&*store, &truth, "with requests, packed").await;
    store.close().await;
}

async fn the_latest_is_known(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let mut sample = Sample::new(30);
    assert!(store.latest().await.is_ok_and(|latest| latest.is_empty()));
    let expected = |truth: &Truth| -> Vec<Arc<Observation>> {
        let last = |observations: Vec<Arc<Observation>>| {
            observations.into_iter().rfind(|observation| observation.reason == Reason::Schedule)
        };
        truth.series().into_values().filter_map(last).collect()
    };
    for round in 0..12 {
        let batch: Vec<_> = (0..30).map(|_| Arc::new(sample.any())).collect();
        append(&*store, &mut truth, &batch).await;
        assert_eq!(store.latest().await.unwrap_or_default(), expected(&truth), "round {round}");
        if round % 3 == 1 {
            pack(&*store, EPOCH, round % 2 == 0).await;
            assert_eq!(store.latest().await.unwrap_or_default(), expected(&truth), "packed in round {round}");
        }
    }
    store.close().await;
}

/// From a second on to another one, and the verdict between them.
type Stretch = (i64, i64, u8);

async fn since_when_is_known(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let mut sample = Sample::new(33);
    let location: Arc<str> = "default".into();
    let known = async |truth: &Truth, what: &str| {
        let mut of = vec![("nobody".into(), location.clone())];
        let mut expected = vec![None];
        for (key, observations) in truth.series() {
            let scheduled: Vec<_> = observations.iter().filter(|o| o.reason == Reason::Schedule).collect();
            let same =
                |o: &&&Arc<Observation>| Some(o.verdict.number()) == scheduled.last().map(|o| o.verdict.number());
            expected.push(scheduled.iter().rev().take_while(same).last().map(|o| o.scheduled_at));
            of.push(key);
        }
        let found = store.since(&of).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        for ((found, expected), of) in found.iter().zip(&expected).zip(&of) {
            assert_eq!(found, expected, "{what}: {of:?}");
        }
    };
    known(&truth, "nothing").await;
    // Down for minutes, hours, days, from the first on, and with a gap between.
    let (hour, minute) = (3600, 60);
    let sites: [(&str, &[Stretch]); 6] = [
        ("minutes", &[(0, 70 * hour, 0), (70 * hour, 71 * hour, 2)]),
        ("hours", &[(0, 50 * hour + 7 * minute, 0), (50 * hour + 7 * minute, 71 * hour, 2)]),
        ("days", &[(0, 20 * minute, 2), (20 * minute, 40 * minute, 0), (40 * minute, 71 * hour, 2)]),
        ("ever", &[(0, 71 * hour, 3)]),
        ("gap", &[(0, 9 * hour, 0), (9 * hour, 10 * hour, 2), (60 * hour, 71 * hour, 2)]),
        ("stopped", &[(0, hour, 0), (hour, 2 * hour, 2)]),
    ];
    let mut batch = Vec::new();
    for (site, spans) in sites {
        for interval in [15 * minute, 50] {
            let name: Arc<str> = format!("{site}-{interval}").into();
            for (from, to, verdict) in spans {
                for slot in (*from..*to).step_by(interval as usize).step_by(if interval == 50 { 12 } else { 1 }) {
                    let at = EPOCH.plus((slot + 3) * SECOND);
                    let mut observation = sample.regular(&name, &location, at, (interval * SECOND) as u64);
                    observation.verdict = Verdict::from_number(*verdict, Vec::new()).unwrap_or_default();
                    batch.push(Arc::new(observation));
                }
            }
        }
    }
    batch.sort_by_key(|observation| observation.key());
    // What arrives in another order, or late.
    let (first, rest) = batch.split_at(batch.len() * 2 / 3);
    let late: Vec<_> = rest.iter().step_by(40).cloned().collect();
    let on_time: Vec<_> =
        rest.iter().enumerate().filter(|(index, _)| index % 40 != 0).map(|(_, o)| o.clone()).collect();
    append(&*store, &mut truth, first).await;
    known(&truth, "as it came").await;
    pack(&*store, EPOCH.plus(48 * HOUR), false).await;
    known(&truth, "packed").await;
    append(&*store, &mut truth, &on_time).await;
    known(&truth, "packed and as it came").await;
    append(&*store, &mut truth, &late).await;
    known(&truth, "late").await;
    pack(&*store, EPOCH.plus(60 * HOUR), false).await;
    known(&truth, "late, packed in part").await;
    pack(&*store, EPOCH.plus(80 * HOUR), true).await;
    known(&truth, "all packed").await;
    // One that comes late and was up, in the midst of what is down.
    let mut late = |site: &str, slot: i64| {
        Arc::new(sample.regular(&site.into(), &location, EPOCH.plus(slot * SECOND + 9), 50_000_000))
    };
    let late = [late("ever-50", 30 * hour), late("hours-50", 70 * hour + 500), late("days-900", 66 * hour)];
    append(&*store, &mut truth, &late).await;
    known(&truth, "an exception").await;
    pack(&*store, EPOCH.plus(80 * HOUR), false).await;
    pack(&*store, EPOCH.plus(80 * HOUR), true).await;
    known(&truth, "an exception, packed").await;
    store.close().await;
}

async fn sites_come_and_go(config: &dyn Config) {
    let store = writer(config).await;
    let site = |name: &str, seconds| SiteRecord {
        name: name.into(),
        url: format!("https://{name}.example/").into(),
        kind: "http".into(),
        enabled: seconds != 7,
        interval: Duration::from_secs(seconds),
        labels: [("team".to_owned(), format!("\"{name}\""))].into(),
        present: true,
    };
    let save = async |origin: &str, sites: Vec<SiteRecord>| {
        store.save_sites(origin, sites).await.unwrap_or_else(|error| panic!("saving: {error}"));
        store.sites().await.unwrap_or_else(|error| panic!("reading: {error}"))
    };
    assert_eq!(save("file", vec![site("b", 15), site("a", 7)]).await, [site("a", 7), site("b", 15)]);
    assert_eq!(save("api", vec![site("c", 1)]).await, [site("a", 7), site("b", 15), site("c", 1)]);
    let gone = SiteRecord { present: false, ..site("a", 7) };
    assert_eq!(save("file", vec![site("b", 30)]).await, [gone.clone(), site("b", 30), site("c", 1)]);
    assert_eq!(save("file", vec![site("a", 8), site("b", 30)]).await, [site("a", 8), site("b", 30), site("c", 1)]);
    store.close().await;
}

async fn runs_are_noted(config: &dyn Config) {
    let store = writer(config).await;
    let start = |at| RunStart { at, location: "default".into(), pid: 7, version: "0.1.0".into() };
    let begin = async |at| store.begin_run(&start(at)).await.unwrap_or_else(|error| panic!("beginning: {error}"));
    let first = begin(EPOCH).await;
    let second = begin(EPOCH.plus(HOUR)).await;
    assert_ne!(first, second);
    assert!(store.touch_run(first, EPOCH.plus(HOUR / 2), None).await.is_ok());
    assert!(store.touch_run(second, EPOCH.plus(2 * HOUR), Some("stopped")).await.is_ok());
    let runs = [
        Run { start: start(EPOCH), alive_until: EPOCH.plus(HOUR / 2), ended: None },
        Run { start: start(EPOCH.plus(HOUR)), alive_until: EPOCH.plus(2 * HOUR), ended: Some("stopped".into()) },
    ];
    let found = async |from, to| store.runs(from, to).await.unwrap_or_default();
    assert_eq!(found(Timestamp::MIN, Timestamp::MAX).await, runs);
    assert_eq!(found(EPOCH.plus(HOUR / 2 + 1), EPOCH.plus(HOUR)).await, []);
    assert_eq!(found(EPOCH.plus(HOUR / 4), EPOCH.plus(HOUR)).await, runs[..1]);
    assert_eq!(found(EPOCH.plus(HOUR + 9), EPOCH.plus(DAY)).await, runs[1..]);
    store.close().await;
}

async fn each_has_its_retention(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let mut batch = traffic(31, 4);
    let mut sample = Sample::new(31);
    let mut shown = sample.regular(&"shown".into(), &"default".into(), EPOCH.plus(5), 60_000_000);
    shown.evidence = Some(Box::default());
    batch.push(Arc::new(shown));
    append(&*store, &mut truth, &batch).await;
    pack(&*store, EPOCH.plus(2 * DAY), true).await;
    let hours = truth.rollups(EPOCH.plus(-DAY), EPOCH.plus(3 * DAY), HOUR);
    let days = truth.rollups(EPOCH.plus(-DAY), EPOCH.plus(3 * DAY), DAY);
    let prune = async |now, observations, evidence, hour, day| {
        let [observations, evidence, hour, day] =
            [observations, evidence, hour, day].map(|days: u64| Duration::from_secs(days * 86_400));
        let retention = Retention { observations, evidence, hour, day };
        let upkeep = Upkeep::Prune { now, retention };
        store.maintain(upkeep).await.unwrap_or_else(|error| panic!("pruning: {error}")).removed
    };
    let read = async |width| {
        let query = RollupQuery { window: window(EPOCH.plus(-DAY), EPOCH.plus(3 * DAY)), width };
        store.rollups(&query).await.unwrap_or_default()
    };
    let now = EPOCH.plus(10 * DAY);
    assert_eq!(prune(now, 100, 100, 100, 100).await, 0, "nothing is past");
    assert_eq!(export(&*store).await, truth.lines());
    assert!(prune(now, 100, 1, 100, 100).await > 0, "evidence goes first");
    let plain: Vec<_> = truth.0.values().map(|o| Observation { evidence: None, ..Observation::clone(o) }).collect();
    let lines: Vec<_> = plain.iter().map(line::to_string).collect();
    assert_eq!(export(&*store).await, lines);
    assert!(prune(now, 10, 1, 100, 100).await > 0, "then the day before");
    let kept: Vec<_> = plain.iter().filter(|o| o.scheduled_at >= EPOCH).map(line::to_string).collect();
    assert!(!kept.is_empty() && kept.len() < lines.len());
    assert_eq!(export(&*store).await, kept);
    assert_rollups(read(HOUR).await, hours.clone(), "hours outlive observations");
    // What comes later than its retention changes nothing.
    store.append(batch[..40].to_vec(), None).await.unwrap_or_else(|error| panic!("appending: {error}"));
    pack(&*store, now, true).await;
    assert_eq!(export(&*store).await, kept);
    assert_rollups(read(HOUR).await, hours.clone(), "hours outlive what comes too late");
    // A late one in the first hour that is kept still knows what was carried into it.
    let late = sample.regular(&"quick".into(), &"default".into(), EPOCH.plus(HOUR - 1), 15_000_000);
    append(&*store, &mut truth, &[Arc::new(late)]).await;
    pack(&*store, now.plus(HOUR), true).await;
    let hours = truth.rollups(EPOCH.plus(-DAY), EPOCH.plus(3 * DAY), HOUR);
    assert_rollups(read(HOUR).await, hours, "a late one at the edge");
    assert!(prune(now, 1, 1, 1, 100).await > 0);
    assert!(export(&*store).await.is_empty());
    assert!(read(HOUR).await.is_empty());
    assert_eq!(read(DAY).await.len(), days.len());
    assert!(prune(now, 1, 1, 1, 1).await > 0);
    assert!(read(DAY).await.is_empty());
    assert_eq!(store.measure().await.unwrap_or_default().blocks, 0);
    store.close().await;
}

async fn reads_see_each_slot_once_while_packing(config: &dyn Config) {
    let store = writer(config).await;
    let mut truth = Truth::default();
    let batch = traffic(32, 4);
    for batch in batch.chunks(300) {
        append(&*store, &mut truth, batch).await;
    }
    let expected = truth.lines();
    let packing = {
        let store = store.clone();
        tokio::spawn(async move {
            for hours in 0..4 {
                pack(&*store, EPOCH.plus(hours * HOUR), false).await;
                // Some of it comes again, so that there is always something to do.
                store.append(batch[..200].to_vec(), None).await.unwrap_or_else(|error| panic!("appending: {error}"));
            }
            pack(&*store, EPOCH, true).await;
        })
    };
    let mut reads = 0;
    while !packing.is_finished() || reads < 3 {
        let found = export(&*store).await;
        let keys: BTreeSet<&String> = found.iter().collect();
        assert_eq!(keys.len(), found.len(), "read {reads}: twice");
        assert_lines(&found, &expected, &format!("read {reads}"));
        reads += 1;
    }
    packing.await.unwrap_or_else(|error| panic!("{error}"));
    store.close().await;
}
