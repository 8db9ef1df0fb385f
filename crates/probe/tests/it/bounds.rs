//! Bounds: hostile sites in flight cost bounded memory, and disturb no others.

use crate::harness::{ready_in, told};
use serde_json::json;
use sitemon_probe::memory::Memory;
use sitemon_probe::{Shared, SharedOptions};
use sitemon_testkit::{FaultySite, Scheme};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: u64 = status.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * rustix::param::page_size() as u64
}

#[tokio::test]
async fn a_hundred_hostile_checks_of_each_kind_in_flight() {
    let site = FaultySite::builder().threads(1).start().expect("a site");
    let memory = Memory::new(64 << 20);
    let shared = Shared::new(SharedOptions { memory: memory.clone(), ..SharedOptions::default() });
    let timeout = Duration::from_secs(3);
    let good = site.url(Scheme::Http, "page").expect("a URL");
    let good = ready_in(&good, timeout, &json!({}), shared.clone());
    assert_eq!(told(&good.check().await), "up");
    let mut worst = 0;
    for command in
        ["many-headers", "endless-header", "bomb?encoding=gzip", "bomb?encoding=zstd", "slow-body", "endless-body"]
    {
        for scheme in [Scheme::Http, Scheme::Http2] {
            if sitemon_testkit::Fault::find(command.split('?').next().unwrap_or(command))
                .is_none_or(|fault| fault.expected(scheme).is_none())
            {
                continue;
            }
            let url = site.url(scheme, command).expect("a URL");
            let options = json!({"request": {"tls": {"insecure": true}},
                                 "expect": {"body": {"absent": ["never there"], "json": [{"path": "$.a", "exists": false}]}}});
            let tasks: Vec<_> = (0..100)
                .map(|_| {
                    let check = ready_in(&url, timeout, &options, shared.clone());
                    tokio::spawn(async move { check.check().await })
                })
                .collect();
            while tasks.iter().any(|task| !task.is_finished()) {
                assert!(memory.held() <= memory.bound());
                worst = worst.max(memory.held());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            for task in tasks {
                let observation = task.await.expect("a check never panics");
                assert_ne!(told(&observation), "up", "{command}");
            }
        }
    }
    assert!(worst > 0);
    assert_eq!(memory.held(), 0, "all was given back");
    let start = Instant::now();
    assert_eq!(told(&good.check().await), "up");
    assert!(start.elapsed() < Duration::from_secs(1));
    // The faulty site is in this process too, so this is told rather than bounded tightly.
    assert!(resident() < 1 << 30, "{}", resident());
}

/// A server of one document of JSON, half a megabyte, that comes bit by bit.
async fn document() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let numbers: Vec<String> = (1_000_000..1_062_000).map(|number| number.to_string()).collect();
    let body = format!("{{\"list\": [{}]}}", numbers.join(","));
    let answer: std::sync::Arc<str> = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 2048]).await;
                for part in answer.as_bytes().chunks(16 << 10) {
                    // A check that gave up hears no more.
                    let _ = stream.write_all(part).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    address
}

/// Checks that hold a part of what they need and wait for more: all come to their end, and none is called down
/// or slow for that.
#[tokio::test]
async fn checks_that_want_more_memory_than_there_is_take_turns() {
    let url = format!("http://{}/", document().await);
    let shared = Shared::new(SharedOptions { memory: Memory::new(16 << 20), ..SharedOptions::default() });
    let timeout = Duration::from_secs(30);
    let options = json!({"expect": {
        "response_time": "2s",
        "body": {"json": [{"path": "$.list[61999]", "equals": 1_061_999}]},
    }});
    let alone = Instant::now();
    assert_eq!(told(&ready_in(&url, timeout, &options, shared.clone()).check().await), "up");
    let alone = alone.elapsed();
    let together = Instant::now();
    let tasks: Vec<_> = (0..30)
        .map(|_| {
            let check = ready_in(&url, timeout, &options, shared.clone());
            tokio::spawn(async move { check.check().await })
        })
        .collect();
    for task in tasks {
        let observation = task.await.expect("a check never panics");
        assert_eq!(told(&observation), "up", "{:?}", observation.verdict);
    }
    // Not longer than one after the other.
    assert!(together.elapsed() < 30 * alone, "{:?}, one alone {alone:?}", together.elapsed());
}
