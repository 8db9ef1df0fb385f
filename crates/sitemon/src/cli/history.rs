//! `sitemon history`: response times and verdicts of a site over time, and what changed when.

use super::args;
use super::picture::{self, Column};
use super::stats::{finding_words, of_finding};
use super::terminal::{self, Align, Cell, FAINT, Output, STRONG, Table, painted};
use super::wanted::{self, Wanted};
use super::{Exit, Failure, Outcome, on_this_thread, show};
use crate::config::Source;
use serde_json::{Value, json};
use sitemon_model::time::DAY;
use sitemon_model::{Cause, Finding, Observation, Timestamp, Verdict};
use sitemon_stats::Sketch;
use sitemon_store::{Scan, Store, Window};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

/// Observations held at one time.
const PAGE: usize = 1000;

/// Changes that are kept for each location for people, the latest.
const CHANGES: usize = 50;

/// Findings that are kept for people, the latest.
const FINDINGS: usize = 20;

/// Rows of the plot.
const ROWS: usize = 8;

/// Draws the history of a site, for each location.
pub fn run(args: &args::History, source: &Source) -> Outcome {
    on_this_thread(async {
        let wanted = Wanted::open(source).await?;
        let mut window = wanted::window(wanted.known(std::slice::from_ref(&args.site))?, args.from, args.to, DAY)?;
        if let (Some(store), None, false) = (&wanted.store, args.from, args.json) {
            window.from = begin(&**store, &window).await?;
        }
        let mut output = if args.json { Output::data() } else { Output::styled() };
        let width = terminal::picture_width();
        let mut locations: BTreeMap<Arc<str>, Location> = BTreeMap::new();
        if let Some(store) = &wanted.store {
            each(&**store, &window, |observation| {
                let location = locations
                    .entry(observation.location.clone())
                    .or_insert_with(|| Location::new(&window, picture::plot_columns(width)));
                match location.add(observation) {
                    Some(span) if args.json => output.json(&of_span(&args.site, &observation.location, &span)),
                    Some(span) => {
                        location.keep(span);
                        Ok(())
                    }
                    None => Ok(()),
                }
            })
            .await?;
        }
        for (name, mut location) in locations.clone() {
            if let Some(span) = location.open.take() {
                if args.json {
                    output.json(&of_span(&args.site, &name, &span))?;
                    continue;
                }
                location.keep(span);
            }
            drawn(&args.site, &name, &location, &window).iter().try_for_each(|line| output.line(line))?;
        }
        if locations.is_empty() && !args.json {
            output.line(format_args!(
                "{} was not observed from {} to {} UTC",
                show::plain(&args.site),
                show::time(window.from),
                show::time(window.to)
            ))?;
        }
        output.flush()?;
        wanted.close().await;
        Ok(Exit::Done)
    })
}

/// Where the picture of a window that nobody chose begins: at its first observation, so that a site that has been
/// watched for minutes fills it too.
async fn begin(store: &dyn Store, window: &Window) -> Result<Timestamp, Failure> {
    let page = store.scan(&Scan { window: window.clone(), after: None, limit: 1, newest_first: false }).await?;
    Ok(page.observations.first().map_or(window.from, |observation| observation.scheduled_at))
}

/// Hands each observation of the window on, in their order.
async fn each(
    store: &dyn Store,
    window: &Window,
    mut then: impl FnMut(&Observation) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut scan = Scan { window: window.clone(), after: None, limit: PAGE, newest_first: false };
    loop {
        let page = store.scan(&scan).await?;
        page.observations.iter().try_for_each(|observation| then(observation))?;
        scan.after = page.next;
        if scan.after.is_none() {
            return Ok(());
        }
    }
}

/// A span over which verdict and set of causes stayed the same.
#[derive(Debug, Clone)]
struct Span {
    from: Timestamp,
    /// The slot of the last observation in it, then the next one's, or when the last one's time is over.
    to: Timestamp,
    fingerprint: u64,
    verdict: Verdict,
    checks: u64,
    latency: Sketch,
    max_us: Option<u64>,
    findings: Vec<(Timestamp, Finding)>,
}

/// What is held of one location while its observations pass.
#[derive(Debug, Clone)]
struct Location {
    from: Timestamp,
    to: Timestamp,
    width_us: i64,
    columns: Vec<Column>,
    checks: [u64; 4],
    latency: Sketch,
    open: Option<Span>,
    spans: VecDeque<Span>,
    left_out: u64,
    findings: VecDeque<(Timestamp, Finding)>,
}

impl Location {
    fn new(window: &Window, columns: usize) -> Self {
        Self {
            from: window.from,
            to: window.to,
            width_us: window.to.since(window.from).max(1),
            columns: vec![Column::default(); columns],
            checks: [0; 4],
            latency: Sketch::default(),
            open: None,
            spans: VecDeque::new(),
            left_out: 0,
            findings: VecDeque::new(),
        }
    }

    /// Adds an observation; a span that it ends is returned. A gap longer than a verdict holds ends one too.
    fn add(&mut self, o: &Observation) -> Option<Span> {
        let verdict = o.verdict.number();
        let at = o.scheduled_at;
        let holds = sitemon_stats::Held::of(o).until.min(self.to);
        self.cover(at, holds.min(at.plus(i64::try_from(o.interval_us).unwrap_or(0))), o, verdict);
        self.checks[usize::from(verdict)] += 1;
        if let Some(us) = o.response_time_us {
            self.latency.add(us);
        }
        let fingerprint = o.verdict.fingerprint();
        let ended = match &mut self.open {
            Some(span) if span.fingerprint == fingerprint && span.to >= at => None,
            Some(span) => {
                span.to = span.to.min(at);
                self.open.take()
            }
            None => None,
        };
        let span = self.open.get_or_insert_with(|| Span {
            from: at,
            to: at,
            fingerprint,
            verdict: o.verdict.clone(),
            checks: 0,
            latency: Sketch::default(),
            max_us: None,
            findings: Vec::new(),
        });
        span.to = holds;
        span.checks += 1;
        if let Some(us) = o.response_time_us {
            span.latency.add(us);
            span.max_us = span.max_us.max(Some(us));
        }
        for finding in &o.findings {
            if span.findings.len() < PAGE {
                span.findings.push((at, finding.clone()));
            }
            self.findings.push_back((at, finding.clone()));
            if self.findings.len() > FINDINGS {
                self.findings.pop_front();
            }
        }
        ended
    }

    /// Puts an observation into its column, and its verdict into those that its interval reaches into.
    fn cover(&mut self, at: Timestamp, until: Timestamp, o: &Observation, verdict: u8) {
        let last = self.columns.len() - 1;
        let column = |at: Timestamp| {
            let share = at.since(self.from) as f64 / self.width_us as f64;
            ((share * (last + 1) as f64).max(0.0) as usize).min(last)
        };
        let (first, end) = (column(at), column(until.plus(-1).max(at)));
        self.columns[first].add(o.response_time_us, verdict);
        self.columns[first + 1..=end.max(first)]
            .iter_mut()
            .for_each(|column| column.carry(o.response_time_us, verdict));
    }

    fn keep(&mut self, span: Span) {
        self.spans.push_back(span);
        if self.spans.len() > CHANGES {
            self.spans.pop_front();
            self.left_out += 1;
        }
    }
}

fn of_span(site: &str, location: &str, span: &Span) -> Value {
    let causes: Vec<Value> = span
        .verdict
        .causes()
        .iter()
        .map(|Cause { code, message }| json!({"code": code.as_str(), "number": code.number(), "message": message}))
        .collect();
    let mut value = json!({
        "site": site,
        "location": location,
        "from": span.from.to_string(),
        "to": span.to.to_string(),
        "verdict": span.verdict.as_str(),
        "causes": causes,
        "checks": span.checks,
    });
    if let (Some(shown), Some(max)) = (span.latency.percentiles(), span.max_us) {
        // A quantile may lie 1 % above the truth, but not above the largest.
        value["response_time_us"] = json!({"p50": shown.p50.min(max), "p95": shown.p95.min(max), "max": max});
    }
    value["findings"] = span.findings.iter().map(|(at, finding)| of_finding(*at, finding)).collect();
    value
}

fn drawn(site: &str, name: &str, location: &Location, window: &Window) -> Vec<String> {
    let mut lines = vec![format!(
        "{} at {}  {}",
        painted(&show::plain(site), STRONG),
        show::plain(name),
        painted(&format!("{} to {} UTC", show::time(window.from), show::time(window.to)), FAINT),
    )];
    let checks: Vec<String> = (0..4_u8)
        .filter(|verdict| location.checks[usize::from(*verdict)] > 0)
        .map(|verdict| {
            let count = show::count(location.checks[usize::from(verdict)]);
            painted(&format!("{count} {}", terminal::verdict_name(verdict)), terminal::verdict_style(verdict))
        })
        .collect();
    let mut words = format!("checks: {}", checks.join(", "));
    if let Some(shown) = location.latency.percentiles() {
        let _ = write!(
            words,
            " · p50 {} · p95 {} · p99 {}",
            show::took(shown.p50),
            show::took(shown.p95),
            show::took(shown.p99)
        );
    }
    lines.push(words);
    lines.push(String::new());
    lines.extend(picture::plot(&location.columns, ROWS, window.from, window.to));
    lines.push(String::new());
    let mut table = Table::new(vec![
        ("FROM", Align::Left),
        ("FOR", Align::Right),
        ("VERDICT", Align::Left),
        ("CHECKS", Align::Right),
        ("P95", Align::Right),
        ("CAUSES", Align::Left),
    ]);
    for span in &location.spans {
        let causes: Vec<String> = span.verdict.causes().iter().map(ToString::to_string).collect();
        table.row(vec![
            Cell::new(show::time(span.from)),
            Cell::new(show::span(span.to.since(span.from))),
            Cell::styled(span.verdict.as_str(), terminal::verdict_style(span.verdict.number())),
            Cell::new(show::count(span.checks)),
            Cell::new(span.latency.quantile(0.95).map_or_else(String::new, show::took)),
            Cell::new(causes.join("; ")),
        ]);
    }
    if location.left_out > 0 {
        let words = format!("… {} earlier changes left out, see --json", show::count(location.left_out));
        lines.push(painted(&words, FAINT));
    }
    lines.extend(table.lines(terminal::size().map(|(columns, _)| columns)));
    if !location.findings.is_empty() {
        lines.push(String::new());
        lines.push("findings".to_owned());
        for (at, finding) in &location.findings {
            lines.push(format!("  {}  {}", show::time(*at), finding_words(finding)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitemon_model::Code;
    use sitemon_model::time::SECOND;

    fn observation(at: i64, verdict: Verdict) -> Observation {
        Observation {
            site: "shop".into(),
            location: "default".into(),
            scheduled_at: Timestamp(at * SECOND),
            interval_us: 10_000_000,
            timeout_us: 5_000_000,
            response_time_us: matches!(verdict, Verdict::Up).then_some(20_000),
            verdict,
            ..Observation::default()
        }
    }

    /// The spans of observations: slot in seconds, and the code of a cause or nothing.
    fn check(observations: &[(i64, Option<Code>)], expected: &expect_test::Expect) {
        let window = Window { sites: None, from: Timestamp(0), to: Timestamp(100 * SECOND) };
        let mut location = Location::new(&window, 50);
        let mut spans = Vec::new();
        for (at, code) in observations {
            let verdict = code.map_or(Verdict::Up, |code| Verdict::Down(vec![Cause::new(code, "")]));
            spans.extend(location.add(&observation(*at, verdict)));
        }
        spans.extend(location.open.take());
        let mut told: Vec<String> = spans
            .iter()
            .map(|span| {
                let (from, to) = (span.from.0 / SECOND, span.to.0 / SECOND);
                format!("{from}-{to} {} {}", span.verdict.as_str(), span.checks)
            })
            .collect();
        told.push(anstream::adapter::strip_str(&picture::strip(&location.columns)).to_string());
        expected.assert_eq(&(told.join("\n") + "\n"));
    }

    #[test]
    fn spans_end_where_the_verdict_or_its_causes_change() {
        let down = Some(Code::HttpStatus);
        check(
            &[(0, None), (10, None), (20, down), (30, down), (40, Some(Code::BodySize)), (50, None)],
            &expect_test::expect![[r#"
                0-20 up 2
                20-40 down 2
                40-50 down 1
                50-65 up 1
                ━━━━━━━━━━✗✗✗✗✗✗✗✗✗✗✗✗✗✗✗━━━━━
            "#]],
        );
    }

    #[test]
    fn a_gap_ends_a_span() {
        check(
            &[(0, None), (10, None), (60, None), (70, None)],
            &expect_test::expect![[r#"
            0-25 up 2
            60-85 up 2
            ━━━━━━━━━━                    ━━━━━━━━━━
        "#]],
        );
    }
}
