//! Connecting: races, refusals, policies, and our own shortage, which is never the site's fault.

use crate::harness::{consistent, phases, ready, ready_in, told, us, why};
use serde_json::json;
use sitemon_model::{Code, Phase};
use sitemon_probe::memory::Memory;
use sitemon_probe::policy::Policy;
use sitemon_probe::{Shared, SharedOptions};
use sitemon_testkit::command::encode;
use sitemon_testkit::{FaultyNames, FaultySite, Scheme};
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const TIMEOUT: Duration = Duration::from_secs(3);

fn refusing(words: &[&str]) -> Arc<Shared> {
    Shared::new(SharedOptions { policy: Policy::of(words).expect("a policy"), ..SharedOptions::default() })
}

#[tokio::test]
async fn the_other_family_is_tried_where_one_is_refused() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let port = site.address(Scheme::Http).port();
    // Nothing listens at 127.0.0.2.
    names.set("two.test", "dns-addresses?a=127.0.0.2&a=127.0.0.1").expect("a command");
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let observation = ready(&format!("http://two.test:{port}/page"), TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    let hop = &observation.hops[0];
    assert_eq!(hop.address.map(|address| address.ip()), Some(IpAddr::from([127, 0, 0, 1])));
    assert_eq!(hop.attempts.len(), 1);
    assert_eq!(hop.attempts[0].error, Some(Code::ConnectRefused));
    assert_eq!(phases(&observation), "dns connect send wait receive");
    consistent(&observation);
}

#[tokio::test]
async fn the_next_is_tried_beside_one_that_hangs() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let hanging = site.open(Scheme::Http, "backlog-full").expect("a port");
    // A port that hangs on 127.0.0.1 and on ::1, while another address of the same port answers.
    let listener = TcpListener::bind(("127.0.0.9", hanging.port())).await.expect("a port");
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 2048];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    names.set("race.test", "dns-addresses?a=127.0.0.1&a=127.0.0.9").expect("a command");
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let url = format!("http://race.test:{}/", hanging.port());
    let observation = ready(&url, TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    let hop = &observation.hops[0];
    // RFC 8305: 250 ms for the first; it was given up, which is no error of it.
    let connect = us(&observation, 0, Phase::Connect);
    assert!((250_000..330_000).contains(&connect), "{connect}");
    assert_eq!((hop.attempts.len(), hop.attempts[0].error), (1, None));
    assert_eq!(hop.attempts[0].address.ip(), IpAddr::from([127, 0, 0, 1]));
    server.abort();
}

#[tokio::test]
async fn connect_timeout_is_for_each_attempt() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "backlog-full").expect("a URL");
    let observation = ready(&url, TIMEOUT, &json!({"request": {"connect_timeout": "400ms"}})).check().await;
    assert_eq!(told(&observation), "down: connect.timeout", "{}", why(&observation));
    let connect = us(&observation, 0, Phase::Connect);
    assert!((400_000..480_000).contains(&connect), "{connect}");
    // The timeout of the whole check goes before it.
    let observation = ready(&url, Duration::from_millis(300), &json!({})).check().await;
    assert_eq!((told(&observation).as_str(), phases(&observation).as_str()), ("down: connect.timeout", "connect!"));
    let connect = us(&observation, 0, Phase::Connect);
    assert!((300_000..380_000).contains(&connect), "{connect}");
}

#[tokio::test]
async fn families_by_choice() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let port = site.address(Scheme::Http).port();
    names.set("both.test", "dns-addresses?a=127.0.0.1&aaaa=::1").expect("a command");
    names.set("six.test", "dns-v6").expect("a command");
    let url = format!("http://both.test:{port}/page");
    for (ip, is_ipv6) in [("any", true), ("6", true), ("4", false)] {
        let options = json!({"request": {"resolver": [names.address().to_string()], "ip": ip}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), "up", "{ip}: {}", why(&observation));
        assert_eq!(observation.hops[0].address.map(|address| address.is_ipv6()), Some(is_ipv6), "{ip}");
    }
    let options = json!({"request": {"resolver": [names.address().to_string()], "ip": 4}});
    let observation = ready(&format!("http://six.test:{port}/page"), TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "down: dns.not_found", "{}", why(&observation));
}

#[tokio::test]
async fn every_address_is_checked() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let port = site.address(Scheme::Http).port();
    names.set("each.test", "dns-addresses?a=127.0.0.1&a=127.0.0.2&aaaa=::1").expect("a command");
    let options = json!({"request": {"resolver": [names.address().to_string()], "ip": "each"}});
    let observation = ready(&format!("http://each.test:{port}/page"), TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "down: connect.refused", "{}", why(&observation));
    assert_eq!(observation.hops[0].address.map(|address| address.ip()), Some(IpAddr::from([127, 0, 0, 2])));
    let each: Vec<String> = observation
        .addresses
        .iter()
        .map(|result| {
            format!("{} {} {}", result.address.ip(), result.verdict.as_str(), result.response_time_us.is_some())
        })
        .collect();
    assert_eq!(each, ["::1 up true", "127.0.0.1 up true", "127.0.0.2 down false"]);
    for result in &observation.addresses {
        assert!(result.hops[0].phases.get(Phase::Dns).is_some());
    }
    assert_eq!(names.asked("each.test").len(), 2);
}

#[tokio::test]
async fn refused_addresses_are_not_dialled() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let port = site.address(Scheme::Http).port();
    names.set("both.test", "dns-addresses?a=127.0.0.1&aaaa=::1").expect("a command");
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let url = format!("http://both.test:{port}/page");
    // One is left: it is used.
    let observation = ready_in(&url, TIMEOUT, &options, refusing(&["::1"])).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert_eq!(observation.hops[0].address.map(|address| address.is_ipv4()), Some(true));
    // None is left: nothing is dialled.
    let before = site.counts().connections;
    for (url, options) in [
        (url.clone(), options.clone()),
        (format!("http://127.0.0.1:{port}/page"), json!({})),
        (format!("http://[::ffff:127.0.0.1]:{port}/page"), json!({})),
        ("http://shop.example/".to_owned(), json!({"request": {"connect_to": format!("127.0.0.1:{port}")}})),
        (format!("http://127.0.0.1:{port}/page"), json!({"request": {"proxy": "socks5h://127.0.0.1:1"}})),
    ] {
        let observation = ready_in(&url, TIMEOUT, &options, refusing(&["loopback"])).check().await;
        assert_eq!(told(&observation), "unknown: policy.address", "{url}: {}", why(&observation));
        assert!(observation.hops[0].phases.get(Phase::Connect).is_none());
        assert!(!phases(&observation).contains('!'));
    }
    assert_eq!(site.counts().connections, before);
    // At each redirect, too.
    let to = encode(&format!("http://127.0.0.2:{port}/page"));
    let url = format!("http://127.0.0.1:{port}/redirect?location={to}");
    let observation = ready_in(&url, TIMEOUT, &json!({}), refusing(&["127.0.0.2"])).check().await;
    assert_eq!(told(&observation), "unknown: policy.address", "{}", why(&observation));
    assert_eq!(observation.hops.len(), 2);
    let metadata = ready_in("http://169.254.169.254/", TIMEOUT, &json!({}), Shared::new(SharedOptions::default()));
    assert_eq!(told(&metadata.check().await), "unknown: policy.address");
}

#[tokio::test]
async fn another_policy_holds_for_checks_that_begin() {
    let site = FaultySite::start().expect("a site");
    let shared = refusing(&["metadata"]);
    let options = json!({"request": {"connection": "reuse"}});
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let check = ready_in(&url, TIMEOUT, &options, shared.clone());
    assert_eq!(told(&check.check().await), "up");
    assert!(check.check().await.hops[0].reused);
    // One that is under way follows its redirect by the rules with which it began.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let moved = format!("http://{}/", listener.local_addr().expect("an address"));
    let moved = ready_in(&moved, TIMEOUT, &json!({}), shared.clone());
    let (moved, ()) = tokio::join!(moved.check(), async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        shared.set_rules(&Policy::of(&["loopback"]).expect("a policy"), 256);
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("it reads");
    });
    assert_eq!((told(&moved).as_str(), moved.hops.len()), ("up", 2), "{}", why(&moved));
    // An idle connection to what is refused from now on is not used.
    let observation = check.check().await;
    assert_eq!(told(&observation), "unknown: policy.address", "{}", why(&observation));
    assert!(!observation.hops[0].reused);
    // And what is allowed again is.
    shared.set_rules(&Policy::open(), 256);
    let observation = check.check().await;
    assert_eq!((told(&observation).as_str(), observation.hops[0].reused), ("up", false));
    assert!(check.check().await.hops[0].reused);
}

#[tokio::test]
async fn an_answer_after_exactly_so_long() {
    let site = FaultySite::start().expect("a site");
    for scheme in Scheme::ALL {
        let url = site.url(scheme, "delay?ms=100").expect("a URL");
        let observation = ready(&url, TIMEOUT, &json!({"request": {"tls": {"ca": site.roots_pem()}}})).check().await;
        assert_eq!(told(&observation), "up", "{}", why(&observation));
        let wait = us(&observation, 0, Phase::Wait);
        assert!((99_000..110_000).contains(&wait), "{scheme:?} {wait}");
        consistent(&observation);
    }
}

#[tokio::test]
async fn what_does_not_fit_into_memory_waits_and_is_our_own() {
    let site = FaultySite::start().expect("a site");
    let memory = Memory::new(64 << 10);
    let shared = Shared::new(SharedOptions { memory: memory.clone(), ..SharedOptions::default() });
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let held = memory.reserve(63 << 10).await.expect("memory");
    let check = ready_in(&url, Duration::from_millis(300), &json!({}), shared);
    let observation = check.check().await;
    assert_eq!(told(&observation), "unknown: own.failure", "{}", why(&observation));
    assert_eq!((observation.started_at, observation.hops.len()), (None, 0));
    drop(held);
    let observation = check.check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert_eq!(memory.held(), 0);
    // More than there is at all.
    let url = site.url(Scheme::Http, "bytes?size=200000").expect("a URL");
    let options = json!({"expect": {"body": {"json": [{"path": "$", "exists": true}]}}});
    let shared = Shared::new(SharedOptions { memory, ..SharedOptions::default() });
    let observation = ready_in(&url, TIMEOUT, &options, shared).check().await;
    assert_eq!(observation.verdict.as_str(), "unknown", "{}", why(&observation));
    assert_eq!(observation.verdict.causes()[0].code, Code::OwnFailure);
}

/// Runs one test of this file again, in a process of its own that is prepared by a shell.
fn in_a_process_of_its_own(test: &str, prepare: &str) {
    let program = std::env::current_exe().expect("this program");
    let script = format!("{prepare} {} --exact net::{test} --nocapture", program.display());
    let output = Command::new("sh").args(["-c", &script]).env("SITEMON_PREPARED", "1").output().expect("a shell");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

fn is_prepared() -> bool {
    std::env::var_os("SITEMON_PREPARED").is_some()
}

#[tokio::test]
async fn without_descriptors_nothing_is_down() {
    if !is_prepared() {
        return in_a_process_of_its_own("without_descriptors_nothing_is_down", "");
    }
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    // What others hold is held: not one descriptor is left for the checks.
    let mut held = Vec::new();
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let secure = site.url(Scheme::Https, "page").expect("a URL");
    let by_name = site.url_at(Scheme::Http, "dns-v4.fault.test", "page").expect("a URL");
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let low = rustix::process::Rlimit { current: Some(64), maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, low).expect("a lower limit");
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    let mut told_all = Vec::new();
    for (url, options) in [(&url, json!({})), (&secure, json!({})), (&by_name, options), (&by_name, json!({}))] {
        let observation = ready(url, TIMEOUT, &options).check().await;
        told_all.push(format!("{} ({})", told(&observation), why(&observation)));
    }
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("the old limit");
    assert!(told_all.iter().all(|told| told.starts_with("unknown: own.failure ")), "{told_all:#?}");
    drop(held);
    assert_eq!(told(&ready(&url, TIMEOUT, &json!({})).check().await), "up");
}

#[tokio::test]
async fn without_a_route_nothing_is_down() {
    if !is_prepared() {
        // A network of its own, in which there is nothing but the loopback. Root may make one without a user of its own,
        // which a container does not always let it have.
        let prepare = "unshare $([ $(id -u) = 0 ] || echo --user --map-root-user) --net \
                       sh -c 'ip link set lo up && exec \"$@\"' sh";
        return in_a_process_of_its_own("without_a_route_nothing_is_down", prepare);
    }
    for url in ["http://198.51.100.7/", "http://[2001:db8::7]/"] {
        let observation = ready(url, TIMEOUT, &json!({})).check().await;
        assert_eq!(told(&observation), "unknown: own.failure", "{}", why(&observation));
    }
    // The other family is used quietly where there is one.
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let port = site.address(Scheme::Http).port();
    names.set("both.test", "dns-addresses?a=127.0.0.1&aaaa=2001:db8::7").expect("a command");
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let observation = ready(&format!("http://both.test:{port}/page"), TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert!(observation.hops[0].attempts.is_empty());
}
