//! What a reload brings into force beside the sites, by the real binary: `network`, `limits`, `grace` and `metrics`.
//! (`retention` is in the module of that name.)

use crate::run::{Monitor, assert_gapless, at, causes, get, of};
use serde_json::Value;
use sitemon_model::Timestamp;
use sitemon_testkit::FaultySite;
use sitemon_testkit::fault::Scheme;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A reload is in force after this.
const IN_FORCE: Duration = Duration::from_secs(1);

/// Rewrites the configuration, asks for a reload, and waits until this is said.
fn reload(monitor: &mut Monitor, configuration: &str, said: &str) {
    monitor.configure(configuration);
    monitor.signal(rustix::process::Signal::HUP);
    monitor.wait_for(said);
}

fn now() -> Timestamp {
    Timestamp(sitemon_testkit::clock::now_us().cast_signed())
}

#[test]
fn refused_addresses_are_refused_from_a_reload_on_and_no_slot_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let sites = format!(
        "defaults: {{interval: 200ms}}\nsites:\n  - {{name: new, url: '{url}'}}\n  \
         - {{name: kept, url: '{url}', request: {{connection: reuse}}}}\n"
    );
    let mut monitor = Monitor::start(folder.path(), &sites, &[]);
    std::thread::sleep(IN_FORCE);
    let asked = now();
    let refusing = format!("network: {{refuse: [loopback]}}\n{sites}");
    reload(&mut monitor, &refusing, "2 as before; also changed: network.refuse");
    let (refused, seen) = (now(), site.log().len());
    assert!(refused.since(asked) < 1_000_000, "it was in force after {} µs", refused.since(asked));
    std::thread::sleep(IN_FORCE);
    // A file with a fault changes nothing of it.
    reload(&mut monitor, &format!("network: {{refuse: []}}\nlimits: {{memory: 1}}\n{sites}"), "the running one stays");
    std::thread::sleep(IN_FORCE);
    // A check under way when the word came may have asked after it.
    assert!(site.log().len() <= seen + 2, "a site was asked that is refused");
    reload(&mut monitor, &sites, "also changed: network.refuse");
    let allowed = now();
    std::thread::sleep(IN_FORCE);
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    for name in ["new", "kept"] {
        let mine = of(&stored, name);
        assert_gapless(&mine, name, 200_000);
        for observation in mine {
            let slot = at(observation, "scheduled_at");
            let told = (observation["verdict"].as_str().unwrap_or_default(), causes(observation));
            if slot < asked || slot > allowed {
                assert_eq!(told, ("up", vec![]), "{observation}");
            } else if slot > refused && slot.plus(400_000) < allowed {
                assert_eq!(told, ("unknown", vec!["policy.address"]), "{observation}");
            }
        }
    }
}

#[test]
fn limits_in_flight_come_into_force_and_none_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "delay?ms=700").expect("a URL");
    let mut sites = String::from("sites:\n");
    for number in 0..6 {
        let _ = writeln!(sites, "  - {{name: s{number}, url: '{url}&n={number}', interval: 1s, timeout: 900ms}}");
    }
    let mut monitor = Monitor::start(folder.path(), &sites, &[]);
    std::thread::sleep(Duration::from_secs(2));
    let few = format!("limits: {{checks_in_flight: 1}}\n{sites}");
    reload(&mut monitor, &few, "6 as before; also changed: limits.checks_in_flight");
    let few_from = now();
    std::thread::sleep(Duration::from_secs(4));
    reload(&mut monitor, &sites, "6 as before; also changed: limits.checks_in_flight");
    let few_to = now();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    let skipped = |observation: &&Value| causes(observation)[..].iter().any(|code| code.starts_with("skipped."));
    for number in 0..6 {
        let name = format!("s{number}");
        let mine = of(&stored, &name);
        assert_gapless(&mine, &name, 1_000_000);
        for observation in mine.iter().filter(|observation| !skipped(observation)) {
            assert_eq!(observation["verdict"], "up", "{observation}");
        }
    }
    // With one place, one check in 700 ms: of 24 slots at most 6 are served, and none overtakes another.
    let within = |from: Timestamp, to: Timestamp| {
        let within = move |one: &&Value| (from..to).contains(&at(one, "scheduled_at"));
        stored.iter().filter(within).collect::<Vec<_>>()
    };
    let few = within(few_from.plus(1_000_000), few_to.plus(-1_000_000));
    assert!(few.iter().copied().filter(skipped).count() * 2 > few.len(), "one place served all: {few:?}");
    let mut spans: Vec<(i64, i64)> = few.iter().filter(|one| !skipped(one)).map(|one| span(one)).collect();
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0 + 20_000), "two were in flight: {spans:?}");
    // Before and after, all are served in their slots.
    for wide in [within(Timestamp(0), few_from.plus(-1_000_000)), within(few_to.plus(1_500_000), now())] {
        assert!(wide.len() >= 6 && !wide.iter().copied().any(|one| skipped(&one)), "{wide:?}");
    }
}

/// When a check was in flight, in microseconds.
fn span(observation: &Value) -> (i64, i64) {
    let start = at(observation, "started_at").0;
    (start, start + observation["response_time_us"].as_i64().unwrap_or_default())
}

#[test]
fn memory_is_bounded_anew_by_a_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    // 3 MiB of JSON, which are read as a whole.
    let url = site.url(Scheme::Http, "page?size=3000000").expect("a URL");
    let body = "expect: {body: {json: [{path: $.a, exists: false}]}}";
    let sites = format!(
        "defaults: {{interval: 500ms}}\nsites:\n  \
         - {{name: large, url: '{url}', request: {{limits: {{body_held: 4MiB}}}}, {body}}}\n"
    );
    let mut monitor = Monitor::start(folder.path(), &sites, &[]);
    std::thread::sleep(IN_FORCE * 2);
    reload(&mut monitor, &format!("limits: {{memory: 2MiB}}\n{sites}"), "also changed: limits.memory");
    let small = now();
    std::thread::sleep(IN_FORCE * 2);
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    let stored = monitor.export();
    assert_gapless(&of(&stored, "large"), "large", 500_000);
    let ours = |observation: &Value| causes(observation).contains(&"own.failure");
    let (before, after): (Vec<&Value>, Vec<&Value>) =
        stored.iter().partition(|observation| at(observation, "scheduled_at") < small);
    assert!(before.len() >= 2 && !before.iter().any(|one| ours(one)), "{before:?}");
    assert!(after.len() >= 3 && after.iter().all(|one| ours(one)), "{after:?}");
}

#[test]
fn the_grace_of_a_reload_is_that_of_the_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "delay?ms=20000").expect("a URL");
    let sites = format!("sites:\n  - {{name: long, url: '{url}', interval: 1s, timeout: 30s}}\n");
    let mut monitor = Monitor::start(folder.path(), &sites, &[]);
    reload(&mut monitor, &format!("grace: 300ms\n{sites}"), "also changed: grace");
    std::thread::sleep(IN_FORCE);
    let (code, took) = monitor.stop();
    assert_eq!(code, 0, "{}", monitor.said());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(monitor.export().iter().any(|observation| causes(observation) == ["stopped"]));
}

#[test]
fn metrics_move_and_stay_where_they_cannot() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let sites = format!("sites:\n  - {{name: a, url: '{url}', interval: 200ms}}\n");
    let with = |listen: &str, more: &str| format!("metrics: {{listen: '{listen}'{more}}}\n{sites}");
    let mut monitor = Monitor::start(folder.path(), &sites, &[]);
    // They come without having been there at the start, the sites' own series with them.
    reload(&mut monitor, &with("127.0.0.1:0", ""), "metrics at http://");
    let first = bound(&monitor);
    wait_until(|| get(&first, "/metrics").contains("probe_success{instance=\"a\"} 1"));
    assert!(get(&first, "/readyz").starts_with("HTTP/1.1 200"));
    reload(&mut monitor, &with("127.0.0.1:0", ", sites: 0"), "also changed: metrics.sites");
    assert!(!get(&first, "/metrics").contains("probe_success"), "more sites are shown than may be");
    // Another address, and the one before is free.
    reload(&mut monitor, &with("127.0.0.2:0", ""), "metrics at http://127.0.0.2:");
    let second = bound(&monitor);
    wait_until(|| std::net::TcpStream::connect(&first).is_err());
    // One that another process has: all is as before, and it is told.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    reload(&mut monitor, &with(&address, ""), "metrics.listen: cannot be taken over");
    assert!(monitor.said().contains(&format!("metrics are served at http://{second}/metrics")), "{}", monitor.said());
    assert!(get(&second, "/healthz").ends_with("ok\n"));
    // It is tried again by the next reload.
    drop(taken);
    reload(&mut monitor, &with(&address, ""), &format!("metrics at http://{address}/"));
    // All addresses, at the port that is our own.
    let port = address.rsplit(':').next().expect("a port");
    reload(&mut monitor, &with(&format!("0.0.0.0:{port}"), ""), &format!("metrics at http://0.0.0.0:{port}/"));
    let reloads = "sitemon_reloads_total{result=\"done\"} 6";
    wait_until(|| get(&format!("127.0.0.1:{port}"), "/metrics").contains(reloads));
    reload(&mut monitor, &sites, "metrics are served no more");
    wait_until(|| std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err());
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    assert_gapless(&of(&monitor.export(), "a"), "a", 200_000);
}

/// The address that was told last.
fn bound(monitor: &Monitor) -> String {
    let said = monitor.said();
    let last = said.rsplit("metrics at http://").next().and_then(|rest| rest.split('/').next());
    last.expect("an address").to_owned()
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < until, "it does not come to be");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_needs_a_start_is_told_by_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut monitor = Monitor::start(folder.path(), "sites: []\n", &[]);
    let other = "location: there\nstore: {kind: sqlite, path: other.db, flush: 1s}\nspool: {size: 1MiB}\nsites: []\n";
    reload(&mut monitor, other, "read again: 0 sites added, 0 changed, 0 removed, 0 as before");
    let said = monitor.said();
    let told: Vec<&str> = said.lines().filter(|line| line.contains("takes effect at the next start")).collect();
    for (line, key) in told.iter().zip(["location:", "store.flush:", "store.path:"]) {
        assert!(line.contains(key), "{told:?}");
    }
    assert_eq!(told.len(), 3, "{said}");
    assert!(!said.contains("also changed"), "{said}");
    assert_eq!(monitor.stop().0, 0, "{said}");
    assert!(!folder.path().join("other.db").exists());
}
