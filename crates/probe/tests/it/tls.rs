//! TLS: who is trusted, what is recorded, and what is never remembered.

use crate::harness::{compile, phases, ready, ready_in, told, why};
use serde_json::json;
use sitemon_probe::{Shared, SharedOptions};
use sitemon_testkit::{Authority, Curve, FaultySite, Identity, Order, Scheme};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn the_certificate_is_recorded_even_where_it_is_refused() {
    let site = FaultySite::start().expect("a site");
    for (command, insecure, expected) in [
        ("tls-good", false, "up"),
        ("tls-expired", false, "down: tls.expired"),
        ("tls-expired", true, "up"),
        ("tls-wrong-name", true, "up"),
        ("tls-self-signed", true, "up"),
        // The signature must fit whatever is trusted.
        ("tls-wrong-key", true, "down: tls.protocol"),
    ] {
        let url = site.url(Scheme::Https, command).expect("a URL");
        let options = json!({"request": {"tls": {"ca": site.roots_pem(), "insecure": insecure}}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), expected, "{command}: {}", why(&observation));
        let certificate = observation.certificate.expect("a certificate");
        assert!(certificate.subject.contains("CN="), "{certificate:?}");
        assert!(!certificate.issuer.is_empty());
    }
}

#[tokio::test]
async fn how_long_it_is_still_good() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Https, "tls-soon?days=3").expect("a URL");
    for (expected, certificate) in [
        ("up", json!("2d")),
        ("degraded: certificate.expiring", json!("4d")),
        ("down: certificate.expiring", json!({"degraded": "9d", "down": "4d"})),
    ] {
        let options = json!({"request": {"tls": {"ca": site.roots_pem()}}, "expect": {"certificate": certificate}});
        assert_eq!(told(&ready(&url, TIMEOUT, &options).check().await), expected);
    }
    // The dates count also where nothing is verified.
    let url = site.url(Scheme::Https, "tls-expired").expect("a URL");
    let options = json!({"request": {"tls": {"insecure": true}}, "expect": {"certificate": {"down": "1d"}}});
    assert_eq!(told(&ready(&url, TIMEOUT, &options).check().await), "down: certificate.expiring");
}

#[tokio::test]
async fn client_certificates() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Https, "tls-client-cert").expect("a URL");
    let identity = site.client_identity().expect("an identity");
    let options = json!({"request": {"tls": {
        "ca": site.roots_pem(), "certificate": identity.chain_pem(), "key": identity.key_pem()}}});
    let observation = ready(&url, TIMEOUT, &options).check().await;
    assert_eq!(told(&observation), "up", "{}", why(&observation));
    assert_eq!(site.counts().client_certificates, 1);
    let without = json!({"request": {"tls": {"ca": site.roots_pem()}}});
    let observation = ready(&url, TIMEOUT, &without).check().await;
    assert_eq!(told(&observation), "down: tls.refused", "{}", why(&observation));
    assert_eq!(phases(&observation), "connect tls send wait!");
    // A key that is another's is a fault of the configuration.
    let other = site.client_identity().expect("an identity");
    let options = json!({"request": {"tls": {"certificate": identity.chain_pem(), "key": other.key_pem()}}});
    let fault = compile(&options, Vec::new()).expect_err("a fault");
    assert!(fault.starts_with("request.tls.key: ") && fault.contains("does not belong"), "{fault}");
}

#[tokio::test]
async fn names_and_their_override() {
    let site = FaultySite::start().expect("a site");
    let port = site.address(Scheme::Https).port();
    let to = site.address(Scheme::Https).to_string();
    let url = format!("https://shop.example:{port}/page");
    let check = |tls: serde_json::Value| ready(&url, TIMEOUT, &json!({"request": {"connect_to": to, "tls": tls}}));
    let observation = check(json!({"ca": site.roots_pem()})).check().await;
    assert_eq!(told(&observation), "down: tls.name_mismatch", "{}", why(&observation));
    let named = check(json!({"ca": site.roots_pem(), "server_name": "www.site.test"})).check().await;
    assert_eq!(told(&named), "up", "{}", why(&named));
    assert_eq!(phases(&named), "connect tls send wait receive");
    let seen = &site.seen("/page")[0];
    assert_eq!((seen.sni.as_deref(), seen.host.as_str()), (Some("www.site.test"), &*format!("shop.example:{port}")));
}

#[tokio::test]
async fn http2_where_it_is_asked_for() {
    let site = FaultySite::start().expect("a site");
    for (scheme, http, expected) in [
        (Scheme::Http2, "auto", Some("2")),
        (Scheme::Http2, "1.1", Some("1.1")),
        (Scheme::Http2, "2", Some("2")),
        (Scheme::Https, "auto", Some("1.1")),
        (Scheme::Http, "2", Some("2")),
    ] {
        let url = site.url(scheme, "page").expect("a URL");
        let options = json!({"request": {"http": http, "tls": {"ca": site.roots_pem()}}});
        let observation = ready(&url, TIMEOUT, &options).check().await;
        assert_eq!(told(&observation), "up", "{scheme:?} {http}: {}", why(&observation));
        assert_eq!(observation.hops[0].http_version.map(sitemon_model::HttpVersion::as_str), expected);
    }
    let url = site.url(Scheme::Https, "tls-no-alpn").expect("a URL");
    let options = json!({"request": {"http": "2", "tls": {"ca": site.roots_pem()}}});
    assert_eq!(told(&ready(&url, TIMEOUT, &options).check().await), "down: http.version");
}

/// A chain that was verified is remembered for its exact bytes, its name and its roots only, and its dates are
/// held against the clock each time.
#[tokio::test]
async fn what_was_verified_is_not_taken_for_another() {
    let shared = Shared::new(SharedOptions::default());
    let site = FaultySite::start().expect("a site");
    let good = |url: &str, ca: &str| ready_in(url, TIMEOUT, &json!({"request": {"tls": {"ca": ca}}}), shared.clone());
    let url = site.url(Scheme::Https, "page").expect("a URL");
    for _ in 0..3 {
        assert_eq!(told(&good(&url, &site.roots_pem()).check().await), "up");
    }
    // The same chain by other roots, and by another name.
    let other = Authority::new(Curve::P256).expect("an authority");
    assert_eq!(told(&good(&url, &other.root_pem()).check().await), "down: tls.untrusted");
    let options = json!({"request": {"tls": {"ca": site.roots_pem(), "server_name": "shop.example"}}});
    let named = ready_in(&url, TIMEOUT, &options, shared.clone()).check().await;
    assert_eq!(told(&named), "down: tls.name_mismatch");
    // The same certificate without its intermediate, with another key, or expired.
    for (command, expected) in [
        ("tls-missing-intermediate", "down: tls.untrusted"),
        ("tls-wrong-key", "down: tls.protocol"),
        ("tls-expired", "down: tls.expired"),
        ("tls-not-yet-valid", "down: tls.not_yet_valid"),
        ("tls-unknown-ca", "down: tls.untrusted"),
    ] {
        let url = site.url(Scheme::Https, command).expect("a URL");
        for _ in 0..2 {
            assert_eq!(told(&good(&url, &site.roots_pem()).check().await), expected, "{command}");
        }
    }
    // One that runs out while it is remembered.
    let (usual, p384) = (
        std::sync::Arc::new(Authority::with_intermediate(Curve::P256).expect("an authority")),
        std::sync::Arc::new(Authority::with_intermediate(Curve::P384).expect("an authority")),
    );
    let brief = brief_server(&usual, Duration::from_secs(3));
    let url = format!("https://localhost:{}/", brief.1);
    assert_eq!(told(&good(&url, &usual.root_pem()).check().await), "up");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late = good(&url, &usual.root_pem()).check().await;
    assert_eq!(told(&late), "down: tls.expired", "{}", why(&late));
    drop((brief, p384));
}

/// A server whose certificate is good for a moment only: its task, and its port.
fn brief_server(authority: &Authority, left: Duration) -> (tokio::task::JoinHandle<()>, u16) {
    let identity: Identity = authority.issue(&Order::new(["localhost"]).valid_for(left)).expect("a certificate");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("its address").port();
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    let task = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 2048];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (task, port)
}

#[tokio::test]
async fn evidence_has_the_chain() {
    let site = FaultySite::start().expect("a site");
    let url = site.url(Scheme::Https, "tls-unknown-ca").expect("a URL");
    let check = ready(&url, TIMEOUT, &json!({"request": {"tls": {"ca": site.roots_pem()}}}));
    let first = check.check().await;
    let evidence = first.evidence.as_ref().expect("evidence of the first that is not up");
    assert!(!evidence.chain.is_empty());
    let again = check.check_after(first.verdict.fingerprint()).await;
    assert_eq!(again.evidence, None);
    let good = ready(
        &site.url(Scheme::Https, "page").expect("a URL"),
        TIMEOUT,
        &json!({"request": {"tls": {"insecure": true}}}),
    );
    assert_eq!(good.check().await.evidence, None);
    assert!(good.check_after(first.verdict.fingerprint()).await.evidence.is_some());
}
