//! Proxies: every way in which one fails, and what goes through one.

use crate::harness::{consistent, phases, ready, told, us, why};
use serde_json::json;
use sitemon_model::Phase;
use sitemon_testkit::{FaultyNames, FaultyProxy, FaultySite, ProxyFault, Scheme};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn every_fault_of_the_table() {
    let site = FaultySite::start().expect("a site");
    let url = site.url_at(Scheme::Https, "www.site.test", "page").expect("a URL");
    let mut wrong = Vec::new();
    for fault in ProxyFault::ALL {
        for (scheme, expected) in ["http", "socks5h"].into_iter().zip(fault.expected) {
            if expected.is_empty() {
                continue;
            }
            let proxy = FaultyProxy::start().expect("a proxy");
            proxy.set(fault.name).expect("a command");
            let options = json!({"request": {
                "proxy": format!("{scheme}://user:password@{}", proxy.address()), "tls": {"ca": site.roots_pem()}}});
            let observation = ready(&url, TIMEOUT, &options).check().await;
            consistent(&observation);
            let told = told(&observation);
            let code = told.rsplit(": ").next().unwrap_or_default();
            let reached = phases(&observation);
            let failed = match code {
                "up" => reached == "connect proxy tls send wait receive",
                code if code.starts_with("proxy.") => reached == "connect proxy!",
                _ => reached == "connect proxy tls!",
            };
            if !expected.split('|').any(|expected| expected == code) || !failed {
                let why = why(&observation);
                wrong.push(format!("{scheme} {}: {told} [{reached}] ({why}), expected {expected}", fault.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn credentials_and_absolute_form() {
    let site = FaultySite::start().expect("a site");
    let proxy = FaultyProxy::with_credentials("us er", "p:w").expect("a proxy");
    let url = site.url_at(Scheme::Http, "www.site.test", "page").expect("a URL");
    let address = proxy.address();
    let options = json!({"request": {"proxy": format!("http://us%20er:p%3Aw@{address}")}});
    let observation = ready(&url, TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    // In absolute form there is no tunnel.
    assert_eq!(phases(&observation), "connect send wait receive");
    assert_eq!(observation.hops[0].address, Some(address));
    let seen = &proxy.log()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", url.as_str()));
    assert_eq!(seen.credentials.as_deref(), Some("us er:p:w"));
    let options = json!({"request": {"proxy": format!("http://nobody:x@{address}")}});
    let observation = ready(&url, TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "unknown: proxy.authentication", "{}", why(&observation));
}

#[tokio::test]
async fn socks_by_address_or_by_name() {
    let (site, names) = (FaultySite::start().expect("a site"), FaultyNames::start().expect("names"));
    names.set("www.site.test", "dns-v4").expect("a command");
    let url = site.url_at(Scheme::Http, "www.site.test", "page").expect("a URL");
    for (scheme, by_name, expected) in
        [("socks5", false, "dns connect proxy send wait receive"), ("socks5h", true, "connect proxy send wait receive")]
    {
        let proxy = FaultyProxy::start().expect("a proxy");
        let options = json!({"request": {
            "proxy": format!("{scheme}://{}", proxy.address()), "resolver": [names.address().to_string()]}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), "up", "{}", why(&observation));
        assert_eq!(phases(&observation), expected);
        assert_eq!(proxy.log()[0].by_name, by_name);
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_is_no_fault_of_the_site() {
    let site = FaultySite::start().expect("a site");
    let url = site.url_at(Scheme::Http, "www.site.test", "page").expect("a URL");
    let refused = site.open(Scheme::Http, "refused").expect("a port");
    let hanging = site.open(Scheme::Http, "backlog-full").expect("a port");
    for (address, connect_timeout) in [(refused, "1s"), (hanging, "300ms"), (hanging, "5s")] {
        let options = json!({"request": {"proxy": format!("http://{address}"), "connect_timeout": connect_timeout}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), "unknown: proxy.unreachable", "{}", why(&observation));
        assert_eq!(phases(&observation), "connect!");
    }
    let proxy = FaultyProxy::start().expect("a proxy");
    proxy.set("proxy-slow").expect("a command");
    let url = site.url_at(Scheme::Https, "www.site.test", "page").expect("a URL");
    let options = json!({"request": {"proxy": format!("http://{}", proxy.address()), "tls": {"ca": site.roots_pem()}}});
    let observation = ready(&url, TIMEOUT, &options).check().await;
    let us = us(&observation, 0, Phase::Proxy);
    assert!((200_000..260_000).contains(&us), "{us}");
}
