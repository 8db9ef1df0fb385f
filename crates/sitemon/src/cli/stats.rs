//! `sitemon stats`: availability, percentiles, causes and findings of a site over a window.

use super::args;
use super::terminal::{self, Align, Cell, FAINT, Output, STRONG, Table, painted};
use super::wanted::{self, Wanted};
use super::{Exit, Failure, Outcome, on_this_thread, show};
use crate::config::Source;
use serde_json::{Map, Value, json};
use sitemon_model::time::{DAY, HOUR};
use sitemon_model::{Finding, Observation, Phase, Timestamp};
use sitemon_stats::{Rollup, Sketch};
use sitemon_store::{RollupQuery, Scan, SiteRollup, Store, Window};
use std::sync::Arc;

/// Findings that are listed at most, the latest.
const FINDINGS: usize = 1000;

/// Findings that people are shown.
const FINDINGS_SHOWN: usize = 20;

/// Metrics that people are shown of each plugin's many.
const METRICS_SHOWN: usize = 40;

/// A finding and when it was made.
type Found = (Timestamp, Arc<str>, Finding);

/// Shows the statistics of a site, for each location.
pub fn run(args: &args::Stats, source: &Source) -> Outcome {
    on_this_thread(async {
        let wanted = Wanted::open(source).await?;
        let window = wanted::window(wanted.known(std::slice::from_ref(&args.site))?, args.from, args.to, DAY)?;
        let (mut rollups, mut found) = (Vec::new(), Vec::new());
        if let Some(store) = &wanted.store {
            rollups = store.summary(&window).await?;
            if rollups.iter().any(|site| site.rollup.findings > 0) {
                found = findings(&**store, &window).await?;
            }
        }
        if rollups.is_empty() {
            rollups.push(SiteRollup {
                site: args.site.as_str().into(),
                location: wanted.config.location.clone(),
                rollup: Rollup::over(window.from, window.to, []),
            });
        }
        let mut output = if args.json { Output::data() } else { Output::styled() };
        for site in &rollups {
            let found: Vec<&Found> = found.iter().filter(|(_, location, _)| *location == site.location).collect();
            if args.json {
                output.json(&of_site(site, &found))?;
            } else {
                drawn(site, &found).iter().try_for_each(|line| output.line(line))?;
            }
        }
        output.flush()?;
        wanted.close().await;
        Ok(Exit::Done)
    })
}

/// The latest findings of the window, the oldest first. Only hours or days that have some are read.
async fn findings(store: &dyn Store, window: &Window) -> Result<Vec<Found>, Failure> {
    let width = if window.to.since(window.from) > 4 * DAY { DAY } else { HOUR };
    let spans = store.rollups(&RollupQuery { window: window.clone(), width }).await?;
    let mut starts: Vec<Timestamp> =
        spans.iter().filter(|site| site.rollup.findings > 0).map(|site| site.rollup.from).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut found: Vec<Found> = Vec::new();
    for start in starts.into_iter().rev() {
        let part =
            Window { sites: window.sites.clone(), from: start.max(window.from), to: start.plus(width).min(window.to) };
        let mut scan = Scan { window: part, after: None, limit: 1000, newest_first: true };
        loop {
            let page = store.scan(&scan).await?;
            for observation in &page.observations {
                found.extend(of_observation(observation));
            }
            scan.after = page.next;
            if scan.after.is_none() || found.len() >= FINDINGS {
                break;
            }
        }
        if found.len() >= FINDINGS {
            break;
        }
    }
    found.truncate(FINDINGS);
    found.reverse();
    Ok(found)
}

/// The findings of one observation, the last first, as the whole list is turned round in the end.
fn of_observation(observation: &Observation) -> impl Iterator<Item = Found> + '_ {
    let place = (observation.scheduled_at, &observation.location);
    observation.findings.iter().rev().map(move |finding| (place.0, place.1.clone(), finding.clone()))
}

/// The four quantiles that are shown; empty where there is nothing.
pub fn percentiles(sketch: &Sketch) -> Option<Value> {
    let shown = sketch.percentiles()?;
    Some(json!({"p50": shown.p50, "p90": shown.p90, "p95": shown.p95, "p99": shown.p99}))
}

/// The same; of nothing each is null, so that who reads it finds the keys.
pub fn percentiles_or_null(sketch: &Sketch) -> Value {
    percentiles(sketch).unwrap_or_else(|| json!({"p50": null, "p90": null, "p95": null, "p99": null}))
}

/// A finding as in the observation's line, with when it was made.
pub fn of_finding(at: Timestamp, finding: &Finding) -> Value {
    let mut value = json!({"scheduled_at": at.to_string(), "plugin": &*finding.plugin});
    if !finding.metric.is_empty() {
        value["metric"] = (*finding.metric).into();
    }
    for (key, number) in [("value", finding.value), ("mean", finding.mean), ("deviation", finding.deviation)] {
        if let Some(number) = number {
            value[key] = show::number(number);
        }
    }
    value["message"] = (*finding.message).into();
    value
}

fn of_site(site: &SiteRollup, found: &[&Found]) -> Value {
    let rollup = &site.rollup;
    let mut value = json!({
        "site": &*site.site,
        "location": &*site.location,
        "from": rollup.from.to_string(),
        "to": rollup.to.to_string(),
    });
    value["availability"] = rollup.availability.availability().into();
    value["coverage"] = rollup.availability.coverage().unwrap_or(0.0).into();
    value["time_us"] = by_verdict(rollup.availability.by_verdict_us);
    value["checks"] = by_verdict(rollup.checks);
    value["latency_us"] = percentiles_or_null(&rollup.latency);
    let phases: Map<String, Value> = Phase::ALL
        .iter()
        .filter_map(|phase| Some((phase.as_str().to_owned(), percentiles(rollup.phase(*phase))?)))
        .collect();
    value["phases_us"] = phases.into();
    let causes: Vec<Value> = by_count(rollup)
        .into_iter()
        .map(|(code, count)| json!({"code": code.as_str(), "number": code.number(), "count": count}))
        .collect();
    value["causes"] = causes.into();
    let mut metrics = Map::new();
    for (plugin, metric, moments) in &rollup.metrics {
        let of_plugin = metrics.entry(&**plugin).or_insert_with(|| Map::new().into());
        of_plugin[&**metric] = json!({"count": moments.count, "mean": show::number(moments.mean), "deviation": show::number(moments.deviation())});
    }
    value["metrics"] = metrics.into();
    value["findings"] = found.iter().map(|(at, _, finding)| of_finding(*at, finding)).collect();
    value["findings_count"] = rollup.findings.into();
    value
}

fn by_verdict(numbers: [u64; 4]) -> Value {
    let [up, degraded, down, unknown] = numbers;
    json!({"up": up, "degraded": degraded, "down": down, "unknown": unknown})
}

/// The causes, the most frequent first.
fn by_count(rollup: &Rollup) -> Vec<(sitemon_model::Code, u64)> {
    let mut causes = rollup.causes.clone();
    causes.sort_by_key(|(code, count)| (std::cmp::Reverse(*count), *code));
    causes
}

fn drawn(site: &SiteRollup, found: &[&Found]) -> Vec<String> {
    let rollup = &site.rollup;
    let mut lines = vec![
        format!(
            "{} at {}  {}",
            painted(&show::plain(&site.site), STRONG),
            show::plain(&site.location),
            painted(&format!("{} to {} UTC", show::time(rollup.from), show::time(rollup.to)), FAINT),
        ),
        String::new(),
    ];
    let available = rollup.availability.availability().map_or_else(|| "unknown".to_owned(), show::percent);
    let coverage = rollup.availability.coverage().unwrap_or(0.0);
    lines.push(format!("availability  {}   coverage {}", painted(&available, STRONG), show::percent(coverage)));
    for (label, numbers, timed) in [("time", rollup.availability.by_verdict_us, true), ("checks", rollup.checks, false)]
    {
        let parts: Vec<String> = (0..4_u8)
            .filter(|verdict| numbers[usize::from(*verdict)] > 0)
            .map(|verdict| {
                let number = numbers[usize::from(verdict)];
                let shown =
                    if timed { show::span(i64::try_from(number).unwrap_or(i64::MAX)) } else { show::count(number) };
                painted(&format!("{} {shown}", terminal::verdict_name(verdict)), terminal::verdict_style(verdict))
            })
            .collect();
        lines.push(format!("{label:<12}  {}", if parts.is_empty() { "none".to_owned() } else { parts.join(" · ") }));
    }
    lines.push(String::new());
    let mut table = Table::new(vec![
        ("", Align::Left),
        ("CHECKS", Align::Right),
        ("P50", Align::Right),
        ("P90", Align::Right),
        ("P95", Align::Right),
        ("P99", Align::Right),
    ]);
    let sketches = std::iter::once(("response", &rollup.latency))
        .chain(Phase::ALL.iter().map(|phase| (phase.as_str(), rollup.phase(*phase))));
    for (name, sketch) in sketches {
        if let Some(shown) = sketch.percentiles() {
            let mut cells = vec![Cell::new(name), Cell::new(show::count(sketch.count()))];
            cells.extend([shown.p50, shown.p90, shown.p95, shown.p99].map(|us| Cell::new(show::took(us))));
            table.row(cells);
        }
    }
    if table.len() > 0 {
        lines.extend(table.lines(None));
        lines.push(String::new());
    }
    if !rollup.causes.is_empty() {
        let mut table = Table::new(vec![("CAUSE", Align::Left), ("CHECKS", Align::Right), ("MEANING", Align::Left)]);
        for (code, count) in by_count(rollup) {
            table.row(vec![
                Cell::new(code.as_str()),
                Cell::new(show::count(count)),
                Cell::styled(code.meaning(), FAINT),
            ]);
        }
        lines.extend(table.lines(terminal::size().map(|(columns, _)| columns)));
        lines.push(String::new());
    }
    if !rollup.metrics.is_empty() {
        let mut table = Table::new(vec![
            ("METRIC", Align::Left),
            ("CHECKS", Align::Right),
            ("MEAN", Align::Right),
            ("DEVIATION", Align::Right),
        ]);
        for (plugin, metric, moments) in rollup.metrics.iter().take(METRICS_SHOWN) {
            table.row(vec![
                Cell::new(format!("{plugin} {metric}")),
                Cell::new(show::count(moments.count)),
                Cell::new(format!("{:.2}", moments.mean)),
                Cell::new(format!("{:.2}", moments.deviation())),
            ]);
        }
        lines.extend(table.lines(None));
        if rollup.metrics.len() > METRICS_SHOWN {
            lines.push(painted(&format!("… and {} more, see --json", rollup.metrics.len() - METRICS_SHOWN), FAINT));
        }
        lines.push(String::new());
    }
    lines.push(format!("findings  {}", show::count(rollup.findings)));
    for (at, _, finding) in found.iter().rev().take(FINDINGS_SHOWN) {
        lines.push(format!("  {}  {}", show::time(*at), finding_words(finding)));
    }
    lines
}

/// A finding on one line.
pub fn finding_words(finding: &Finding) -> String {
    let metric = if finding.metric.is_empty() { String::new() } else { format!(" {}", show::plain(&finding.metric)) };
    format!("{}{metric}: {}", show::plain(&finding.plugin), show::plain(&finding.message))
}
