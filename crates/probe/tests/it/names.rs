//! Names: every way in which a name server fails, and what is made of several answers.

use crate::harness::{consistent, phases, ready, ready_in, told, us, why};
use serde_json::json;
use sitemon_model::Phase;
use sitemon_probe::{Shared, SharedOptions};
use sitemon_testkit::{FaultyNames, FaultySite, NameFault, Scheme};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(2500);

fn page(site: &FaultySite, host: &str) -> String {
    site.url_at(Scheme::Http, host, "page").expect("a URL")
}

#[tokio::test]
async fn every_fault_of_the_table() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let shared = Shared::new(SharedOptions::default());
    let mut tasks = Vec::new();
    for fault in NameFault::ALL {
        let host = format!("{}.fault.test", fault.name);
        if fault.name == "dns-addresses" {
            names.set(&host, "dns-addresses?a=127.0.0.1&aaaa=::1").expect("a command");
        }
        let options = json!({"request": {"resolver": [names.address().to_string()]}});
        let check = ready_in(&page(&site, &host), TIMEOUT, &options, shared.clone());
        tasks.push((fault, tokio::spawn(async move { check.check().await })));
    }
    let mut wrong = Vec::new();
    for (fault, task) in tasks {
        let observation = task.await.expect("a check never panics");
        consistent(&observation);
        let told = told(&observation);
        let code = told.rsplit(": ").next().unwrap_or_default();
        let reached = phases(&observation);
        let fits = if code == "up" { reached == "dns connect send wait receive" } else { reached == "dns!" };
        if !fault.expected.split('|').any(|expected| expected == code) || !fits {
            wrong.push(format!(
                "{}: {told} [{reached}] ({}), expected {}",
                fault.name,
                why(&observation),
                fault.expected
            ));
        }
        if fault.name == "dns-only-a" || fault.name == "dns-only-aaaa" {
            assert_eq!(told, "up", "{}: one family is enough", fault.name);
        }
        if fault.name == "dns-slow" {
            let dns = us(&observation, 0, Phase::Dns);
            assert!((200_000..260_000).contains(&dns), "{dns}");
        }
        if fault.name == "dns-hang" {
            let dns = us(&observation, 0, Phase::Dns);
            assert!((2_500_000..2_600_000).contains(&dns), "{dns}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_late_family_is_waited_for_a_little_only() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let observation = ready(&page(&site, "dns-only-a.fault.test"), TIMEOUT, &options).check().await;
    // RFC 8305: 50 ms for the addresses of IPv6 to come.
    let dns = us(&observation, 0, Phase::Dns);
    assert!((50_000..90_000).contains(&dns), "{dns}");
    let options = json!({"request": {"resolver": [names.address().to_string()], "ip": 4}});
    let observation = ready(&page(&site, "dns-only-a.fault.test"), TIMEOUT, &options).check().await;
    assert!(us(&observation, 0, Phase::Dns) < 40_000);
    assert_eq!(names.asked("dns-only-a.fault.test").iter().filter(|asking| asking.kind == "AAAA").count(), 1);
}

#[tokio::test]
async fn each_check_asks_unless_names_are_kept() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    for (cache, host, expected) in [("none", "dns-v4.fault.test", 6), ("ttl", "dns-v4.a.test", 2)] {
        names.set(host, "dns-v4?ttl=60").expect("a command");
        let options = json!({"request": {"resolver": [names.address().to_string()], "dns_cache": cache}});
        let check = ready(&page(&site, host), TIMEOUT, &options);
        for _ in 0..3 {
            let observation = check.check().await;
            assert_eq!(told(&observation), "up", "{}", why(&observation));
            assert_eq!(phases(&observation), "dns connect send wait receive");
        }
        assert_eq!(names.asked(host).len(), expected, "{cache}");
    }
    // What may not be kept is not.
    names.set("brief.test", "dns-v4?ttl=0").expect("a command");
    let options = json!({"request": {"resolver": [names.address().to_string()], "dns_cache": "ttl", "ip": 4}});
    let check = ready(&page(&site, "brief.test"), TIMEOUT, &options);
    check.check().await;
    check.check().await;
    assert_eq!(names.asked("brief.test").len(), 2);
}

#[tokio::test]
async fn a_name_is_kept_with_both_its_families() {
    let names = FaultyNames::start().expect("names");
    let host = "dual.test";
    names.set(host, "dns-addresses?a=127.0.0.1&aaaa=::1").expect("a command");
    // Each of the two answers once, and is gone.
    let four = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = four.local_addr().expect("its address").port();
    let six = TcpListener::bind(("::1", port)).expect("the same port of IPv6");
    for listener in [four, six] {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            drop(listener);
            // The request comes in one piece, whatever is in it.
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("it is read");
        });
    }
    let options = json!({"request": {"resolver": [names.address().to_string()], "dns_cache": "ttl"}});
    let check = ready(&format!("http://{host}:{port}/"), TIMEOUT, &options);
    for six in [true, false] {
        let observation = check.check().await;
        assert_eq!(told(&observation), "up", "{}", why(&observation));
        assert_eq!(observation.hops[0].address.map(|address| address.is_ipv6()), Some(six));
    }
    // IPv4 was known as well, and nobody was asked again.
    assert_eq!(names.asked(host).len(), 2);
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_fails() {
    let (site, good) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let bad = FaultyNames::start().expect("names");
    bad.set("*", "dns-servfail").expect("a command");
    let nobody = {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.local_addr().expect("its address")
    };
    let url = page(&site, "www.site.test");
    for first in [bad.address(), nobody] {
        let options = json!({"request": {"resolver": [first.to_string(), good.address().to_string()]}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), "up", "{}", why(&observation));
        assert!(us(&observation, 0, Phase::Dns) < 100_000);
    }
    // One that hangs costs its second once: the one that answered is asked first from then on.
    bad.set("*", "dns-hang").expect("a command");
    let options = json!({"request": {"resolver": [bad.address().to_string(), good.address().to_string()]}});
    let check = ready(&url, TIMEOUT, &options);
    let first = us(&check.check().await, 0, Phase::Dns);
    let second = us(&check.check().await, 0, Phase::Dns);
    assert!((1_000_000..1_300_000).contains(&first) && second < 100_000, "{first} {second}");
    // Nobody listens anywhere.
    let options = json!({"request": {"resolver": [nobody.to_string()]}});
    let observation = ready(&url, TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "down: dns.server_failure");
}

#[tokio::test]
async fn the_machines_own_servers_search_list_and_hosts() {
    let site = FaultySite::start().expect("a site");
    let folder = tempfile::tempdir().expect("a folder");
    let (resolv_conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
    std::fs::write(&hosts, "127.0.0.1 own.test # ours\n").expect("a file");
    // Nobody is asked for what the hosts file knows, so that it need not name a server that can be.
    std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").expect("a file");
    let shared = Shared::new(SharedOptions { resolv_conf, hosts: hosts.clone(), ..SharedOptions::default() });
    let check = ready_in(&page(&site, "own.test"), TIMEOUT, &json!({}), shared.clone());
    let observation = check.check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert_eq!(phases(&observation), "dns connect send wait receive");
    let localhost = ready_in(&page(&site, "localhost"), TIMEOUT, &json!({}), shared).check().await;
    assert_eq!(told(&localhost), "up", "{}", why(&localhost));
    // A change of the file is in force soon.
    std::fs::write(&hosts, "127.0.0.2 own.test\n").expect("a file");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let address = check.check().await.hops[0].address.map(|address| address.ip());
    assert_eq!(address, Some([127, 0, 0, 2].into()));
}

#[tokio::test]
async fn by_the_c_library() {
    let site = FaultySite::start().expect("a site");
    let options = json!({"request": {"resolver": "libc"}});
    let observation = ready(&page(&site, "localhost"), TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert_eq!(phases(&observation), "dns connect send wait receive");
}

#[tokio::test]
async fn names_that_hang_delay_no_others() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    let options = json!({"request": {"resolver": [names.address().to_string()]}});
    let shared = Shared::new(SharedOptions::default());
    let hanging: Vec<_> = (0..200)
        .map(|_| {
            let check = ready_in(&page(&site, "dns-hang.fault.test"), TIMEOUT, &options, shared.clone());
            tokio::spawn(async move { check.check().await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let good = ready_in(&page(&site, "dns-v4.fault.test"), TIMEOUT, &options, shared);
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let start = Instant::now();
        assert_eq!(told(&good.check().await), "up");
        slowest = slowest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(slowest < Duration::from_millis(300), "{slowest:?}");
    for task in hanging {
        assert_eq!(told(&task.await.expect("a check never panics")), "down: dns.timeout");
    }
}

#[tokio::test]
async fn a_literal_needs_no_lookup() {
    let site = FaultySite::start().expect("a site");
    let address: SocketAddr = site.address(Scheme::Http);
    let observation = ready(&format!("http://{address}/page"), TIMEOUT, &json!({})).check().await;
    assert_eq!(phases(&observation), "connect send wait receive");
    assert_eq!(observation.hops[0].address, Some(address));
}
