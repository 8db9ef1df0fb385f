//! Redirects: what follows, what is left behind at the border of an origin, and what is sent at all.

use crate::harness::{consistent, phases, ready, told, why};
use serde_json::json;
use sitemon_model::Observation;
use sitemon_testkit::command::encode;
use sitemon_testkit::{FaultySite, Scheme};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

/// What the server saw of the last request, as its echo tells it.
fn echoed(observation: &Observation) -> serde_json::Value {
    assert_eq!(told(observation), "up", "{}", why(observation));
    let body = &observation.extracted[0].1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn header(echo: &serde_json::Value, name: &str) -> Option<String> {
    let found = echo["headers"].as_array().expect("headers").iter().find(|header| header[0] == name)?;
    found[1].as_str().map(str::to_owned)
}

/// With the whole body extracted.
fn options(request: &serde_json::Value) -> serde_json::Value {
    json!({"request": request, "expect": {"body": {"extract": {"all": "(?s).+"}}}})
}

#[tokio::test]
async fn what_is_sent_by_default() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "echo").expect("a URL");
    let echo = echoed(&ready(&url, TIMEOUT, &options(&json!({}))).check().await);
    let agent = header(&echo, "user-agent").expect("one");
    assert!(agent.starts_with("sitemon/") && agent.contains(" (+http"), "{agent}");
    assert_eq!(header(&echo, "accept").as_deref(), Some("*/*"));
    assert_eq!(header(&echo, "accept-encoding").as_deref(), Some("gzip, deflate, br, zstd"));
    assert_eq!(header(&echo, "host").as_deref(), Some(&*site.address(Scheme::Http).to_string()));
    assert_eq!(header(&echo, "content-length"), None);
    let request = json!({"method": "POST", "headers": {"host": "other.test", "accept": "text/html", "x-a": "b"},
                         "auth": {"basic": {"username": "u", "password": "p"}}});
    let echo = echoed(&ready(&url, TIMEOUT, &options(&request)).check().await);
    assert_eq!(header(&echo, "content-length").as_deref(), Some("0"));
    assert_eq!(header(&echo, "host").as_deref(), Some("other.test"));
    assert_eq!(header(&echo, "accept").as_deref(), Some("text/html"));
    assert_eq!(header(&echo, "x-a").as_deref(), Some("b"));
    assert_eq!(header(&echo, "authorization").as_deref(), Some("Basic dTpw"));
    let request = json!({"method": "PUT", "body": "hello", "auth": {"bearer": "token"}});
    let echo = echoed(&ready(&url, TIMEOUT, &options(&request)).check().await);
    assert_eq!((echo["method"].as_str(), echo["body"].as_str()), (Some("PUT"), Some("hello")));
    assert_eq!(header(&echo, "authorization").as_deref(), Some("Bearer token"));
}

#[tokio::test]
async fn a_large_body_is_sent_whole() {
    let site = FaultySite::start().expect("a site");
    for scheme in Scheme::ALL {
        let url = site.url(scheme, "echo").expect("a URL");
        let body = "0123456789".repeat(30_000);
        let request = json!({"method": "POST", "body": body, "tls": {"ca": site.roots_pem()}});
        let options = json!({"request": request, "expect": {"body": {"size": {"min": 300_000}}}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), "up", "{scheme:?}: {}", why(&observation));
    }
}

#[tokio::test]
async fn another_origin_learns_nothing() {
    let (site, other) = (FaultySite::start().expect("a site"), FaultySite::start().expect("a site"));
    let to = other.url(Scheme::Http, "echo").expect("a URL");
    let url = site.url(Scheme::Http, &format!("redirect?status=307&location={}", encode(&to))).expect("a URL");
    let request = json!({"method": "POST", "body": "secret", "auth": {"bearer": "token"},
                         "headers": {"x-key": "key", "cookie": "a=b", "user-agent": "mine"}});
    let observation = ready(&url, TIMEOUT, &options(&request)).check().await;
    let echo = echoed(&observation);
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["body"], "");
    for name in ["authorization", "x-key", "cookie"] {
        assert_eq!(header(&echo, name), None, "{name}");
    }
    assert!(header(&echo, "user-agent").is_some_and(|agent| agent.starts_with("sitemon/")));
    assert_eq!(observation.hops.len(), 2);
    assert_eq!((&*observation.hops[0].url, observation.hops[0].status), (&*url, Some(307)));
    assert_eq!(&*observation.hops[1].url, to.as_str());
    consistent(&observation);
    // To the same origin all of it follows.
    let url = site.url(Scheme::Http, "redirect?status=307&location=/echo").expect("a URL");
    let request = json!({"method": "POST", "body": "secret", "auth": {"bearer": "token"}, "headers": {"x-key": "key"}});
    let echo = echoed(&ready(&url, TIMEOUT, &options(&request)).check().await);
    assert_eq!((echo["method"].as_str(), echo["body"].as_str()), (Some("POST"), Some("secret")));
    assert_eq!(header(&echo, "x-key").as_deref(), Some("key"));
}

#[tokio::test]
async fn methods_on_the_way() {
    let site = FaultySite::start().expect("a site");
    for (status, method, expected) in [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "PUT", "GET"),
        (302, "PUT", "PUT"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
    ] {
        let url = site.url(Scheme::Http, &format!("redirect?status={status}&location=/echo")).expect("a URL");
        let request = json!({"method": method, "body": "x", "headers": {"content-type": "text/plain"}});
        let observation = ready(&url, TIMEOUT, &options(&request)).check().await;
        let echo = echoed(&observation);
        assert_eq!(echo["method"], expected, "{status} {method}");
        let kept = expected != "GET";
        assert_eq!(echo["body"], if kept { "x" } else { "" }, "{status} {method}");
        assert_eq!(header(&echo, "content-type").is_some(), kept, "{status} {method}");
        assert_eq!(observation.method.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn how_many_are_followed() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "redirect-chain?n=3").expect("a URL");
    for (redirects, expected, hops) in [(3, "up", 4), (2, "down: http.redirect_limit", 3), (0, "down: http.status", 1)]
    {
        let observation = ready(&url, TIMEOUT, &json!({"request": {"redirects": redirects}})).check().await;
        assert_eq!(told(&observation), expected, "{}", why(&observation));
        assert_eq!(observation.hops.len(), hops);
        assert_eq!(observation.response_time_us.is_some(), redirects != 2);
        assert!(!phases(&observation).contains('!'));
        consistent(&observation);
    }
    // A redirect may be what is expected.
    let expect = json!({"request": {"redirects": 0}, "expect": {"status": [302]}});
    assert_eq!(told(&ready(&url, TIMEOUT, &expect).check().await), "up");
    let gone = site.url(Scheme::Http, "redirect-invalid?none=1").expect("a URL");
    assert_eq!(told(&ready(&gone, TIMEOUT, &json!({})).check().await), "down: http.status");
}

#[tokio::test]
async fn cookies_live_until_the_check_ends() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "redirect-cookie").expect("a URL");
    let options = json!({"request": {"headers": {"cookie": "own=1"}}});
    let check = ready(&url, TIMEOUT, &options);
    for _ in 0..2 {
        let observation = check.check().await;
        assert_eq!(told(&observation), "up", "{}", why(&observation));
        assert_eq!(observation.hops.len(), 2);
    }
}

#[tokio::test]
async fn to_tls_and_its_failure() {
    let site = FaultySite::start().expect("a site");
    let to = site.url(Scheme::Https, "page").expect("a URL");
    let url = site.url(Scheme::Http, &format!("redirect?location={}", encode(&to))).expect("a URL");
    let observation = ready(&url, TIMEOUT, &json!({})).check().await;
    assert_eq!(told(&observation), "down: tls.untrusted");
    assert_eq!(phases(&observation), "connect send wait receive | connect tls!");
    // What never answered has no status.
    assert_eq!((observation.status, observation.response_time_us), (None, None));
    assert!(observation.certificate.is_some());
}

#[tokio::test]
async fn to_an_address_of_the_other_family() {
    let site = FaultySite::start().expect("a site");
    let to = format!("http://[::1]:{}/page", site.address(Scheme::Http).port());
    let url = site.url(Scheme::Http, &format!("redirect?location={}", encode(&to))).expect("a URL");
    let observation = ready(&url, TIMEOUT, &json!({"request": {"ip": 4}})).check().await;
    assert_eq!(told(&observation), "down: http.redirect_invalid", "{}", why(&observation));
    assert_eq!(phases(&observation), "connect send wait receive");
    assert_eq!(told(&ready(&url, TIMEOUT, &json!({})).check().await), "up");
}

#[tokio::test]
async fn what_we_sent_is_hidden_where_a_redirect_repeats_it() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "redirect?location=/page?key=s3cret-token").expect("a URL");
    let request = json!({"request": {"auth": {"bearer": "s3cret-token"}}});
    let observation = ready(&url, TIMEOUT, &request).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert!(observation.hops[1].url.ends_with("/page?key=(hidden)"), "{}", observation.hops[1].url);
}
