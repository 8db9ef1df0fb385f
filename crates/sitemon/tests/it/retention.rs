//! `retention` from outside: `sitemon run` removes exactly what is past, of each kind what is past for it.

use crate::command::Folder;
use crate::commands::store;
use crate::run::Monitor;
use serde_json::Value;
use sitemon_model::time::{DAY, HOUR, SECOND};
use sitemon_model::{Evidence, Observation, Timestamp, line};
use sitemon_store::sample::Sample;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The site is not checked: what it has is what the test gave it.
const CONFIGURATION: &str = "\
retention: {observations: 2d, evidence: 1h, hour: 4d, day: 6d}
sites:
  - {name: past, url: 'http://127.0.0.1:9/', interval: 10m, enabled: false}
";

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp(i64::try_from(since.as_micros()).expect("a time"))
}

/// Nine days up to now, every ten minutes, each sixth with evidence.
fn history(now: Timestamp) -> Vec<Arc<Observation>> {
    let mut sample = Sample::new(51);
    let first = now.floor(HOUR).plus(-9 * DAY);
    let slots = (0..).map(|slot| first.plus(slot * 600 * SECOND)).take_while(|slot| *slot < now);
    slots
        .enumerate()
        .map(|(index, slot)| {
            let mut observation = sample.regular(&"past".into(), &"default".into(), slot, 600_000_000);
            if index % 6 == 0 {
                let headers = vec![("server".into(), format!("nginx {index}").into())];
                observation.evidence = Some(Box::new(Evidence { headers, ..Evidence::default() }));
            }
            Arc::new(observation)
        })
        .collect()
}

/// The whole statistics of a part of the past: coverage, and how many checks.
fn stats(folder: &Folder, from: Timestamp, to: Timestamp) -> (f64, u64) {
    let (code, found) = folder.json(&format!("stats past --json --from {from} --to {to}"));
    assert_eq!((code, found.len()), (0, 1));
    let checks: u64 = found[0]["checks"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    (found[0]["coverage"].as_f64().unwrap_or(-1.0), checks)
}

#[test]
fn another_retention_comes_into_force_by_a_reload() {
    let sites = CONFIGURATION.split_once('\n').expect("retention is the first line").1;
    let folder = Folder::with(sites);
    let all = history(now());
    store(&folder, all.clone());
    let mut monitor = Monitor::start(folder.path(), sites, &[]);
    // The first look after the start is over: what was stored is packed.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(folder.data("export").1.lines().count(), all.len(), "it was past before");
    monitor.configure(CONFIGURATION);
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for("also changed: retention.day, retention.evidence, retention.hour, retention.observations");
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let at = now();
        let kept = all.iter().filter(|one| one.scheduled_at >= at.plus(-2 * DAY).floor(DAY)).count();
        if folder.data("export").1.lines().count() == kept {
            break;
        }
        assert!(Instant::now() < until, "it is kept:\n{}", monitor.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
}

#[test]
fn each_kind_is_kept_as_long_as_it_says() {
    let folder = Folder::with(CONFIGURATION);
    let began = now();
    let all = history(began);
    store(&folder, all.clone());
    assert_eq!(folder.run("compact").status.code(), Some(0));
    let lines = |from: Timestamp, evidence_from: Timestamp| -> String {
        let kept = all.iter().filter(|observation| observation.scheduled_at >= from);
        kept.map(|observation| {
            let mut observation = Observation::clone(observation);
            observation.evidence = observation.evidence.filter(|_| observation.scheduled_at >= evidence_from);
            line::to_string(&observation) + "\n"
        })
        .collect()
    };
    assert_eq!(folder.data("export").1, lines(Timestamp::MIN, Timestamp::MIN), "compact removes nothing");

    // By whole days; the test may run over midnight.
    let mut monitor = Monitor::spawn(folder.path(), &[]);
    let until = Instant::now() + Duration::from_mins(1);
    let exported = loop {
        let (_, exported) = folder.data("export");
        let wanted = |at: Timestamp| lines(at.plus(-2 * DAY).floor(DAY), at.plus(-HOUR).floor(DAY));
        if exported == wanted(now()) || exported == wanted(began) {
            break exported;
        }
        assert!(Instant::now() < until, "{} lines are left", exported.lines().count());
        std::thread::sleep(Duration::from_millis(200));
    };
    // Statistics are removed after observations; the next round comes only after minutes.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(monitor.stop().0, 0);
    assert_eq!(folder.data("export").1, exported);
    if began.floor(DAY) != now().floor(DAY) {
        return;
    }
    let day = |days: i64| began.plus(-days * DAY).floor(DAY);
    // What observations are kept, and what only statistics know, is told alike.
    assert_eq!(stats(&folder, day(1), day(0)), (1.0, 144), "observations, hours and days are there");
    assert_eq!(stats(&folder, day(3), day(2)), (1.0, 144), "hours and days");
    assert_eq!(stats(&folder, day(3).plus(5 * HOUR), day(3).plus(7 * HOUR)), (1.0, 12), "hours");
    assert_eq!(stats(&folder, day(6), day(5)), (1.0, 144), "days");
    assert_eq!(stats(&folder, day(6).plus(5 * HOUR), day(6).plus(7 * HOUR)), (0.0, 0), "no hours any more");
    assert_eq!(stats(&folder, day(8), day(7)), (0.0, 0), "nothing any more");
    let first: Value = serde_json::from_str(exported.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(first["scheduled_at"], day(2).to_string().as_str());
    // Once more, and after compacting: nothing else goes.
    assert_eq!(folder.run("compact").status.code(), Some(0));
    assert_eq!(folder.data("export").1, exported);
    assert_eq!(stats(&folder, day(6), day(5)), (1.0, 144));
}
