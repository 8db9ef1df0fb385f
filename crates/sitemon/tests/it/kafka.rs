//! `sitemon run` over Kafka, from outside: the real binary, a real broker, and both killed.

use crate::command::Folder;
use crate::run::{Monitor, assert_gapless, at, of};
use rustix::process::Signal;
use sitemon_testkit::FaultySite;
use sitemon_testkit::clock::now_us;
use sitemon_testkit::fault::Scheme;
use sitemon_testkit::kafka::Kafka;
use sitemon_testkit::postgres;
use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

/// Sites that are checked each 200 ms.
const SITES: usize = 5;

fn configuration(store: &str, brokers: &[String], site: &FaultySite) -> String {
    let brokers = brokers.join(", ");
    let mut text = format!(
        "store: {{{store}, flush: 100ms}}\n\
         bus: {{kind: kafka, brokers: [{brokers}], partitions: {{sites: 2, observations: 4}}, options: {{session.timeout.ms: 3000}}}}\n\
         defaults: {{interval: 200ms}}\nsites:\n"
    );
    for number in 0..SITES {
        let url = site.url(Scheme::Http, &format!("page?n={number}")).expect("a URL");
        let _ = writeln!(text, "  - {{name: s{number}, url: '{url}'}}");
    }
    text
}

/// Runs over a broker into a store, with both killed.
fn check(store: &str) {
    let mut kafka = Kafka::start(1).unwrap_or_else(|error| panic!("{error:#}"));
    let site = FaultySite::start().expect("a site");
    let folder = Folder::with(&configuration(store, &kafka.plain(), &site));
    assert_eq!(folder.run("config check sitemon.yaml").status.code(), Some(0));
    // A broker that is away at the start is waited for.
    kafka.kill(0).expect("it runs");
    let mut monitor = Monitor::spawn(folder.path(), &[]);
    monitor.wait_for("waiting for the bus: the brokers cannot be reached");
    kafka.run(0).unwrap_or_else(|error| panic!("{error:#}"));
    monitor.wait_for("ready");
    let ready = now_us().cast_signed();
    sleep(Duration::from_secs(4));
    let killed = now_us().cast_signed();
    monitor.signal(Signal::KILL);
    monitor.wait();

    // What the brokers had of the killed process is stored by the next, and what that observes while its broker is
    // killed, too.
    let mut monitor = Monitor::spawn(folder.path(), &[]);
    monitor.wait_for("ready");
    let again = now_us().cast_signed();
    sleep(Duration::from_secs(4));
    kafka.kill(0).expect("it runs");
    sleep(Duration::from_secs(2));
    kafka.run(0).unwrap_or_else(|error| panic!("{error:#}"));
    sleep(Duration::from_secs(8));
    let (code, _) = monitor.stop();
    assert_eq!(code, 0, "{}", monitor.said());
    let stopped = now_us().cast_signed();
    let stored = monitor.export();
    for number in 0..SITES {
        let name = format!("s{number}");
        let slots: Vec<_> = of(&stored, &name);
        let within = |from: i64, to: i64| -> Vec<_> {
            let slot = |observation: &serde_json::Value| at(observation, "scheduled_at").0;
            slots.iter().copied().filter(|observation| (from..to).contains(&slot(observation))).collect()
        };
        let (first, second) = (within(ready, killed - 1_200_000), within(again, stopped));
        assert_gapless(&first, &name, 200_000);
        assert_gapless(&second, &name, 200_000);
        assert!(first.len() >= 12 && second.len() >= 65, "{name}: {} and {}", first.len(), second.len());
        assert!(slots.iter().all(|observation| observation["verdict"] == "up"), "{name}");
    }
}

#[test]
fn what_is_observed_reaches_the_embedded_store_whoever_is_killed() {
    check("kind: sqlite");
}

#[test]
fn what_is_observed_reaches_postgresql_whoever_is_killed() {
    let server = postgres::shared().unwrap_or_else(|error| panic!("{error:#}"));
    check(&format!("kind: postgres, dsn: '{}'", server.database().expect("a database")));
}
