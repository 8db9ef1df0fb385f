//! `sitemon status`: what is up and what is not, once or live.

use super::args::{self, Global};
use super::check::{exit, summary};
use super::stats::percentiles_or_null;
use super::terminal::{self, Align, Cell, FAINT, Output, PLAIN, STRONG, Table, UNSURE, painted, say};
use super::wanted::Wanted;
use super::{Failure, Outcome, on_this_thread, picture, show};
use crate::clock::wall;
use crate::config::Source;
use serde_json::{Value, json};
use sitemon_model::time::{DAY, HOUR};
use sitemon_model::{Observation, Timestamp};
use sitemon_stats::{Held, Overview, Sketch};
use sitemon_store::{SiteOverview, Window};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From one look at the latest observations to the next.
const LOOK: Duration = Duration::from_secs(1);

/// From one look at the statistics to the next; they move slowly, and cost more.
const STATISTICS: Duration = Duration::from_secs(10);

/// Shows the latest verdicts.
pub fn run(args: &args::Status, source: &Source, global: &Global) -> Outcome {
    on_this_thread(async {
        let mut wanted = Wanted::open(source).await?;
        let names = wanted.known(&args.sites)?;
        let mut board = Board {
            names,
            over_us: show::signed_micros(args.over),
            statistics: HashMap::new(),
            window: None,
            since: HashMap::new(),
        };
        let exit = if args.watch {
            watch(args, &mut wanted, &mut board, global).await?
        } else {
            let rows = board.look(&mut wanted, true).await?;
            once(args, &rows, global)?
        };
        wanted.close().await;
        Ok(exit)
    })
}

/// What is kept from one look to the next.
#[derive(Debug)]
struct Board {
    names: Option<Vec<Arc<str>>>,
    over_us: i64,
    /// By site and location.
    statistics: HashMap<(Arc<str>, Arc<str>), Arc<Overview>>,
    window: Option<Window>,
    /// By site and location, of those that are not up.
    since: HashMap<(Arc<str>, Arc<str>), Since>,
}

/// Since when a site has its verdict, as it was looked up.
#[derive(Debug, Clone, Copy)]
struct Since {
    verdict: u8,
    /// The first slot that has it.
    first: Timestamp,
    /// The latest that is known to have it.
    last: Timestamp,
}

impl Since {
    /// Whether `latest` goes on what was looked up, with no slot between them that may have been otherwise.
    fn goes_on(&self, latest: &Observation) -> bool {
        let interval_us = i64::try_from(latest.interval_us).unwrap_or(i64::MAX);
        self.verdict == latest.verdict.number() && latest.scheduled_at.since(self.last) <= interval_us
    }
}

/// A site at a location, as it stands now.
#[derive(Debug, Clone)]
struct Row {
    site: Arc<str>,
    location: Arc<str>,
    url: Arc<str>,
    enabled: bool,
    latest: Option<Arc<Observation>>,
    since: Option<Timestamp>,
    stale: bool,
    age_us: Option<i64>,
    /// With their window.
    statistics: Option<(Arc<Overview>, Timestamp, Timestamp)>,
}

impl Row {
    /// `Verdict::number`; what was never observed is unknown.
    fn verdict(&self) -> u8 {
        self.latest.as_ref().map_or(3, |observation| observation.verdict.number())
    }
}

impl Board {
    /// The rows of all sites, in the order of the file, then by name.
    async fn look(&mut self, wanted: &mut Wanted, statistics: bool) -> Result<Vec<Row>, Failure> {
        wanted.reopen().await?;
        let now = wall();
        let mut latest: HashMap<Arc<str>, Vec<Arc<Observation>>> = HashMap::new();
        if let Some(store) = &wanted.store {
            let window = Window { sites: self.names.clone(), from: begin(now, self.over_us), to: now };
            let overviews = async { if statistics { store.overview(&window).await.map(Some) } else { Ok(None) } };
            // Side by side, each with a connection of its own.
            let (observations, overviews) = tokio::try_join!(store.latest(), overviews)?;
            for observation in observations {
                latest.entry(observation.site.clone()).or_default().push(observation);
            }
            if let Some(overviews) = overviews {
                let keyed = |site: SiteOverview| ((site.site, site.location), Arc::new(site.overview));
                self.statistics = overviews.into_iter().map(keyed).collect();
                self.window = Some(window);
            }
        }
        let mut rows = Vec::new();
        for (site, url, enabled) in self.sites(wanted) {
            let observations = latest.remove(&site).unwrap_or_default();
            if observations.is_empty() {
                let location = wanted.config.location.clone();
                rows.push(self.row(site, location, url, enabled, None, now));
            } else {
                for observation in observations {
                    let location = observation.location.clone();
                    rows.push(self.row(site.clone(), location, url.clone(), enabled, Some(observation), now));
                }
            }
        }
        self.look_back(wanted, &mut rows).await?;
        Ok(rows)
    }

    /// The sites that are asked for: name, address, whether it is enabled.
    fn sites(&self, wanted: &Wanted) -> Vec<(Arc<str>, Arc<str>, bool)> {
        let names: Option<HashSet<&Arc<str>>> = self.names.as_ref().map(|names| names.iter().collect());
        let mut sites: Vec<_> = wanted
            .config
            .sites
            .iter()
            .map(|watched| (watched.site.name.clone(), watched.site.url.clone(), watched.site.spec.enabled))
            .collect();
        let file: HashSet<Arc<str>> = sites.iter().map(|(name, ..)| name.clone()).collect();
        // A site that was taken out of the file is watched until the next reload; later it is shown by name only.
        let shown = |name: &Arc<str>, present: bool| match &names {
            Some(names) => names.contains(name),
            None => present,
        };
        sites.extend(
            wanted
                .records
                .iter()
                .filter(|record| !file.contains(&record.name) && shown(&record.name, record.present))
                .map(|record| (record.name.clone(), record.url.clone(), record.enabled)),
        );
        if let Some(names) = &names {
            sites.retain(|(name, ..)| names.contains(name));
        }
        sites
    }

    fn row(
        &self,
        site: Arc<str>,
        location: Arc<str>,
        url: Arc<str>,
        enabled: bool,
        latest: Option<Arc<Observation>>,
        now: Timestamp,
    ) -> Row {
        let statistics = self.statistics.get(&(site.clone(), location.clone())).zip(self.window.as_ref());
        let statistics = statistics.map(|(overview, window)| (overview.clone(), window.from, window.to));
        let age_us = latest.as_ref().map(|observation| now.since(observation.scheduled_at));
        // A second more for what is on its way from the check to the store.
        let stale = latest
            .as_ref()
            .is_some_and(|observation| Held::of(observation).until.plus(sitemon_model::time::SECOND) < now);
        Row { site, location, url, enabled, latest, since: None, stale, age_us, statistics }
    }

    /// Finds since when the sites that are not up are so.
    async fn look_back(&mut self, wanted: &Wanted, rows: &mut [Row]) -> Result<(), Failure> {
        let Some(store) = &wanted.store else { return Ok(()) };
        let (mut places, mut keys) = (Vec::new(), Vec::new());
        for (index, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.enabled) {
            let Some(latest) = row.latest.as_ref().filter(|latest| latest.verdict.number() != 0) else { continue };
            let key = (row.site.clone(), row.location.clone());
            if let Some(known) = self.since.get_mut(&key).filter(|known| known.goes_on(latest)) {
                known.last = latest.scheduled_at;
                row.since = Some(known.first);
            } else {
                places.push(index);
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        for ((place, key), since) in places.into_iter().zip(&keys).zip(store.since(&keys).await?) {
            let Some((since, latest)) = since.zip(rows[place].latest.as_ref()) else { continue };
            // The store may know a later one by now, with another verdict.
            let since = since.min(latest.scheduled_at);
            let known = Since { verdict: latest.verdict.number(), first: since, last: latest.scheduled_at };
            self.since.insert(key.clone(), known);
            rows[place].since = Some(since);
        }
        Ok(())
    }
}

/// Where the window of the statistics begins: with an hour, or from two days on with a day, so that they come from
/// what is added up already. The running hour or day counts as one.
fn begin(now: Timestamp, over_us: i64) -> Timestamp {
    let width = if over_us < 2 * DAY { HOUR } else { DAY };
    now.plus(-over_us).plus(width).floor(width).min(now)
}

/// The number of verdicts of enabled sites.
fn tally(rows: &[Row]) -> [usize; 4] {
    let mut tally = [0; 4];
    for row in rows.iter().filter(|row| row.enabled) {
        tally[usize::from(row.verdict())] += 1;
    }
    tally
}

fn once(args: &args::Status, rows: &[Row], global: &Global) -> Outcome {
    if args.json {
        let mut output = Output::data();
        rows.iter().try_for_each(|row| output.json(&of_row(row)))?;
        output.flush()?;
        return Ok(exit(tally(rows)));
    }
    let mut output = Output::styled();
    let columns = terminal::size().map(|(columns, _)| columns);
    let rows: Vec<&Row> = rows.iter().collect();
    table(&rows, args.over).lines(columns).iter().try_for_each(|line| output.line(line))?;
    output.flush()?;
    let rows: Vec<Row> = rows.into_iter().cloned().collect();
    if global.quiet == 0 {
        say(words(&rows));
    }
    Ok(exit(tally(&rows)))
}

/// What there is to say about the whole.
fn words(rows: &[Row]) -> String {
    let tally = tally(rows);
    let mut words = summary(tally.iter().sum(), tally);
    let stale = rows.iter().filter(|row| row.enabled && row.stale).count();
    let never = rows.iter().filter(|row| row.enabled && row.latest.is_none()).count();
    if never > 0 {
        let _ = write!(words, "; {} not observed yet", show::count(never as u64));
    }
    if stale > 0 {
        let _ = write!(words, "; {} stale: is `sitemon run` running?", show::count(stale as u64));
    }
    words
}

fn table(rows: &[&Row], over: Duration) -> Table {
    let several = rows.windows(2).any(|pair| pair[0].location != pair[1].location);
    let availability = availability_head(over);
    let mut heads = vec![("", Align::Left), ("SITE", Align::Left)];
    if several {
        heads.push(("LOCATION", Align::Left));
    }
    heads.extend([
        ("VERDICT", Align::Left),
        ("CHECKED", Align::Right),
        (availability, Align::Right),
        ("COVERAGE", Align::Right),
        ("P50", Align::Right),
        ("P95", Align::Right),
        ("LAST CAUSE", Align::Left),
    ]);
    let mut table = Table::new(heads);
    table.spare(&["COVERAGE", "P50", "P95", "CHECKED"]);
    for row in rows {
        let style = if row.enabled && !row.stale { terminal::verdict_style(row.verdict()) } else { FAINT };
        let verdict = match (&row.latest, row.enabled) {
            (_, false) => "disabled",
            (None, _) => "not observed yet",
            (Some(observation), _) => observation.verdict.as_str(),
        };
        let sign = row.latest.as_ref().filter(|_| row.enabled).map_or(' ', |o| terminal::verdict_sign(&o.verdict));
        let mut state = verdict.to_owned();
        if let Some(since) = row.since.filter(|_| row.enabled) {
            let at = row.latest.as_ref().map_or(since, |latest| latest.scheduled_at);
            let span = at.plus(row.age_us.unwrap_or(0)).since(since);
            let _ = write!(state, " {}", show::span(span));
        }
        if row.enabled && row.stale {
            state.push_str(" (stale)");
        }
        let mut cells = vec![
            Cell::styled(sign.to_string(), style),
            Cell::styled(&row.site, if row.enabled { STRONG } else { FAINT }),
        ];
        if several {
            cells.push(Cell::new(&row.location));
        }
        cells.push(Cell::styled(state, if row.latest.is_none() && row.enabled { UNSURE } else { style }));
        let ago = row.age_us.map_or_else(String::new, |us| format!("{} ago", show::span(us)));
        cells.push(Cell::styled(ago, if row.stale { UNSURE } else { PLAIN }));
        let overview = row.statistics.as_ref().map(|(overview, ..)| overview);
        let share = |share: Option<f64>| share.map_or_else(String::new, show::percent);
        cells.push(Cell::new(share(overview.and_then(|overview| overview.availability.availability()))));
        cells.push(Cell::styled(share(overview.and_then(|overview| overview.availability.coverage())), FAINT));
        for q in [0.5, 0.95] {
            let us = overview.and_then(|overview| overview.latency.quantile(q));
            cells.push(Cell::new(us.map_or_else(String::new, show::took)));
        }
        let causes = row.latest.as_ref().map_or(&[][..], |observation| observation.verdict.causes());
        cells.push(Cell::new(causes.first().map_or_else(String::new, ToString::to_string)));
        table.row(cells);
    }
    table
}

/// The head of the column of availability; the usual windows by name.
fn availability_head(over: Duration) -> &'static str {
    match over.as_secs() / 3600 {
        1 => "UP 1h",
        24 => "UP 24h",
        168 => "UP 7d",
        720 => "UP 30d",
        8760 => "UP 1y",
        _ => "UP",
    }
}

fn of_row(row: &Row) -> Value {
    let mut value = json!({
        "site": &*row.site,
        "location": &*row.location,
        "url": &*row.url,
        "enabled": row.enabled,
        "observed": row.latest.is_some(),
        "verdict": terminal::verdict_name(row.verdict()),
    });
    let causes = row.latest.as_ref().map_or(&[][..], |latest| latest.verdict.causes());
    value["causes"] = causes
        .iter()
        .map(|cause| json!({"code": cause.code.as_str(), "number": cause.code.number(), "message": &*cause.message}))
        .collect();
    if let Some(since) = row.since {
        value["since"] = since.to_string().into();
    }
    if let Some(latest) = &row.latest {
        value["scheduled_at"] = latest.scheduled_at.to_string().into();
        value["age_us"] = row.age_us.unwrap_or(0).into();
        value["stale"] = row.stale.into();
        if let Some(us) = latest.response_time_us {
            value["response_time_us"] = us.into();
        }
    }
    if let Some((overview, from, to)) = &row.statistics {
        value["from"] = from.to_string().into();
        value["to"] = to.to_string().into();
        value["availability"] = overview.availability.availability().into();
        value["coverage"] = overview.availability.coverage().unwrap_or(0.0).into();
        value["latency_us"] = percentiles_or_null(&overview.latency);
    } else {
        value["availability"] = Value::Null;
        value["coverage"] = 0.0.into();
        value["latency_us"] = percentiles_or_null(&Sketch::default());
    }
    value
}

/// Looks each second until it is interrupted. On a terminal the table is redrawn in place; elsewhere the whole is
/// printed once, and then each site whose verdict or causes changed.
async fn watch(args: &args::Status, wanted: &mut Wanted, board: &mut Board, global: &Global) -> Outcome {
    let drawn = !args.json && terminal::stdout_is_terminal();
    // On the screen the codes that move the cursor are wanted even where colours are not.
    let mut output = if args.json || drawn { Output::data() } else { Output::styled() };
    let mut seen: HashMap<(Arc<str>, Arc<str>), (u64, bool)> = HashMap::new();
    let mut statistics_at: Option<Instant> = None;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::Own(format!("cannot wait for signals: {error}")))?;
    let mut first = true;
    // The first tick comes at once.
    ticks.tick().await;
    loop {
        let statistics = statistics_at.is_none_or(|at| at.elapsed() >= STATISTICS);
        let rows = board.look(wanted, statistics).await?;
        if statistics {
            statistics_at = Some(Instant::now());
        }
        if drawn {
            screen(&mut output, args, &rows)?;
        } else {
            let mut changed: Vec<&Row> = Vec::new();
            for row in rows.iter().filter(|row| row.enabled) {
                let state = (row.latest.as_ref().map_or(u64::MAX, |o| o.verdict.fingerprint()), row.stale);
                if seen.insert((row.site.clone(), row.location.clone()), state) != Some(state) {
                    changed.push(row);
                }
            }
            if args.json {
                changed.iter().try_for_each(|row| output.json(&of_row(row)))?;
            } else if first {
                let rows: Vec<&Row> = rows.iter().collect();
                table(&rows, args.over).lines(None).iter().try_for_each(|line| output.line(line))?;
            } else {
                changed.iter().try_for_each(|row| output.line(change(row)))?;
            }
            if first && global.quiet == 0 && !args.json {
                say(words(&rows));
            }
        }
        output.flush()?;
        first = false;
        tokio::select! {
            _ = ticks.tick() => {}
            _ = tokio::signal::ctrl_c() => return Ok(exit(tally(&rows))),
            _ = terminated.recv() => return Ok(exit(tally(&rows))),
        }
    }
}

/// A line that tells what a site changed to.
fn change(row: &Row) -> String {
    let at = row.latest.as_ref().map_or_else(wall, |latest| latest.scheduled_at);
    let verdict = if row.latest.is_some() { terminal::verdict_name(row.verdict()) } else { "not observed yet" };
    let cause = row.latest.as_ref().and_then(|latest| latest.verdict.causes().first());
    let cause = cause.map_or_else(String::new, |cause| format!("  {}", show::plain(&cause.to_string())));
    let stale = if row.stale { " (stale)" } else { "" };
    format!(
        "{}  {}  {}{stale}{cause}",
        show::time(at),
        show::plain(&row.site),
        painted(verdict, terminal::verdict_style(row.verdict()))
    )
}

/// Redraws the screen: the gravest first, as many as there is room for.
fn screen(output: &mut Output, args: &args::Status, rows: &[Row]) -> Result<(), Failure> {
    let (columns, lines) = terminal::size().unwrap_or((80, 24));
    let mut sorted: Vec<&Row> = rows.iter().filter(|row| row.enabled).collect();
    let gravity = |row: &Row| picture::gravity(row.verdict());
    sorted.sort_by(|a, b| gravity(b).cmp(&gravity(a)).then_with(|| a.site.cmp(&b.site)));
    let room = lines.saturating_sub(4).max(1);
    let left_out = sorted.len().saturating_sub(room);
    sorted.truncate(room);
    // Home, then each line cleared to its end and at last what is below: no flicker, as a clear first would give.
    output.bytes(b"\x1b[H")?;
    let clock = painted(&format!("{} UTC", show::time(wall())), FAINT);
    let mut shown = vec![format!("{}  {clock}", words(rows))];
    shown.extend(table(&sorted, args.over).lines(Some(columns)));
    if left_out > 0 {
        shown.push(painted(&format!("… and {} more", show::count(left_out as u64)), FAINT));
    }
    let styled = terminal::stdout_is_styled();
    for line in shown {
        let line = if styled { line } else { anstream::adapter::strip_str(&line).to_string() };
        output.line(format_args!("{line}\x1b[K"))?;
    }
    output.bytes(b"\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_hour_or_day_counts_as_one() {
        let now = Timestamp(100 * DAY + 10 * HOUR + 7);
        assert_eq!(begin(now, HOUR), Timestamp(100 * DAY + 10 * HOUR));
        assert_eq!(begin(now, DAY), Timestamp(99 * DAY + 11 * HOUR));
        assert_eq!(begin(now, 30 * DAY), Timestamp(71 * DAY));
        assert_eq!(begin(Timestamp(100 * DAY), DAY), Timestamp(99 * DAY + HOUR));
    }
}
