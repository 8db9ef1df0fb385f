//! `sitemon sites`: what is watched, also before the first run; or when.

use super::args;
use super::terminal::{self, Align, Cell, FAINT, Output, PLAIN, Table};
use super::wanted::{Wanted, ordered};
use super::{Exit, Failure, Outcome, on_this_thread, show};
use crate::clock::wall;
use crate::config::Source;
use serde_json::{Value, json};
use sitemon_model::time::{self, HOUR};
use sitemon_model::{Site, Timestamp};
use sitemon_schedule::slot;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Lists the sites, or their slots.
pub fn run(args: &args::Sites, source: &Source) -> Outcome {
    on_this_thread(async {
        let wanted = Wanted::open(source).await?;
        let names: Option<HashSet<Arc<str>>> = wanted.known(&args.sites)?.map(|names| names.into_iter().collect());
        let chosen = |name: &str| names.as_ref().is_none_or(|names| names.contains(name));
        if args.slots {
            let sites = wanted.config.sites.iter().map(|watched| &watched.site);
            slots(args, sites.filter(|site| site.spec.enabled && chosen(&site.name)))?;
        } else {
            list(args, &wanted, chosen)?;
        }
        wanted.close().await;
        Ok(Exit::Done)
    })
}

/// A site as it is listed.
#[derive(Debug)]
struct Row<'a> {
    name: &'a str,
    url: &'a str,
    kind: &'a str,
    enabled: bool,
    interval: Duration,
    /// Timeout and jitter, which only the configuration knows.
    more: Option<(Duration, Duration)>,
    labels: &'a BTreeMap<String, String>,
    /// Whether it stands in the configuration.
    configured: bool,
}

/// The file's sites in its order, then those that only the store knows.
fn list(args: &args::Sites, wanted: &Wanted, chosen: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(wanted.config.sites.len());
    for Site { name, url, spec } in wanted.config.sites.iter().map(|watched| &watched.site) {
        rows.push(Row {
            name,
            url,
            kind: &spec.kind,
            enabled: spec.enabled,
            interval: spec.interval,
            more: Some((spec.timeout, spec.jitter)),
            labels: &spec.labels,
            configured: true,
        });
    }
    let file: HashSet<&str> = rows.iter().map(|row| row.name).collect();
    rows.extend(wanted.records.iter().filter(|record| !file.contains(&*record.name)).map(|record| Row {
        name: &record.name,
        url: &record.url,
        kind: &record.kind,
        enabled: record.enabled && record.present,
        interval: record.interval,
        more: None,
        labels: &record.labels,
        configured: false,
    }));
    rows.retain(|row| chosen(row.name));
    if args.json {
        let mut output = Output::data();
        rows.iter().try_for_each(|row| output.json(&of_row(row)))?;
        return output.flush();
    }
    let mut table = Table::new(vec![
        ("SITE", Align::Left),
        ("KIND", Align::Left),
        ("INTERVAL", Align::Right),
        ("STATE", Align::Left),
        ("LABELS", Align::Left),
        ("URL", Align::Left),
    ]);
    for row in &rows {
        let (state, style) = match (row.configured, row.enabled) {
            (true, true) => ("enabled", PLAIN),
            (true, false) => ("disabled", FAINT),
            (false, _) => ("not in the file", FAINT),
        };
        let labels: Vec<String> = row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.row(vec![
            Cell::styled(row.name, if row.enabled { terminal::STRONG } else { FAINT }),
            Cell::new(row.kind),
            Cell::new(sitemon_model::unit::show_duration(row.interval)),
            Cell::styled(state, style),
            Cell::new(labels.join(" ")),
            Cell::new(row.url),
        ]);
    }
    let mut output = Output::styled();
    table.lines(terminal::size().map(|(columns, _)| columns)).iter().try_for_each(|line| output.line(line))?;
    output.flush()
}

fn of_row(row: &Row<'_>) -> Value {
    let mut value = json!({
        "site": row.name,
        "url": row.url,
        "kind": row.kind,
        "enabled": row.enabled,
        "interval_us": time::micros(row.interval),
    });
    if let Some((timeout, jitter)) = row.more {
        value["timeout_us"] = time::micros(timeout).into();
        value["jitter_us"] = time::micros(jitter).into();
    }
    value["labels"] = json!(row.labels);
    value["configured"] = row.configured.into();
    value
}

/// Prints the slots in `[from, to)`, sorted by time and name. Only the next one of each site is held.
fn slots<'a>(args: &args::Sites, sites: impl Iterator<Item = &'a Site>) -> Result<(), Failure> {
    let from = args.from.unwrap_or_else(wall);
    let to = args.to.unwrap_or_else(|| from.plus(HOUR));
    ordered(from, to)?;
    let mut due: BinaryHeap<Reverse<(Timestamp, &str, u64)>> = sites
        .filter_map(|site| {
            let interval_us = time::micros(site.spec.interval);
            let first = slot::at_or_after(site.hash(), interval_us, from);
            (first < to).then_some(Reverse((first, &*site.name, interval_us)))
        })
        .collect();
    let mut output = if args.json { Output::data() } else { Output::styled() };
    while let Some(Reverse((at, name, interval_us))) = due.pop() {
        if args.json {
            output.json(&json!({"site": name, "scheduled_at": at.to_string(), "scheduled_at_us": at.micros()}))?;
        } else {
            output.line(format_args!("{at}  {}", show::plain(name)))?;
        }
        let next = at.plus(i64::try_from(interval_us).unwrap_or(i64::MAX));
        if next < to {
            due.push(Reverse((next, name, interval_us)));
        }
    }
    output.flush()
}
