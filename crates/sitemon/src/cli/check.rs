//! `sitemon check`: checks now, once, side by side; shows where the time went. Nothing is stored.

use super::args::{self, Global};
use super::terminal::{self, BAD, FAINT, Output, PLAIN, STRONG, painted, say};
use super::{Exit, Failure, Outcome, picture, show, wanted};
use crate::config::{self, Config, Source, Watched};
use crate::roles::checker;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sitemon_model::{Hop, Job, Observation, Reason, Timestamp, Verdict, line};
use sitemon_probe::memory::Memory;
use sitemon_probe::{Shared, SharedOptions, Task};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What takes no longer than this needs no progress.
const QUICK: Duration = Duration::from_millis(500);

/// Checks what is asked for, and prints what was found in the order in which it was asked for.
pub fn run(args: &args::Check, source: &Source, global: &Global) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Own(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let (config, sites) = chosen(args, source).await?;
        if global.quiet == 0 {
            config.warnings.iter().for_each(say);
        }
        check(args, &config, sites, global).await
    })
}

/// The sites that are asked for: those named, and the addresses; without either all that are enabled.
async fn chosen(args: &args::Check, source: &Source) -> Result<(Config, Vec<Watched>), Failure> {
    let mut sites = Vec::new();
    if !args.urls.is_empty() && args.sites.is_empty() {
        let mut config = config::sites_of_urls(source, &args.urls)?;
        sites.append(&mut config.sites);
        return Ok((config, sites));
    }
    let mut config = config::load(source)?;
    let mut all = std::mem::take(&mut config.sites);
    if args.sites.is_empty() {
        all.retain(|watched| watched.site.spec.enabled);
        return Ok((config, all));
    }
    let by_name: HashMap<Arc<str>, Watched> =
        all.into_iter().map(|watched| (watched.site.name.clone(), watched)).collect();
    let mut lines = Vec::new();
    let mut seen = HashSet::new();
    for name in args.sites.iter().filter(|name| seen.insert(name.as_str())) {
        match by_name.get(name.as_str()) {
            Some(watched) => sites.push(watched.clone()),
            None => match from_store(&config, source, name).await? {
                Some(watched) => sites.push(watched),
                None => lines.push(wanted::unknown(name, by_name.keys().map(|name| &**name))),
            },
        }
    }
    if !lines.is_empty() {
        return Err(Failure::Usage(lines.join("\n")));
    }
    if !args.urls.is_empty() {
        sites.append(&mut config::sites_of_urls(source, &args.urls)?.sites);
    }
    Ok((config, sites))
}

/// A site that only the store knows, with its address and the file's defaults.
async fn from_store(config: &Config, source: &Source, name: &str) -> Result<Option<Watched>, Failure> {
    if !config.store.exists().await? {
        return Ok(None);
    }
    let store = config.store.open(sitemon_store::Access::Read).await?;
    let record = store.sites().await?.into_iter().find(|record| &*record.name == name);
    store.close().await;
    let Some(record) = record else { return Ok(None) };
    let mut found = config::sites_of_urls(source, &[record.url.to_string()])?.sites;
    Ok(found.pop().map(|mut watched| {
        watched.site.name = record.name;
        watched
    }))
}

async fn check(args: &args::Check, config: &Config, sites: Vec<Watched>, global: &Global) -> Outcome {
    let started = Instant::now();
    let total = sites.len();
    let names = sites.iter().map(|watched| terminal::width(&watched.site.name)).max().unwrap_or(0).min(40);
    let width = terminal::picture_width();
    let mut output = if args.json { Output::data() } else { Output::styled() };
    let wants_progress = total > 1 && global.quiet == 0 && terminal::stderr_is_terminal();
    let progress = progress(total);
    let mut running = start(config, sites);
    let mut tally = [0_usize; 4];
    let (mut early, mut next) = (BTreeMap::new(), 0);
    let mut buffer = Vec::new();
    let late = tokio::time::sleep(QUICK);
    tokio::pin!(late);
    loop {
        let finished = tokio::select! {
            finished = running.join_next() => finished,
            () = &mut late, if progress.is_hidden() && wants_progress => {
                progress.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
                progress.tick();
                continue;
            }
        };
        let Some(finished) = finished else { break };
        let (index, observation) = finished.map_err(|error| Failure::Own(format!("a check ended: {error}")))?;
        tally[usize::from(observation.verdict.number())] += 1;
        progress.inc(1);
        early.insert(index, observation);
        // What finished before one that stands further up waits for it, so that the order is the file's.
        while let Some(observation) = early.remove(&next) {
            next += 1;
            let shown = progress.suspend(|| {
                if args.json {
                    buffer.clear();
                    line::write(&observation, &mut buffer);
                    buffer.push(b'\n');
                    output.bytes(&buffer)?;
                } else {
                    drawn(&observation, names, width).iter().try_for_each(|line| output.line(line))?;
                }
                if early.is_empty() { output.flush() } else { Ok(()) }
            });
            shown?;
        }
    }
    progress.finish_and_clear();
    output.flush()?;
    if global.quiet == 0 && !args.json && total != 1 {
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        say(format_args!("{} in {}", summary(total, tally), show::took(took)));
    }
    Ok(exit(tally))
}

/// Starts all checks; each waits for its turn by `limits.checks_in_flight` and that for its host. Of open files
/// only so many are needed as there are sites.
fn start(config: &Config, sites: Vec<Watched>) -> JoinSet<(usize, Observation)> {
    let shared = Shared::new(SharedOptions {
        policy: config.network.clone(),
        memory: Memory::new(config.limits.memory),
        ..SharedOptions::default()
    });
    let wanted = config.limits.checks_in_flight.min(sites.len());
    let room = checker::Room::of(checker::open_files(), wanted, config.limits.memory);
    let in_flight = Arc::new(Semaphore::new(room.checks));
    let mut hosts: HashMap<Box<str>, Arc<Semaphore>> = HashMap::new();
    let mut running = JoinSet::new();
    for (index, Watched { site, check }) in sites.into_iter().enumerate() {
        let host = hosts
            .entry(check.host(&site.url))
            .or_insert_with(|| Arc::new(Semaphore::new(config.limits.checks_in_flight_per_host)))
            .clone();
        let (in_flight, shared, location) = (in_flight.clone(), shared.clone(), config.location.clone());
        running.spawn(async move {
            // The semaphores are never closed; the host's comes first, so that waiting for a busy host takes
            // no place from the others.
            let _of_host = host.acquire_owned().await.ok();
            let _of_all = in_flight.acquire_owned().await.ok();
            let job = Job {
                site: site.name.clone(),
                scheduled_at: crate::clock::wall(),
                reason: Reason::Request,
                locations: Vec::new(),
                expires_at: None,
            };
            let task = Task { site: &site, job: &job, location: &location, shared: &shared, last: 0 };
            (index, check.check(task).await)
        });
    }
    running
}

/// Hidden until it is known that it takes longer than [`QUICK`]; gone when it is done.
fn progress(total: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template("checked {pos} of {len} {wide_bar} {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// The exit code by the number of verdicts.
pub fn exit(tally: [usize; 4]) -> Exit {
    match tally {
        [_, _, 0, 0] => Exit::Done,
        [_, _, 0, _] => Exit::Unknown,
        _ => Exit::Down,
    }
}

/// `5 sites: 3 up, 1 degraded, 1 down`
pub fn summary(total: usize, tally: [usize; 4]) -> String {
    let parts: Vec<String> = tally
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(verdict, count)| {
            let name = terminal::verdict_name(verdict as u8);
            painted(&format!("{} {name}", show::count(*count as u64)), terminal::verdict_style(verdict as u8))
        })
        .collect();
    let colon = if parts.is_empty() { "" } else { ": " };
    format!("{}{colon}{}", show::counted(total as u64, "site"), parts.join(", "))
}

/// The lines of one observation.
fn drawn(o: &Observation, names: usize, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let style = terminal::verdict_style(o.verdict.number());
    let name = show::plain(&o.site);
    let first = o.hops.first().map_or("", |hop| &hop.url);
    let mut head = format!(
        "{} {} {}",
        painted(&terminal::verdict_sign(&o.verdict).to_string(), style),
        painted(&format!("{:<8}", o.verdict.as_str()), style),
        painted(&name, STRONG),
    );
    let mut facts = facts(o);
    if !first.is_empty() && *first != *name {
        head.extend(std::iter::repeat_n(' ', names.saturating_sub(terminal::width(&name))));
        head.push_str("  ");
        head.push_str(&painted(&show::plain(first), FAINT));
    }
    lines.push(head);
    if let Some(us) = o.response_time_us {
        facts.insert(0, show::took(us));
    }
    if !facts.is_empty() {
        lines.push(format!("  {}", facts.join(" · ")));
    }
    hops(&o.hops, width, &mut lines);
    for address in &o.addresses {
        let style = terminal::verdict_style(address.verdict.number());
        let took = address.response_time_us.map_or_else(String::new, |us| format!("  {}", show::took(us)));
        lines.push(format!("  {}  {}{took}", address.address, painted(address.verdict.as_str(), style)));
        lines.extend(causes(&address.verdict, "    "));
    }
    lines.extend(causes(&o.verdict, "  "));
    for (name, value) in &o.extracted {
        lines.push(format!("  {} = {}", show::plain(name), terminal::cut(&show::plain(value), width)));
    }
    for finding in &o.findings {
        lines.push(format!("  finding by {}: {}", show::plain(&finding.plugin), show::plain(&finding.message)));
    }
    for metrics in &o.metrics {
        let values: Vec<String> =
            metrics.values.iter().map(|(metric, value)| format!("{} {value}", show::plain(metric))).collect();
        let text = format!("{}: {}", show::plain(&metrics.plugin), values.join(" · "));
        lines.push(format!("  {}", painted(&terminal::cut(&text, width.saturating_sub(2)), FAINT)));
    }
    lines
}

/// What the answer was like, in a few words.
fn facts(o: &Observation) -> Vec<String> {
    let mut facts = Vec::new();
    let last = o.hops.last();
    if let Some(status) = o.status {
        let version = last.and_then(|hop| hop.http_version);
        facts
            .push(version.map_or_else(|| format!("{status}"), |version| format!("{status} HTTP/{}", version.as_str())));
    }
    if let Some(address) = last.and_then(|hop| hop.address) {
        facts.push(address.to_string());
    }
    if let Some(body) = o.body {
        let mut text = show::bytes(body.decoded_bytes);
        if body.wire_bytes != body.decoded_bytes {
            let _ = write!(text, " ({} on the wire)", show::bytes(body.wire_bytes));
        }
        facts.push(text);
    }
    if let Some(content_type) = &o.content_type {
        facts.push(terminal::cut(&show::plain(content_type), 40));
    }
    if let Some(certificate) = &o.certificate {
        let at = o.started_at.unwrap_or(o.scheduled_at);
        facts.push(certificate_left(certificate.not_after, at));
    }
    facts
}

fn certificate_left(not_after: Timestamp, at: Timestamp) -> String {
    let left = not_after.since(at);
    if left < 0 {
        painted(&format!("certificate expired {} ago", show::span(-left)), BAD)
    } else if left < sitemon_model::time::DAY {
        painted(&format!("certificate {}", show::span(left)), BAD)
    } else {
        format!("certificate {} d", left / sitemon_model::time::DAY)
    }
}

/// For each hop a bar, all to one scale, each beginning where the one before ended; below it the times.
fn hops(hops: &[Hop], width: usize, lines: &mut Vec<String>) {
    let total: u64 = hops.iter().map(|hop| hop.phases.sum_us()).sum();
    let mut before = 0;
    for (index, hop) in hops.iter().enumerate() {
        if hops.len() > 1 {
            let status = hop.status.map_or_else(String::new, |status| format!("  {status}"));
            let text = format!("  {} {} {}", index + 1, show::plain(&hop.method), show::plain(&hop.url));
            lines.push(format!("{}{status}", terminal::cut(&text, width.saturating_sub(5))));
        }
        for attempt in &hop.attempts {
            let (error, style) = attempt.error.map_or(("given up", PLAIN), |code| (code.as_str(), BAD));
            lines.push(format!("    {} after {}: {}", attempt.address, show::took(attempt.us), painted(error, style)));
        }
        let bar = picture::phases(&hop.phases, before, total, width.saturating_sub(4));
        if !bar.is_empty() {
            lines.push(format!("  {bar}"));
            lines.push(format!("  {}", picture::legend(&hop.phases, hop.reused)));
        }
        before += hop.phases.sum_us();
    }
}

fn causes(verdict: &Verdict, indent: &str) -> Vec<String> {
    let style = terminal::verdict_style(verdict.number());
    verdict
        .causes()
        .iter()
        .map(|cause| format!("{indent}{} {}", painted(cause.code.as_str(), style), show::plain(&cause.message)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sitemon_model::{Attempt, Body, Cause, Certificate, Code, HttpVersion, Phase, State};

    fn told(observation: &Observation) -> String {
        let text = drawn(observation, 6, 60).join("\n");
        anstream::adapter::strip_str(&text).to_string() + "\n"
    }

    #[test]
    fn a_redirect_and_an_error() {
        let mut first = Hop {
            url: "http://shop.example/".into(),
            method: "GET".into(),
            address: Some("192.0.2.7:80".parse().unwrap()),
            http_version: Some(HttpVersion::Http11),
            status: Some(301),
            ..Hop::default()
        };
        for (phase, us) in [(Phase::Dns, 812), (Phase::Connect, 10_420), (Phase::Send, 41), (Phase::Wait, 9_000)] {
            first.phases.set(phase, us, State::Done);
        }
        first.phases.set(Phase::Receive, 12, State::Done);
        first.attempts.push(Attempt {
            address: "[2001:db8::7]:80".parse().unwrap(),
            us: 310,
            error: Some(Code::ConnectRefused),
        });
        let mut second = Hop { url: "https://shop.example/".into(), status: Some(503), ..first.clone() };
        second.attempts.clear();
        second.phases.set(Phase::Tls, 21_988, State::Done);
        let observation = Observation {
            site: "shop".into(),
            verdict: Verdict::Down(vec![Cause::new(Code::HttpStatus, "status 503, expected 200-299")]),
            scheduled_at: Timestamp(1_795_219_200_000_000),
            response_time_us: Some(62_558),
            hops: vec![first, second],
            status: Some(503),
            body: Some(Body { wire_bytes: 4120, decoded_bytes: 10_301 }),
            content_type: Some("text/html\u{1b}[2J".into()),
            certificate: Some(Arc::new(Certificate {
                not_after: Timestamp(1_800_000_000_000_000),
                issuer: "CN=a".into(),
                subject: "CN=b".into(),
            })),
            extracted: vec![("items".into(), "12".into())],
            ..Observation::default()
        };
        expect_test::expect![[r#"
            ✗ down     shop    http://shop.example/
              62.6 ms · 503 HTTP/1.1 · 192.0.2.7:80 · 10.1 KiB (4.0 KiB on the wire) · text/html\u{1b}[2J · certificate 55 d
              1 GET http://shop.example/  301
                [2001:db8::7]:80 after 310 µs: connect.refused
              ░▒▒▒▒▒▒▒▒▒▪███████▄
              ░ dns 812 µs  ▒ connect 10.4 ms  ▪ send 41 µs  █ wait 9.00 ms  ▄ receive 12 µs
              2 GET https://shop.example/  503
                                ░▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▪██████▄
              ░ dns 812 µs  ▒ connect 10.4 ms  ▓ tls 22.0 ms  ▪ send 41 µs  █ wait 9.00 ms  ▄ receive 12 µs
              http.status status 503, expected 200-299
              items = 12
        "#]].assert_eq(&told(&observation));
    }

    #[test]
    fn what_was_not_made_has_no_picture() {
        let observation = Observation {
            site: "a".into(),
            verdict: Verdict::Unknown(vec![Cause::new(Code::PolicyAddress, "127.0.0.1 is refused")]),
            ..Observation::default()
        };
        expect_test::expect![[r"
            ? unknown  a
              policy.address 127.0.0.1 is refused
        "]]
        .assert_eq(&told(&observation));
    }

    #[test]
    fn exit_codes() {
        assert_eq!(exit([3, 1, 0, 0]), Exit::Done);
        assert_eq!(exit([3, 1, 1, 1]), Exit::Down);
        assert_eq!(exit([0, 0, 0, 1]), Exit::Unknown);
        assert_eq!(exit([0; 4]), Exit::Done);
    }
}
