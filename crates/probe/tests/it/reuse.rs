//! Connections that are kept, and those that are not.

use crate::harness::{phases, ready, told, us, why};
use rustls::sign::SingleCertAndKey;
use serde_json::json;
use sitemon_model::Phase;
use sitemon_testkit::{Authority, Curve, FaultySite, Order, Scheme};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_kept_connection_has_no_lookup_connect_and_handshake() {
    for scheme in Scheme::ALL {
        let site = FaultySite::start().expect("a site");
        let url = site.url(scheme, "page").expect("a URL");
        let options = json!({"request": {"connection": "reuse", "tls": {"ca": site.roots_pem()}}});
        let check = ready(&url, TIMEOUT, &options);
        let first = check.check().await;
        assert_eq!(told(&first), "up", "{}", why(&first));
        assert!(!first.hops[0].reused);
        for _ in 0..3 {
            let next = check.check().await;
            assert_eq!(told(&next), "up", "{}", why(&next));
            assert!(next.hops[0].reused, "{scheme:?}");
            assert_eq!(phases(&next), "send wait receive");
            assert_eq!(next.hops[0].address, first.hops[0].address);
            assert_eq!(next.certificate, first.certificate);
        }
        assert_eq!(site.counts().connections, 1, "{scheme:?}");
    }
}

#[tokio::test]
async fn each_check_opens_its_own_by_default() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Https, "page").expect("a URL");
    let check = ready(&url, TIMEOUT, &json!({"request": {"tls": {"ca": site.roots_pem()}}}));
    for _ in 0..3 {
        assert_eq!(told(&check.check().await), "up");
    }
    let counts = site.counts();
    assert_eq!((counts.connections, counts.handshakes_full, counts.handshakes_resumed), (3, 3, 0));
}

#[tokio::test]
async fn one_that_was_closed_while_idle_is_dialled_anew_without_a_cause() {
    for announce in [0, 1] {
        let site = FaultySite::start().expect("a site");
        // Closes after two requests, with a word or without.
        let url = site.url(Scheme::Http, &format!("keep?requests=2&announce={announce}")).expect("a URL");
        let check = ready(&url, TIMEOUT, &json!({"request": {"connection": "reuse"}}));
        let mut reused = Vec::new();
        for _ in 0..6 {
            let observation = check.check().await;
            assert_eq!(told(&observation), "up", "{}", why(&observation));
            reused.push(observation.hops[0].reused);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert_eq!(reused, [false, true, false, true, false, true], "{announce}");
        assert_eq!(site.counts().connections, 3);
    }
}

#[tokio::test]
async fn a_server_that_goes_away_under_a_kept_connection_is_down() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Http, "page").expect("a URL");
    let check = ready(&url, TIMEOUT, &json!({"request": {"connection": "reuse"}}));
    assert_eq!(told(&check.check().await), "up");
    drop(site);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let observation = check.check().await;
    assert_eq!(told(&observation), "down: connect.refused", "{}", why(&observation));
    assert!(!observation.hops[0].reused);
    assert!(us(&observation, 0, Phase::Connect) < 1_000_000);
}

#[tokio::test]
async fn what_a_server_says_unasked_is_no_answer_to_the_next_check() {
    // Behind the answer, in the same record of TLS, stands another one that nobody asked for.
    const FIRST: usize = 42;
    const TWICE: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nbad";
    let authority = Authority::new(Curve::P256).expect("an authority");
    let identity = authority.issue(&Order::new(["localhost"])).expect("a certificate");
    let resolver = SingleCertAndKey::from(identity.certified_key().expect("its key"));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("its versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    let config = Arc::new(config);
    for late in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let acceptor = TlsAcceptor::from(config.clone());
        let serving = tokio::spawn(async move {
            let mut connections = 0;
            loop {
                let (stream, _) = listener.accept().await.expect("a client");
                connections += 1;
                let mut stream = acceptor.accept(stream).await.expect("a handshake");
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.expect("a request") > 0);
                let (first, second) = TWICE.split_at(if late { FIRST } else { TWICE.len() });
                stream.write_all(first).await.expect("an answer");
                stream.flush().await.expect("an answer");
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.write_all(second).await.expect("an answer");
                stream.flush().await.expect("an answer");
                if connections == 2 {
                    return;
                }
                tokio::spawn(async move { stream.read(&mut request).await });
            }
        });
        let options = json!({"request": {"connection": "reuse", "tls": {"ca": authority.root_pem()},
            "connect_to": format!("127.0.0.1:{port}")}, "expect": {"body": {"matches": ["good"]}}});
        let check = ready("https://localhost/", TIMEOUT, &options);
        for _ in 0..2 {
            let observation = check.check().await;
            assert_eq!(told(&observation), "up", "{late}: {}", why(&observation));
            assert!(!observation.hops[0].reused);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        serving.await.expect("both were served");
    }
}
