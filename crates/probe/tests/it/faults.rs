//! Every fault of the testkit's table, by every scheme: cause, verdict and timeline.

use crate::harness::{consistent, phases, ready_in, told, why};
use serde_json::json;
use sitemon_model::{Area, Code};
use sitemon_probe::{Shared, SharedOptions};
use sitemon_testkit::{Fault, FaultySite, Scheme};
use std::sync::Arc;
use std::time::Duration;

/// Long enough for everything that ends by itself.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Checks each fault of a scheme, a few at a time, and tells all that differ.
async fn check_table(scheme: Scheme) {
    let site = FaultySite::builder().threads(1).start().expect("the faulty site");
    let roots = site.roots_pem();
    let shared = Shared::new(SharedOptions::default());
    let mut wrong = Vec::new();
    let rows: Vec<&Fault> = Fault::ALL.iter().filter(|fault| fault.expected(scheme).is_some()).collect();
    for rows in rows.chunks(8) {
        let mut tasks = Vec::new();
        for fault in rows {
            let url = site.url(scheme, &fault.command()).expect("its URL");
            tasks.push((fault, url.clone(), tokio::spawn(one(url, roots.clone(), shared.clone()))));
        }
        for (fault, url, task) in tasks {
            let (told, phases, why) = task.await.expect("a check never panics");
            let code =
                told.split_once(": ").map_or(told.as_str(), |(_, codes)| codes.split(", ").next().unwrap_or(codes));
            let expected = fault.expected(scheme).unwrap_or_default();
            if !expected.split('|').any(|expected| expected == code) || !fits(code, &phases) {
                wrong.push(format!("{url}: {told} [{phases}] ({why}), expected {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the table differ:\n{}", wrong.len(), wrong.join("\n"));
}

async fn one(url: String, roots: String, shared: Arc<Shared>) -> (String, String, String) {
    let options = json!({"request": {"tls": {"ca": roots}, "connect_timeout": "1s"}});
    let observation = ready_in(&url, TIMEOUT, &options, shared).check().await;
    consistent(&observation);
    (told(&observation), phases(&observation), why(&observation))
}

/// Whether the phase that failed is the one that the code names.
fn fits(code: &str, phases: &str) -> bool {
    let Some(code) = Code::ALL.iter().find(|known| known.as_str() == code) else { return !phases.contains('!') };
    let failed = |names: &[&str]| names.iter().any(|name| phases.ends_with(&format!("{name}!")));
    match code.area() {
        Area::Dns => failed(&["dns"]),
        Area::Connect => failed(&["connect"]),
        Area::Tls => failed(&["tls"]) || *code == Code::TlsRefused && failed(&["send", "wait", "receive"]),
        Area::Send => failed(&["send"]),
        Area::Wait => failed(&["wait"]),
        Area::Receive => failed(&["receive"]),
        Area::Body => failed(&["receive"]) || *code == Code::BodyDecode && !phases.contains('!'),
        Area::Http => match code {
            Code::HttpStatus | Code::HttpRedirectLimit | Code::HttpRedirectInvalid => !phases.contains('!'),
            _ => failed(&["send", "wait", "receive"]),
        },
        _ => true,
    }
}

#[tokio::test]
async fn by_http() {
    check_table(Scheme::Http).await;
}

#[tokio::test]
async fn by_https() {
    check_table(Scheme::Https).await;
}

#[tokio::test]
async fn by_http2() {
    check_table(Scheme::Http2).await;
}
