//! What lies between a site and the store, from outside: codings, proxies, several addresses, HTTP/2. The probe's own
//! tests go through every fault of these; here the real binary is configured for them, and stores what it saw.

use crate::run::{Monitor, causes, of};
use serde_json::{Value, json};
use sitemon_testkit::{FaultyNames, FaultyProxy, FaultySite, Scheme};
use std::time::Duration;

/// Watches these sites for some slots, and gives what is stored.
fn watch(sites: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let configuration = json!({"defaults": {"interval": "1s", "timeout": "1s"}, "sites": sites});
    let mut monitor = Monitor::start(folder.path(), &configuration.to_string(), &[]);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(monitor.stop().0, 0, "{}", monitor.said());
    monitor.export()
}

/// All observations of a site, of which there are some, have this verdict and these causes.
fn expect<'v>(stored: &'v [Value], site: &str, verdict: &str, expected: &[&str]) -> Vec<&'v Value> {
    let mine = of(stored, site);
    assert!(mine.len() >= 2, "{site}: {mine:?}");
    for observation in &mine {
        assert_eq!((&observation["verdict"], &causes(observation)[..]), (&json!(verdict), expected), "{observation}");
    }
    mine
}

/// The phases of the first hop, in their order.
fn phases(observation: &Value) -> Vec<&str> {
    let phases = observation["hops"][0]["phases"].as_object().expect("phases");
    ["dns", "connect", "proxy", "tls", "send", "wait", "receive"]
        .into_iter()
        .filter(|name| phases.contains_key(*name))
        .collect()
}

#[test]
fn every_coding_is_read() {
    let site = FaultySite::start().expect("a site");
    let codings = ["gzip", "deflate", "deflate-raw", "br", "zstd", "gzip,br", "deflate,zstd"];
    let with = |name: &str, command: &str, scheme: Scheme| {
        let url = site.url(scheme, command).expect("a URL");
        json!({"name": name, "url": url, "request": {"tls": {"ca": site.roots_pem()}},
            "expect": {"body": {"matches": [r"All is well[^<]*</p>"], "size": {"min": 20000}}}})
    };
    let mut sites = Vec::new();
    for coding in codings {
        for (scheme, by) in [(Scheme::Http, "1.1"), (Scheme::Http2, "2")] {
            let command = format!("page?size=20000&text=All+is+well&encoding={coding}");
            sites.push(with(&format!("{coding} by {by}"), &command, scheme));
        }
    }
    sites.push(with("cut", "encoding-cut?encoding=br", Scheme::Http));
    sites.push(with("unknown", "encoding-unknown", Scheme::Http));
    let stored = watch(&sites);
    for coding in codings {
        for by in ["1.1", "2"] {
            for observation in expect(&stored, &format!("{coding} by {by}"), "up", &[]) {
                assert_eq!(observation["hops"][0]["http_version"], by);
                let body = &observation["body"];
                assert_eq!(body["decoded_bytes"], 20_000, "{observation}");
                assert!(body["wire_bytes"].as_u64() < Some(20_000), "it was not coded: {observation}");
            }
        }
    }
    for site in ["cut", "unknown"] {
        let mine = of(&stored, site);
        assert!(!mine.is_empty() && mine.iter().all(|found| causes(found)[0] == "body.decode"), "{mine:?}");
    }
}

#[test]
fn proxies_carry_and_their_faults_are_not_the_sites() {
    let site = FaultySite::start().expect("a site");
    let proxy = FaultyProxy::with_credentials("user", "p:w").expect("a proxy");
    let refusing = FaultyProxy::start().expect("a proxy");
    refusing.set("proxy-refuse").expect("a command");
    let url = |scheme| site.url(scheme, "page?text=Welcome").expect("a URL");
    let through = |name: &str, scheme, proxy: String| {
        json!({"name": name, "url": url(scheme), "request": {"proxy": proxy, "tls": {"ca": site.roots_pem()}},
            "expect": {"body": {"matches": ["Welcome"]}}})
    };
    let at = proxy.address();
    let away = std::net::TcpListener::bind("127.0.0.1:0").and_then(|held| held.local_addr()).expect("a port");
    let stored = watch(&[
        through("connect", Scheme::Https, format!("http://user:p%3Aw@{at}")),
        through("connect-2", Scheme::Http2, format!("http://user:p%3Aw@{at}")),
        through("absolute", Scheme::Http, format!("http://user:p%3Aw@{at}")),
        through("socks5", Scheme::Https, format!("socks5://user:p%3Aw@{at}")),
        through("socks5h", Scheme::Http, format!("socks5h://user:p%3Aw@{at}")),
        through("password", Scheme::Https, format!("http://user:wrong@{at}")),
        through("refused", Scheme::Https, format!("http://{}", refusing.address())),
        through("away", Scheme::Https, format!("http://{away}")),
    ]);
    for (name, expected) in [
        ("connect", &["connect", "proxy", "tls", "send", "wait", "receive"][..]),
        ("connect-2", &["connect", "proxy", "tls", "send", "wait", "receive"]),
        ("absolute", &["connect", "send", "wait", "receive"]),
        ("socks5", &["connect", "proxy", "tls", "send", "wait", "receive"]),
        ("socks5h", &["connect", "proxy", "send", "wait", "receive"]),
    ] {
        for observation in expect(&stored, name, "up", &[]) {
            assert_eq!(phases(observation), expected, "{name}");
            assert_eq!(observation["hops"][0]["address"], at.to_string(), "{name}");
        }
    }
    expect(&stored, "password", "unknown", &["proxy.authentication"]);
    expect(&stored, "refused", "down", &["proxy.refused"]);
    expect(&stored, "away", "unknown", &["proxy.unreachable"]);
    // The proxy's own log: it carried each of those that are up, and no credentials are stored.
    assert!(proxy.log().len() >= 10, "{:?}", proxy.log());
    let all = serde_json::to_string(&stored).expect("JSON");
    assert!(!all.contains("p:w") && !all.contains("p%3Aw"), "{all}");
}

#[test]
fn each_address_is_checked_and_the_gravest_tells() {
    let site = FaultySite::start().expect("a site");
    let names = FaultyNames::start().expect("names");
    let port = site.address(Scheme::Http).port();
    let addresses = |list: &[&str]| list.iter().map(|ip| ip.parse().expect("an address")).collect::<Vec<_>>();
    names.set_addresses("half.test", &addresses(&["127.0.0.1", "127.0.0.9"])).expect("addresses");
    names.set_addresses("whole.test", &addresses(&["127.0.0.1"])).expect("addresses");
    let each = |name: &str, ip: &str| {
        json!({"name": format!("{name} {ip}"), "url": format!("http://{name}.test:{port}/page"),
            "request": {"ip": ip, "resolver": names.address().to_string()}})
    };
    let stored = watch(&[each("half", "each"), each("whole", "each"), each("half", "any")]);
    for observation in expect(&stored, "half each", "down", &["connect.refused"]) {
        let mut found: Vec<String> = observation["addresses"]
            .as_array()
            .expect("addresses")
            .iter()
            .map(|one| format!("{} {} {}", one["address"], one["verdict"], one["response_time_us"].is_u64()))
            .collect();
        found.sort_unstable();
        let expected = [format!("\"127.0.0.1:{port}\" \"up\" true"), format!("\"127.0.0.9:{port}\" \"down\" false")];
        assert_eq!(found, expected);
        assert_eq!(observation["hops"][0]["address"], format!("127.0.0.9:{port}"), "the gravest is shown");
    }
    for observation in expect(&stored, "whole each", "up", &[]) {
        assert_eq!(observation["addresses"].as_array().map(Vec::len), Some(1));
    }
    // Whoever visits it reaches the one that answers.
    expect(&stored, "half any", "up", &[]);
}

#[test]
fn resets_and_farewells_of_http2_are_told_apart() {
    let site = FaultySite::start().expect("a site");
    let faults = [
        ("h2-reset", "wait.reset", &["connect", "tls", "send", "wait"][..]),
        ("h2-reset-body", "receive.reset", &["connect", "tls", "send", "wait", "receive"]),
        ("h2-goaway", "wait.closed", &["connect", "tls", "send", "wait"]),
        ("h2-goaway-body", "receive.closed", &["connect", "tls", "send", "wait", "receive"]),
    ];
    let sites = faults.map(|(fault, ..)| {
        let url = site.url(Scheme::Http2, fault).expect("a URL");
        json!({"name": fault, "url": url, "request": {"tls": {"ca": site.roots_pem()}, "resolver": "libc", "ip": "4"}})
    });
    let stored = watch(&sites);
    for (fault, cause, expected) in faults {
        for observation in expect(&stored, fault, "down", &[cause]) {
            let last = expected.last().expect("phases");
            assert_eq!(observation["hops"][0]["phases"][last]["state"], "failed", "{fault}");
            let reached: Vec<&str> = phases(observation).into_iter().filter(|phase| *phase != "dns").collect();
            assert_eq!(reached, expected, "{fault}");
            assert!(observation.get("response_time_us").is_none(), "{fault}");
        }
    }
}
