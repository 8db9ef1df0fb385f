//! The faulty site by plain HTTP and TLS.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sitemon_testkit::{FaultySite, Scheme};

use crate::client::{LONG, PATIENCE, ask, config, connect, connect_for, get, hear, secure, secure_for};

fn site() -> FaultySite {
    FaultySite::start().unwrap()
}

#[test]
fn a_page_comes_by_both_families_and_is_logged() {
    let site = site();
    let address = site.address(Scheme::Http);
    for address in [address, SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()))] {
        let heard = get(address, "/page?size=1000");
        assert_eq!(heard.error, None);
        assert!(heard.text().starts_with("HTTP/1.1 200 OK\r\n"), "{}", heard.text());
        assert_eq!(heard.body().len(), 1000);
    }
    let seen = site.seen("/page");
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].status, seen[0].connection, seen[1].connection), (200, 1, 2));
    assert_eq!((seen[0].method.as_str(), seen[0].host.as_str()), ("GET", "localhost"));
    assert!(seen[0].answered_at_us.unwrap() >= seen[0].at_us);
    assert_eq!(site.counts().connections, 2);
}

#[test]
fn ports_refuse_hang_close_and_reset() {
    let site = site();
    let refused = site.open(Scheme::Http, "refused").unwrap();
    assert_eq!(TcpStream::connect(refused).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let full = site.open(Scheme::Http, "backlog-full").unwrap();
    assert_eq!(TcpStream::connect_timeout(&full, PATIENCE).unwrap_err().kind(), ErrorKind::TimedOut);
    let heard = hear(&mut connect(site.open(Scheme::Http, "accept-close").unwrap()), 1);
    assert_eq!((heard.bytes.len(), heard.error), (0, None));
    let heard = hear(&mut connect(site.open(Scheme::Http, "accept-reset").unwrap()), 1);
    assert_eq!(heard.error, Some(ErrorKind::ConnectionReset));
    let heard = ask(connect_for(site.open(Scheme::Http, "accept-hang").unwrap(), PATIENCE), "/");
    assert_eq!(heard.error, Some(ErrorKind::WouldBlock));
}

#[test]
fn a_delay_is_exact() {
    let site = site();
    for _ in 0..5 {
        let mut stream = connect(site.address(Scheme::Http));
        let begun = Instant::now();
        let heard = ask(&mut stream, "/delay?ms=50");
        let took = begun.elapsed();
        assert_eq!(heard.error, None);
        assert!(took >= Duration::from_millis(50), "{took:?}");
    }
    let late = site.seen("/delay").iter().map(|seen| seen.answered_at_us.unwrap() - seen.at_us - 50_000).min().unwrap();
    assert!(late < 1000, "the answer is {late} µs late");
}

#[test]
fn a_cleared_log_takes_no_late_notes() {
    let site = site();
    let mut stream = connect(site.address(Scheme::Http));
    std::io::Write::write_all(&mut stream, b"GET /delay?ms=100 HTTP/1.1\r\n\r\n").unwrap();
    while site.counts().requests == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    site.clear_log();
    assert!(get(site.address(Scheme::Http), "/status?status=418").text().contains("418"));
    assert!(hear(&mut stream, 1).text().contains("200 OK"));
    let log = site.log();
    assert_eq!(log.iter().map(|seen| (seen.path.as_str(), seen.status)).collect::<Vec<_>>(), [("/status", 418)]);
    assert_eq!(site.counts().requests, 2);
}

#[test]
fn handshakes_fail_as_commanded() {
    let site = site();
    let hangs = |name: &str| name.starts_with("tls-hang") || name.starts_with("tls-cut");
    let patience = |name: &str| if hangs(name) { PATIENCE } else { LONG };
    let shake = |name: &str| {
        secure_for(site.address(Scheme::Https), name, config(&site, None, &[]), patience(name))
            .map(drop)
            .map_err(|error| error.to_string())
    };
    for good in [
        "localhost",
        "tls-good.fault.test",
        "tls-p384.fault.test",
        "tls-12.fault.test",
        "tls-13.fault.test",
        "tls-soon.fault.test",
    ] {
        assert_eq!(shake(good), Ok(()), "{good}");
    }
    let begun = Instant::now();
    assert_eq!(shake("tls-slow.fault.test"), Ok(()));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    for (name, words) in [
        ("tls-expired.fault.test", "certificate expired"),
        ("tls-not-yet-valid.fault.test", "certificate not valid yet"),
        ("tls-wrong-name.fault.test", "not valid for name"),
        ("tls-self-signed.fault.test", "invalid peer certificate"),
        ("tls-unknown-ca.fault.test", "UnknownIssuer"),
        ("tls-missing-intermediate.fault.test", "UnknownIssuer"),
        ("tls-wrong-key.fault.test", "BadSignature"),
        ("tls-old.fault.test", "peer is incompatible"),
        ("tls-alert.fault.test", "HandshakeFailure"),
        ("tls-garbage.fault.test", "corrupt"),
        ("tls-plain.fault.test", "corrupt"),
        ("tls-corrupt.fault.test", "decrypt"),
        ("tls-close.fault.test", "end of file"),
        ("tls-reset.fault.test", "reset"),
        ("tls-hang.fault.test", "unavailable"),
        ("tls-cut.fault.test", "unavailable"),
    ] {
        let error = shake(name).expect_err(name);
        assert!(error.contains(words), "{name}: {error}");
    }
    let heard = secure(site.address(Scheme::Https), "tls-client-cert.fault.test", config(&site, None, &[]))
        .map(|stream| ask(stream, "/page"));
    assert!(!heard.is_ok_and(|heard| heard.text().contains("200 OK")));
    let identity = site.client_identity().unwrap();
    let stream =
        secure(site.address(Scheme::Https), "tls-client-cert.fault.test", config(&site, Some(identity), &[])).unwrap();
    assert!(ask(stream, "/page").text().contains("200 OK"));
    assert_eq!(site.counts().client_certificates, 1);
}
